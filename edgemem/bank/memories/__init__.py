"""Learnt memories on disk: a tree of blocks that are fetched by the key of a text."""
