"""Twelve families of short prompts, written by seeded generators, most of them checkable, in two disjoint splits."""
