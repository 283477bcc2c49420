from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adasd.text.detokenizer import MAX_HELD, REPLACEMENT, DetokenizerState, flush, push
from adasd.text.tokenizer import Tokenizer
from tests.unit.text.tokenizers_for_tests import byte_fallback, byte_level

BYTE_LEVEL = Tokenizer(byte_level())
BYTE_FALLBACK = Tokenizer(byte_fallback())
(EOS,) = BYTE_LEVEL.eos_ids


def run(tokenizer, blocks):
    """The text of each push, then that of the flush."""
    state, texts = DetokenizerState(), []
    for block in blocks:
        state, text = push(state, block, tokenizer.decode)
        texts.append(text)
    state, text = flush(state, tokenizer.decode)
    assert not state.held
    return [*texts, text]


def cut(ids, places):
    bounds = sorted({0, len(ids), *(p % (len(ids) + 1) for p in places)})
    return [ids[a:b] for a, b in pairwise(bounds)]


def byte_ids(data):
    """One token per byte, as a random draft might emit them."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocab = BYTE_LEVEL._inner.get_vocab()
    if not hasattr(byte_ids, "table"):
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [b for b in range(256) if b not in printable]
        byte_ids.table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
        assert set(byte_ids.table.values()) == set(ByteLevel.alphabet())
    return [vocab[byte_ids.table[b]] for b in data]


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte-level", "byte-fallback"])
@settings(max_examples=150)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁"), max_size=40),
    data=st.data(),
)
def test_pushed_texts_join_to_the_decoded_whole_wherever_blocks_are_cut(tokenizer, text, data):
    ids = tokenizer.encode(text)
    places = data.draw(st.lists(st.integers(0, 200), max_size=12))
    assert "".join(run(tokenizer, cut(ids, places))) == tokenizer.decode(ids)


@settings(max_examples=150)
@given(data=st.binary(max_size=30), places=st.lists(st.integers(0, 200), max_size=12))
def test_invalid_bytes_are_shown_as_the_decoder_shows_them(data, places):
    ids = byte_ids(data)
    assert "".join(run(BYTE_LEVEL, cut(ids, places))) == BYTE_LEVEL.decode(ids)


def test_half_a_character_is_held_back_until_it_is_whole():
    blocks = [[i] for i in byte_ids("a🙂b".encode())]
    assert run(BYTE_LEVEL, blocks) == ["a", "", "", "", "🙂", "b", ""]


def test_text_in_front_of_half_a_character_is_not_held_back():
    whole, half = byte_ids("ab€".encode())[:-1], byte_ids("€".encode())[-1:]
    assert run(BYTE_LEVEL, [whole, half]) == ["ab", "€", ""]


def test_flush_shows_what_never_became_a_character():
    texts = run(BYTE_LEVEL, [byte_ids(b"a\xe2\x82")])
    assert texts == ["a", REPLACEMENT]


def test_the_space_in_front_of_a_word_survives_a_special_token():
    he, eos = BYTE_FALLBACK.encode("he")[0], *BYTE_FALLBACK.eos_ids
    assert run(BYTE_FALLBACK, [[he], [eos], [he], [eos, he]]) == ["he", "", " he", " he", ""]


def test_state_stays_small_when_tokens_never_become_text():
    state = DetokenizerState()
    for _ in range(1000):
        state, text = push(state, [EOS], BYTE_LEVEL.decode)
        assert text == ""
        assert len(state.held) + len(state.context) <= MAX_HELD
    for i in byte_ids(b"\xf0" * 500):
        state, _ = push(state, [i], BYTE_LEVEL.decode)
        assert len(state.held) + len(state.context) <= 2 * MAX_HELD + 2


def test_an_empty_push_changes_nothing():
    state, _ = push(DetokenizerState(), byte_ids(b"\xe2"), BYTE_LEVEL.decode)
    assert push(state, [], BYTE_LEVEL.decode) == (state, "")
