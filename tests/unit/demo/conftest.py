"""One tokenizer for all tests of the demo, and one thread."""

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from adasd.demo import demo_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return demo_tokenizer.train(num_texts=600)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
