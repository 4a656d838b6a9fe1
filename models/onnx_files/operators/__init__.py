"""Operators of ONNX in torch: what a node computes of the values that go into it."""
