"""The tokenizer keeps text, splits digits and renders conversations as the models were taught."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adasd.demo import demo_tokenizer, shapes
from adasd.demo.tasks import Task, heldout


def test_text_survives_and_digits_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in (heldout(Task.FUNCTION, 1)[0].answer, "12345 + 67 = 12412\n\t  é漢🙂 <b>"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert all(sum(char.isdigit() for char in tokenizer.decode([one])) <= 1 for one in ids)


def test_the_vocabulary_is_reproducible(tokenizer: PreTrainedTokenizerFast) -> None:
    assert demo_tokenizer.train(num_texts=600).get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) <= demo_tokenizer.NUM_TOKENS


def test_a_conversation_is_rendered_turn_by_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " One? "},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
    ]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|system|>Be brief.<|end|><|user|>One?<|end|><|assistant|>1<|end|><|user|>Two?<|end|><|assistant|>"
    )
    ids = tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 4


def test_an_unknown_role_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="role tool is not known"):
        tokenizer.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def test_the_saved_tokenizer_is_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    shapes.config(shapes.ModelShape(32, 1, 0), tokenizer).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = heldout(Task.ARITHMETIC, 1)[0].answer
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.eos_token, loaded.pad_token, loaded.bos_token) == ("<|end|>", "<|endoftext|>", None)
