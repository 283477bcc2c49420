"""The trace file goes on where it stopped; look-ups and models propose what their slow twins propose."""

from dataclasses import replace

import pytest
import torch

from adasd.drafters.ngram import NgramIndex
from adasd.drafters.suffix import SuffixAutomaton
from adasd.errors import ConfigError
from adasd.evaluate.collect import LookupSource, Text
from adasd.evaluate.traces import LookupTrace, TraceFile
from tests.unit.evaluate.test_replay import trace

ABOUT = {"pair": "words", "seed": 1}
GUESSED = LookupTrace("words", 0.0, 2, 2, ((), ((0.5, 0.25), (0.0, 1.0))), (0, 1))


def test_a_file_gives_back_what_was_written(tmp_path):
    file = TraceFile(tmp_path / "traces.jsonl", ABOUT)
    file.append({"model": [trace("+-+")], "suffix": [GUESSED]})
    file.append({"model": [trace("++")], "suffix": [GUESSED]})
    again = TraceFile(tmp_path / "traces.jsonl", ABOUT)
    assert again.num_batches == 2
    assert again.traces == file.traces == {"model": [trace("+-+"), trace("++")], "suffix": [GUESSED] * 2}
    assert TraceFile(tmp_path / "traces.jsonl").about == ABOUT


def test_a_line_that_was_cut_off_is_dropped_and_written_again(tmp_path):
    path = tmp_path / "traces.jsonl"
    TraceFile(path, ABOUT).append({"model": [trace("+-+")]})
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[1][:40])
    again = TraceFile(path, ABOUT)
    assert again.num_batches == 1
    again.append({"model": [trace("--")]})
    assert [len(one.accepted) for one in TraceFile(path, ABOUT).traces["model"]] == [3, 2]


def test_another_run_and_a_broken_line_are_named(tmp_path):
    path = tmp_path / "traces.jsonl"
    TraceFile(path, ABOUT)
    with pytest.raises(ConfigError, match="another run"):
        TraceFile(path, {**ABOUT, "seed": 2})
    path.write_text(path.read_text() + '{"model": [{"group": "words"}]}\n')
    with pytest.raises(ConfigError, match="line 2"):
        TraceFile(path, ABOUT)


def text(prompt, tokens) -> Text:
    return Text("words", prompt, 0.0, tokens, len(tokens), len(tokens), torch.zeros(len(tokens), 9))


@pytest.mark.parametrize("make", [SuffixAutomaton, NgramIndex])
def test_a_look_up_is_traced_as_it_guesses_at_every_position(make):
    written = text((1, 2, 3, 4, 5, 1, 2, 3), (4, 5, 1, 2, 8, 1, 2, 3))
    found = LookupSource(make).trace(written, torch.Generator())
    for at in range(len(written.tokens)):
        index = make()
        index.extend((*written.prompt, *written.tokens[:at]))
        guessed = [guess.token for guess in index.guesses()][:16]
        agreed = 0
        for guess, token in zip(guessed, written.tokens[at:], strict=False):
            if guess != token:
                break
            agreed += 1
        assert len(found.guesses[at]) == len(guessed)
        assert found.num_accepted[at] == agreed
    assert max(found.num_accepted) >= 2


def test_a_rejection_that_was_not_followed_takes_the_nearest_one_that_was():
    near = replace(trace("+--+-"), off_path={1: ((1.0, 0.1),) * 16, 4: ((4.0, 0.1),) * 16})
    assert [signal[0] for signal, _ in near.proposals(2)][1] == 1.0
    assert [signal[0] for signal, _ in near.proposals(3)][2] == 4.0
    assert [stands for _, stands in near.proposals(0)][:3] == [True, False, False]
