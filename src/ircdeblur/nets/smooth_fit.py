"""A smooth field, of no camera in particular, fitted to vectors of unknown sign: a cubic polynomial of the place.

The six movements of a camera before a plane are quadratic; lenses, rolling shutters and scenes of some depth need more
freedom. Twenty parameters for the whole picture are still few enough to carry the motion into places that show nothing.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

DEGREE = 3

POWERS = tuple((i, j) for total in range(DEGREE + 1) for i in range(total, -1, -1) for j in (total - i,))
"""Exponents of x and y of the ten monomials, by their degree."""

_STEPS, _RIDGE = 20, 1e-4


def smooth_model(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return cubic polynomials as linear in their coefficients.

    Parameters
    ----------
    x, y : (N,) arrays
        As for `ircdeblur.nets.camera_fit.camera_model`.

    Returns
    -------
    design : (N, 2, 20) array
        Rows for u and v; the coefficients of u, in the order of `POWERS`, then those of v.
    """
    monomials = np.stack([x**i * y**j for i, j in POWERS], -1)
    return np.einsum("nk,ij->nijk", monomials, np.eye(2)).reshape(len(x), 2, -1)


def roughness(quadratic: float, cubic: float) -> np.ndarray:
    """Return the weights (20,) of the squares of the coefficients: 0 for what is constant or linear."""
    by_degree = (0.0, 0.0, quadratic, cubic)
    return np.array([by_degree[i + j] for i, j in POWERS] * 2)


def consistent_signs(motion: np.ndarray, error: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the vectors of a grid with signs by which neighbours agree.

    A sign is handed on along the tree of the pairs that agree most, in units of their errors: a smooth field without
    zeros has one sign, but for both at once.

    Parameters
    ----------
    motion : (n, 2) array
        Vectors of the cells, row by row; each may as well be its negative.
    error : (n,) array
        Expected error of each.
    shape : (int, int)
        Rows and columns.
    """
    cell = np.arange(len(motion)).reshape(shape)
    a = np.concatenate((cell[:-1].ravel(), cell[:, :-1].ravel()))
    b = np.concatenate((cell[1:].ravel(), cell[:, 1:].ravel()))
    if len(a) == 0:
        return motion
    agreement = np.abs((motion[a] * motion[b]).sum(-1)) / (error[a] * error[b])
    links = coo_matrix((1 / (1e-3 + agreement), (a, b)), (len(motion),) * 2)
    order, before = breadth_first_order(minimum_spanning_tree(links), int(error.argmin()), directed=False)
    signed = motion.copy()
    for i in order[1:]:
        if signed[i] @ signed[before[i]] < 0:
            signed[i] *= -1
    return signed


def fit_smooth(motion: np.ndarray, error: np.ndarray, design: np.ndarray, degree: int = DEGREE) -> np.ndarray:
    """Fit a polynomial to vectors whose signs are nearly right, by iteratively reweighted least squares.

    Parameters
    ----------
    motion : (n, 2) array
        Vectors; the sign of each is chosen anew in each step.
    error : (n,) array
        Expected error of each, in pixels.
    design : (n, 2, 20) array
        `smooth_model`.
    degree : int
        Coefficients of a higher degree are 0.

    Returns
    -------
    parameters : (20,) array
    """
    used = np.flatnonzero([i + j <= degree for i, j in POWERS] * 2)
    rows = design[:, :, used]
    squares = (rows.transpose(0, 2, 1) @ rows).reshape(len(rows), -1)
    weight = 1 / np.maximum(error, 0.25)
    w, least = weight**2, np.maximum(0.5, 0.5 * error)
    for _ in range(_STEPS):
        normal = (w @ squares).reshape(len(used), -1) + _RIDGE * w.sum() * np.eye(len(used))
        solved = np.linalg.solve(normal, np.einsum("n,nij,ni->j", w, rows, motion))
        model = rows @ solved
        motion = np.where((model * motion).sum(-1, keepdims=True) < 0, -motion, motion)
        w = weight / np.maximum(np.hypot(*(model - motion).T), least)
    parameters = np.zeros(design.shape[-1])
    parameters[used] = solved
    return parameters


def smooth_starts(
    answers: list[tuple[np.ndarray, np.ndarray]],
    design: np.ndarray,
    places: np.ndarray,
    shape: tuple[int, int],
    count: int,
    seed: int = 0,
) -> np.ndarray:
    """Return polynomials to start from: fits to all vectors of a grid, and to those of parts of it.

    Where a picture shows nothing the answers are wrong, and all alike: a fit that hardly believes them may be the only
    good one.

    Parameters
    ----------
    answers : list of (motion, error)
        Vectors (n, 2) and their expected errors (n,), from one or more sources.
    design : (n, 2, 20) array
        `smooth_model`.
    places : (n, 2) array
        Coordinates of the cells, as for `smooth_model`.
    shape : (int, int)
        Rows and columns of the grid.
    count : int
        Number of fits.
    seed : int
        Of the parts.

    Returns
    -------
    parameters : (count, 20) array
    """
    rng = np.random.default_rng(seed)
    found = []
    for k in range(count):
        motion, error = answers[k % len(answers)]
        round_ = k // len(answers)
        if round_ >= 2:
            near = np.square(places - places[rng.integers(len(places))]).sum(-1) < rng.uniform(0.3, 0.9) ** 2
            kind = k % 3
            if kind == 0:
                error = error * np.exp(rng.normal(size=len(error)))
            else:
                error = np.where(near, 8 * error, error) if kind == 1 else np.where(near, error, 4 * error)
        found.append(fit_smooth(consistent_signs(motion, error, shape), error, design, DEGREE - round_ % 2))
    return np.stack(found)
