"""Fit of the patch prior of EPLL: ``python -m ircdeblur.training.patch_prior --data DIR --seed 0 -o FILE``.

Expectation-maximisation on luminance patches of the photographs in DIR/train, on samples that grow from stage to stage;
the log-likelihood on patches of DIR/val is reported and decides nothing.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from ircdeblur.data.photos import LUMA, list_photos, load_photo
from ircdeblur.solvers.patch_prior import SIDE, PatchPrior, patch_basis

STAGES = ((60_000, 20), (200_000, 15), (600_000, 7))
"""Number of patches and of iterations of each stage: most of the way is gone on the small samples."""

ROUNDING = 2e-6
"""Variance added to each coefficient: 8-bit rounding alone has (1/255)^2 / 12 = 1.3e-6."""


SHRINKAGE = 20
"""A few patches do not determine a covariance: the average over all of them, scaled, counts as so many more."""


class ZeroMeanMixture(GaussianMixture):
    """scikit-learn's Gaussian mixture with all means held at zero.

    Its maximisation step is replaced: covariances are second moments, of the patches only that a component is
    responsible for to more than 1e-3. Nearly all responsibilities are below that, so the step costs little.
    """

    def _m_step(self, X: np.ndarray, log_resp: np.ndarray, **_: Any) -> None:
        covariances = np.empty((self.n_components, X.shape[1], X.shape[1]))
        pooled = X.T @ X
        weights = np.empty(self.n_components)
        for k in range(self.n_components):
            rows = np.flatnonzero(log_resp[:, k] > np.log(1e-3))
            share = np.exp(log_resp[rows, k]).astype(X.dtype)
            chosen = X[rows]
            weights[k] = share.sum(dtype=np.float64) + 10 * np.finfo(X.dtype).eps
            covariances[k] = shrunk((chosen.T * share) @ chosen / weights[k], float(weights[k]), pooled, self.reg_covar)
        self.weights_ = (weights / weights.sum()).astype(X.dtype)
        self.means_ = np.zeros((self.n_components, X.shape[1]), X.dtype)
        # In double precision: single fails for components whose smallest variance is a millionth of the largest.
        factors = np.linalg.inv(np.linalg.cholesky(covariances)).transpose(0, 2, 1)
        self.covariances_ = covariances.astype(X.dtype)
        self.precisions_cholesky_ = np.ascontiguousarray(factors, X.dtype)


def shrunk(covariance: np.ndarray, count: float, pooled: np.ndarray, floor: float) -> np.ndarray:
    """Return the covariance (63, 63) of `count` patches, drawn towards the shape of `pooled` as `SHRINKAGE` says."""
    target = pooled * (np.trace(covariance) / np.trace(pooled))
    return (count * covariance + SHRINKAGE * target) / (count + SHRINKAGE) + floor * np.eye(len(pooled))


def sample_patches(paths: list[Path], count: int, rng: np.random.Generator) -> np.ndarray:
    """Cut patches from random places of photographs, equally many of each.

    Parameters
    ----------
    paths : list of paths
        Photographs.
    count : int
        Number of patches in all.
    rng : numpy Generator
        Chooses the places and the order.

    Returns
    -------
    patches : (count, 63) float32 array
        Coefficients of the luminance in [0, 1], see `patch_basis`; in random order.
    """
    basis = patch_basis().astype(np.float32)
    parts = []
    for path, share in zip(paths, np.diff(np.linspace(0, count, len(paths) + 1).astype(int)), strict=True):
        luma = load_photo(path).astype(np.float32) @ np.asarray(LUMA, np.float32) / 255
        windows = np.lib.stride_tricks.sliding_window_view(luma, (SIDE, SIDE))
        rows, columns = (rng.integers(n, size=share) for n in windows.shape[:2])
        parts.append(windows[rows, columns].reshape(share, -1) @ basis.T)
    return rng.permutation(np.concatenate(parts))


def clusters(patches: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Group patches by how strong and how directed they are: k-means of the logarithm of their power spectra.

    Parameters
    ----------
    patches : (N, 63) float32 array
        Coefficients in `patch_basis`.
    count : int
        Number of groups.
    seed : int
        Of the k-means.

    Returns
    -------
    labels : (N,) int array
    """
    pixels = (patches @ patch_basis().astype(np.float32)).reshape(-1, SIDE, SIDE)
    window = np.hanning(SIDE + 2)[1:-1].astype(np.float32)
    spectra = np.fft.rfft2(pixels * window * window[:, None])
    # The floor is what 8-bit rounding contributes.
    features = np.log(np.square(np.abs(spectra)) + 1e-5).reshape(len(patches), -1).astype(np.float32)
    return np.asarray(MiniBatchKMeans(count, random_state=seed, batch_size=4096, n_init=1).fit_predict(features))


