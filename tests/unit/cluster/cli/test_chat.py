"""The terminal chat against a scripted server."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress

import httpx
import pytest
from rich.console import Console

from adasd.requests import Mode
from cluster.cli.chat import chat, figures, paint

LAST = {
    "choices": [],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    "speculation": {"mode": "adaptive"},
    "metrics": {
        "speculative_decoding": {"num_draft_tokens": 4, "num_accepted_draft_tokens": 3},
        "adasd": {
            "tokens": {"exact": 2, "relaxed": 1, "correction": 0, "bonus": 1, "target": 0},
            "generation_threshold": 1.25,
            "acceptance_threshold": None,
        },
    },
}


def token(text: str, kind: str) -> dict:
    return {"id": 1, "text": text, "kind": kind}


def sse(*events: dict) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def delta(text: str, *tokens: dict) -> dict:
    return {"choices": [{"index": 0, "delta": {"content": text}, "adasd": {"tokens": list(tokens)}}]}


class Server:
    """Lists one model, answers every chat with the same events, and keeps the requests."""

    def __init__(self, status: int = 200, text: str = sse(delta("Hi", token("Hi", "target")), LAST)) -> None:
        self.status, self.text, self.bodies = status, text, []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "pair"}]})
        self.bodies.append(json.loads(request.content))
        return httpx.Response(self.status, text=self.text)


def run(server, message: str | None, mode: Mode | None = None, typed: str = "", monkeypatch=None):
    out = io.StringIO()
    console = Console(file=out, width=200)
    if monkeypatch is not None:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    code = chat("http://server", message, mode, None, 64, 0.0, console, httpx.MockTransport(server))
    return code, out.getvalue()


def test_one_question_prints_the_answer_and_a_line_of_figures():
    server = Server(text=sse(delta("Hel", token("Hel", "exact")), delta("lo", token("lo", "bonus")), LAST))
    code, out = run(server, "Hello?", Mode.ADAPTIVE)
    assert code == 0
    answer, last_line = out.strip().splitlines()
    assert answer == "Hello"
    assert "4 tokens in" in last_line
    assert "accepted 3 of 4 drafted (75%)" in last_line
    (body,) = server.bodies
    assert body["model"] == "pair"
    assert body["speculation"] == {"mode": "adaptive"}
    assert body["return_token_provenance"] is True
    assert body["stream"] is True


def test_without_a_mode_the_server_chooses():
    server = Server()
    run(server, "Hello?")
    assert "speculation" not in server.bodies[0]


def test_a_conversation_sends_its_history_and_new_forgets_it(monkeypatch):
    server = Server()
    code, out = run(server, None, typed="one\ntwo\n/new\n/mode off\nthree\n", monkeypatch=monkeypatch)
    assert code == 0
    assert [len(body["messages"]) for body in server.bodies] == [1, 3, 1]
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": "Hi"}
    assert server.bodies[2]["speculation"] == {"mode": "off"}
    assert "accepted by relaxation" in out  # the legend


def test_a_refusal_is_told_in_the_servers_words_and_the_conversation_goes_on(monkeypatch):
    server = Server(status=400, text=json.dumps({"error": {"message": "the prompt is too long"}}))
    code, out = run(server, "Hello?")
    assert (code, "The server refused (400): the prompt is too long" in out) == (1, True)
    code, out = run(server, None, typed="a\nb\n", monkeypatch=monkeypatch)
    assert (code, len(server.bodies)) == (0, 3)
    assert server.bodies[2]["messages"] == [{"role": "user", "content": "b"}]


def test_an_error_in_the_stream_is_told():
    code, out = run(Server(text=sse(delta("Hal"), {"error": {"message": "the target was lost"}})), "Hello?")
    assert code == 1
    assert "the target was lost" in out


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ConnectTimeout("late")])
def test_a_server_that_is_down_gets_one_sentence(error):
    def down(_: httpx.Request) -> httpx.Response:
        raise error

    code, out = run(down, "Hello?")
    assert (code, out.strip()) == (1, "No server answers at http://server; start one with adasd serve.")


class Flaky(Server):
    """Breaks off the first answer in the middle, then is itself again."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        response = super().__call__(request)
        if len(self.bodies) == 1 and request.url.path != "/v1/models":
            return httpx.Response(200, text=f"data: {json.dumps(delta('Hal', token('Hal', 'target')))}\n\n")
        return response


def test_a_lost_server_ends_one_answer_and_not_the_conversation(monkeypatch):
    server = Flaky()
    code, out = run(server, None, typed="one\ntwo\n/quit\nthree\n", monkeypatch=monkeypatch)
    assert code == 0
    assert "The connection to http://server broke: the stream ended before the answer did." in out
    assert "The message was forgotten; send it again." in out
    assert [body["messages"][0]["content"] for body in server.bodies] == ["one", "two"]
    assert run(Flaky(), "Hello?")[0] == 1


