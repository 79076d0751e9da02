"""Picture files, PIL images, arrays and tensors to pixels as a model takes them: read, sized, resized, padded, normalised."""
