"""Where moments are aligned in networks of any kind, and what the source's moments are there."""
