"""Peers, each from its paper's rule."""
