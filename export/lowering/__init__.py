"""From operators of torch to standard operators of ONNX, fast ones or portable ones."""
