"""The bank: a tree of contexts on disk, each with a block that specialises the model to it."""
