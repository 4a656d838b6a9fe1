"""Checkpoints: reading other people's safely, and our own."""
