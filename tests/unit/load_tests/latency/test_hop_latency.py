"""The hop benchmark: real gRPC to a worker that only waits."""

import pytest

from load_tests.latency import hop_latency


def test_a_hop_is_what_the_compute_does_not_explain():
    none, some = hop_latency.run([0.0, 30.0], 3)
    assert (none.compute_ms, some.compute_ms) == (0.0, 30.0)
    for each in (none, some):
        assert each.transport_ms > 0
        assert each.worker_ms >= 0


@pytest.mark.parametrize("words", [["--hops", "0"], ["--compute", "-1"]])
def test_what_cannot_be_measured_is_refused(words, capsys):
    with pytest.raises(SystemExit) as left:
        hop_latency.main(words)
    assert left.value.code == 2
    assert "at least" in capsys.readouterr().err
