"""Formats of data sets; each is read into one `CocoDataset`."""
