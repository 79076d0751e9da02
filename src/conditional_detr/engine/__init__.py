"""Training, evaluation and prediction: the loops, and their state on disk."""
