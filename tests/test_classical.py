"""Wiener filter, Richardson-Lucy and Laplacian least squares, against scikit-image, dense matrices and closed forms."""

import numpy as np
import pytest
import torch
from skimage import restoration

from ircdeblur.data.camera import camera_shake
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.classical import (
    conjugate_gradients,
    laplacian,
    laplacian_minimiser,
    laplacian_residual,
    laplacian_weight,
    richardson_lucy,
    richardson_lucy_residual,
    search_weight,
    wiener,
)
from ircdeblur.solvers.domain import ExtendedDomain, Observation

SOLVERS = {"wiener": wiener, "richardson-lucy": richardson_lucy, "laplacian": laplacian}


def picture(height, width, dtype=torch.float64):
    """A piece of a photograph, (1, 3, height, width)."""
    import skimage.data

    piece = skimage.data.astronaut()[20 : 20 + height, 150 : 150 + width] / 255.0
    return torch.from_numpy(piece).permute(2, 0, 1)[None].to(dtype)


def decibels(x, truth):
    return float((x - truth).square().mean().log10() * -10)


def blurred(kind, noise, seed=5):
    """A blur, a noisy picture that it blurred, and the truth."""
    if kind == "uniform":
        blur = UniformBlur(torch.from_numpy(linear_motion_kernel(9, 30)).float())
    else:
        blur = MotionBlur(torch.from_numpy(camera_shake((140, 150), 10.0, seed=1)))
    my, mx = blur.margin
    sharp = picture(140 + 2 * my, 150 + 2 * mx, torch.float32)
    y = blur.A(sharp)
    y = y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
    return blur, y, sharp[..., my : my + 140, mx : mx + 150]


def dense(blur, domain):
    """Matrix of a blur of one-channel images."""
    unit = torch.eye(domain[0] * domain[1], dtype=torch.float64).view(-1, 1, *domain)
    return torch.stack([blur.A(u[None]).flatten() for u in unit], 1).numpy()


def lopsided(length, angle):
    """A kernel that its mirror image is not: a mistaken transpose would show."""
    psf = linear_motion_kernel(length, angle) * np.linspace(0.2, 1.8, linear_motion_kernel(length, angle).shape[1])
    return UniformBlur(torch.from_numpy(psf / psf.sum()))


def small_motion():
    """A blur of 7 x 8 px whose motion differs from place to place."""
    motion = torch.tensor([4.0, -2.0], dtype=torch.float64).repeat(7, 8, 1)
    motion[:, 4:] = torch.tensor([0.0, 3.0])
    blur = MotionBlur(motion)
    return blur, (7 + 2 * blur.margin[0], 8 + 2 * blur.margin[1])


@pytest.mark.parametrize("kind", ["uniform", "motion"])
@pytest.mark.parametrize(("method", "gain"), [("wiener", 2.6), ("richardson-lucy", 2.6), ("laplacian", 3.2)])
def test_restores(method, gain, kind):
    """Measured: 2.8 to 3.1 dB, laplacian 3.5 and 3.8; what is left is for another machine's rounding."""
    blur, y, truth = blurred(kind, 0.01)
    x = SOLVERS[method](y, blur, 0.01)
    assert x.shape == y.shape
    assert x.dtype == torch.float32
    assert decibels(x, truth) > decibels(y, truth) + gain


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("noise", [0.004, 0.03])
def test_defaults_follow_the_noise(method, noise):
    """The settings of the true noise beat those of one far from it."""
    blur, y, truth = blurred("uniform", noise)
    right, wrong = (SOLVERS[method](y, blur, n) for n in (noise, 0.12 * 1e-3 / noise))
    assert decibels(right, truth) > decibels(wrong, truth) + 0.3


@pytest.mark.parametrize("kind", ["uniform", "motion"])
@pytest.mark.parametrize("method", SOLVERS)
def test_images_of_a_batch_do_not_meet(method, kind):
    blur, y, _ = blurred(kind, 0.01)
    other = y.flip(-1) * 0.5
    together = SOLVERS[method](torch.cat((y, other)), blur, 0.01)
    alone = torch.cat([SOLVERS[method](image, blur, 0.01) for image in (y, other)])
    # Single precision over some tens of steps; a shared step size or an early end would differ by 1e-2.
    torch.testing.assert_close(together, alone, atol=5e-4, rtol=0)


