"""From the tiny demo target to a draft that serves, and on from where a run was stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    CodeGenConfig,
    GPT2Config,
    MptConfig,
)

from adasd import LocalPair
from adasd.demo import agreement
from adasd.demo.greedy import continue_greedily
from adasd.distill import acceptance, answers, lessons, prompts, shards, student
from adasd.distill.run import Options, distil
from adasd.distill.train import Plan, Trainer
from adasd.engine.loading.context import UNKNOWN_LIMIT
from adasd.errors import ConfigError

TARGET = str(Path(__file__).parents[3] / "models" / "demo" / "target")


@pytest.fixture(scope="module")
def teacher() -> shards.Teacher:
    model = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
    return shards.Teacher(model, AutoTokenizer.from_pretrained(TARGET), max_tokens=24)


@pytest.fixture(scope="module")
def greedy(teacher) -> list[answers.Answer]:
    found = teacher.shard(0, list(islice(prompts.stream(), 12)), 1.0, lambda: False)
    assert found is not None
    return found


def test_greedy_answers_are_those_of_generate(teacher, greedy) -> None:
    asked = [one.ids[: one.prompt_len] for one in greedy]
    assert [one.ids[one.prompt_len :] for one in greedy] == continue_greedily(teacher.model, asked, 24)


def test_the_recorded_probabilities_are_the_targets(teacher, greedy) -> None:
    one = greedy[3]
    with torch.inference_mode():
        logits = teacher.model(torch.tensor([one.ids])).logits[0, one.prompt_len - 1 : -1]
    logprobs, ids = logits.log_softmax(-1).topk(answers.TOP_K)
    assert one.top_ids_AK[:, :3].tolist() == ids[:, :3].tolist()
    torch.testing.assert_close(one.top_logprobs_AK.float(), logprobs, atol=0.02, rtol=0.01)


def test_shards_are_written_once_and_read_as_they_were(teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 6)
    first = list(shards.write(teacher, islice(prompts.stream(), 9), tmp_path))
    assert len(first) == 2
    assert list(shards.write(teacher, islice(prompts.stream(), 9), tmp_path)) == []
    read = [one for file in shards.files(tmp_path) for one in shards.load(file)]
    assert len(read) == 9
    assert sum(len(one.top_ids_AK) for one in read) == sum(first)
    assert read[0].ids[: read[0].prompt_len] == answers.prompt_ids(teacher.tokenizer, next(prompts.stream()))


def test_acceptance_by_one_pass_is_acceptance_by_drafting(teacher, greedy) -> None:
    draft = AutoModelForCausalLM.from_pretrained(TARGET.replace("target", "draft"), dtype=torch.float32)
    quick = acceptance.measure(draft, greedy)
    asked = [one.ids[: one.prompt_len] for one in greedy]
    said = [one.ids[one.prompt_len :] for one in greedy]
    slow = agreement.measure(lambda rows, num: continue_greedily(draft, rows, num), asked, said)
    assert quick.num_rounds == slow.num_rounds
    assert quick.accepted == slow.accepted  # drafted may differ where an answer ends


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(teacher, greedy, tmp_path) -> None:
    def trainer(name: str) -> Trainer:
        draft = student.fresh(teacher.model, student.Shape(32, 1, 64), lessons.counts(greedy, 1000), seed=3)
        return Trainer(draft, greedy, Plan(1e6, batch_tokens=256), tmp_path / name)

    whole = trainer("whole.pt")
    losses = [report.loss for report in islice(whole.steps(), 12)]
    half = trainer("half.pt")
    list(islice(half.steps(), 5))
    half.save()
    rest = trainer("half.pt")
    assert [report.loss for report in islice(rest.steps(), 7)] == pytest.approx(losses[5:], rel=0.05)
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore")
def test_the_whole_run_ends_with_a_folder_that_serves(tmp_path) -> None:
    out = tmp_path / "draft"
    options = Options(TARGET, out, minutes=0.1, size=student.Shape(32, 1, 64), max_tokens=16)
    stages = [event.stage for event in distil(options)]
    assert stages[-1] == "done"
    assert "accepted" in (out / "README.md").read_text() or "accepts" in (out / "README.md").read_text()
    pair = LocalPair.load(TARGET, str(out))
    exact, off = (pair.chat("What is 3 + 4?", mode=mode, max_tokens=12) for mode in ("exact", "off"))
    assert exact.token_ids == off.token_ids
    with pytest.raises(ConfigError, match="is there already"):
        list(distil(options))
    with pytest.raises(ConfigError, match="was begun with seed 0, now it is 7"):
        list(distil(replace(options, out=out.rename(tmp_path / "done").with_name("draft"), seed=7)))


@pytest.mark.filterwarnings("ignore")
def test_a_run_goes_on_from_an_earlier_draft(tmp_path) -> None:
    earlier, out = Path(TARGET).with_name("tiny"), tmp_path / "draft"
    options = Options(TARGET, out, minutes=0.05, earlier=earlier, max_tokens=16)
    with pytest.raises(ConfigError, match="name a size or a draft, not both"):
        list(distil(replace(options, size=student.Shape(32, 1, 64))))
    assert [event.stage for event in distil(options)][-1] == "done"
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (earlier, out)
    )
    weights, learnt = (torch.nn.utils.parameters_to_vector(one.parameters()) for one in (before, after))
    assert 0 < (learnt - weights).norm() < weights.norm() / 2  # 1.4 times the norm from a new one
    assert "It went on from the draft `tiny`" in (out / "README.md").read_text()
    with pytest.raises(ConfigError, match="was begun with from"):
        list(distil(replace(options, out=out.rename(tmp_path / "done").with_name("draft"), earlier=None)))


@pytest.fixture(scope="module")
def of_other_words(tmp_path_factory) -> Path:
    """The tiny draft with another word among its tokens."""
    folder = tmp_path_factory.mktemp("drafts") / "other"
    shutil.copytree(Path(TARGET).with_name("tiny"), folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokens["model"]["vocab"]
    vocab["abracadabra"] = vocab.pop(max(vocab, key=len))
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    return folder


def test_an_earlier_draft_of_other_words_is_refused(teacher, of_other_words) -> None:
    with pytest.raises(ConfigError, match="another vocabulary than the target"):
        student.loaded(of_other_words, teacher.tokenizer)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"earlier": Path("/nowhere/at/all")}, "there is no model folder"),
        ({"minutes": 0.0}, "minutes is 0"),
        ({"target": "/nowhere/at/all"}, "there is no model folder"),
        ({"size": student.Shape(512, 3, 1024)}, "choose a smaller size"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, changes, sentence) -> None:
    options = {"target": TARGET, "out": tmp_path / "draft", **changes}
    with pytest.raises(ConfigError, match=sentence) as caught:
        list(distil(Options(**options)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize(
    ("target", "context"),
    [
        (BloomConfig(), UNKNOWN_LIMIT),
        (MptConfig(), UNKNOWN_LIMIT),
        (CodeGenConfig(n_positions=512), 512),
        (GPT2Config(n_positions=512), 512),
    ],
    ids=lambda given: getattr(given, "model_type", ""),
)
def test_a_draft_has_the_target_s_ids_and_the_context_it_is_served_with(target, context) -> None:
    made = student.config_for(target, student.Shape())
    assert (made.vocab_size, made.eos_token_id) == (target.vocab_size, target.eos_token_id)
    assert (made.max_position_embeddings, made.pad_token_id) == (context, None)


def test_a_target_that_no_draft_can_be_made_for_is_refused_before_it_is_asked(tmp_path) -> None:
    BloomConfig(architectures=["BloomForCausalLM"], hidden_size=512, pad_token_id=10**6).save_pretrained(
        tmp_path
    )
    with pytest.raises(
        ConfigError, match=r"no draft can be made from the configuration of .*adding_idx"
    ) as caught:
        next(distil(Options(str(tmp_path), tmp_path / "draft")))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "draft.work").exists()


@pytest.mark.parametrize("size", ["", "192", "190x3", "192x0", "0x3", "axb"])
def test_a_size_is_a_width_and_a_number_of_layers(size) -> None:
    with pytest.raises(ConfigError, match="WIDTHxLAYERS"):
        student.Shape.parse(size)
