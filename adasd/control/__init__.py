"""Policy: what to draft and what to accept, as pure values. No torch, no clock, no input or output."""
