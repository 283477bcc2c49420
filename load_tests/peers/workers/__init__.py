"""Programs that run in a peer's own environment; they may import nothing that is not there."""
