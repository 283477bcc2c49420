"""Muon for the layers' matrices, Adam for everything else, in one optimizer.

Muon (Jordan et al. 2024): the update after momentum is replaced by the nearest orthogonal matrix, approximated with
five Newton-Schulz steps. Matrices of one shape are processed as one stack.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalised(update_NRC: Tensor, num_steps: int = 5) -> Tensor:
    """A stack of N matrices (R rows, C columns) with their singular values moved to about 1."""
    a, b, c = NEWTON_SCHULZ
    tall = update_NRC.size(-2) > update_NRC.size(-1)
    x = update_NRC.mT if tall else update_NRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


class MuonAdam:
    """Both optimizers with one `step(scale)`; `scale` in [0, 1] multiplies both learning rates."""

    def __init__(
        self,
        model: nn.Module,
        *,
        muon_rate: float = 0.02,
        momentum: float = 0.95,
        decay: float = 0.1,
        adam_rate: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
    ) -> None:
        self.muon_rate, self.momentum, self.decay, self.adam_rate = muon_rate, momentum, decay, adam_rate
        matrices, rest = split_parameters(model.named_parameters())
        self._stacks = [stack for _, stack in sorted(matrices.items())]
        self._momenta = [torch.zeros_like(torch.stack([p.data for p in stack])) for stack in self._stacks]
        self._adam = torch.optim.Adam(rest, lr=adam_rate, betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Apply the gradients and clear them."""
        rate = self.muon_rate * scale
        for stack, momentum in zip(self._stacks, self._momenta, strict=True):
            gradient = torch.stack([_gradient(p) for p in stack])
            momentum.lerp_(gradient, 1 - self.momentum)
            update = orthogonalised(gradient.lerp(momentum, self.momentum))
            stretch = max(1.0, update.size(-2) / update.size(-1)) ** 0.5
            for parameter, change in zip(stack, update.unbind(), strict=True):
                parameter.mul_(1 - rate * self.decay).sub_(change, alpha=rate * stretch)
                parameter.grad = None
        for group in self._adam.param_groups:
            group["lr"] = self.adam_rate * scale
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The state for `load_state_dict` to continue exactly here."""
        return {"momenta": self._momenta, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state from an optimizer of the same model."""
        for mine, theirs in zip(self._momenta, state["momenta"], strict=True):
            mine.copy_(theirs)
        self._adam.load_state_dict(state["adam"])


def split_parameters(
    named: Iterable[tuple[str, nn.Parameter]],
) -> tuple[dict[tuple[int, ...], list[nn.Parameter]], list[nn.Parameter]]:
    """The layers' matrices by shape (for Muon), and all other parameters (for Adam)."""
    matrices: dict[tuple[int, ...], list[nn.Parameter]] = {}
    rest = []
    for name, parameter in named:
        if parameter.ndim == 2 and ".layers." in name:
            matrices.setdefault(tuple(parameter.shape), []).append(parameter)
        else:
            rest.append(parameter)
    return matrices, rest


def _gradient(parameter: nn.Parameter) -> Tensor:
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
