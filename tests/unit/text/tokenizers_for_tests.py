"""Small real tokenizers, quickly trained: byte-level BPE, and SentencePiece-like with byte fallback."""

from collections.abc import Sequence

from tokenizers import Tokenizer as Rust
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from adasd.text.grammar import Matcher

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}{{ raise_exception('system must come first') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOL_TEMPLATE = (
    "{% if tools %}<|system|>{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    'answer <tool_call>\\n{"name": N, "arguments": A}\\n</tool_call><|end|>{% endif %}'
    "{% for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}:{{ c.function.arguments | tojson }}</tool_call>"
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A chat template for tools, calls and results in Hermes format."""
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CORPUS = ["the cat sat on the mat and the dog ate the hat", "def f(x): return x + 1", "1 2 3 4 5"] * 4


def byte_level(template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    rust = Rust(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(CORPUS, trainer)
    inner = PreTrainedTokenizerFast(
        tokenizer_object=rust,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[2:],
    )
    inner.chat_template = template
    return inner


def byte_fallback() -> PreTrainedTokenizerFast:
    pieces = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *"abcdehlortuw", "▁h", "▁he", "▁w"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    rust = Rust(
        models.BPE(
            vocab=vocab, merges=[("▁", "h"), ("▁h", "e"), ("▁", "w")], unk_token="<unk>", byte_fallback=True
        )
    )
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="</s>", unk_token="<unk>")


def admits(matcher: Matcher, tokens: Sequence[int], eos: int) -> bool:
    """Whether the tokens, followed by the end-of-sequence token, are allowed one after the other."""
    return all(mask[token] for mask, token in zip(matcher.masks(tokens), [*tokens, eos], strict=True))
