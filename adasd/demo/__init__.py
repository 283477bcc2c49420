"""The embedded model pair: checkable tasks, a trainer, an evaluation and a way to enlarge a model."""
