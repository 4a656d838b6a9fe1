"""ONNX files of others as networks of torch: read, built layer by layer, compared."""
