"""For all tests: random draws repeat from run to run, and a busy machine fails no test."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """What a process does to our loggers when it starts is undone, so that later tests see the records."""
    loggers = [logging.getLogger(name) for name in ("adasd", "services")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
