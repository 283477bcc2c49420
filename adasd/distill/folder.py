"""The finished draft as a folder that serves: weights in float16, the target's tokenizer, a card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlamaForCausalLM

from adasd.demo.agreement import GreedyAgreement
from adasd.distill.answers import Answer
from adasd.distill.train import Trainer
from adasd.errors import ConfigError

CARD = """\
# Draft for {target}

A language model of {millions:.1f} M parameters (Llama shape, {width} wide, {num_layers} layers) with the vocabulary of
`{target}`, for speculative decoding in front of it. Not of use on its own.

It was distilled with `adasd draft train`. The target answered {num_answers:,} everyday requests ({num_tokens:,}
tokens), three in five of them greedily. The draft learned the target's probabilities at every token (forward KL
on the {top_k} most probable, and cross entropy of the first choice) for {num_epochs:.1f} epochs and {minutes:.0f}
minutes of steps. {beginning} Seed {seed}.

On {num_held_out} held-out requests about other subjects, answered greedily, the target accepts **{share:.1%}** of the
draft's greedy tokens in blocks of {block_len} ({by_position} by position). That is
{tokens_per_round:.2f} tokens per pass of the target.

The draft is made from the target's weights and words: the target's licence applies to it.
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the card says."""

    target: str
    num_target_parameters: int
    num_parameters: int
    seed: int
    earlier: Path | None = None
    figures: tuple[tuple[str, Any], ...] = ()

    def learnt(
        self,
        trainer: Trainer,
        answers: Sequence[Answer],
        held_out: Sequence[Answer],
        agreement: GreedyAgreement,
    ) -> Facts:
        """The same, after learning."""
        config = trainer.model.config
        figures = {
            "width": config.hidden_size,
            "num_layers": config.num_hidden_layers,
            "num_answers": len(answers),
            "num_tokens": sum(len(one.top_ids_AK) for one in answers),
            "top_k": trainer.plan.top_k,
            "num_epochs": trainer.num_epochs,
            "minutes": trainer.seconds / 60,
            "num_held_out": len(held_out),
            "share": agreement.share,
            "block_len": len(agreement.drafted),
            "by_position": " ".join(f"{share:.2f}" for share in agreement.by_position),
            "tokens_per_round": agreement.tokens_per_round,
        }
        return replace(self, figures=tuple(figures.items()))

    def card(self) -> str:
        """Markdown."""
        return CARD.format(
            target=Path(self.target).name if Path(self.target).is_dir() else self.target,
            millions=self.num_parameters / 1e6,
            seed=self.seed,
            beginning="Its embedding began as the principal components of the target's."
            if self.earlier is None
            else f"It went on from the draft `{self.earlier.name}`.",
            **dict(self.figures),
        )


def write(out: Path, draft: LlamaForCausalLM, tokenizer: Any, facts: Facts) -> None:
    """Write ``out``, which is absent or empty, in one step; the model is in float16 afterwards."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
            made = Path(work, "model")
            draft.to(torch.float16).save_pretrained(made)  # type: ignore[arg-type]
            (made / "model.safetensors").chmod(0o644)
            tokenizer.save_pretrained(made)
            _shorten(made / "tokenizer.json")
            (made / "README.md").write_text(facts.card(), encoding="utf-8")
            if out.exists():
                out.rmdir()
            made.rename(out)
    except OSError as error:
        raise ConfigError(f"the draft cannot be written to {out}: {error}; name another folder") from error


def _shorten(file: Path) -> None:
    """JSON without white space: a vocabulary of 49,152 takes two thirds of the room."""
    if file.is_file():
        text = json.dumps(json.loads(file.read_bytes()), ensure_ascii=False, separators=(",", ":"))
        file.write_text(text, encoding="utf-8")
