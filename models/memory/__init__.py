"""Feed-forward memories for language models of Hugging Face transformers."""
