"""Acceptance methods, which accept some tokens that failed the exact test: one file per method."""
