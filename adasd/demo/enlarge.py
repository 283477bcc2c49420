"""Make a Llama model larger without changing what it computes: `python -m adasd.demo.enlarge`.

The residual stream is repeated `factor` times along the width. Embedding and norms repeat; every inner matrix
W becomes a factor x factor grid of W / factor, so that each copy of the output is the mean over the copies of
the input; the head is divided by `factor`. Attention heads repeat as whole heads. Extra layers have zero
output projections: identities that still cost what a layer costs. So there is a target of any size that
solves its tasks.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

_GRID = (
    "q_proj.weight",
    "k_proj.weight",
    "v_proj.weight",
    "o_proj.weight",
    "gate_proj.weight",
    "up_proj.weight",
    "down_proj.weight",
)
_ZERO_IN_EXTRA_LAYERS = ("o_proj.weight", "down_proj.weight")
TOLERANCE = 1e-4  # of the largest logit


@torch.no_grad()
def enlarge(model: LlamaForCausalLM, factor: int, extra_layers: int = 0) -> LlamaForCausalLM:
    """A new model with the same logits, `factor` times as wide and with `extra_layers` more layers.

    Raises ValueError for anything but a Llama without biases, or for a factor below 1.
    """
    config = model.config
    if config.model_type != "llama" or config.attention_bias or config.mlp_bias:
        raise ValueError(f"only Llama models without biases can be enlarged, not {config.model_type}")
    if factor < 1 or extra_layers < 0:
        raise ValueError(
            f"factor must be at least 1 and extra layers at least 0, not {factor} and {extra_layers}"
        )
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    settings = config.to_dict() | {
        "hidden_size": config.hidden_size * factor,
        "intermediate_size": config.intermediate_size * factor,
        "num_attention_heads": heads * factor,
        "num_key_value_heads": kv_heads * factor,
        "head_dim": head_dim,
        "num_hidden_layers": config.num_hidden_layers + extra_layers,
        "tie_word_embeddings": False,
    }
    larger = LlamaForCausalLM(LlamaConfig(**settings))
    larger.to(device=model.device, dtype=model.dtype)  # type: ignore[call-arg]
    state = model.state_dict()
    for name, weight in larger.state_dict().items():
        if name in state:
            weight.copy_(_repeated(name, state[name], factor))
        elif name.endswith(_ZERO_IN_EXTRA_LAYERS):
            weight.zero_()
    larger.generation_config = model.generation_config
    larger.train(model.training)
    return larger


def _repeated(name: str, weight: Tensor, factor: int) -> Tensor:
    if name.endswith(_GRID):
        return weight.repeat(factor, factor) / factor
    if name == "lm_head.weight":
        return weight.repeat(1, factor) / factor
    if name.endswith("embed_tokens.weight"):
        return weight.repeat(1, factor)
    return weight.repeat(factor)  # norms


@torch.inference_mode()
def largest_difference(
    model: LlamaForCausalLM, other: LlamaForCausalLM, num_tokens: int = 64
) -> tuple[float, float]:
    """Largest absolute difference of the two models' logits on random ids, and the largest logit."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(model.config.vocab_size, (2, num_tokens), generator=generator).to(model.device)
    logits_BTV, other_BTV = model(input_ids=ids_BT).logits, other(input_ids=ids_BT).logits
    return float((logits_BTV - other_BTV).abs().max()), float(logits_BTV.abs().max())


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 1 if the logits differ by more than `TOLERANCE` of the largest."""
    parser = argparse.ArgumentParser(prog="python -m adasd.demo.enlarge", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/demo/target"))
    parser.add_argument("--factor", type=int, required=True, help="how many times as wide")
    parser.add_argument(
        "--extra-layers", type=int, default=0, help="layers that cost but do nothing (default: 0)"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)

    console = Console()
    model = LlamaForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    larger = enlarge(model, options.factor, options.extra_layers)
    difference, largest = largest_difference(model, larger)
    console.print(
        f"{model.num_parameters() / 1e6:.1f} M -> {larger.num_parameters() / 1e6:.1f} M parameters, "
        f"largest logit difference {difference:.2g} at logits up to {largest:.1f}"
    )
    if difference > TOLERANCE * max(1.0, largest):
        console.print("the enlarged model does not compute the same; nothing was written")
        return 1
    larger.save_pretrained(options.out)
    AutoTokenizer.from_pretrained(options.model).save_pretrained(options.out)
    console.print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
