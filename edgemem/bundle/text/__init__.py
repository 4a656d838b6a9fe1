"""Bundles of kind "text": a language model, and what it fetches from its bank."""
