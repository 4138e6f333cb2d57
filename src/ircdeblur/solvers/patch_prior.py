"""The patch prior of EPLL: a zero-mean Gaussian mixture of 8 x 8 patches without their mean.

Patches are described by their 63 DCT coefficients other than the mean, so that covariances have full rank.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

SIDE = 8
"""Side of a patch in pixels."""

PATCH_PRIOR = "patch-prior.safetensors"


def patch_basis() -> np.ndarray:
    """Return the orthonormal 8 x 8 DCT without its constant, low frequencies first: (63, 64) float64."""
    dct = scipy.fft.dct(np.eye(SIDE), axis=0, norm="ortho")
    # kron's row u * 8 + v has frequency u down and v across.
    frequency = np.add.outer(np.arange(SIDE) ** 2, np.arange(SIDE) ** 2).ravel()
    order = np.argsort(frequency, kind="stable")
    return np.kron(dct, dct)[order[1:]]


@dataclass(frozen=True)
class PatchPrior:
    """A mixture of K zero-mean Gaussians of the coefficients in `patch_basis`, for pixels in [0, 1].

    Attributes
    ----------
    weights : (K,) float32 tensor
        Positive, sum 1.
    covariances : (K, 63, 63) float32 tensor
        Symmetric, positive definite.
    """

    weights: torch.Tensor
    covariances: torch.Tensor

    def save(self, path: str | Path, summary: dict[str, Any]) -> None:
        """Write the mixture into a safetensors file, the lower Cholesky factors as float16.

        The factors, not the covariances: their entries span half as many orders of magnitude.

        Parameters
        ----------
        path : path
            The file; it is overwritten.
        summary : dict
            What should be known of the fit: anything that JSON can hold.
        """
        lower = torch.linalg.cholesky(self.covariances.double())
        rows, columns = torch.tril_indices(*self.covariances.shape[1:])
        tensors = {"weights": self.weights.float().contiguous(), "factors": lower[:, rows, columns].half().contiguous()}
        save_file(tensors, str(path), metadata={"network": "patch-prior", "summary": json.dumps(summary)})

    @classmethod
    def load(cls, path: str | Path | None = None) -> PatchPrior:
        """Read a mixture.

        Parameters
        ----------
        path : path, optional
            The file; by default the one that came with the package.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not a patch prior.
        """
        path = Path(path) if path is not None else Path(str(resources.files("ircdeblur") / "weights" / PATCH_PRIOR))
        if not path.is_file():
            raise FileNotFoundError(f"no weights: {path}")
        try:
            with safe_open(str(path), framework="pt") as file:
                if (file.metadata() or {}).get("network") != "patch-prior":
                    raise ValueError(f"not a patch prior: {path}")
                weights, factors = file.get_tensor("weights"), file.get_tensor("factors").float()
        except SafetensorError as error:
            raise ValueError(f"not a readable safetensors file: {path} ({error})") from error
        size = SIDE**2 - 1
        lower = torch.zeros(len(weights), size, size)
        rows, columns = torch.tril_indices(size, size)
        lower[:, rows, columns] = factors
        return cls(weights, lower @ lower.mT)


@lru_cache(maxsize=1)
def default_prior() -> PatchPrior:
    """Return the mixture that came with the package, read once."""
    return PatchPrior.load()
