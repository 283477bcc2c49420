"""Objectives are read as they are written, and what contradicts itself is refused."""

from __future__ import annotations

import pytest

from adasd.errors import ConfigError
from cluster.simulation.objective import Objective


def test_objectives_are_read_and_written():
    assert Objective.parse("") == Objective()
    assert Objective.parse("ttft=200, share=0.9") == Objective(200.0, 50.0, 0.9)
    assert Objective.parse(str(Objective(1.5, 2.5, 0.5))) == Objective(1.5, 2.5, 0.5)


@pytest.mark.parametrize("text", ["fast", "ttft=soon", "ttft=0", "share=2", "latency=5"])
def test_what_is_no_objective_is_refused(text):
    with pytest.raises(ConfigError):
        Objective.parse(text)
