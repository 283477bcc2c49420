"""One replica of a tier: an engine in its thread, leases, rounds, and the Serve deployment around them."""
