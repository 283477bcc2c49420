"""The mathematics of speculative decoding over torch tensors; knows no model, cache, session or wire.

Read in this order: ``divergence``, ``distributions``, ``draft_step``, ``verify``.
"""
