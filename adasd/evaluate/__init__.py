"""Comparing methods on one pair, one workload, one run: the library part of ``adasd eval``.

Read in this order: ``workload``, ``methods``, ``measure``, ``figures``, ``report``; then ``table`` and ``html``.
"""
