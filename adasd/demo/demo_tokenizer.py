"""The pair's tokenizer: byte-level BPE trained on generated examples, with single digits and a chat template.

A conversation is a sequence of turns `<|role|>text<|end|>`; `<|end|>` is the end-of-sequence token. Both models
share the tokenizer.
"""

import random
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from adasd.demo.tasks import Task, generate

PAD = "<|endoftext|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"
SPECIAL = (PAD, SYSTEM, USER, ASSISTANT, END)
NUM_TOKENS = 1000
MAX_POSITIONS = 2048

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You solve short problems.",
    "Answer briefly and correctly.",
    "You are a careful assistant. Show your steps.",
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'developer', 'user', 'assistant'] -%}"
    "{{- raise_exception('role ' + message['role'] + ' is not known to this model') -}}"
    "{%- endif -%}"
    "{%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}"
    "{{- '<|' + role + '|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] | trim -}}"
    "{%- else -%}{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] | trim -}}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train(num_texts: int = 12_000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `num_texts` examples; the same arguments give the same tokenizer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(num_texts, seed), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def _texts(num_texts: int, seed: int) -> Iterator[str]:
    rng = random.Random(f"vocabulary:{seed}")
    yield from SYSTEM_MESSAGES
    for index in range(num_texts):
        example = generate(list(Task)[index % len(Task)], rng)
        yield example.prompt
        yield example.answer
