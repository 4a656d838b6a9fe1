"""Language models on the device: fetch memories, generate text."""
