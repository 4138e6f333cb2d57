"""A camera's motion fitted to vectors of unknown sign."""

from __future__ import annotations

import numpy as np

_VECTORS = 800
_STARTS = 400
_REFINED = 8
_STEPS = 15


def camera_model(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the motion of a camera before a distant or plane scene as linear in six parameters.

    Translation along three axes and rotation about three; the unknown focal length is absorbed, as it only scales the
    parameters.

    Parameters
    ----------
    x, y : (N,) arrays
        Coordinates from the middle of the picture, in units of about half its size.

    Returns
    -------
    design : (N, 2, 6) array
        Rows for u and v.
    """
    one, zero = np.ones_like(x), np.zeros_like(x)
    u = np.stack((one, zero, x, y, x * y, x * x), -1)
    v = np.stack((zero, one, y, -x, y * y, x * y), -1)
    return np.stack((u, v), axis=1)


def fit_camera(
    motion: np.ndarray, error: np.ndarray, x: np.ndarray, y: np.ndarray, count: int = 1, seed: int = 0
) -> np.ndarray:
    """Fit the camera model to vectors of unknown sign.

    Random minimal samples (three vectors, signs at random) give starts; the best are refined by iteratively reweighted
    least squares, where the sign of each vector is chosen anew in each step.

    Parameters
    ----------
    motion : (N, 2) array
        Vectors in pixels; each may as well be its negative.
    error : (N,) array
        Expected error of each, in pixels.
    x, y : (N,) arrays
        As for `camera_model`.
    count : int
        Largest number of answers: local optima that differ by more than a pixel, the best first.
    seed : int
        Of the random samples.

    Returns
    -------
    parameters : (at most count, 6) array
        Of `camera_model`.
    """
    rng = np.random.default_rng(seed)
    weight = 1.0 / np.maximum(error, 0.25)
    if len(x) > _VECTORS:
        # Neighbouring answers are much the same: some of them say as much as all.
        some = rng.choice(len(x), size=_VECTORS, replace=False, p=weight / weight.sum())
        motion, error, x, y, weight = motion[some], error[some], x[some], y[some], weight[some]
    design = camera_model(x, y)
    chance = weight / weight.sum()

    def distances(parameters: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        model = np.einsum("nij,kj->kni", rows, parameters)
        plus = np.square(model - vectors).sum(-1)
        minus = np.square(model + vectors).sum(-1)
        return np.sqrt(np.minimum(plus, minus))

    def ridge(a: np.ndarray, b: np.ndarray, amount: float) -> np.ndarray:
        # Fast changes across the picture are rarer than plain shifts.
        penalty = amount * np.array([0.0, 0.0, 1.0, 1.0, 3.0, 3.0]) + 1e-9
        return np.linalg.solve(a + penalty * np.eye(6), b[..., None])[..., 0]

    picks = rng.choice(len(x), size=(_STARTS, 3), p=chance)
    signs = rng.choice((-1.0, 1.0), size=(_STARTS, 3, 1))
    rows = design[picks].reshape(_STARTS, 6, 6)
    values = (motion[picks] * signs).reshape(_STARTS, 6)
    starts = ridge(rows.transpose(0, 2, 1) @ rows, np.einsum("kij,ki->kj", rows, values), 1e-3)
    # Plain shifts in the directions that the vectors have.
    shifts = np.zeros((16, 6))
    shifts[:, :2] = motion[rng.choice(len(x), size=16, p=chance)]
    starts = np.concatenate((starts, shifts))
    sample = rng.choice(len(x), size=min(len(x), 400), replace=False)
    cost = (weight[sample] * np.minimum(distances(starts, design[sample], motion[sample]), 12.0)).sum(-1)
    found: list[tuple[float, np.ndarray]] = []
    for start in starts[np.argsort(cost)[:_REFINED]]:
        parameters = start
        for _ in range(_STEPS):
            model = design @ parameters
            signed = np.where((model * motion).sum(-1, keepdims=True) < 0, -motion, motion)
            away = np.sqrt(np.square(model - signed).sum(-1))
            w = weight / np.maximum(away, np.maximum(0.5, 0.5 * error))
            a = np.einsum("n,nij,nik->jk", w, design, design)
            b = np.einsum("n,nij,ni->j", w, design, signed)
            parameters = ridge(a, b, 1e-3 * w.sum())
        distance = distances(parameters[None], design, motion)[0]
        found.append((float((weight * np.minimum(distance, 12.0)).sum()), parameters))
    distinct: list[np.ndarray] = []
    for _, parameters in sorted(found, key=lambda pair: pair[0]):
        model = design @ parameters
        if all(distances(other[None], design, model)[0].mean() > 1.0 for other in distinct):
            distinct.append(parameters)
    return np.stack(distinct[:count])
