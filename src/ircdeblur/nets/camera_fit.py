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
    # What the squares of the distances and the normal equations are made of.
    along = np.einsum("nij,ni->nj", design, motion)
    squares = (design.transpose(0, 2, 1) @ design).reshape(-1, 36)
    long = np.square(motion).sum(-1)

    def distances(parameters: np.ndarray, chosen: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (k, n) of models from the vectors, and the signs of these that are nearer."""
        dot = parameters @ along[chosen].T
        outer = (parameters[:, :, None] * parameters[:, None]).reshape(-1, 36)
        squared = outer @ squares[chosen].T + long[chosen] - 2 * np.abs(dot)
        return np.sqrt(np.maximum(squared, 0.0)), np.where(dot < 0, -1.0, 1.0)

    def ridge(a: np.ndarray, b: np.ndarray, amount: np.ndarray | float) -> np.ndarray:
        # Fast changes across the picture are rarer than plain shifts.
        penalty = amount * np.diag([0.0, 0.0, 1.0, 1.0, 3.0, 3.0]) + 1e-9 * np.eye(6)
        return np.linalg.solve(a + penalty, b[..., None])[..., 0]

    picks = rng.choice(len(x), size=(_STARTS, 3), p=chance)
    signs = rng.choice((-1.0, 1.0), size=(_STARTS, 3, 1))
    rows = design[picks].reshape(_STARTS, 6, 6)
    values = (motion[picks] * signs).reshape(_STARTS, 6)
    turned = rows.transpose(0, 2, 1)
    starts = ridge(turned @ rows, (turned @ values[..., None])[..., 0], 1e-3)
    # Plain shifts in the directions that the vectors have.
    shifts = np.zeros((16, 6))
    shifts[:, :2] = motion[rng.choice(len(x), size=16, p=chance)]
    starts = np.concatenate((starts, shifts))
    sample = rng.choice(len(x), size=min(len(x), 400), replace=False)
    cost = np.minimum(distances(starts, sample)[0], 12.0) @ weight[sample]
    parameters = starts[np.argsort(cost)[:_REFINED]]
    every, least = slice(None), np.maximum(0.5, 0.5 * error)
    for _ in range(_STEPS):
        away, sign = distances(parameters, every)
        w = weight / np.maximum(away, least)
        amount = 1e-3 * w.sum(1)[:, None, None]
        parameters = ridge((w @ squares).reshape(-1, 6, 6), (w * sign) @ along, amount)
    cost = np.minimum(distances(parameters, every)[0], 12.0) @ weight
    distinct: list[np.ndarray] = []
    for answer in parameters[np.argsort(cost)]:
        model = design @ answer
        if all(_apart(design @ other, model).mean() > 1.0 for other in distinct):
            distinct.append(answer)
    return np.stack(distinct[:count])


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the distances between vectors of unknown sign."""
    return np.sqrt(np.minimum(np.square(one - other).sum(-1), np.square(one + other).sum(-1)))
