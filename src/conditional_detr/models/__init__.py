"""Pixels to predictions."""