def test_wiener_is_scikit_images():
    """With a constant ratio, on a picture that fades to black, where borders play no part."""
    window = torch.hann_window(128, periodic=False, dtype=torch.float64)
    sharp = picture(128, 128)[:, :1] * window * window[:, None]
    blur = lopsided(7, 20)
    my, mx = blur.margin
    y = blur.A(torch.nn.functional.pad(sharp, (mx, mx, my, my)))
    found = wiener(y, blur, 0.1, weight=3.0, decay=0.0)
    impulse = np.zeros((3, 3))
    impulse[1, 1] = 1
    expected = restoration.wiener(y[0, 0].numpy(), blur.psf.numpy(), 3.0 * 0.1**2, reg=impulse, clip=False)
    # The filter's response beyond the frame wraps at another period; without the ratio they differ by 0.2.
    np.testing.assert_allclose(found[0, 0], expected, atol=2e-3)


def test_tiled_wiener_of_one_motion_is_the_uniform_one():
    sharp = picture(170, 180, torch.float32)
    motion = torch.tensor([6.0, -3.0])
    length, angle = float(motion.norm()), float(torch.rad2deg(torch.atan2(-motion[1], motion[0])))
    tiled = MotionBlur(motion.expand(140, 150, 2).contiguous(), margin=(15, 15))
    uniform = UniformBlur(torch.from_numpy(linear_motion_kernel(length, angle)).float(), margin=(15, 15))
    y = tiled.A(sharp)
    inside = (..., slice(30, -30), slice(30, -30))
    found, expected = (wiener(y, blur, 0.02)[inside] for blur in (tiled, uniform))
    # Each tile is cut 48 px beyond its window, where the filter's response is some hundredths.
    assert (found - expected).square().mean().sqrt() < 0.005
    assert (y[inside] - expected).square().mean().sqrt() > 0.02


def test_richardson_lucy_is_scikit_images_inside():
    blur = lopsided(5, 30)
    my, mx = blur.margin
    y = blur.A(picture(100 + 2 * my, 100 + 2 * mx)[:, :1])
    found = richardson_lucy(y, blur, 0.01, iterations=8, residual=0.0, accelerate=False)
    expected = restoration.richardson_lucy(y[0, 0].numpy(), blur.psf.numpy(), num_iter=8, clip=False)
    # A step looks two half kernels far: 8 steps of 2 * 2 px leave the middle untouched by the borders.
    inside = (slice(33, -33), slice(33, -33))
    np.testing.assert_allclose(found[0, 0].numpy()[inside], expected[inside], atol=1e-9)
    assert np.abs(found[0, 0].numpy() - expected).max() > 0.1


@pytest.mark.parametrize("hide", [False, True])
def test_richardson_lucy_is_the_dense_em_iteration(hide):
    """Borders and mask: x <- x A'(m y / A x) / A' m with matrices."""
    blur, domain = small_motion()
    matrix = dense(blur, domain)
    rng = np.random.default_rng(7)
    y = rng.uniform(0.1, 1, 56)
    mask = np.ones(56)
    if hide:
        mask[20:30] = 0
    x = np.ones(domain[0] * domain[1])
    seen = matrix.T @ mask
    for _ in range(5):
        update = matrix.T @ (mask * y / (matrix @ x))
        x = np.where(seen > 1e-12, x * update / np.where(seen > 1e-12, seen, 1), x)
    found = richardson_lucy(
        torch.from_numpy(y).view(1, 1, 7, 8),
        blur,
        0.01,
        iterations=5,
        residual=0.0,
        accelerate=False,
        mask=torch.from_numpy(mask).view(1, 1, 7, 8),
    )
    my, mx = blur.margin
    expected = x.reshape(domain)[my : my + 7, mx : mx + 8]
    # The EM iteration forgets a constant start's scale after one step, except where nothing was seen.
    visible = (seen > 1e-3).reshape(domain)[my : my + 7, mx : mx + 8]
    np.testing.assert_allclose(found[0, 0].numpy()[visible], expected[visible], rtol=1e-5)


