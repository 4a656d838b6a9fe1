"""What is kept over a restart: commits to the state file, and going on from them."""
