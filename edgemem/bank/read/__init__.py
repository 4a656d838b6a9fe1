"""The shipped bank on a device: from a key down the tree to the rows of its contexts."""
