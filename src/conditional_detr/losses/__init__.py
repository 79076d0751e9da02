"""Predictions and targets to a loss."""
