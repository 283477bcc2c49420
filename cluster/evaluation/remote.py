"""``adasd eval --url``: the same questions to a running server, one after the other, over HTTP.

All figures come from the response alone: token ids and their provenance, the blocks from the metrics, and the wall
time from the first chunk with a token to the last. A journal keeps each answer as it arrives, so that an interrupted
run can continue. Unlike in process, what the server has learned carries over from one method to the next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from adasd.errors import AdasdError, ConfigError
from adasd.evaluate.compared_methods import Method
from adasd.evaluate.measure import AnswerRecord, MethodRun
from adasd.evaluate.questions import Question
from cluster.http_client import refusal, server_sent

CONNECT_S = 10.0
SILENCE_S = 300.0
"""Seconds of silence in the middle of an answer after which the server counts as gone."""


class ServerGone(AdasdError):
    """The server stopped answering in the middle of an evaluation, or refused a question."""


@dataclass(slots=True)
class Journal:
    """Answers by place (method, temperature, number of the question); one line of JSON each, appended at once.

    ``about`` describes the run; with ``path`` None, nothing is kept. Raises ConfigError if the file is of another run.
    """

    path: Path | None
    about: Mapping[str, Any]
    answers: dict[str, AnswerRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None:
            return
        if self.path.exists():
            self._read(self.path)
        else:
            self.path.write_text(json.dumps(self.about) + "\n", encoding="utf-8")

    def add(self, place: str, answer: AnswerRecord) -> None:
        self.answers[place] = answer
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"place": place, "answer": asdict(answer)}) + "\n")

    def _read(self, path: Path) -> None:
        written = path.read_text(encoding="utf-8")
        whole = written[: written.rfind("\n") + 1]  # the last line may have been cut off while being written
        if whole != written:
            path.write_text(whole, encoding="utf-8")
        try:
            about, *rest = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise ConfigError(
                f"{path} is no journal of an evaluation ({error}); name another file"
            ) from error
        if about != json.loads(json.dumps(self.about)):
            differing = [
                name for name in self.about if about.get(name) != json.loads(json.dumps(self.about[name]))
            ]
            raise ConfigError(
                f"{path} is the journal of another run ({', '.join(differing) or 'other options'} differ); "
                "repeat that run's options, or name another file"
            )
        for line in rest:
            self.answers[line["place"]] = _record(line["answer"])


def _record(fields: Mapping[str, Any]) -> AnswerRecord:
    lists = ("tokens", "drafted_per_round", "accepted_per_round")
    return AnswerRecord(**{**fields, **{name: tuple(fields[name]) for name in lists}})


def server_about(client: httpx.Client) -> dict[str, Any]:
    """The server's description of its models; raises ServerGone if no AdaSD server answers."""
    try:
        response = client.get("/v1/models")
        if response.status_code != 200:
            raise ServerGone(refusal(response))
        served = response.json()["data"][0]
        return {"id": str(served["id"]), "adasd": served["adasd"]}
    except httpx.HTTPError as error:
        raise ServerGone(
            f"no server answers at {client.base_url} ({type(error).__name__}); start one with: adasd serve"
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise ServerGone(
            f"{client.base_url} is no AdaSD server: /v1/models says nothing of its models"
        ) from error


def run(
    client: httpx.Client,
    model: str,
    items: Sequence[Question],
    methods: Sequence[Method],
    temperatures: Sequence[float],
    journal: Journal,
    *,
    max_tokens: int,
    on_answer: Callable[[Method, float], None] = lambda method, temperature: None,
) -> Iterator[MethodRun]:
    """Every method at every temperature. Raises ServerGone; finished answers stay in the journal."""
    num_runs = sum(method.serves(temperature) for method in methods for temperature in temperatures)
    total = len(items) * num_runs
    for temperature in temperatures:
        for method in methods:
            if not method.serves(temperature):
                continue
            answers = []
            for number, item in enumerate(items):
                place = f"{method.name} T={temperature:g} #{number}"
                if place not in journal.answers:
                    body = request_body(model, item.prompt, method, temperature, max_tokens)
                    try:
                        journal.add(place, ask(client, body, item))
                    except (httpx.HTTPError, ServerGone) as error:
                        raise ServerGone(_farewell(client, journal, total, error)) from error
                answers.append(journal.answers[place])
                on_answer(method, temperature)
            yield MethodRun(method, temperature, tuple(answers))


def _farewell(client: httpx.Client, journal: Journal, total: int, error: Exception) -> str:
    why = str(error) if isinstance(error, ServerGone) else f"{type(error).__name__}: {error}"
    kept = (
        f"they are kept in {journal.path}: repeat the command to go on from there"
        if journal.path
        else "nothing is kept; --journal FILE would have kept them"
    )
    return (
        f"the server at {client.base_url} stopped answering after {len(journal.answers)} of {total} answers "
        f"({why}); {kept}"
    )


def request_body(
    model: str, prompt: str, method: Method, temperature: float, max_tokens: int
) -> dict[str, Any]:
    """The chat request of one question."""
    options = {name: value for name, value in asdict(method.options).items() if value is not None}
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_provenance": True,
        "speculation": options,
    }


def ask(client: httpx.Client, body: Mapping[str, Any], item: Question) -> AnswerRecord:
    """One answer; raises httpx's errors, and ServerGone for a refusal or an incomplete answer."""
    text, tokens, last = "", list[dict[str, Any]](), dict[str, Any]()
    begun_s = ended_s = 0.0
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            response.read()
            raise ServerGone(refusal(response))
        for chunk in server_sent(response.iter_lines()):
            if "error" in chunk:
                raise ServerGone(f"an answer failed: {chunk['error'].get('message', chunk['error'])}")
            for choice in chunk.get("choices", []):
                ended_s = time.perf_counter()
                begun_s = begun_s or ended_s
                text += (choice.get("delta") or {}).get("content") or ""
                tokens += (choice.get("adasd") or {}).get("tokens", [])
            last = chunk if chunk.get("metrics") else last
    if not last:
        raise ServerGone("an answer ended without its figures")
    return record(item, text, tokens, last["metrics"], ended_s - begun_s)


def record(
    item: Question,
    text: str,
    tokens: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    decode_s: float,
) -> AnswerRecord:
    """The record of an answer. The metrics count blocks by length and acceptance, but not in their order."""
    own, blocks = metrics["adasd"], metrics["speculative_decoding"] or {}
    rounds = [
        (int(drafted), accepted)
        for drafted, counts in blocks.get("acceptance_histogram_by_draft_length", {}).items()
        for accepted, count in enumerate(counts)
        for _ in range(count)
    ]
    return AnswerRecord(
        group=item.group,
        correct=item.judge(text) if item.judge else None,
        tokens=tuple(int(token["id"]) for token in tokens),
        num_rounds=own["num_rounds"],
        drafted_per_round=tuple(drafted for drafted, _ in rounds),
        accepted_per_round=tuple(accepted for _, accepted in rounds),
        num_relaxed=own["tokens"]["relaxed"],
        decode_s=decode_s,
        cpu_s=None,  # CPU time of the server, which a client cannot see
        generation_threshold=own["generation_threshold"],
        acceptance_threshold=own["acceptance_threshold"],
        distortion=own.get("distortion"),
    )
