"""Exported models, run without the model's own code: by ONNX Runtime, OpenVINO or as a program of PyTorch's."""
