"""The bytes of tokens join to the bytes of the text, with every decoder."""

from tokenizers import decoders

from adasd.text.spelling import Spelling, byte_of
from tests.unit.text.tokenizers_for_tests import byte_fallback, byte_level

TEXT = "the cat — naïve 🙂\n\tdef f(x)"


def test_byte_level_tokens_join_to_the_text():
    inner = byte_level()
    spell = Spelling(inner)
    ids = inner(TEXT)["input_ids"]
    assert b"".join(map(spell, ids)) == TEXT.encode()
    assert any(len(spell(i)) and not _is_text(spell(i)) for i in ids)


def test_byte_fallback_tokens_join_to_the_text_behind_its_blank():
    inner = byte_fallback()
    spell = Spelling(inner)
    assert b"".join(map(spell, inner("hello ä🙂 world", add_special_tokens=False)["input_ids"])) == (
        " hello ä🙂 world".encode()
    )


def test_special_tokens_are_spelled_out_and_unknown_ids_are_nothing():
    inner = byte_level()
    spell = Spelling(inner)
    assert spell(inner.eos_token_id) == b"<|end|>"
    assert spell(10**6) == b""


def test_all_bytes_have_a_character_of_their_own():
    assert sorted(byte_of().values()) == list(range(256))
    assert byte_of()["Ġ"] == 0x20


def test_another_decoder_is_asked_for_the_text():
    inner = byte_level()
    inner.backend_tokenizer.decoder = decoders.WordPiece()
    token = inner.convert_tokens_to_ids("x")
    assert Spelling(inner)(token) == b"x"


def _is_text(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