def fit_patch_prior(
    train: list[Path],
    held_out: list[Path],
    seed: int = 0,
    components: int = 200,
    stages: tuple[tuple[int, int], ...] = STAGES,
    report: Callable[[str], None] = print,
) -> tuple[PatchPrior, dict[str, Any]]:
    """Fit the mixture.

    Parameters
    ----------
    train, held_out : list of paths
        Photographs to fit to and to measure the log-likelihood on.
    seed : int
        Of the patches' places and of the first clusters.
    components : int
        Number of Gaussians.
    stages : tuple of (int, int)
        Number of patches and of iterations of each stage.
    report : callable
        Called with a line of text at times.

    Returns
    -------
    prior : PatchPrior
    summary : dict
        Patches, minutes, mean log-likelihood per patch in nats on both sets.
    """
    began = time.perf_counter()
    rng = np.random.default_rng(seed)
    patches = sample_patches(train, max(n for n, _ in stages), rng)
    test = sample_patches(held_out, 50_000, rng)
    report(f"{len(patches)} patches of {len(train)} photographs, {time.perf_counter() - began:.0f} s")

    first = patches[: stages[0][0]]
    labels = clusters(first, components, seed)
    members = [first[labels == k].astype(np.float64) for k in range(components)]
    size = patches.shape[1]
    pooled = first.T.astype(np.float64) @ first
    covariances = np.stack([shrunk(m.T @ m / max(len(m), 1), len(m), pooled, ROUNDING) for m in members])
    precisions = np.linalg.inv(covariances)
    mixture = ZeroMeanMixture(
        components,
        weights_init=np.array([len(m) + 1 for m in members]) / (len(first) + components),
        means_init=np.zeros((components, size)),
        precisions_init=(precisions + precisions.transpose(0, 2, 1)) / 2,
        reg_covar=ROUNDING,
        tol=0.0,
        warm_start=True,
        random_state=seed,
    )
    for count, iterations in stages:
        mixture.set_params(max_iter=iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is chosen
            mixture.fit(patches[:count])
        likelihood = float(mixture.score(test))
        report(
            f"{count} patches, {iterations} iterations: log-likelihood {mixture.lower_bound_:.2f}, "
            f"held out {likelihood:.2f}, {(time.perf_counter() - began) / 60:.1f} min"
        )
    summary = {
        "photographs": len(train),
        "patches": len(patches),
        "stages": [list(s) for s in stages],
        "seed": seed,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "log-likelihood": round(float(mixture.lower_bound_), 2),
        "log-likelihood, held out": round(likelihood, 2),
    }
    order = np.argsort(-mixture.weights_)
    return PatchPrior(
        torch.from_numpy(mixture.weights_[order].astype(np.float32)),
        torch.from_numpy(mixture.covariances_[order].astype(np.float32)),
    ), summary


def main(arguments: list[str] | None = None) -> None:
    """Fit the mixture and write it."""
    parser = argparse.ArgumentParser(prog="python -m ircdeblur.training.patch_prior", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the folders train and val")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True, help="safetensors file")
    given = parser.parse_args(arguments)
    train, held_out = (list_photos(given.data / name) for name in ("train", "val"))
    prior, summary = fit_patch_prior(train, held_out, given.seed, report=lambda line: print(line, flush=True))
    prior.save(given.out, {**summary, "command": f"{parser.prog} --data DIR --seed {given.seed}"})


if __name__ == "__main__":
    main()
