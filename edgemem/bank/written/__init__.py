"""Written blocks: what the device learnt of its contexts, in the state file."""