def test_richardson_lucy_ends_at_the_residual():
    blur, y, _ = blurred("uniform", 0.01)
    target = richardson_lucy_residual(0.01)
    assert 0.7 * 0.01 < target < 0.01
    short, default = (richardson_lucy(y, blur, 0.01, iterations=n) for n in (60, None))
    torch.testing.assert_close(short, default)  # the residual has ended it, not the number
    longer = richardson_lucy(y, blur, 0.01, iterations=60, residual=0.0)
    assert (longer - default).abs().max() > 0.1
    assert default.min() > 0


def test_acceleration_is_ahead():
    """As many steps, a likelihood that is closer to the end: the residual without noise falls faster."""
    blur, y, truth = blurred("uniform", 0.0)
    plain, fast = (
        richardson_lucy(y, blur, 0.0, iterations=20, residual=0.0, accelerate=flag) for flag in (False, True)
    )
    assert decibels(fast, truth) > decibels(plain, truth) + 1.0


def test_laplacian_is_the_dense_minimiser():
    blur, domain = small_motion()
    n = domain[0] * domain[1]
    matrix = dense(blur, domain)
    rng = np.random.default_rng(8)
    y = rng.normal(size=56)
    mask = np.ones(56)
    mask[10:14] = 0
    # The five-point Laplacian of a picture that is mirrored at its rim, each pixel by its neighbours.
    smooth = np.zeros((n, n))
    for row in range(domain[0]):
        for column in range(domain[1]):
            for down, across in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= row + down < domain[0] and 0 <= column + across < domain[1]:
                    here = row * domain[1] + column
                    smooth[here, here] += 1
                    smooth[here, (row + down) * domain[1] + column + across] -= 1
    weight = 0.05
    rows = np.concatenate((matrix * mask[:, None], weight**0.5 * smooth))
    expected = np.linalg.lstsq(rows, np.concatenate((y * mask, np.zeros(n))), rcond=None)[0].reshape(domain)
    image, hidden = (torch.from_numpy(a).view(1, 1, 7, 8) for a in (y, mask))
    found = laplacian(image, blur, 0.01, weight=weight, steps=3000, tolerance=1e-12, mask=hidden)
    my, mx = blur.margin
    # What is left is the rounding of a system of condition 1e5.
    np.testing.assert_allclose(found[0, 0], expected[my : my + 7, mx : mx + 8], atol=1e-6)


def test_default_steps_are_enough():
    blur, y, _ = blurred("uniform", 0.01)
    quick, exact = (
        laplacian(y, blur, 0.01, weight=0.005, **given) for given in ({}, {"steps": 600, "tolerance": 1e-8})
    )
    # Measured: 60 dB. The picture itself is restored to some 28 dB.
    assert decibels(quick, exact) > 55


@pytest.mark.parametrize("kind", ["uniform", "motion"])
def test_weights_leave_the_residual_asked_for(kind):
    """Of a textured and a faint picture in one batch, each with a weight of its own (measured: 2.4 times apart)."""
    blur, y, _ = blurred(kind, 0.01)
    noise = 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(6))
    both = torch.cat((y, 0.2 * y.mean() + 0.02 * y + noise))
    domain = ExtendedDomain(Observation(both), blur)
    weight, start = search_weight(domain, laplacian_weight(0.01), laplacian_residual(0.01), 60)
    assert float(weight[1]) > 1.5 * float(weight[0])
    x = laplacian_minimiser(domain, weight, start, 200, 1e-6)
    found = domain.residual(x).square().mean((1, 2, 3)).sqrt()
    # A third of an octave changes the residual by some 4 % (measured on photographs: 12 to 17 % an octave).
    assert found.tolist() == pytest.approx([laplacian_residual(0.01)] * 2, rel=0.06)


