"""Makes traces: the target writes in batches, and each draft source is asked what it would have proposed.

Shape letters: B texts of a batch, N tokens of a text, L tokens of prompt and text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from adasd.drafters.index import Index
from adasd.evaluate.traces import BLOCK_LEN, AnyTrace, LookupTrace, Signal, Trace, Traces

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPTS_PER_BATCH = 12
"""Prompts that are written at once, each at every temperature."""


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """One text of the target; if it ends by itself, also the BLOCK_LEN tokens after its end."""

    group: str
    prompt: tuple[int, ...]
    temperature: float
    tokens: tuple[int, ...]
    num_tokens: int  # up to the end
    max_tokens: int
    logits_NV: Tensor  # the target's before each token, float32


class DraftSource(Protocol):
    """What proposes tokens."""

    def trace(self, text: Text, generator: torch.Generator) -> AnyTrace:
        """Its proposals along a text."""
        ...


@torch.inference_mode()
def collect(
    target: PreTrainedModel,
    sources: Mapping[str, DraftSource],
    prompts: Sequence[tuple[str, Sequence[int]]],
    temperatures: Sequence[float],
    *,
    eos_ids: frozenset[int],
    max_tokens: int = 160,
    seed: int = 0,
    skip: int = 0,
) -> Iterator[Traces]:
    """Traces of the texts after each prompt (group, token ids), batch by batch without the first ``skip`` batches.

    Equal seeds give equal traces, also of a batch whose predecessors were skipped.
    """
    for number in range(skip, -(-len(prompts) // PROMPTS_PER_BATCH)):
        some = prompts[number * PROMPTS_PER_BATCH : (number + 1) * PROMPTS_PER_BATCH]
        generator = torch.Generator().manual_seed(1000 * seed + number)
        texts = list(write(target, some, temperatures, eos_ids, max_tokens, generator))
        yield {name: [source.trace(text, generator) for text in texts] for name, source in sources.items()}


def write(
    target: PreTrainedModel,
    prompts: Sequence[tuple[str, Sequence[int]]],
    temperatures: Sequence[float],
    eos_ids: frozenset[int],
    max_tokens: int,
    generator: torch.Generator,
) -> Iterator[Text]:
    """The target's texts by plain decoding, each prompt read once for all temperatures."""
    longest = max(len(prompt) for _, prompt in prompts)
    padded = [[0] * (longest - len(prompt)) + list(prompt) for _, prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for _, prompt in prompts]
    ids_BL, mask_BL = torch.tensor(padded), torch.tensor(mask)
    out = _forward(target, ids_BL, mask_BL, (mask_BL.cumsum(-1) - 1).clamp_min(0), None)
    num = len(temperatures)
    rows = [(prompt, temperature) for prompt in prompts for temperature in temperatures]
    logits_BV = out.logits[:, -1].float().cpu().repeat_interleave(num, dim=0)
    mask_BL, cache = mask_BL.repeat_interleave(num, dim=0), out.past_key_values
    cache.batch_repeat_interleave(num)
    tokens: list[list[int]] = [[] for _ in rows]
    logits: list[list[Tensor]] = [[] for _ in rows]
    lens = [max_tokens] * len(rows)
    active = list(range(len(rows)))
    while active:
        next_B = [
            pick(logits_V, rows[row][1], generator) for row, logits_V in zip(active, logits_BV, strict=True)
        ]
        for row, token, logits_V in zip(active, next_B, logits_BV, strict=True):
            tokens[row].append(token)
            logits[row].append(logits_V)
            if token in eos_ids and lens[row] == max_tokens:
                lens[row] = len(tokens[row]) + BLOCK_LEN
        kept = [at for at, row in enumerate(active) if len(tokens[row]) < lens[row]]
        if len(kept) < len(active):
            cache.batch_select_indices(torch.tensor(kept, device=target.device, dtype=torch.long))
            active, next_B, mask_BL = [active[at] for at in kept], [next_B[at] for at in kept], mask_BL[kept]
        if active:
            mask_BL = torch.cat([mask_BL, torch.ones(len(active), 1, dtype=mask_BL.dtype)], dim=-1)
            positions_B1 = mask_BL.sum(-1, keepdim=True) - 1
            out = _forward(target, torch.tensor(next_B)[:, None], mask_BL, positions_B1, cache)
            logits_BV, cache = out.logits[:, -1].float().cpu(), out.past_key_values
    for row, ((group, prompt), temperature) in enumerate(rows):
        ended = next((at + 1 for at, token in enumerate(tokens[row]) if token in eos_ids), len(tokens[row]))
        logits_NV = torch.stack(logits[row])
        yield Text(group, tuple(prompt), temperature, tuple(tokens[row]), ended, max_tokens, logits_NV)


