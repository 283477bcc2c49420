"""What is accepted although it failed the exact test: one file per method."""
