"""Fuzzers of every file that EdgeMem reads: `python -m fuzzing`, or `make fuzz`.

A case is a format and a seed: from these follow the edits, and from the edits the damaged file.
"""
