"""When a draft stops: one file per method."""
