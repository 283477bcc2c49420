"""For all tests: random draws repeat from run to run, and a busy machine fails no test."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "same everywhere",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same everywhere")
if not torch.cuda.is_available():
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # read when Triton is imported, by whichever test comes first
torch.set_num_threads(1)  # tiny tensors gain nothing from a second thread


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draws without a generator of their own do not depend on which tests ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
