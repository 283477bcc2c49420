"""A whole forward pass in one C function, compiled at start-up on the machine that runs it."""
