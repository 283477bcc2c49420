"""The pair as GGUF files, and the comparison with llama.cpp's server (without the server itself)."""

import json

import gguf
import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from adasd.errors import ConfigError
from load_tests.demo_pair import DEMO
from load_tests.peers import gguf_pair, llama_cpp

DRAFT = str(DEMO / "draft")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "draft.gguf"
    assert gguf_pair.main([DRAFT, str(file)]) == 0
    return gguf.GGUFReader(file)


def test_the_file_describes_the_model(written):
    config = AutoModelForCausalLM.from_pretrained(DRAFT).config
    fields = {name: field.contents() for name, field in written.fields.items()}
    assert fields["llama.block_count"] == config.num_hidden_layers
    assert fields["llama.attention.head_count"] == config.num_attention_heads
    assert fields["llama.rope.freq_base"] == pytest.approx(config.rope_parameters["rope_theta"])
    assert fields["tokenizer.ggml.eos_token_id"] == config.eos_token_id
    assert len(fields["tokenizer.ggml.tokens"]) == config.vocab_size
    assert len(fields["tokenizer.ggml.merges"]) > 100


def test_every_weight_is_in_the_file_and_queries_are_paired(written):
    model = AutoModelForCausalLM.from_pretrained(DRAFT, dtype=torch.float32)
    tensors = {tensor.name: tensor.data for tensor in written.tensors}
    assert len(tensors) == len(model.state_dict())
    down = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    np.testing.assert_array_equal(tensors["blk.1.ffn_down.weight"], down)
    queries = model.model.layers[0].self_attn.q_proj.weight.detach().numpy()
    heads = tensors["blk.0.attn_q.weight"].reshape(model.config.num_attention_heads, -1, queries.shape[1])
    ours = queries.reshape(heads.shape)
    half = heads.shape[1] // 2
    np.testing.assert_array_equal(heads[:, 0::2], ours[:, :half])
    np.testing.assert_array_equal(heads[:, 1::2], ours[:, half:])


def test_what_would_come_out_wrong_is_refused(tmp_path):
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        attention_bias=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="without biases"):
        gguf_pair.write(str(tmp_path), tmp_path / "x.gguf")


def test_the_server_is_asked_greedily_by_token_ids():
    asked = []

    def reply(request):
        asked.append(json.loads(request.content))
        return httpx.Response(200, json={"tokens": [7, 8, 2]})

    client = httpx.Client(base_url="http://server", transport=httpx.MockTransport(reply))
    server = llama_cpp.LlamaServer(client, frozenset({2}))
    assert server.answer((1, 2, 3), 5) == [7, 8]
    assert (asked[0]["prompt"], asked[0]["n_predict"], asked[0]["top_k"]) == ([1, 2, 3], 5, 1)
    assert asked[0]["cache_prompt"] is False


def test_a_server_that_ends_is_quoted_and_leaves_no_process():
    with (
        pytest.raises(RuntimeError, match=r"ended with status \d+"),
        llama_cpp._running("sh", ["no-such-file"], 1, frozenset()),
    ):
        pass
