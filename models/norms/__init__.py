"""Normalisation: statistics of the source, of the batch, and of what a block remembers."""
