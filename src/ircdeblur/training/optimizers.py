"""The optimizers that the networks are trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of a polynomial a + b s^2 + c s^4 times s, which drives all singular values s towards 1, roughly: they
end between 0.7 and 1.2."""

STEPS = 5
"""Of the iteration."""

MATRIX = 17
"""Smallest number of rows and columns of what is taken for a matrix."""


class Muon(AdamW):
    """AdamW whose steps of matrices, those of convolutions among them, are made orthogonal.

    The momentum of a matrix is replaced by the nearest orthogonal one: all directions are learned at the same pace, of
    which few rule the gradient. A step's root mean square is as large as Adam's usually is, so learning rates for one
    suit the other. Biases and small matrices are Adam's.

    Parameters
    ----------
    params, lr
        As of AdamW.
    momentum : float
        Decay per step of the running average of the gradients of a matrix.

    References
    ----------
    K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. J. Liu et al., "Muon is scalable
    for LLM training", arXiv:2502.16982, 2025: the size of the step.
    """

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.95):
        super().__init__(params, lr)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do a step; see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[Any, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None and is_matrix(p):
                    alike.setdefault((len(p), p[0].numel(), p.dtype, p.device), []).append(p)
            for matrices in alike.values():
                self._step_matrices(matrices, group)
        super().step()
        return loss

    def _step_matrices(self, matrices: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Do a step of matrices of one shape: together, for each alone is too small to keep a machine busy."""
        ahead = []
        for p in matrices:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                # AdamW looks for "step" in the states that it reads from a checkpoint.
                state.update(step=torch.zeros(()), momentum=torch.zeros_like(p))
            state["step"] += 1
            momentum = state["momentum"].lerp_(p.grad, 1 - self.momentum)
            ahead.append(p.grad.lerp(momentum, self.momentum).reshape(len(p), -1))
            p.grad = None
        updates = orthogonal(torch.stack(ahead))
        size = -0.2 * max(updates.shape[1:]) ** 0.5 * group["lr"]
        for p, update in zip(matrices, updates, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update.view_as(p), alpha=size)


def is_matrix(p: torch.Tensor) -> bool:
    """Return whether a parameter is a matrix: (out, in), or (out, in, ...) of a convolution."""
    return p.ndim > 1 and min(len(p), p[0].numel()) >= MATRIX


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return roughly U V' of the singular value decompositions U S V' of (..., m, n), by a Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-12)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


OPTIMIZERS: dict[str, type[AdamW]] = {"adamw": AdamW, "muon": Muon}
"""By the names that configurations give them."""
