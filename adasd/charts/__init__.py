"""Pages of one file with charts: what evaluations, plans, simulations and load tests write for people."""
