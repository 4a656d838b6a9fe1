"""Graphs for other engines than onnxruntime on a CPU."""
