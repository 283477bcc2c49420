"""The draft sources of a deployment, by name.

A source answers a DraftCall with a DraftBlock. Models run in tiers of their own; look-ups run in the runner's process
and need neither device nor network. ``auto`` is not a source; it chooses one (adasd.control.draft_choice).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from adasd.config import MODEL as MODEL
from adasd.config import SELF as SELF
from adasd.errors import InvalidRequest

NGRAM, SUFFIX, AUTO = "ngram", "suffix", "auto"
LOOKUPS = (NGRAM, SUFFIX)
PREFERRED = (SUFFIX, NGRAM)
"""Look-ups as ``auto`` prefers them among equals."""


@dataclass(frozen=True, slots=True)
class Source:
    """A source's description for users."""

    name: str
    summary: str
    source: str  # publication


KNOWN = (
    Source(MODEL, "the draft model, on replicas of its own", "Leviathan et al., arXiv:2211.17192"),
    Source(
        SELF,
        "the target's own first layers, where early_exit is on and there is no draft model",
        "DEL, arXiv:2504.05598",
    ),
    Source(
        NGRAM, "what followed when the last tokens stood in the text before", "prompt look-up, Saxena 2023"
    ),
    Source(
        SUFFIX,
        "the most frequent path behind the longest repeated suffix",
        "SuffixDecoding, arXiv:2411.04975",
    ),
    Source(
        AUTO,
        "the source with the most tokens per millisecond on prompts that begin alike",
        "on-the-fly adaptation, ACL 2025 long 482",
    ),
)
RESERVED = tuple(source.name for source in KNOWN)


def offered(drafts: Sequence[str]) -> tuple[Source, ...]:
    """The sources of a deployment, in order of preference.

    ``drafts`` are its draft models by name, or ``self`` if the target drafts for itself.
    """
    known = {source.name: source for source in KNOWN}
    others = "the draft model {!r}, on replicas of its own", known[MODEL].source
    own = [known.get(name) or Source(name, others[0].format(name), others[1]) for name in drafts]
    return (*own, *(known[name] for name in (*LOOKUPS, AUTO)))


def choose(name: str, tiers: Sequence[str]) -> str:
    """The source of that name; InvalidRequest, which lists the deployment's sources, if there is none."""
    names = [source.name for source in offered(tiers)]
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InvalidRequest(
        f"this deployment has no draft source {name!r}{hint}; it offers: {', '.join(names)}",
        "speculation.draft",
    )
