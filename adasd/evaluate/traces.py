"""Traces: the target's text, and what the draft would have proposed at each of its positions.

Exact speculative decoding never changes the distribution of the text, so one text per prompt serves every exact
method. A trace holds, for each token of the text, whether the draft's proposal would have been accepted there, and
the signals that a stop rule sees. ``adasd.evaluate.replay`` runs methods over traces in seconds.

At temperature 0 a proposal is accepted iff it is the target's token. At higher temperatures, rejection sampling
accepts the target's token x with probability min(1, q(x) / p(x)), given that x was written. One uniform number per
position decides for all methods (common random numbers). A method pays for tokens drafted after a rejected one, so
the draft's next ``BLOCK_LEN`` tokens are traced there. It also drafts past the end of a text, which only the verdict
reveals, so the target's text goes on for as many tokens after its end.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adasd.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

BLOCK_LEN = 16
"""Tokens of the longest block that can be replayed."""
OFF_PATH_BATCH = 32
"""Rejected positions traced in one batch."""

Signal = tuple[float, float]
"""Entropy (nats) and largest probability of the draft's distribution, at temperature 1."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One text of the target, position by position."""

    group: str  # task or file of the prompt
    temperature: float
    num_tokens: int  # of the text; ``accepted`` and ``signals`` go on after its end
    max_tokens: int  # limit of the text's length
    accepted: tuple[bool, ...]  # per position: whether the draft's proposal is accepted
    signals: tuple[Signal, ...]  # per position: the draft's, given the target's text
    off_path: dict[int, tuple[Signal, ...]]  # per rejected position: of the tokens drafted after it


def save(path: Path, traces: Sequence[Trace]) -> None:
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(asdict(trace)) + "\n" for trace in traces), encoding="utf-8")


