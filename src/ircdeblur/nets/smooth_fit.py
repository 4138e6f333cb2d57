"""A smooth field, of no camera in particular, fitted to vectors of unknown sign: a cubic polynomial of the place.

The six movements of a camera before a plane are quadratic; lenses, rolling shutters and scenes of some depth need more
freedom. Twenty parameters for the whole picture are still few enough to carry the motion into places that show nothing.
"""

from __future__ import annotations

import numpy as np
import torch
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
    motion : (..., n, 2) array
        Vectors of the cells, row by row, of one grid or more; each may as well be its negative.
    error : (..., n) array
        Expected error of each.
    shape : (int, int)
        Rows and columns.
    """
    n = error.shape[-1]
    cell = np.arange(n).reshape(shape)
    a = np.concatenate((cell[:-1].ravel(), cell[:, :-1].ravel()))
    b = np.concatenate((cell[1:].ravel(), cell[:, 1:].ravel()))
    if len(a) == 0:
        return motion
    vectors, errors = motion.reshape(-1, n, 2), error.reshape(-1, n)
    agreement = np.abs((vectors[:, a] * vectors[:, b]).sum(-1)) / (errors[:, a] * errors[:, b])
    # One graph of all grids, their roots joined by one node more, is one call in place of many.
    first = np.arange(len(vectors)) * n
    roots, joint = first + errors.argmin(-1), vectors.shape[0] * n
    ends = [np.concatenate(((first[:, None] + end).ravel(), roots)) for end in (a, b)]
    ends[1][-len(roots) :] = joint
    weight = np.concatenate((1 / (1e-3 + agreement.clip(max=1e9)).ravel(), np.ones(len(roots))))
    links = coo_matrix((weight, tuple(ends)), (joint + 1,) * 2)
    before = breadth_first_order(minimum_spanning_tree(links), joint, directed=False)[1][:joint]
    before[roots] = roots
    flat = vectors.reshape(-1, 2)
    sign = np.where((flat * flat[before]).sum(-1) < 0, -1.0, 1.0)
    # The product of the signs on the way to the root: each round skips twice as far ahead.
    for _ in range(n.bit_length()):
        sign, before = sign * sign[before], before[before]
    signed: np.ndarray = (flat * sign[:, None]).reshape(motion.shape)
    return signed


def fit_smooth(motion: np.ndarray, error: np.ndarray, design: np.ndarray, degree: int = DEGREE) -> np.ndarray:
    """Fit polynomials to vectors whose signs are nearly right, by iteratively reweighted least squares.

    Parameters
    ----------
    motion : (..., n, 2) array
        Vectors; the sign of each is chosen anew in each step.
    error : (..., n) array
        Expected error of each, in pixels.
    design : (n, 2, 20) array
        `smooth_model`.
    degree : int
        Coefficients of a higher degree are 0.

    Returns
    -------
    parameters : (..., 20) array
    """
    used = np.flatnonzero([i + j <= degree for i, j in POWERS] * 2)
    n, k = len(design), len(used)
    # By torch, whose threads are told how many they are.
    rows = torch.from_numpy(design[:, :, used])
    squares = (rows.mT @ rows).view(n, k * k)
    rows = rows.view(2 * n, k)
    vectors, errors = torch.from_numpy(motion).view(-1, n, 2), torch.from_numpy(error).view(-1, n)
    weight = 1 / errors.clamp(min=0.25)
    w, least = weight**2, (0.5 * errors).clamp(min=0.5)
    for _ in range(_STEPS):
        normal = (w @ squares).view(-1, k, k) + _RIDGE * w.sum(-1)[:, None, None] * torch.eye(k, dtype=w.dtype)
        solved = torch.linalg.solve(normal, (w[..., None] * vectors).flatten(1) @ rows)
        model = (solved @ rows.T).view(vectors.shape)
        vectors = torch.where((model * vectors).sum(-1, keepdim=True) < 0, -vectors, vectors)
        w = weight / torch.maximum(torch.hypot(*(model - vectors).unbind(-1)), least)
    parameters = np.zeros((*error.shape[:-1], design.shape[-1]))
    parameters[..., used] = solved.view(*error.shape[:-1], k).numpy()
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
    vectors, errors = np.zeros((count, len(places), 2)), np.zeros((count, len(places)))
    degrees = DEGREE - np.arange(count) // len(answers) % 2
    for k in range(count):
        motion, error = answers[k % len(answers)]
        if k >= 2 * len(answers):
            near = np.square(places - places[rng.integers(len(places))]).sum(-1) < rng.uniform(0.3, 0.9) ** 2
            kind = k % 3
            if kind == 0:
                error = error * np.exp(rng.normal(size=len(error)))
            else:
                error = np.where(near, 8 * error, error) if kind == 1 else np.where(near, error, 4 * error)
        vectors[k], errors[k] = motion, error
    vectors = consistent_signs(vectors, errors, shape)
    parameters = np.zeros((count, design.shape[-1]))
    for degree in np.unique(degrees):
        alike = degrees == degree
        parameters[alike] = fit_smooth(vectors[alike], errors[alike], design, int(degree))
    return parameters
