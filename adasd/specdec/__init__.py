"""The mathematics of speculative decoding on torch tensors, independent of models, caches, sessions and the wire.

Read in this order: ``divergence``, ``distributions``, ``draft_step``, ``verify``.
"""