@pytest.mark.parametrize(
    ("finish", "words"),
    [
        ("length", "Cut after 4 tokens: --max-tokens allows no more"),
        ("timeout", "time for one answer is over"),
    ],
)
def test_a_cut_answer_says_so(finish, words):
    last = delta("", token("", "target"))
    last["choices"][0]["finish_reason"] = finish
    assert words in run(Server(text=sse(delta("Hi", token("Hi", "exact")), last, LAST)), "Hello?")[1]
    last["choices"][0]["finish_reason"] = "stop"
    assert "Cut" not in run(Server(text=sse(delta("Hi", token("Hi", "exact")), last, LAST)), "Hello?")[1]


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (
            400,
            {"error": {"message": "too long by 3", "code": "context_length_exceeded"}},
            "The context is full: too long by 3",
        ),
        (
            400,
            {"error": {"message": "temperature is 9", "code": "invalid"}},
            "The server refused (400): temperature is 9",
        ),
        (502, "<h1>Bad Gateway</h1>", "A proxy in front of the server answers for it (502 Bad Gateway)"),
    ],
)
def test_failures_look_like_what_they_are(status, text, words):
    body = text if isinstance(text, str) else json.dumps(text)
    assert words in run(Server(status, body), "Hello?")[1]


def test_help_lists_the_commands(monkeypatch):
    _, out = run(Server(), None, typed="/help\n/hlep\n", monkeypatch=monkeypatch)
    assert "/mode off|exact|adaptive   how" in out
    assert "Known: /help" in out


def test_lines_between_quotes_are_one_message(monkeypatch):
    server = Server()
    run(server, None, typed='"""one\ntwo\n\nthree"""\n', monkeypatch=monkeypatch)
    assert server.bodies[0]["messages"][0]["content"] == "one\ntwo\n\nthree"


def test_pasted_lines_are_one_message_in_a_terminal(tmp_path):
    """A real terminal, which marks what is pasted."""
    script = (
        "import json, sys\n"
        "from cluster.cli.chat import edit_lines, read_message\n"
        "edit_lines()\n"
        "json.dump([read_message(), read_message()], open(sys.argv[1], 'w'))\n"
    )
    got = tmp_path / "got.json"
    environment = os.environ | {"TERM": "xterm", "PYTHONPATH": os.getcwd()}
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(got)], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        shown = b""
        while b"> " not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, b"\x1b[200~one\ntwo\x1b[201~\rthree\r")
        with suppress(OSError):  # the terminal ends with its program
            while os.read(ours, 1024):
                pass
        assert child.wait(20) == 0
    finally:
        child.kill()
        os.close(ours)
    assert json.loads(got.read_text()) == ["one\ntwo", "three"]


def test_something_that_is_no_such_server_gets_one_sentence():
    code, out = run(lambda _: httpx.Response(200, text="<html>"), "Hello?")
    assert code == 1
    assert "is no OpenAI-compatible server" in out


def styles(text) -> list[tuple[str, str]]:
    return [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]


def test_tokens_are_shown_in_the_colour_of_their_kind_when_they_are_listed():
    text = paint(delta("one tw", token("one ", "exact"), token("t", "relaxed"))["choices"][0])
    assert styles(text) == [("one ", "green"), ("t", "yellow")]
    assert paint({"delta": {"content": "half"}, "adasd": {"tokens": []}}).plain == ""


def test_a_model_cannot_steer_the_terminal():
    assert paint({"delta": {"content": "a\x1b[2Jb\n\tc\r"}}).plain == "a\ufffd[2Jb\n\tc\ufffd"


def test_a_server_without_provenance_is_shown_plain():
    assert paint({"delta": {"content": "hello"}}).plain == "hello"
    assert paint({"delta": {"role": "assistant"}}).plain == ""


def test_figures_leave_out_what_is_not_there():
    assert figures({}, 1.0) == "0 tokens in 1.00 s (0 tokens/s)"
    line = figures(LAST, 2.0)
    assert "2 exact, 1 relaxed, 1 bonus" in line
    assert "entropy ceiling 1.25 nats" in line
    assert "JS distance" not in line


def test_the_key_goes_along_and_is_asked_for_where_it_is_missing():
    server = Server()

    def guarded(request: httpx.Request) -> httpx.Response:
        if request.headers.get("authorization") != "Bearer sk-1":
            return httpx.Response(401, json={"error": {"message": "no"}})
        return server(request)

    for key, code in (("sk-1", 0), ("sk-2", 1), (None, 1)):
        out = io.StringIO()
        transport = httpx.MockTransport(guarded)
        console = Console(file=out, width=200)
        assert chat("http://server", "Hello", None, None, 8, 0.0, console, transport, api_key=key) == code
        assert ("--api-key" in out.getvalue()) is bool(code)
    assert len(server.bodies) == 1
