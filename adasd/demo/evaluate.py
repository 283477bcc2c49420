"""Score the demo pair on held-out examples: `python -m adasd.demo.evaluate`.

Accuracy of both models for each task, and the share of the draft's greedy tokens, in blocks of five, that the
greedy target accepts.
"""

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from adasd.demo import agreement
from adasd.demo.greedy import chat_ids, continue_greedily
from adasd.demo.tasks import Task, check, heldout

MAX_NEW_TOKENS = 200


@dataclass(frozen=True, slots=True)
class Score:
    """One task's result."""

    task: Task
    num_examples: int
    target_accuracy: float
    draft_accuracy: float
    agreement: agreement.GreedyAgreement
    mean_answer_len: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, shares rounded to four places."""
        return {
            "task": self.task.value,
            "num_examples": self.num_examples,
            "target_accuracy": round(self.target_accuracy, 4),
            "draft_accuracy": round(self.draft_accuracy, 4),
            "accepted_share": round(self.agreement.share, 4),
            "accepted_by_position": [round(share, 4) for share in self.agreement.by_position],
            "tokens_per_round": round(self.agreement.tokens_per_round, 3),
            "mean_answer_tokens": round(self.mean_answer_len, 1),
        }


def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, n: int, seed: int
) -> tuple[float, list[list[int]], list[list[int]]]:
    """The share of `n` held-out examples solved; the prompts and the answers, as token ids."""
    examples = heldout(task, n, seed)
    prompts = [chat_ids(tokenizer, example.prompt) for example in examples]
    answers = continue_greedily(model, prompts, MAX_NEW_TOKENS)
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in answers]
    solved = sum(check(example, text) for example, text in zip(examples, texts, strict=True))
    return solved / n, prompts, answers


def score(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    n: int,
    *,
    seed: int = 0,
    block_len: int = 5,
) -> Score:
    """Score both models on `n` held-out examples of one task."""
    target_accuracy, prompts, answers = accuracy(target, tokenizer, task, n, seed)
    draft_accuracy, _, _ = accuracy(draft, tokenizer, task, n, seed)
    agreed = agreement.measure(partial(continue_greedily, draft), prompts, answers, block_len)
    mean_len = sum(map(len, answers)) / n
    return Score(task, n, target_accuracy, draft_accuracy, agreed, mean_len)


def together(parts: list[agreement.GreedyAgreement]) -> agreement.GreedyAgreement:
    """The summed counts of several tasks."""
    return agreement.GreedyAgreement(
        sum(part.num_rounds for part in parts),
        tuple(map(sum, zip(*(part.drafted for part in parts), strict=True))),
        tuple(map(sum, zip(*(part.accepted for part in parts), strict=True))),
    )


def table(scores: list[Score]) -> Table:
    """The scores as a table for the terminal."""
    block_len = len(scores[0].agreement.drafted)
    result = Table(title=f"held-out examples, greedy, drafts of {block_len} tokens")
    for column in (
        "task",
        "n",
        "target",
        "draft",
        "accepted",
        "tokens/round",
        "accepted by position",
        "length",
    ):
        result.add_column(column, justify="left" if column == "task" else "right")
    for one in scores:
        result.add_row(
            one.task.value,
            str(one.num_examples),
            f"{one.target_accuracy:.1%}",
            f"{one.draft_accuracy:.1%}",
            *_cells(one.agreement),
            f"{one.mean_answer_len:.0f}",
        )
    result.add_section()
    result.add_row("all", str(sum(one.num_examples for one in scores)), "", "", *_cells(_all(scores)), "")
    return result


def _all(scores: list[Score]) -> agreement.GreedyAgreement:
    return together([one.agreement for one in scores])


def _cells(counts: agreement.GreedyAgreement) -> tuple[str, str, str]:
    positions = " ".join(f"{share:.2f}" for share in counts.by_position)
    return f"{counts.share:.1%}", f"{counts.tokens_per_round:.2f}", positions


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m adasd.demo.evaluate", description=__doc__)
    parser.add_argument("--target", type=Path, default=Path("models/demo/target"))
    parser.add_argument("--draft", type=Path, default=Path("models/demo/draft"))
    parser.add_argument("--n", type=int, default=100, help="examples per task (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", type=int, default=5, help="drafted tokens per round (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", type=Path, help="write the scores to this file, too")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.target)
    target, draft = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(options.device).eval()
        for folder in (options.target, options.draft)
    )
    console = Console()
    scores = []
    for task in Task:
        with console.status(f"scoring {task.value}"):
            one = score(target, draft, tokenizer, task, options.n, seed=options.seed, block_len=options.block)
        scores.append(one)
    console.print(table(scores))
    if options.json:
        whole = _all(scores)
        record = {
            "block_len": options.block,
            "seed": options.seed,
            "accepted_share": round(whole.share, 4),
            "accepted_by_position": [round(share, 4) for share in whole.by_position],
            "tasks": [one.as_json() for one in scores],
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
