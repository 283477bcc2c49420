"""A tokenizer of single bytes, for test models without a tokenizer."""

from __future__ import annotations

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adasd.text.grammar import GrammarCompiler
from adasd.text.tokenizer import Tokenizer

END = "<end>"


def letters(vocab_size: int) -> Tokenizer:
    """Every id but the last is one byte, printable ones first (``!`` is 0, ``"`` is 1, ...); 2 to 257 ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if not 2 <= vocab_size <= len(alphabet) + 1:
        raise ValueError(f"there are letters for 2 to {len(alphabet) + 1} ids, not for {vocab_size}")
    vocab = {letter: i for i, letter in enumerate(alphabet[: vocab_size - 1])}
    rust = RustTokenizer(models.BPE(vocab=vocab, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([END])
    inner = PreTrainedTokenizerFast(tokenizer_object=rust, eos_token=END)  # type: ignore[no-untyped-call]
    return Tokenizer(inner)


def letter_grammars(vocab_size: int) -> GrammarCompiler:
    """Grammars over ``letters(vocab_size)``."""
    return GrammarCompiler(lambda: letters(vocab_size))
