"""Formats of data sets, a file each; each is read into one `DetectionDataset`."""
