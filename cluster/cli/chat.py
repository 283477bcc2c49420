"""``adasd chat``: talk to a server in the terminal; colours show where each token came from."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category

import httpx
from rich.console import Console
from rich.text import Text

from adasd.requests import Mode
from adasd.results import TokenKind
from cluster.cli._settings import parse
from cluster.http_client import ServerRefusal, first_model, refusal, server_sent

STYLES = {
    TokenKind.EXACT: "green",
    TokenKind.RELAXED: "yellow",
    TokenKind.CORRECTION: "red",
    TokenKind.BONUS: "cyan",
    TokenKind.TARGET: "default",
}
MEANINGS = {
    TokenKind.EXACT: "drafted, accepted exactly",
    TokenKind.RELAXED: "drafted, accepted by relaxation",
    TokenKind.CORRECTION: "the target's correction",
    TokenKind.BONUS: "the target's bonus",
    TokenKind.TARGET: "the target alone",
}
Message = dict[str, str]


CUT = {
    "length": "Cut after {num} tokens: --max-tokens allows no more, or the context is full.",
    "timeout": "Cut after {num} tokens: the server's time for one answer is over.",
    "cancelled": "Cut after {num} tokens: the server stopped this answer.",
    "error": "Cut after {num} tokens: the server failed on this answer.",
}
"""What to say about an answer that did not come to its own end, by its ``finish_reason``."""
HELP = """/mode off|exact|adaptive   how the next answers are speculated
/new                       forget the conversation
/quit                      leave (Ctrl-D too)
Ctrl-C                     cut an answer
Several lines: paste them, or begin and end with three quotes."""
QUOTES = '"""'


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="adasd chat", description="Talk to a server.", allow_abbrev=False)
    add = made.add_argument
    add("message", nargs="*", help="one question; without it, a conversation")
    add("--url", default="http://127.0.0.1:8000", metavar="URL", help="the server [http://127.0.0.1:8000]")
    add("--api-key", metavar="KEY", help="key of the server, if it asks for one [$ADASD_API_KEY]")
    add("--mode", choices=list(Mode), help="off, exact or adaptive [the server's default]")
    add("--model", metavar="NAME", help="model name [the first one served]")
    add("--max-tokens", type=int, default=256, metavar="N", help="tokens per answer [256]")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy [0]")
    return made


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    arguments = parse(parser(), argv)
    message = " ".join(arguments.message) or None
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip() or None
    return chat(
        arguments.url,
        message,
        Mode(arguments.mode) if arguments.mode else None,
        arguments.model,
        arguments.max_tokens,
        arguments.temperature,
        Console(),
        api_key=arguments.api_key or os.environ.get("ADASD_API_KEY"),
    )


def paint(choice: Mapping[str, Any]) -> Text:
    """The text that one chunk adds to the screen: its listed tokens in colour, or its plain text if it lists none.

    Listed tokens join to the text; a token is listed once all of it is there, at the latest at the end.
    """
    provenance = choice.get("adasd")
    if provenance is None:
        return Text(harmless((choice.get("delta") or {}).get("content") or ""))
    tokens = provenance["tokens"]
    return Text.assemble(*((harmless(token["text"]), STYLES.get(token["kind"], "")) for token in tokens))


def harmless(text: str) -> str:
    """Makes control characters visible, except newlines and tabs: a model must not control the terminal."""
    return "".join("\ufffd" if category(char) == "Cc" and char not in "\n\t" else char for char in text)


@dataclass(slots=True)
class Conversation:
    """One conversation with one server."""

    client: httpx.Client
    model: str
    mode: Mode | None
    max_tokens: int
    temperature: float
    console: Console
    messages: list[Message] = field(default_factory=list)

    def ask(self, message: str) -> None:
        """Send a message and print the answer as it arrives; raises ServerRefusal and httpx.HTTPError.

        A message whose answer failed is forgotten.
        """
        self.messages.append({"role": "user", "content": message})
        answer, last, finish, begun_s = "", {}, None, time.monotonic()
        try:
            for chunk in self.chunks():
                if "error" in chunk:
                    raise ServerRefusal(str(chunk["error"].get("message", chunk["error"])))
                if chunk.get("usage"):
                    last = chunk
                for choice in chunk.get("choices", []):
                    answer += (choice.get("delta") or {}).get("content") or ""
                    finish = choice.get("finish_reason") or finish
                    self.console.print(paint(choice), end="", soft_wrap=True)
        except BaseException:
            self.messages.pop()
            self.console.print()
            raise
        self.messages.append({"role": "assistant", "content": answer})
        self.console.print()
        if finish in CUT:
            usage = last.get("usage") or {}
            self.say(CUT[finish].format(num=usage.get("completion_tokens", self.max_tokens)))
        self.say(figures(last, time.monotonic() - begun_s), "dim")

    def say(self, sentence: str, style: str = "yellow") -> None:
        self.console.print(Text(sentence, style), soft_wrap=True)

    def chunks(self) -> Iterator[dict[str, Any]]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self.messages,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_provenance": True,
        }
        if self.mode is not None:
            body["speculation"] = {"mode": self.mode.value}
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                response.read()
                raise ServerRefusal(refusal(response))
            yield from server_sent(response.iter_lines())


