"""An evaluation over HTTP: the real gateway over a fake backend, and a server that dies."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from adasd.errors import ConfigError
from adasd.evaluate.compared_methods import method
from adasd.evaluate.evaluation import build
from adasd.evaluate.measure import MethodRun
from adasd.evaluate.questions import Question
from adasd.requests import Mode, SpeculationOptions
from adasd.results import SpeculationReport, TokenKind
from cluster.cli import eval as eval_command
from cluster.evaluation import remote
from cluster.evaluation.remote import Journal, ServerGone, server_about
from services.gateway.http.reports import metrics_json
from services.gateway.http.routes import create_app
from tests.unit.gateway.fake_backend import TOKENIZER, FakeBackend

ITEMS = [
    Question("echo", "the cat sat on the mat", lambda text: "cat" in text),
    Question("echo", "a dog ran"),
]
METHODS = [method("off"), method("adasd@suffix"), method("adasd+collision", 0.2)]
ABOUT = {"model": "demo", "prompts": [item.prompt for item in ITEMS]}


def client(backend: FakeBackend) -> TestClient:
    return TestClient(create_app(backend))


def run(asked: httpx.Client, journal: Journal | None = None, temperatures=(0.0, 0.7)) -> list[MethodRun]:
    kept = journal or Journal(None, ABOUT)
    return list(
        remote.run(asked, server_about(asked)["id"], ITEMS, METHODS, temperatures, kept, max_tokens=60)
    )


def test_answers_show_what_the_responses_say():
    backend = FakeBackend()
    runs = run(client(backend))
    assert [(one.method.name, one.temperature) for one in runs][:3] == [
        ("off", 0.0),
        ("adasd@suffix", 0.0),
        ("adasd+collision", 0.0),
    ]
    plain, drafted = runs[0].answers[0], runs[1].answers[0]
    assert plain.tokens == drafted.tokens
    assert "the cat sat on the mat" in TOKENIZER.decode(plain.tokens)
    assert (plain.correct, runs[0].answers[1].correct) == (True, None)
    assert plain.drafted_per_round == ()
    assert sum(drafted.accepted_per_round) > 0
    assert len(drafted.drafted_per_round) == drafted.num_rounds
    assert set(drafted.drafted_per_round) == {backend.block_len}
    assert drafted.decode_s > 0
    asked = [request.speculation for request in backend.tally.requests]
    assert [options.draft for options in asked[:6]] == [None, None, "suffix", "suffix", None, None]
    assert asked[4].max_relaxed_fraction == 0.2


def test_the_pair_is_the_servers_and_what_it_does_not_say_stays_unknown():
    report = SpeculationReport(
        SpeculationOptions(Mode.ADAPTIVE, "adasd", "collision", 16, 0.3), 2, 1, 4, 3, (3,), (4,),
        ((TokenKind.RELAXED, 2),), None, None, 0.0, 0.0, 0.0, distortion=0.75,
    )  # fmt: skip
    metrics = metrics_json(report)
    told = remote.record(ITEMS[0], "", [], metrics, 1.0)
    assert (told.num_relaxed, told.distortion, told.cpu_s) == (2, 0.75, None)
    del metrics["adasd"]["distortion"]  # an older server's
    assert remote.record(ITEMS[0], "", [], metrics, 1.0).distortion is None


def test_the_report_is_that_of_an_evaluation_in_process():
    report = build(run(client(FakeBackend())), {})
    rows = report.rows
    assert {row.method for row in rows} == {"off", "adasd@suffix", "adasd+collision"}
    assert all(row.same_answers == 1.0 and row.measured_speed_up > 0 for row in rows)
    assert {(row.cpu_s, row.cpu_speed_up) for row in rows} == {
        (None, None)
    }  # the server's CPU time is unknown
    assert all(
        json.loads(json.dumps(report.as_json()))["rows"][0][name] is None
        for name in ("cpu_s", "cpu_speed_up")
    )


class Dying(httpx.BaseTransport):
    """Passes on this many chats, then the connection fails."""

    def __init__(self, inner: httpx.BaseTransport, num_chats: int) -> None:
        self.inner, self.left = inner, num_chats

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if "chat" in request.url.path:
            self.left -= 1
            if self.left < 0:
                raise httpx.ConnectError("connection refused")
        return self.inner.handle_request(request)


def test_a_server_that_dies_ends_the_run_with_a_sentence_and_the_journal_goes_on(tmp_path: Path):
    backend, file = FakeBackend(), tmp_path / "journal.jsonl"
    dying = client(backend)
    dying._transport = Dying(dying._transport, num_chats=7)
    with pytest.raises(
        ServerGone, match=r"after 7 of 12 answers \(ConnectError.*repeat the command to go on"
    ):
        run(dying, Journal(file, ABOUT))
    with file.open("a") as journal:
        journal.write('{"place": "cut in the mid')  # as after a kill in the middle of a write
    before = backend.tally.started
    whole = run(client(backend), Journal(file, ABOUT))
    assert backend.tally.started - before == 5
    assert [one.answers[0].tokens for one in whole] == [one.answers[0].tokens for one in run(client(backend))]
    again = Journal(file, ABOUT)
    assert len(again.answers) == 12
    assert asdict(again.answers["off T=0 #0"]) == asdict(whole[0].answers[0])


def test_without_a_journal_the_sentence_says_what_would_have_helped():
    dying = client(FakeBackend())
    dying._transport = Dying(dying._transport, num_chats=0)
    with pytest.raises(ServerGone, match="--journal FILE"):
        run(dying)


@pytest.mark.parametrize("word", ["break", "overload"])
def test_an_answer_that_fails_is_never_counted(word, tmp_path: Path):
    journal, asked = Journal(tmp_path / "j", {}), client(FakeBackend())
    items = [Question("x", f"please {word} down here")]
    with pytest.raises(ServerGone, match="unplugged" if word == "break" else "every slot is taken"):
        list(remote.run(asked, "fake-model", items, METHODS[:1], [0.0], journal, max_tokens=60))
    assert journal.answers == {}


def test_a_journal_of_another_run_is_refused(tmp_path: Path):
    file = tmp_path / "journal"
    Journal(file, ABOUT)
    with pytest.raises(ConfigError, match="journal of another run \\(model differ"):
        Journal(file, {**ABOUT, "model": "other"})
    file.write_text("no JSON\n")
    with pytest.raises(ConfigError, match="no journal"):
        Journal(file, ABOUT)


def test_who_is_no_server_of_ours_is_told_apart():
    def other(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"id": "x"}]})

    with (
        httpx.Client(base_url="http://s", transport=httpx.MockTransport(other)) as asked,
        pytest.raises(ServerGone, match="no AdaSD server"),
    ):
        server_about(asked)


def test_the_command_says_what_is_wrong_and_ends_with_2(capsys, tmp_path: Path):
    for options, sentence in (
        (["--url", "http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9"),
        (["--journal", str(tmp_path / "j")], "--journal keeps the answers of a server"),
        (["--url", "http://127.0.0.1:9", "--cost-ratio", "0.1"], "a server measures its own times"),
        (["--methods", "off@suffix"], "behind @ stands a draft source"),
        (["--drafts", "tiny"], "drafts are NAME=MODEL"),
    ):
        assert eval_command.main(["--n", "1", *options]) == 2
        assert sentence in capsys.readouterr().err


def test_json_holds_no_key(tmp_path: Path):
    options = eval_command.parser().parse_args(["--url", "http://s", "--api-key", "secret"])
    assert "secret" not in json.dumps(eval_command.about(options, 1, METHODS))
