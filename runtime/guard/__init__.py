"""Guard rails: whether the block is to be trusted, and when the frozen model answers."""
