"""From pictures to detections: one, many, drawn and written."""
