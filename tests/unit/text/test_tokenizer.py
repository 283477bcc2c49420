import json

import pytest

from adasd.errors import ConfigError, InvalidRequest
from adasd.text.chat import plain_messages
from adasd.text.tokenizer import Tokenizer
from tests.unit.text.tokenizers_for_tests import byte_fallback, byte_level


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(byte_level())


def test_text_survives_encoding_and_decoding(tokenizer):
    text = "the cat — naïve 🙂\n\tdef f(x): return x"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_chat_is_rendered_by_the_models_template_and_ready_for_the_answer(tokenizer):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "the"}, {"type": "text", "text": "cat"}]},
    ]
    assert tokenizer.render_chat(messages) == "<|system|>be brief<|end|><|user|>the\ncat<|end|><|assistant|>"
    ids = tokenizer.apply_chat_template(messages)
    assert ids[0] == tokenizer._inner.convert_tokens_to_ids("<|system|>")
    assert ids[-1] == tokenizer._inner.convert_tokens_to_ids("<|assistant|>")


def test_special_tokens_are_not_shown(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("cat"), *tokenizer.eos_ids]) == "cat"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([5], "messages.0"),
        ([{"content": "x"}], "messages.0.role"),
        ([{"role": ["user"], "content": "x"}], "messages.0.role"),
        ([{"role": "tool", "content": "x"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": []}], "messages.0.content"),
        ([{"role": "user", "content": 7}], "messages.0.content"),
        ([{"role": "user", "content": ["x"]}], "messages.0.content.0"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages.0.content.0.type",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "messages.0.content.0.text"),
        ([{"role": "user", "content": "a\0b"}], "messages.0.content"),
        ([{"role": "user", "content": "a\ud800b"}], "messages.0.content"),
        ([{"role": "user", "content": "x", "name": 3}], "messages.0.name"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "messages.0.tool_calls"),
    ],
)
def test_messages_that_cannot_be_rendered_name_the_wrong_part(messages, param):
    with pytest.raises(InvalidRequest) as caught:
        plain_messages(messages)
    assert caught.value.param == param
    assert param in str(caught.value)


def test_a_refusing_template_is_the_requests_fault(tokenizer):
    with pytest.raises(InvalidRequest, match="system must come first"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}])


def test_a_model_without_template_points_to_completions():
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        Tokenizer(byte_fallback()).apply_chat_template([{"role": "user", "content": "hello"}])


def test_loading_gathers_every_end_of_sequence_token(tmp_path, tokenizer):
    tokenizer._inner.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 4}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    loaded = Tokenizer.load(str(tmp_path))
    assert loaded.eos_ids == {1, 3, 4}
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.encode("the cat") == tokenizer.encode("the cat")
    assert loaded.has_chat_template


def test_a_folder_without_tokenizer_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer"):
        Tokenizer.load(str(tmp_path))
    with pytest.raises(ConfigError, match="no tokenizer"):
        Tokenizer.load(str(tmp_path / "absent"))