def _forward(
    model: PreTrainedModel, ids_BL: Tensor, mask_BL: Tensor, positions_BL: Tensor, cache: Any, keep: int = 1
) -> Any:
    """One pass, with logits of the last ``keep`` positions."""
    return model(
        ids_BL.to(model.device),
        attention_mask=mask_BL.to(model.device),
        position_ids=positions_BL.to(model.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )


def pick(logits_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    """A token at this temperature."""
    if temperature == 0.0:
        return int(logits_V.argmax())
    return int(torch.multinomial(torch.softmax(logits_V / temperature, dim=-1), 1, generator=generator))


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A draft model with the target's vocabulary."""

    model: PreTrainedModel
    most_followed: int | None = None  # rejected positions per text that are followed; None: all

    def trace(self, text: Text, generator: torch.Generator) -> Trace:
        """Its proposals along a text; after a rejected one it goes on by itself."""
        num = len(text.tokens)
        ids_1L = torch.tensor([[*text.prompt, *text.tokens]])
        positions_1L = torch.arange(ids_1L.shape[1])[None]
        out = _forward(self.model, ids_1L, torch.ones_like(ids_1L), positions_1L, None, num + 1)
        draft_NV = out.logits[0, :-1, : text.logits_NV.shape[1]].float().cpu()
        accepted, proposals = judged(text, draft_NV, generator)
        signals = tuple(signals_of(draft_NV))
        rejected = to_follow(accepted, self.most_followed)
        off_path = self._follow(text, out.past_key_values, rejected, proposals, generator) if rejected else {}
        return Trace(
            text.group, text.temperature, text.num_tokens, text.max_tokens, accepted, signals, off_path
        )

    def _follow(
        self,
        text: Text,
        cache: Any,
        rejected: Sequence[int],
        proposals: Sequence[int],
        generator: torch.Generator,
    ) -> dict[int, tuple[Signal, ...]]:
        """Signals of the tokens drafted after each rejected proposal, with the cache of the whole text."""
        cache.batch_repeat_interleave(len(rejected))
        lens_B1 = torch.tensor([[len(text.prompt) + at] for at in rejected])
        mask_BL = (torch.arange(cache.get_seq_length())[None] < lens_B1).long()
        ids_B1, steps = torch.tensor([[proposals[at]] for at in rejected]), list[list[Signal]]()
        for _ in range(BLOCK_LEN):
            mask_BL = torch.cat([mask_BL, torch.ones_like(ids_B1)], dim=-1)
            out = _forward(self.model, ids_B1, mask_BL, mask_BL.sum(-1, keepdim=True) - 1, cache)
            logits_BV, cache = out.logits[:, -1, : text.logits_NV.shape[1]].float().cpu(), out.past_key_values
            steps.append(signals_of(logits_BV))
            ids_B1 = torch.tensor([[pick(logits_V, text.temperature, generator)] for logits_V in logits_BV])
        return {at: tuple(step[row] for step in steps) for row, at in enumerate(rejected)}


def to_follow(accepted: Sequence[bool], most: int | None) -> list[int]:
    """Rejected positions, evenly thinned out to ``most`` (None: all)."""
    rejected = [at for at, stands in enumerate(accepted) if not stands]
    if most is None or len(rejected) <= most:
        return rejected
    return [rejected[int(i * len(rejected) / most)] for i in range(most)]


def judged(text: Text, draft_NV: Tensor, generator: torch.Generator) -> tuple[tuple[bool, ...], list[int]]:
    """Whether the proposal at each position is accepted, and the proposals."""
    written_N = torch.tensor(text.tokens)
    if text.temperature == 0.0:
        proposed_N = draft_NV.argmax(-1)
        return tuple((proposed_N == written_N).tolist()), proposed_N.tolist()
    p_NV, q_NV = (torch.softmax(logits / text.temperature, dim=-1) for logits in (text.logits_NV, draft_NV))
    p_N, q_N = (probs.gather(-1, written_N[:, None])[:, 0] for probs in (p_NV, q_NV))
    stands_N = torch.rand(len(p_N), generator=generator) * p_N < q_N
    rest_NV = (q_NV - p_NV).clamp_min(0.0)  # the weights of a rejected proposal
    rest_NV = torch.where(rest_NV.sum(-1, keepdim=True) > 0, rest_NV, q_NV)
    other_N = torch.multinomial(rest_NV, 1, generator=generator)[:, 0]
    return tuple(stands_N.tolist()), torch.where(stands_N, written_N, other_N).tolist()


def signals_of(logits_NV: Tensor) -> list[Signal]:
    """Entropy and largest probability of each distribution."""
    logs_NV = torch.log_softmax(logits_NV, dim=-1)
    entropy_N = -(logs_NV.exp() * logs_NV).nansum(-1)
    return list(zip(entropy_N.tolist(), logs_NV.amax(-1).exp().tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class LookupSource:
    """A look-up over prompt and text; ``make`` makes an empty index.

    Its proposals have probability 1, so rejection sampling accepts one iff the target writes it.
    """

    make: Callable[[], Index]

    def trace(self, text: Text, generator: torch.Generator) -> LookupTrace:
        index = self.make()
        index.extend(text.prompt)
        guesses, num_accepted = list[tuple[Signal, ...]](), list[int]()
        for at, token in enumerate(text.tokens):
            found = list(islice(index.guesses(), BLOCK_LEN))
            guesses.append(tuple((guess.entropy, guess.max_prob) for guess in found))
            agreeing = (guess.token == other for guess, other in zip(found, text.tokens[at:], strict=False))
            num_accepted.append(next((i for i, agrees in enumerate(agreeing) if not agrees), len(found)))
            index.extend([token])
        return LookupTrace(
            text.group,
            text.temperature,
            text.num_tokens,
            text.max_tokens,
            tuple(guesses),
            tuple(min(num, len(text.tokens) - at) for at, num in enumerate(num_accepted)),
        )
