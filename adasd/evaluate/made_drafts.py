"""Drafts made from a target and texts that it wrote, without training: its own layers, or counts of its words.

A *linear map fitted in closed form* (ridge regression) takes the place of the layers that are left out.
Shape letters: N positions, D width of the model, V vocabulary, as in ``adasd.evaluate.collect``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adasd.evaluate.collect import Text, judged, pick, signals_of, to_follow
from adasd.evaluate.traces import BLOCK_LEN, Signal, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RIDGE = 0.01
"""Weight of the ridge, in mean squares of the input."""

Written = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Prompts and what the target wrote after them, as token ids."""


@torch.inference_mode()
def states(target: PreTrainedModel, texts: Written, layers: Sequence[int]) -> dict[int, Tensor]:
    """Hidden states [N, D] after so many layers; after all of them, with the last norm.

    The first token of a text is left out, since its states are unlike all others.
    """
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for prompt, tokens in texts:
        out = target.base_model(
            torch.tensor([[*prompt, *tokens]], device=target.device), output_hidden_states=True
        )
        for layer in layers:
            found[layer].append(out.hidden_states[layer][0, 1:].float())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def fitted(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """The map [D, D] with the least squared error of ``normed(x) @ map`` from y, plus a ridge."""
    x_ND, y_ND = normed(x_ND).double(), y_ND.double()
    square_DD = x_ND.T @ x_ND
    ridge_DD = RIDGE * square_DD.diagonal().mean() * torch.eye(len(square_DD), dtype=square_DD.dtype)
    map_DD: Tensor = torch.linalg.solve(square_DD + ridge_DD, x_ND.T @ y_ND)
    return map_DD.float()


def normed(x_ND: Tensor) -> Tensor:
    """Each state at a mean square of 1."""
    return x_ND * (x_ND.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


class Mapped(nn.Module):
    """The map in place of the layers after an exit and of the last norm."""

    def __init__(self, map_DD: Tensor) -> None:
        super().__init__()
        self.map_DD = map_DD

    def forward(self, x_BLD: Tensor) -> Tensor:
        return normed(x_BLD) @ self.map_DD


def first_layers(target: PreTrainedModel, num: int, texts: Written) -> PreTrainedModel:
    """The target, changed in place: its first ``num`` layers, the map, its head."""
    whole = len(_decoder(target).layers)
    found = states(target, texts, (num, whole))
    _keep(target, range(num))
    _decoder(target).norm = Mapped(fitted(found[num], found[whole]))
    return target


def outer_layers(target: PreTrainedModel, first: int, last: int, texts: Written) -> PreTrainedModel:
    """The target, changed in place: a map adds what its middle layers would have added."""
    whole = len(_decoder(target).layers)
    found = states(target, texts, (first, whole - last))
    added_DD = fitted(found[first], found[whole - last] - found[first])
    _keep(target, [*range(first), *range(whole - last, whole)])
    _decoder(target).layers[first].register_forward_pre_hook(
        lambda _, given: (given[0] + normed(given[0]) @ added_DD, *given[1:])
    )
    return target


def _decoder(model: PreTrainedModel) -> Any:
    return model.base_model


def _keep(model: PreTrainedModel, layers: Sequence[int]) -> None:
    kept = [_decoder(model).layers[layer] for layer in layers]
    for number, layer in enumerate(kept):
        layer.self_attn.layer_idx = number  # its place in the cache
    _decoder(model).layers = nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)


@dataclass(slots=True)
class CountModel:
    """An n-gram model: how often a token followed the last one or two, smoothed by Witten and Bell (1991)."""

    num_tokens: int  # of the vocabulary
    order: int = 3
    counts: dict[tuple[int, ...], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def read(self, tokens: Sequence[int]) -> None:
        """Count a text."""
        for at, token in enumerate(tokens):
            for length in range(min(self.order - 1, at) + 1):
                self.counts[tuple(tokens[at - length : at])][token] += 1

    def probs(self, before: Sequence[int]) -> Tensor:
        """The distribution [V] of the next token.

        P(x | h) = (count(h, x) + kinds(h) P(x | h without its first token)) / (count(h) + kinds(h))
        """
        probs_V = torch.full((self.num_tokens,), 1 / self.num_tokens)
        for length in range(min(self.order - 1, len(before)) + 1):
            seen = self.counts.get(tuple(before[len(before) - length :]))
            if not seen:
                break
            probs_V = probs_V * len(seen)
            probs_V[list(seen)] += torch.tensor(list(seen.values()), dtype=torch.float32)
            probs_V /= seen.total() + len(seen)
        return probs_V


@dataclass(frozen=True, slots=True)
class CountSource:
    """A count model as a draft."""

    model: CountModel
    most_followed: int | None = None  # rejected positions per text that are followed; None: all

    def trace(self, text: Text, generator: torch.Generator) -> Trace:
        """Its proposals along a text; after a rejected one it goes on by itself."""
        whole, start = [*text.prompt, *text.tokens], len(text.prompt)
        draft_NV = torch.stack([self._logits(whole[: start + at]) for at in range(len(text.tokens))])
        accepted, proposals = judged(text, draft_NV, generator)
        off_path = {
            at: tuple(self._goes_on([*whole[: start + at], proposals[at]], text.temperature, generator))
            for at in to_follow(accepted, self.most_followed)
        }
        signals = tuple(signals_of(draft_NV))
        return Trace(
            text.group, text.temperature, text.num_tokens, text.max_tokens, accepted, signals, off_path
        )

    def _logits(self, before: Sequence[int]) -> Tensor:
        return self.model.probs(before[-self.model.order :]).log()

    def _goes_on(self, before: list[int], temperature: float, generator: torch.Generator) -> Iterator[Signal]:
        for _ in range(BLOCK_LEN):
            logits_V = self._logits(before)
            yield from signals_of(logits_V[None])
            before.append(pick(logits_V, temperature, generator))
