"""A seeded generator of everyday requests: what people ask an assistant, by combination of our own phrases.

The same seed gives the same prompts. Held-out prompts are about other subjects than those for training
(``subjects.part``) and never repeat one of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adasd.demo.wording import Phrase, phrases
from adasd.distill import subjects
from adasd.errors import ConfigError

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "Answer briefly and clearly.",
    "You are a patient teacher who explains things in simple words.",
    "You are a careful assistant. If you do not know something, say so.",
)
FEWEST = 20  # prompts in a file
SYSTEM_SHARE = 0.1  # prompts with a system message of their own


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user message, what kind of request it is, and a system message (empty: the model's default)."""

    kind: str
    text: str
    system: str = ""

    def messages(self) -> list[dict[str, str]]:
        """The conversation for a chat template."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.text}]


def stream(seed: int = 0, *, held_out: bool = False) -> Iterator[Prompt]:
    """Distinct prompts without end, kinds in turn."""
    rng = random.Random(f"prompts:{seed}:{held_out}")
    seen: set[str] = set()
    while True:
        for kind in _WRITERS:
            prompt = _one(kind, rng, held_out)
            if prompt.text not in seen:
                seen.add(prompt.text)
                yield prompt


def read(file: Path) -> list[Prompt]:
    """Prompts from a text file, one in each line that is not empty; raises ConfigError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompts in {file} cannot be read: {error}") from error
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(texts) < FEWEST:
        raise ConfigError(
            f"{file} holds {len(texts)} different prompts; at least {FEWEST} are needed, one per line"
        )
    return [Prompt("file", text) for text in texts]


def _one(kind: str, rng: random.Random, held_out: bool) -> Prompt:
    text = _WRITERS[kind](rng, _Words(rng, held_out))
    system = rng.choice(SYSTEM_MESSAGES) if rng.random() < SYSTEM_SHARE else ""
    return Prompt(kind, text, system)


