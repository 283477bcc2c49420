"""Drafting methods, which decide when a block ends: one file per method."""
