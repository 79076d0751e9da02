"""Image processors: pictures and annotations in, batches out, and a model's outputs back into objects."""
