"""Contexts: which one the frames come from, and which block goes with it."""
