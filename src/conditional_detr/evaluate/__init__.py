"""Scoring a model on a data set."""