class _Words(Mapping[str, str]):
    """Slots of phrases, each drawn from its list when it is asked for; the same slot keeps its word."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self._rng, self._held_out = rng, held_out
        self._said: dict[str, str] = {}

    def __getitem__(self, slot: str) -> str:
        if slot not in self._said:
            words = _SLOTS[slot]
            if slot not in _SHARED:
                words = subjects.part(words, held_out=self._held_out)
            self._said[slot] = self._rng.choice([word for word in words if word not in self._said.values()])
        return self._said[slot]

    def __iter__(self) -> Iterator[str]:
        return iter(_SLOTS)

    def __len__(self) -> int:
        return len(_SLOTS)


_NUMBERS = ("three", "four", "five", "six", "seven", "ten")
_SLOTS: dict[str, tuple[str, ...]] = {
    "thing": subjects.THINGS,
    "other": subjects.THINGS,
    "place": subjects.PLACES,
    "town": subjects.PLACES,
    "name": subjects.NAMES,
    "friend": subjects.NAMES,
    "task": subjects.TASKS,
    "event": subjects.EVENTS,
    "list": subjects.LISTS,
    "code": subjects.CODE,
    "setting": subjects.SETTINGS,
    "hero": subjects.HEROES,
    "mood": subjects.MOODS,
    "language": subjects.LANGUAGES,
    "compared": subjects.COMPARED,
    "sentence": subjects.SENTENCES,
    "chatter": subjects.CHATTER,
    "n": _NUMBERS,
}
_SHARED = ("mood", "language", "n")

_PHRASES: dict[str, tuple[Phrase, ...]] = {
    "question": phrases(
        "{What is|What exactly is|Tell me what is meant by} <thing>?",
        "{Why is|Why do people care about} <thing> {important|}?",
        "How does <thing> {work|affect our lives|matter in everyday life}?",
        "{What are the main|Name the most important} facts about <thing>?",
        "{Who|When was it that people first} {discovered|studied|described} <thing>?",
        "What is {the capital of|the climate like in|the history of|a typical dish of|special about} <place>?",
        "{What language do people speak|What should I know about daily life|Which festivals are there} in <place>?",
        "{Is it true that|Can you tell me whether} <thing> and <other> are related?",
    ),
    "explain": phrases(
        "Explain <thing> {to a child|to a beginner|in simple words|in one paragraph|in <n> sentences|step by step}.",
        "{Give me a short introduction to|Write a short paragraph about|Describe} <thing>.",
        "{I don't understand <thing>. Can you help me?|Can you explain <thing> with an example?}",
        "{Describe|Write about} the {history|benefits|problems|future} of <thing>.",
    ),
    "compare": phrases(
        "{What is the difference between|Compare|Explain the difference between} <compared>{.| in <n> sentences.}",
        "{What are the pros and cons of|Which is better:} <compared>?",
    ),
    "advice": phrases(
        "How {can|do|should} I <task>?",
        "{Give me|I need} {some|<n>} tips to <task>.",
        "I want to <task>. {Where do I start?|What should I do first?|Make a plan for me.}",
        "{Write|Give me} step-by-step instructions: how to <task>.",
        "{My friend|My sister|My colleague} <name> wants to <task>. What advice would you give?",
    ),
    "list": phrases(
        "{List|Name|Give me|Suggest} <n> <list>.",
        "{Give me a list of|Make a numbered list of|I need some ideas:} <list>.",
        "What are {some good|some|the best} <list>?",
        "Give me <n> <list>{, with one sentence about each| and explain each one}.",
    ),
    "email": phrases(
        "Write {a|an e-mail: a} <mood> {message|e-mail|letter} "
        "{to <name>|to my boss|to a customer|to my landlord} about <event>.",
        "{Help me write|Draft} {an e-mail|a short note} {about|concerning} <event>. {Keep it <mood>.|}",
        "Write a <mood> reply to <name>, who asked about <event>.",
    ),
    "code": phrases(
        "Write a {function in <language>|<language> function|<language> program} that <code>.",
        "{How do I write|Show me} {<language> code|a Python function} that <code>?",
        "Write a Python function that <code>. {Add comments.|Explain how it works.|Include an example.|}",
    ),
    "rewrite": phrases(
        '{Rewrite|Rephrase} this sentence {in a <mood> tone|so that it sounds <mood>|in other words}: "<sentence>"',
        "{Correct the grammar|Fix the mistakes} in this sentence: <sentence>",
        "Make this {shorter|longer|more <mood>}: <sentence>",
        "Translate into {French|Spanish|German|Italian}: <sentence>",
    ),
    "story": phrases(
        "{Write|Tell me} a {short |<mood> |}story about <hero>{ in <setting>|}.",
        "Write {a poem|a short poem|a haiku|a song} about {<thing>|<hero>|<setting>}.",
        "{Write the first paragraph of|Describe the opening scene of} a novel set in <setting>.",
        "Describe <setting> {in <n> sentences|with all five senses|as a painter would}.",
    ),
    "dialogue": phrases(
        "Write a {short |}dialogue between <name> and <friend> about {<thing>|<event>|how to <task>}.",
        "<name> meets <hero> in <setting>. Write their conversation.",
        "Write a {phone call|chat} between a customer and {an assistant|a salesperson} about <event>.",
    ),
    "chatter": phrases(
        "<chatter>",
        "<chatter> {I am from <place>.|My name is <name>.|I live in <place>.}",
        "Hi, I'm <name>. {<chatter>|I want to <task>.|Do you know anything about <thing>?}",
    ),
    "travel": phrases(
        "{I am going to|I will visit|Plan a weekend in} <place>. "
        "{What should I see?|What should I pack?|Make an itinerary for <n> days.|}",
        "{Write a short guide to|Describe a perfect day in} <place>.",
    ),
    "opinion": phrases(
        "{Do you think|Argue for or against the claim} that <thing> {is|will be} more important than <other>{?|}",
        "Write {an essay|a short essay|a paragraph} about {how <thing> changed the world|why <thing> matters}.",
        "{Give me arguments for|Write a <mood> advertisement for|Write a slogan for} <thing>.",
    ),
}

_DETAILS = phrases(
    "<name> {arrived|came home|left for <town>} {on Monday|at noon|last week|early in the morning}.",
    "<name> and <friend> {talked about|read about|disagreed about|learned about} <thing> "
    "{for an hour|all evening|at work}.",
    "The {plan|idea|goal} was to <task>, {but it took longer than expected|and everybody helped}.",
    "{In the end|Later|Finally}, they {met in|agreed to go to|moved to} <place>.",
    "{It cost|They paid|The price was} {twenty|forty-five|120|300} dollars{, which was more than planned|}.",
    "{The weather was|It was} {cold and windy|warm and sunny|rainy}, {so they stayed inside|but nobody minded}.",
    "There was {some trouble|a long talk|an e-mail} about <event>.",
    "<sentence>",
    "{Many people|Experts|Teachers} {say|believe} that <thing> {is useful|needs more attention|will change a lot}.",
    "<friend> {called|wrote to} <name> about <event>{ and asked for an answer by Friday|}.",
)
_ON_TEXTS: dict[str, tuple[Phrase, ...]] = {
    "summary": phrases(
        "Summarize {this text|the following text}{ in one sentence| in <n> words|}:",
        "{What is the main point of this text?|Write a title for this text.|Give me the key points of this text.}",
    ),
    "extraction": phrases(
        "{List|Extract} all {names|places|people and places} {in|from} {this text|the following text}.",
        "{Who are the people in this text and what do they do?|What happened, in order?|Where does this take place?}",
        "Answer as JSON with the fields people, places and topics for this text:",
        "{Is this text positive or negative?|Is this a story, a message or an article?} Answer in one sentence.",
    ),
    "editing": phrases(
        "{Improve|Rewrite|Shorten|Simplify} {this text|the following text}{ in a <mood> tone|}:",
        "{Continue this text.|Write this text as a list.|Turn this text into an e-mail.|Turn this into a dialogue.}",
    ),
}


def _say(choices: tuple[Phrase, ...]) -> Callable[[random.Random, _Words], str]:
    return lambda rng, words: _tidy(rng.choice(choices).say(rng, words))


def _ask_about_text(choices: tuple[Phrase, ...]) -> Callable[[random.Random, _Words], str]:
    def write(rng: random.Random, words: _Words) -> str:
        details = rng.sample(_DETAILS, rng.randint(3, 6))
        people = _Words(rng, words._held_out)  # the same two people in all of its sentences
        text = " ".join(_tidy(detail.say(rng, people)) for detail in details)
        task = _tidy(rng.choice(choices).say(rng, words))
        return f"{task}\n\n{text}" if rng.random() < 0.8 else f"{text}\n\n{task}"

    return write


def _tidy(text: str) -> str:
    """One space between words, a capital at the beginning."""
    text = " ".join(text.split()).replace(" ?", "?")
    return text[:1].upper() + text[1:]


_WRITERS: dict[str, Callable[[random.Random, _Words], str]] = {
    **{kind: _say(choices) for kind, choices in _PHRASES.items()},
    **{kind: _ask_about_text(choices) for kind, choices in _ON_TEXTS.items()},
}
KINDS = tuple(_WRITERS)
