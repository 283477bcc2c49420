"""The trainer learns, can stop anywhere, and resumes as if it had not stopped."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from adasd.demo import checkpoint, demo_tokenizer, shapes, stream
from adasd.demo.muon import orthogonalised, split_parameters
from adasd.demo.schedule import WARMUP_STEPS, Schedule
from adasd.demo.train import Trainer, TrainingPlan, weighted_loss

TINY = TrainingPlan(shapes.ModelShape(32, 1, 0), num_tokens=4000, batch_tokens=512, pool_len=32)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in trainer.model.state_dict().items()}


def test_a_resumed_run_is_bit_identical(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    whole = Trainer(TINY, tokenizer, tmp_path / "whole.pt")
    losses = [report.loss for report in islice(whole.steps(), 6)]

    first = Trainer(TINY, tokenizer, tmp_path / "parts.pt")
    parts = [report.loss for report in islice(first.steps(), 3)]
    first.save()
    second = Trainer(TINY, tokenizer, tmp_path / "parts.pt")
    parts += [report.loss for report in islice(second.steps(), 3)]

    assert parts == losses
    assert second.num_tokens == whole.num_tokens
    theirs = weights(second)
    assert all(torch.equal(weight, theirs[name]) for name, weight in weights(whole).items())


def test_the_loss_falls_and_the_run_ends(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    trainer = Trainer(
        TrainingPlan(TINY.shape, 60_000, batch_tokens=1024, pool_len=64), tokenizer, tmp_path / "run.pt"
    )
    reports = list(trainer.steps())
    assert trainer.done
    assert reports[-1].loss < 0.9 * reports[0].loss
    assert reports[-1].scale < 0.05


def test_another_total_on_resuming_moves_the_decay(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    first = Trainer(TINY, tokenizer, tmp_path / "run.pt")
    list(islice(first.steps(), 2))
    first.save()
    shorter = Trainer(replace(TINY, num_tokens=2000), tokenizer, tmp_path / "run.pt")
    assert shorter.schedule.total == 2000
    assert list(shorter.steps())[-1].num_tokens >= 2000


def test_a_checkpoint_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.pt"
    assert checkpoint.load(path) is None
    checkpoint.save(path, {"step": 1})
    checkpoint.save(path, {"step": 2, "weight": torch.ones(2)})
    state = checkpoint.load(path)
    assert state is not None
    assert state["step"] == 2
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]


def test_the_schedule_warms_up_holds_and_falls_to_zero() -> None:
    plan = Schedule.fresh(1000)
    assert plan.scale(0, 0) == pytest.approx(1 / WARMUP_STEPS)
    assert plan.scale(100, 650) == 1.0
    assert plan.scale(100, 825) == pytest.approx(0.5)
    assert plan.scale(100, 1000) == 0.0


def test_a_replanned_schedule_never_jumps() -> None:
    plan = Schedule.fresh(1000)
    assert plan.replanned(1000, 900) is plan
    assert plan.replanned(800, 600) == Schedule(800, 600)
    assert plan.replanned(800, 100) == Schedule(800, 520)
    for total in (950, 3000):
        late = plan.replanned(total, 825)
        assert late.scale(100, 825) == pytest.approx(plan.scale(100, 825))
        assert late.scale(100, total) == 0.0


def test_a_stream_goes_on_from_its_position(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = [batch.ids_BT for batch in islice(stream.BatchStream(tokenizer, 1, 2000, pool_len=64), 8)]
    parts = stream.BatchStream(tokenizer, 1, 2000, pool_len=64)
    list(islice(parts, 5))
    rest = islice(stream.BatchStream(tokenizer, 1, 2000, parts.position, pool_len=64), 3)
    assert all(torch.equal(batch.ids_BT, ids) for batch, ids in zip(rest, whole[5:], strict=True))


def test_batches_are_full_and_weigh_answers_only_fully(tokenizer: PreTrainedTokenizerFast) -> None:
    end, assistant = map(tokenizer.convert_tokens_to_ids, (demo_tokenizer.END, demo_tokenizer.ASSISTANT))
    for batch in islice(stream.BatchStream(tokenizer, 2, 4096, pool_len=128), 4):
        assert batch.num_tokens <= 4096
        assert batch.ids_BT.shape[1] % stream.BUCKET == 0
        for ids, weight in zip(batch.ids_BT.tolist(), batch.weights_BT.tolist(), strict=True):
            answering = False
            for token, share in zip(ids, weight, strict=True):
                assert share == pytest.approx(1.0 if answering else share)
                assert share in (0.0, 1.0) or share == pytest.approx(stream.PROMPT_WEIGHT)
                answering = (answering or token == assistant) and token != end


def test_padding_does_not_change_the_loss() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 6, 11)
    ids = torch.randint(11, (1, 6))
    weight = torch.tensor([[0.05, 0.05, 1.0, 1.0, 0.0, 0.0]])
    assert weighted_loss(logits, ids, weight) == pytest.approx(
        weighted_loss(logits[:, :4], ids[:, :4], weight[:, :4]).item()
    )


@pytest.mark.parametrize("shape", [(3, 16, 48), (2, 48, 16)])
def test_muon_makes_updates_nearly_orthogonal(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_takes_the_layers_matrices_and_adam_the_rest(tokenizer: PreTrainedTokenizerFast) -> None:
    model = shapes.fresh(shapes.ModelShape(32, 2, 0), tokenizer, seed=0)
    matrices, rest = split_parameters(model.named_parameters())
    assert sum(map(len, matrices.values())) == 2 * 7
    assert len(rest) == 2 + 1 + 2 * 2
    assert sum(map(len, matrices.values())) + len(rest) == len(list(model.parameters()))
