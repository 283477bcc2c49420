"""A model on several ranks: each holds a shard of every layer and of the cache (Megatron-LM, arXiv:1909.08053).

Rank 0 runs the engine and decides everything. Before each pass, and each other change of the cache, it sends one plan
to the other ranks, which follow (``follower``). Only rank 0 reads the logits.
"""
