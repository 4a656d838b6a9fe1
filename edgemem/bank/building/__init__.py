"""Building a bank: keys and blocks are grouped into levels, and put into a bundle."""
