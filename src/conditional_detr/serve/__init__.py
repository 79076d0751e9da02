"""A model behind HTTP: pictures in, detections out, and a page for people."""
