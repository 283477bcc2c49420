"""A target whose embedding is larger than its draft's may emit ids that the draft cannot be fed."""

import copy

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from adasd import LocalPair
from adasd.config import EngineConfig, SpeculationConfig
from adasd.engine.engine import TorchEngine
from adasd.testing.loops import plain
from tests.unit.engine.models import original


def test_an_id_beyond_the_drafts_embedding_ends_drafting_and_not_the_answer():
    torch.manual_seed(0)
    small = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=160,
        eos_token_id=None,
    )
    config = EngineConfig("tiny", num_slots=2, compile="off")
    target = TorchEngine.from_model(copy.deepcopy(original("llama")), config)
    draft = TorchEngine.from_model(AutoModelForCausalLM.from_config(small).eval(), config)
    speculation = SpeculationConfig(drafting="static", bypass=False)
    pair = LocalPair(target, draft, lambda ids: "." * len(ids), frozenset(), speculation)
    answer = pair.generate((1, 2, 3), max_tokens=30)
    assert max(answer.token_ids) >= 40
    assert list(answer.token_ids) == plain(target, (1, 2, 3), 30)
    assert answer.report.num_draft_tokens < 30
    assert (target.num_free_slots, draft.num_free_slots) == (2, 2)
