"""The blurs as a physics of deepinv: the same method names, and what they mean, against dense matrices in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ircdeblur.data.camera import camera_shake
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.physics import BlurPhysics

SHAPE = (12, 14)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(boundary):
    psf = rand(3, 5, seed=7)
    return UniformBlur(psf / psf.sum(), boundary=boundary)


def moving(boundary):
    return MotionBlur(torch.from_numpy(camera_shake(SHAPE, 6.0, seed=3)).double(), boundary=boundary)


@pytest.fixture(params=[(make, b) for make in (uniform, moving) for b in ("extended", "reflect", "circular")])
def physics(request):
    make, boundary = request.param
    return BlurPhysics(make(boundary), max_iter=500, tol=1e-12)


def sharp_shape(physics):
    my, mx = physics.blur.margin
    return SHAPE[0] + 2 * my, SHAPE[1] + 2 * mx


def dense(physics):
    """The matrix of A, column by column."""
    n = int(np.prod(sharp_shape(physics)))
    basis = torch.eye(n, dtype=torch.float64).view(n, 1, *sharp_shape(physics))
    return torch.stack([physics.A(e[None]).flatten() for e in basis], 1)


def test_adjoint_and_products(physics):
    matrix = dense(physics)
    x, y = rand(2, 3, *sharp_shape(physics)), rand(2, 3, *SHAPE, seed=1)
    torch.testing.assert_close(physics(x), physics.A(x), atol=0, rtol=0)
    torch.testing.assert_close((physics.A(x) * y).sum(), (x * physics.A_adjoint(y)).sum())
    torch.testing.assert_close(physics.A_adjoint(y).flatten(2), y.flatten(2) @ matrix)
    torch.testing.assert_close(physics.A_adjoint_A(x).flatten(2), x.flatten(2) @ matrix.T @ matrix)
    torch.testing.assert_close(physics.A_A_adjoint(y).flatten(2), y.flatten(2) @ matrix @ matrix.T)


def test_vjp_is_that_of_autograd(physics):
    x, v = rand(1, 2, *sharp_shape(physics)).requires_grad_(), rand(1, 2, *SHAPE, seed=1)
    (expected,) = torch.autograd.grad(physics.A(x), x, v)
    torch.testing.assert_close(physics.A_vjp(x, v), expected)


@pytest.mark.parametrize("gamma", [0.1, 50.0, torch.tensor([0.5, 20.0])])
def test_prox_is_the_dense_solution(physics, gamma):
    matrix = dense(physics)
    z, y = rand(2, 3, *sharp_shape(physics)), rand(2, 3, *SHAPE, seed=1)
    found = physics.prox_l2(z, y, gamma)
    weights = gamma.tolist() if isinstance(gamma, torch.Tensor) else [gamma, gamma]
    for i, g in enumerate(weights):
        system = g * matrix.T @ matrix + torch.eye(matrix.shape[1], dtype=torch.float64)
        for c in range(3):
            right = g * matrix.T @ y[i, c].flatten() + z[i, c].flatten()
            expected = torch.linalg.solve(system, right)
            torch.testing.assert_close(found[i, c].flatten(), expected, atol=1e-8, rtol=0)


def test_dagger_is_the_solution_of_least_norm(physics):
    matrix = dense(physics)
    y = physics.A(rand(1, 1, *sharp_shape(physics)))
    found = physics.A_dagger(y, max_iter=5000, tol=1e-13)
    expected = torch.linalg.pinv(matrix, rtol=1e-10) @ y.flatten()
    # Directions that the blur nearly removes are found last.
    assert (physics.A(found) - y).abs().max() < 1e-6
    assert found.norm() <= expected.norm() * (1 + 1e-6)


def test_keywords_of_deepinv_pass():
    physics = BlurPhysics(uniform("circular"))
    z, y = rand(1, 1, *SHAPE), rand(1, 1, *SHAPE, seed=1)
    plain = physics.prox_l2(z, y, 2.0)
    torch.testing.assert_close(physics.prox_l2(z, y, 2.0, solver="CG", verbose=False), plain)
    torch.testing.assert_close(physics(z, filter=None), physics.A(z))


@pytest.mark.parametrize("make", [uniform, moving])
def test_plug_and_play(make):
    """A loop as deepinv's users write it, with a small blur as denoiser, brings a picture nearer to the sharp one."""
    physics = BlurPhysics(make("reflect"))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in SHAPE), indexing="ij")
    truth = ((rows // 4 + columns // 4) % 2)[None, None]
    y = physics(truth) + 0.005 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)).double()

    def denoise(x):
        return 0.9 * x + 0.1 * torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    x = physics.A_adjoint(y)
    for _ in range(8):
        gradient = physics.A_vjp(x, physics.A(x) - y)
        x = physics.prox_l2(denoise(x - gradient), y, gamma=50.0)
    assert (x - truth).norm() < 0.6 * (y - truth).norm()


def test_gradients_flow_through_the_prox():
    """As unrolled networks need; against finite differences."""
    physics = BlurPhysics(uniform("circular"), max_iter=200, tol=1e-12)
    z, y = rand(1, 1, *SHAPE), rand(1, 1, *SHAPE, seed=1)
    w, d = rand(1, 1, *SHAPE, seed=2), rand(1, 1, *SHAPE, seed=3)
    (slope,) = torch.autograd.grad((w * physics.prox_l2(z.requires_grad_(), y, 3.0)).sum(), z)
    with torch.no_grad():
        ends = [(w * physics.prox_l2(z + s * d, y, 3.0)).sum() for s in (1e-4, -1e-4)]
    torch.testing.assert_close((slope * d).sum(), (ends[0] - ends[1]) / 2e-4, atol=1e-6, rtol=1e-6)


def test_refusals():
    with pytest.raises(TypeError, match="UniformBlur or a MotionBlur"):
        BlurPhysics(torch.zeros(3))
    physics = BlurPhysics(uniform("circular"))
    with pytest.raises(ValueError, match="gamma must be positive"):
        physics.prox_l2(rand(1, 1, *SHAPE), rand(1, 1, *SHAPE), 0.0)
