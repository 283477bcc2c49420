"""The built-in model pair: tasks that can be checked, a trainer, an evaluation and a way to enlarge a model."""
