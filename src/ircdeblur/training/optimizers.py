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
            for p in group["params"]:
                if p.grad is not None and is_matrix(p):
                    self._step_matrix(p, group)
                    p.grad = None
        super().step()
        return loss

    def _step_matrix(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            # AdamW looks for "step" in the states that it reads from a checkpoint.
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(p))
        state["step"] += 1
        momentum = state["momentum"].lerp_(p.grad, 1 - self.momentum)
        ahead = p.grad.lerp(momentum, self.momentum)
        update = orthogonal(ahead.reshape(len(p), -1))
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update.view_as(p), alpha=-0.2 * max(update.shape) ** 0.5 * group["lr"])


def is_matrix(p: torch.Tensor) -> bool:
    """Return whether a parameter is a matrix: (out, in), or (out, in, ...) of a convolution."""
    return p.ndim > 1 and min(len(p), p[0].numel()) >= MATRIX


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return roughly U V' of the singular value decomposition U S V' of a matrix, by a Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-12)
    x = x if len(x) <= x.shape[1] else x.T
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if x.shape == matrix.shape else x.T


OPTIMIZERS: dict[str, type[AdamW]] = {"adamw": AdamW, "muon": Muon}
"""By the names that configurations give them."""
