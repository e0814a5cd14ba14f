"""Runtimes for a network: PyTorch, OpenVINO or ONNX Runtime, in several precisions, prepared once."""
