"""A whole forward pass in one C function, built at the start by the machine's own compiler."""
