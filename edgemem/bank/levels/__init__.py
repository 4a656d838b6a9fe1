"""The files of a bank: one level each, written row by row and read row by row."""
