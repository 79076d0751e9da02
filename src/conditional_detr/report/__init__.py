"""What a trained model is good at and where it fails: figures with their uncertainty, pictures, one page."""