def load(path: Path) -> list[Trace]:
    """Read what ``save`` wrote; raises ConfigError that names the line that cannot be read."""
    traces = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            traces.append(
                Trace(
                    record["group"],
                    float(record["temperature"]),
                    int(record["num_tokens"]),
                    int(record["max_tokens"]),
                    tuple(map(bool, record["accepted"])),
                    tuple((float(h), float(q)) for h, q in record["signals"]),
                    {int(at): tuple((h, q) for h, q in each) for at, each in record["off_path"].items()},
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}, line {number}: this is no trace ({error!r})") from error
    return traces


def collect(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    prompts: Sequence[tuple[str, Sequence[int]]],
    temperature: float,
    *,
    eos_ids: frozenset[int],
    max_tokens: int = 160,
    seed: int = 0,
    on_trace: Callable[[], None] = lambda: None,
) -> Iterator[Trace]:
    """The target's text after each prompt (group, token ids), traced; equal seeds give equal traces."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    chance = random.Random(seed)
    with torch.inference_mode():
        for group, prompt in prompts:
            text = _write(target, prompt, temperature, max_tokens, eos_ids, generator)
            length = next((at + 1 for at, token in enumerate(text) if token in eos_ids), len(text))
            lens = length, max_tokens
            yield _trace(target, draft, group, prompt, text, temperature, lens, chance, generator)
            on_trace()


def _write(
    target: PreTrainedModel,
    prompt: Sequence[int],
    temperature: float,
    max_tokens: int,
    eos_ids: frozenset[int],
    generator: torch.Generator,
) -> list[int]:
    """The target's text by plain decoding; if it ends by itself, also the BLOCK_LEN tokens after its end."""
    import torch

    ids, cache, text = torch.tensor([list(prompt)], device=target.device), None, list[int]()
    length = max_tokens
    while len(text) < length:
        out = target(ids, past_key_values=cache, use_cache=True)
        token = _pick(out.logits[0, -1], temperature, generator)
        cache, ids = out.past_key_values, torch.tensor([[token]], device=target.device)
        text.append(token)
        if token in eos_ids and length == max_tokens:
            length = len(text) + BLOCK_LEN
    return text


def _pick(logits_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    import torch

    if temperature == 0.0:
        return int(logits_V.argmax())
    probs_V = torch.softmax(logits_V.float().cpu() / temperature, dim=-1)
    return int(torch.multinomial(probs_V, 1, generator=generator))


def _trace(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    group: str,
    prompt: Sequence[int],
    text: Sequence[int],
    temperature: float,
    lens: tuple[int, int],
    chance: random.Random,
    generator: torch.Generator,
) -> Trace:
    import torch

    ids = torch.tensor([[*prompt, *text]], device=target.device)
    span = slice(len(prompt) - 1, -1)
    target_NV = target(ids).logits[0, span].float().cpu()
    draft_NV = draft(ids.to(draft.device)).logits[0, span, : target_NV.shape[-1]].float().cpu()
    accepted, proposals = [], []
    for at, token in enumerate(text):
        if temperature == 0.0:
            proposal = int(draft_NV[at].argmax())
            stands = proposal == token
        else:
            p_V = torch.softmax(target_NV[at] / temperature, dim=-1)
            q_V = torch.softmax(draft_NV[at] / temperature, dim=-1)
            stands = chance.random() * float(p_V[token]) < float(q_V[token])
            # a rejected proposal has the weights q - min(p, q)
            rest_V = (q_V - p_V).clamp_min(0.0)
            weights_V = rest_V if float(rest_V.sum()) > 0 else q_V
            proposal = token if stands else int(torch.multinomial(weights_V, 1, generator=generator))
        accepted.append(stands)
        proposals.append(proposal)
    off_path = _follow(draft, [*prompt, *text], len(prompt), accepted, proposals, temperature, generator)
    signals = tuple(_signals(draft_NV))
    return Trace(group, temperature, *lens, tuple(accepted), signals, off_path)


def _follow(
    draft: PreTrainedModel,
    ids: Sequence[int],
    begin: int,
    accepted: Sequence[bool],
    proposals: Sequence[int],
    temperature: float,
    generator: torch.Generator,
) -> dict[int, tuple[Signal, ...]]:
    """Signals of the tokens that the draft writes after each rejected proposal."""
    import torch

    rejected = [at for at, stands in enumerate(accepted) if not stands]
    found: dict[int, tuple[Signal, ...]] = {}
    for first in range(0, len(rejected), OFF_PATH_BATCH):
        some = rejected[first : first + OFF_PATH_BATCH]
        texts = [[*ids[: begin + at], proposals[at]] for at in some]
        longest = max(map(len, texts))
        ids_BL = torch.tensor([[0] * (longest - len(one)) + one for one in texts], device=draft.device)
        mask_BL = torch.tensor(
            [[0] * (longest - len(one)) + [1] * len(one) for one in texts], device=draft.device
        )
        positions_BL = (mask_BL.cumsum(-1) - 1).clamp_min(0)
        cache, steps = None, []
        for _ in range(BLOCK_LEN):
            out = draft(
                ids_BL,
                attention_mask=mask_BL,
                position_ids=positions_BL,
                past_key_values=cache,
                use_cache=True,
            )
            logits_BV, cache = out.logits[:, -1].float().cpu(), out.past_key_values
            steps.append(_signals(logits_BV))
            next_B = [_pick(logits_V, temperature, generator) for logits_V in logits_BV]
            ids_BL = torch.tensor(next_B, device=draft.device)[:, None]
            mask_BL = torch.cat([mask_BL, torch.ones_like(ids_BL)], dim=-1)
            positions_BL = positions_BL[:, -1:] + 1
        for b, at in enumerate(some):
            found[at] = tuple(step[b] for step in steps)
    return found


def _signals(logits_NV: Tensor) -> list[Signal]:
    import torch

    logs_NV = torch.log_softmax(logits_NV, dim=-1)
    entropy_N = -(logs_NV.exp() * logs_NV).nansum(-1)
    return list(zip(entropy_N.tolist(), logs_NV.amax(-1).exp().tolist(), strict=True))
