"""Predictions to results: detections, masks, panoptic maps."""