@pytest.mark.parametrize("kind", ["uniform", "motion"])
@pytest.mark.parametrize("method", ["richardson-lucy", "laplacian"])
def test_hidden_pixels_do_not_matter(method, kind):
    blur, y, _ = blurred(kind, 0.005)
    mask = torch.ones(1, 1, *y.shape[-2:])
    mask[..., 60:66, 60:66] = 0
    spoiled = torch.where(mask > 0, y, 1 - y)
    kept, other = (SOLVERS[method](image, blur, 0.005, mask=mask) for image in (y, spoiled))
    lost = SOLVERS[method](spoiled, blur, 0.005)
    # Conjugate gradients start from the picture; 1 % of what the pixels do unmasked is left to their last steps.
    assert (kept - other).square().mean() < 1e-2 * (kept - lost).square().mean()


def test_conjugate_gradients_solves_each_image():
    """Oracle: numpy. One image of the batch is solved at the start, and stays finite and as it is."""
    rng = np.random.default_rng(9)
    factor = rng.normal(size=(12, 12))
    matrix = torch.from_numpy(factor @ factor.T + np.eye(12))
    right = torch.from_numpy(rng.normal(size=(2, 1, 3, 4)))
    right[1] = 0

    def normal(x):
        return (x.flatten(1) @ matrix).view_as(x)

    for precondition in (None, lambda x: (x.flatten(1) / matrix.diagonal()).view_as(x)):
        x = conjugate_gradients(normal, right, torch.zeros_like(right), 100, 1e-12, precondition)
        expected = np.linalg.solve(matrix.numpy(), right[0].flatten().numpy())
        np.testing.assert_allclose(x[0].flatten(), expected, atol=1e-9)
        assert (x[1] == 0).all()


@pytest.mark.parametrize("method", SOLVERS)
def test_refuses(method):
    blur = UniformBlur(torch.ones(1, 3) / 3)
    y = torch.rand(1, 1, 9, 9)
    solve = SOLVERS[method]
    with pytest.raises(ValueError, match=r"B, C, H, W"):
        solve(y[0], blur, 0.01)
    with pytest.raises(ValueError, match="NaN"):
        solve(y * float("nan"), blur, 0.01)
    with pytest.raises(ValueError, match="noise"):
        solve(y, blur, -0.01)
    with pytest.raises(ValueError, match="noise"):
        solve(y, blur, float("nan"))
    with pytest.raises(ValueError, match="extended"):
        solve(y, UniformBlur(torch.ones(1, 3) / 3, boundary="circular"), 0.01)
    with pytest.raises(ValueError, match="mask"):
        solve(y, blur, 0.01, mask=torch.ones(9, 9))
    if method != "wiener":
        with pytest.raises(ValueError, match="mask"):
            solve(y, blur, 0.01, mask=torch.zeros(1, 1, 9, 9))
        with pytest.raises(ValueError, match="mask"):
            solve(y, blur, 0.01, mask=torch.full((1, 1, 9, 9), 2.0))


def test_refuses_settings():
    blur = UniformBlur(torch.ones(1, 3) / 3)
    y = torch.rand(1, 1, 9, 9)
    with pytest.raises(ValueError, match="cannot use a mask"):
        wiener(y, blur, 0.01, mask=torch.ones(1, 1, 9, 9))
    with pytest.raises(ValueError, match="weight"):
        wiener(y, blur, 0.01, weight=0.0)
    with pytest.raises(ValueError, match="weight"):
        laplacian(y, blur, 0.01, weight=-1.0)
    with pytest.raises(ValueError, match="iterations"):
        richardson_lucy(y, blur, 0.01, iterations=0)
    with pytest.raises(ValueError, match="residual"):
        richardson_lucy(y, blur, 0.01, residual=-1.0)


def test_settings_of_a_picture_without_noise_are_finite():
    assert laplacian_weight(0.0) == laplacian_weight(0.002) > 0
    assert 0 < richardson_lucy_residual(0.0) < 0.002
    assert 0 < laplacian_residual(0.0) < 0.002
    assert laplacian_residual(0.3) == 0.3
