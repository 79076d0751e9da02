"""Weights in and out: the three dialects, files, the hub."""
