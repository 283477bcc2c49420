"""Verdicts by Triton kernels: the fast twin of ``adasd.specdec.verify`` for CUDA. Only ``kernels`` imports Triton."""
