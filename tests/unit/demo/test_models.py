"""Enlarging keeps the function; greedy answers do not depend on the batch; agreement is counted right."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adasd.demo import agreement, evaluate
from adasd.demo.enlarge import enlarge, largest_difference
from adasd.demo.evaluate import score, table, together
from adasd.demo.greedy import chat_ids, continue_greedily
from adasd.demo.tasks import Task


def tiny(num_kv_heads: int = 4, tied: bool = False, vocab_size: int = 97) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        head_dim=16,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=4,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.train(False)
    return model


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("extra_layers", [0, 2])
@pytest.mark.parametrize(("num_kv_heads", "tied"), [(4, False), (2, False), (4, True)])
def test_an_enlarged_model_computes_the_same(
    factor: int, extra_layers: int, num_kv_heads: int, tied: bool
) -> None:
    model = tiny(num_kv_heads, tied)
    larger = enlarge(model, factor, extra_layers)
    assert larger.config.hidden_size == 48 * factor
    assert larger.config.num_hidden_layers == 2 + extra_layers
    difference, largest = largest_difference(model, larger)
    assert largest > 1
    assert difference < 1e-4 * largest


def test_a_wrong_enlargement_would_be_noticed() -> None:
    model, larger = tiny(), enlarge(tiny(), 2)
    with torch.no_grad():
        larger.model.layers[0].mlp.down_proj.weight[0, 0] += 1
    difference, largest = largest_difference(model, larger)
    assert difference > 1e-3 * largest


@pytest.mark.parametrize(("factor", "extra_layers"), [(0, 0), (2, -1)])
def test_senseless_sizes_are_refused(factor: int, extra_layers: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        enlarge(tiny(), factor, extra_layers)


def test_greedy_answers_do_not_depend_on_the_batch() -> None:
    model = tiny()
    contexts = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [6, 6]]
    together_ = continue_greedily(model, contexts, 8)
    alone = [continue_greedily(model, [context], 8)[0] for context in contexts]
    assert together_ == alone
    assert all(4 not in ids[:-1] for ids in alone)


def test_a_draft_that_is_the_target_is_always_accepted() -> None:
    answers = [[7, 8, 9, 4], [5, 4]]

    def oracle(contexts: list[list[int]], most: int) -> list[list[int]]:
        rest = [answers[context[0]][len(context) - 1 :] for context in contexts]
        return [ids[:most] for ids in rest]

    counts = agreement.measure(oracle, [[0], [1]], answers, block_len=3)
    assert counts.share == 1.0
    assert counts.drafted == counts.accepted == (2, 2, 1)
    assert counts.num_rounds == 2  # four tokens are a block of three and the bonus


def test_rejected_tokens_are_counted_by_position() -> None:
    def draft(contexts: list[list[int]], most: int) -> list[list[int]]:
        return [[1, 2, 3][:most] for _ in contexts]

    counts = agreement.measure(draft, [[0]], [[1, 9, 1, 2, 3]], block_len=3)
    # round 1 proposes 1 2 3 where 1 9 follows; round 2 proposes 1 2 3 where 1 2 3 follows
    assert (counts.num_rounds, counts.drafted, counts.accepted) == (2, (2, 2, 2), (2, 1, 1))
    assert counts.share == pytest.approx(4 / 6)
    assert counts.tokens_per_round == 3.0
    assert together([counts, counts]).drafted == (4, 4, 4)


def test_an_untrained_pair_scores_nothing(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "MAX_NEW_TOKENS", 60)
    model = tiny(vocab_size=len(tokenizer))
    result = score(model, model, tokenizer, Task.EXTRACTION, 1)
    assert result.target_accuracy == result.draft_accuracy == 0.0
    assert result.agreement.share == 1.0  # ten whole rounds of six tokens, drafted by the target itself
    assert result.as_json()["accepted_share"] == round(result.agreement.share, 4)
    assert table([result]).row_count == 2
    assert chat_ids(tokenizer, "Hi")[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")
