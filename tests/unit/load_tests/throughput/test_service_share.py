"""The service against the same pair in process, with made-up answers."""

import pytest

from adasd.requests import Mode
from load_tests.demo_prompts import examples
from load_tests.throughput import service_share, service_stream
from load_tests.throughput.service_share import GOAL, HERE, SERVICE, ShareAnswer, falls_short, measure, table


def ways(service_s, here_s=1.0, other=None):
    """10 tokens per answer; for the prompt ``other`` the service's exact answer differs."""
    asked = []

    def ask(way, seconds):
        def one(prompt, mode):
            asked.append((way, mode))
            changed = way == SERVICE and mode is Mode.EXACT and prompt == other
            return ShareAnswer("other" if changed else "text", 10, seconds)

        return one

    return {SERVICE: ask(SERVICE, service_s), HERE: ask(HERE, here_s)}, asked


def test_the_share_is_that_of_the_speeds_and_everybody_takes_turns():
    asking, asked = ways(service_s=1.25)
    off, exact = measure(asking, examples(3), 2)
    assert (off.mode, exact.mode) == ("off", "exact")
    assert off.service == pytest.approx([8.0, 8.0])
    assert off.in_process == pytest.approx([10.0, 10.0])
    assert off.ratio == pytest.approx(0.8)
    assert len(asked) == 4 + 4 * 3 * 2
    assert len(set(asked[4:8])) == 4
    assert asked[4] != asked[8]  # they take turns to go first
    assert "80.0%" in str(list(table([off]).columns[3].cells))


def test_below_the_goal_and_with_other_answers_it_falls_short():
    slow, fast = ways(1 / (GOAL - 0.01))[0], ways(1 / (GOAL + 0.01))[0]
    assert len(falls_short(measure(slow, examples(2), 1))) == 2
    assert falls_short(measure(fast, examples(2), 1)) == []
    changed, _ = ways(1.0, other=examples(2)[1].prompt)
    assert falls_short(measure(changed, examples(2), 1)) == ["mode exact: 1 answers are not those in process"]


def test_what_is_served_is_what_runs_here():
    pair, engines = service_share.load(service_share.DEMO / "target")
    settings = service_share.served(engines["target"].config)
    assert settings["compile"] == ("on" if "native" in engines["target"].forward.name else "off")
    assert settings["model"].endswith("target")
    answer = service_share.ask_here(pair, 8, iter([1.0, 3.0]).__next__, examples(1)[0].prompt, Mode.EXACT)
    assert (answer.num_tokens, answer.seconds) == (8, 2.0)


def test_enlarged_takes_fewer_prompts_by_itself():
    assert service_stream.parse(["--enlarged"]).prompts == 6
    assert service_stream.parse([]).prompts == 24
    assert service_stream.parse(["--enlarged", "--prompts", "2"]).prompts == 2
