"""Training: recipe, setup, loop, state, log."""
