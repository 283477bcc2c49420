"""The cost of a round: every way runs over real gRPC, and figures belong to the right process."""

import pytest

from load_tests.latency import link_cost


@pytest.mark.parametrize("way", link_cost.WAYS)
def test_every_way_counts_rounds_and_the_time_of_all_three_processes(way, monkeypatch):
    monkeypatch.setattr(link_cost, "WARM_UP_S", 0.1)
    (cost,) = link_cost.run([way], [4], 0.4)
    assert (cost.way, cost.sessions) == (way, 4)
    assert cost.rounds_per_s > 0
    assert cost.p50_ms > 0
    assert min(cost.orchestrator_us, cost.draft_us, cost.target_us) >= 0
    assert cost.orchestrator_us > 0


def test_figures_are_medians_by_way_and_number():
    repeats = [[link_cost.RoundCost("link", 8, us, 2.0, 3.0, 4.0, 5.0)] for us in (30.0, 10.0, 20.0)]
    (cost,) = link_cost.medians(repeats)
    assert cost.orchestrator_us == 20.0
    assert cost.rounds_per_core == 50_000


def test_growth_counts_all_processes_from_eight_sessions_on():
    def cost(way: str, sessions: int, us: float) -> link_cost.RoundCost:
        return link_cost.RoundCost(way, sessions, us, 10.0, 10.0, 4.0, 5.0)

    costs = [cost("link", 1, 400.0), cost("link", 256, 85.0), cost("link", 8, 80.0), cost("ahead", 256, 9.0)]
    assert link_cost.growth(costs) == {"link": pytest.approx(0.05)}


@pytest.mark.parametrize("words", [["--sessions", "0"], ["--seconds", "0"], ["--repeats", "0"]])
def test_what_cannot_be_measured_is_refused(words, capsys):
    with pytest.raises(SystemExit) as left:
        link_cost.main(words)
    assert left.value.code == 2
    assert "at least" in capsys.readouterr().err
