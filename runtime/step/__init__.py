"""One adaptation step: the graphs, when it runs, and what becomes of the block."""
