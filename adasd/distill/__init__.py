"""A draft for any target: prompts, the target's answers to them, and a small model that learns from those."""
