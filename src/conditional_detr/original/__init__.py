"""Models and post-processing with the attributes, inputs, outputs and names of the original repositories."""
