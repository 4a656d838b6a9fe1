"""What a model's outputs are, where they are not logits of classes."""
