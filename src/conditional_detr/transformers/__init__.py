"""What users of transformers know: image processors, their batches and annotations, and the Auto classes."""
