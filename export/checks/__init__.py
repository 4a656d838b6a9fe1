"""Checks at export: parity with torch, a rehearsal, a harmless learning rate, ways out."""
