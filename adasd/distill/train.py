"""The draft learns from the target's answers: Muon and Adam, a rate that falls to zero, checkpoints on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from adasd.demo import checkpoint
from adasd.demo.muon import MuonAdam
from adasd.distill.answers import Answer
from adasd.distill.lessons import Batch, epoch
from adasd.distill.loss import distance

WARMUP_STEPS = 50
ADAM_EPS = 1e-5
"""Large, so that rows of the embedding that were only drawn as a sample of all others hardly move."""

DECAY_SHARE = 0.4
"""Of the time, at its end: the rate falls to zero in a straight line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a draft learns; ``seconds`` is the time for steps alone, over all starts of a run."""

    seconds: float
    batch_tokens: int = 3072
    top_k: int = 10
    first_weight: float = 0.5
    muon_rate: float = 0.02
    adam_rate: float = 3e-3


@dataclass(frozen=True, slots=True)
class Report:
    """After a step; ``loss`` in nats, ``share`` of the time used in [0, 1], ``num_epochs`` gone through."""

    step: int
    loss: float
    share: float
    num_epochs: float
    num_tokens: int


class Trainer:
    """One run; goes on from the checkpoint at ``path`` if there is one."""

    def __init__(self, model: LlamaForCausalLM, answers: Sequence[Answer], plan: Plan, path: Path) -> None:
        self.model, self.answers, self.plan, self.path = model, answers, plan, path
        model.train()
        if model.device.type == "cpu":
            model.set_attn_implementation("eager")  # on short rows faster than the fused kernel
        self.optimizer = MuonAdam(model, muon_rate=plan.muon_rate, adam_rate=plan.adam_rate, eps=ADAM_EPS)
        self.step, self.num_tokens, self.seconds = 0, 0, 0.0
        self.epoch, self.batch, self.num_epochs = 0, 0, 0.0
        state = checkpoint.load(path)
        if state is not None:
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.num_tokens, self.seconds = state["step"], state["num_tokens"], state["seconds"]
            self.epoch, self.batch, self.num_epochs = state["epoch"], state["batch"], state["num_epochs"]

    @property
    def done(self) -> bool:
        """Whether the time is used up."""
        return self.seconds >= self.plan.seconds

    def steps(self) -> Iterator[Report]:
        """Learn until the time is used up, one report for each step."""
        while not self.done:
            batches = list(epoch(self.answers, self.epoch, self.plan.batch_tokens, self.plan.top_k))
            for at in range(self.batch, len(batches)):
                if self.done:
                    return
                began_s = time.perf_counter()
                loss = self._learn(batches[at].to(self.model.device))
                self.seconds += time.perf_counter() - began_s
                self.step, self.batch = self.step + 1, at + 1
                self.num_tokens += batches[at].ids_BT.numel()
                self.num_epochs = self.epoch + self.batch / len(batches)
                share = min(1.0, self.seconds / self.plan.seconds)
                yield Report(self.step, loss, share, self.num_epochs, self.num_tokens)
            self.epoch, self.batch = self.epoch + 1, 0

    def save(self) -> None:
        """Write a checkpoint in a single step."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "num_tokens": self.num_tokens,
            "seconds": self.seconds,
            "epoch": self.epoch,
            "batch": self.batch,
            "num_epochs": self.num_epochs,
        }
        checkpoint.save(self.path, state)

    def _learn(self, batch: Batch) -> float:
        torch.manual_seed(self.step)
        with torch.autocast(self.model.device.type, torch.bfloat16):
            hidden = self.model.model(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
            loss = distance(
                hidden.flatten(0, 1)[batch.places_N],
                self.model.model.embed_tokens.weight,
                batch.top_ids_NK,
                batch.top_logprobs_NK,
                first_weight=self.plan.first_weight,
            )
        loss.backward()  # type: ignore[no-untyped-call]
        warmup = min(1.0, (self.step + 1) / WARMUP_STEPS)
        self.optimizer.step(warmup * min(1.0, (1 - self.seconds / self.plan.seconds) / DECAY_SHARE))
        return float(loss.detach())
