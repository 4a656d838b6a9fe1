"""Inference engines: one small protocol, one module for each, and the choice among them.

Nothing here loads an engine before it is chosen.
"""
