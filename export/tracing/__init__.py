"""From a torch function to an ONNX graph."""
