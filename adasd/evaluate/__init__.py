"""Compares methods on one pair and one workload in one run: the library part of ``adasd eval``.

Reading order: ``questions``, ``compared_methods``, ``measure``, ``method_figures``, ``evaluation``; then ``tables``
and ``html``.
"""
