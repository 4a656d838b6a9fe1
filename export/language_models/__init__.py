"""From a language model and a bank of memories to a bundle of kind "text"."""
