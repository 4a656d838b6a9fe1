"""What is no part of the loop on a device: replay, tuning, verification, and their measures."""
