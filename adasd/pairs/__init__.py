"""Pairs of models known by name: where they come from and where they lie."""