def chat(
    url: str,
    message: str | None,
    mode: Mode | None,
    model: str | None,
    max_tokens: int,
    temperature: float,
    console: Console,
    transport: httpx.BaseTransport | None = None,
    api_key: str | None = None,
) -> int:
    """Ask once (``message``) or hold a conversation; returns 1 if the server is down or refuses."""
    timeout = httpx.Timeout(10.0, read=None)  # the server enforces its own deadline for every answer
    try:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        with httpx.Client(base_url=url, timeout=timeout, transport=transport, headers=headers) as client:
            talk = Conversation(client, model or first_model(client), mode, max_tokens, temperature, console)
            if message is not None:
                talk.ask(message)
            else:
                converse(talk)
    except httpx.HTTPError as error:
        console.print(lost(url, error), soft_wrap=True, highlight=False, markup=False)
        return 1
    except ServerRefusal as error:
        console.print(f"{error}", soft_wrap=True, highlight=False, markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def converse(talk: Conversation) -> None:
    """Read messages until the end of input or ``/quit``; a refusal or a lost server ends only the one answer."""
    talk.console.print(
        f"Talking to {talk.model}. /help lists what can be typed, /quit leaves.", highlight=False
    )
    talk.console.print(legend())
    edit_lines()
    while True:
        try:
            message = read_message().strip()
        except EOFError:
            talk.console.print()
            return
        except KeyboardInterrupt:  # as in a shell: the line is dropped
            talk.say("\n(/quit leaves)")
            continue
        if message in ("/quit", "/exit"):
            return
        if message.startswith("/"):
            command(talk, message)
        elif message:
            try:
                talk.ask(message)
            except ServerRefusal as error:  # the next message may succeed
                talk.say(f"{error}")
            except httpx.HTTPError as error:
                talk.say(
                    lost(str(talk.client.base_url), error) + " The message was forgotten; send it again."
                )
            except KeyboardInterrupt:
                talk.say("(cut)")


def edit_lines() -> None:
    """Give the prompt a history and let it take pasted lines as one message, where this Python has readline."""
    with suppress(ImportError):
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")


def read_message() -> str:
    """One line, the lines that were pasted together, or everything between triple quotes. EOFError at the end."""
    message = input("> ")
    if not message.lstrip().startswith(QUOTES):
        return message
    message = message.lstrip().removeprefix(QUOTES)
    while not message.rstrip().endswith(QUOTES):
        message += "\n" + input(". ")
    return message.rstrip().removesuffix(QUOTES)


def command(talk: Conversation, line: str) -> None:
    word, _, rest = line.partition(" ")
    if word == "/new":
        talk.messages.clear()
    elif word == "/mode" and rest in list(Mode):
        talk.mode = Mode(rest)
    elif word == "/help":
        talk.console.print(HELP, highlight=False, markup=False)
    else:
        talk.console.print(
            "Known: /help, /mode off|exact|adaptive, /new, /quit", highlight=False, markup=False
        )


def lost(url: str, error: httpx.HTTPError) -> str:
    """What became of the server, in a sentence."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"No server answers at {url}; start one with adasd serve."
    return f"The connection to {url} broke: {error or type(error).__name__}."


def legend() -> Text:
    return Text("  ").join(Text(f"■ {MEANINGS[kind]}", STYLES[kind]) for kind in TokenKind)


def figures(last: Mapping[str, Any], seconds: float) -> str:
    """One line of figures about an answer, from its last chunk; ``seconds`` is the wall time."""
    num_tokens = (last.get("usage") or {}).get("completion_tokens", 0)
    metrics = last.get("metrics") or {}
    parts = [f"{num_tokens} tokens in {seconds:.2f} s ({num_tokens / max(seconds, 1e-9):.0f} tokens/s)"]
    if speculation := last.get("speculation"):
        parts.append(f"mode {speculation.get('mode')}")
    spec = metrics.get("speculative_decoding") or {}
    if num_drafted := spec.get("num_draft_tokens"):
        accepted = spec.get("num_accepted_draft_tokens", 0)
        parts.append(f"accepted {accepted} of {num_drafted} drafted ({accepted / num_drafted:.0%})")
    own = metrics.get("adasd") or {}
    kinds = [f"{count} {kind}" for kind, count in (own.get("tokens") or {}).items() if count]
    if kinds:
        parts.append(", ".join(kinds))
    if (ceiling := own.get("generation_threshold")) is not None:
        parts.append(f"entropy ceiling {ceiling:.2f} nats")
    if (boundary := own.get("acceptance_threshold")) is not None:
        parts.append(f"accepts JS distance up to {boundary:.2f}")
    return " · ".join(parts)
