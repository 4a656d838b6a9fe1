"""Warm-up: meta networks are trained on source data before export."""
