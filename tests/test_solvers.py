"""Shrinkage, filtering, x-updates and ADMM, against closed forms and dense solutions."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import skimage.data
import torch
from scipy import ndimage, optimize

from ircdeblur.data.camera import camera_shake
from ircdeblur.inverse import InverseBank
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers import METHODS, Settings, compensation, deconvolve, estimate_noise, prior_weight, shrink
from ircdeblur.solvers.admm import admm, difference, difference_adjoint
from ircdeblur.solvers.cg import ConjugateGradients
from ircdeblur.solvers.color import from_opponent, to_opponent
from ircdeblur.solvers.compensation import MotionCompensation, UniformCompensation, local_inverse
from ircdeblur.solvers.domain import Observation
from ircdeblur.solvers.filtering import BankFilter, TiledFilter, UniformFilter, centred_response
from ircdeblur.solvers.fourier import FourierDivision, edgetaper
from ircdeblur.solvers.irc import MOTION_SUPPORT, IteratedResidualCompensation
from ircdeblur.solvers.mm import majorise_minimise
from ircdeblur.solvers.settings import DEFAULTS, make_update, unsaturated
from ircdeblur.solvers.shrinkage import shrink_length


def picture(height, width, dtype=torch.float64):
    """A piece of a photograph, (1, 1, height, width)."""
    return torch.from_numpy(skimage.data.camera()[100 : 100 + height, 200 : 200 + width] / 255.0).to(dtype)[None, None]


@pytest.mark.parametrize("norm", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("weight", [0.02, 0.3])
def test_shrink_minimises(norm, weight):
    """Oracle: the smallest of the objective on a fine grid."""
    grid = np.linspace(-2, 2, 40001)
    for z in (-1.7, -0.4, -0.05, 0.0, 0.11, 0.6, 1.9):
        cost = weight * (np.abs(grid) ** norm if norm > 0 else (grid != 0)) + 0.5 * (grid - z) ** 2
        if norm == 0:
            cost[np.abs(grid) < 1e-9] = 0.5 * z * z
        found = float(shrink(torch.tensor([z], dtype=torch.float64), weight, norm, iterations=20))
        value = weight * (abs(found) ** norm if norm > 0 else float(found != 0)) + 0.5 * (found - z) ** 2
        # The grid's spacing is 1e-4, its cost within 1e-8 of the least; 1e-6 is left to the fixed point.
        assert value <= cost.min() + 1e-6


def test_shrink_refuses():
    with pytest.raises(ValueError, match="norm"):
        shrink(torch.zeros(1), 0.1, 1.5)
    with pytest.raises(ValueError, match="weight"):
        shrink(torch.zeros(1), -0.1)


@pytest.mark.parametrize("dim", [-1, -2])
def test_difference_adjoint(dim):
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(1, 1, 7, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close((difference(x, dim) * z).sum(), (x * difference_adjoint(z, dim)).sum())


def test_uniform_filter_is_convolution():
    generator = torch.Generator().manual_seed(1)
    images = tuple(torch.randn(1, 2, 20, 23, generator=generator, dtype=torch.float64) for _ in range(3))
    filters = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
    found = UniformFilter(filters, (20, 23))(images)
    for channel in range(2):
        expected = sum(
            ndimage.convolve(image[0, channel].numpy(), f.numpy(), mode="constant")
            for image, f in zip(images, filters, strict=True)
        )
        np.testing.assert_allclose(found[0, channel], expected, atol=1e-10)


@pytest.mark.parametrize("shape", [(40, 50), (33, 64), (7, 70)])
def test_tiled_filter_interpolates_between_its_points(shape):
    """Oracle: filter with every point's filters, then blend with bilinear weights."""
    generator = torch.Generator().manual_seed(2)
    step, reach = 16, 3
    tile = TiledFilter.tile_for(reach, step)
    rows, columns = TiledFilter.grid(shape, step)
    count = len(rows) * len(columns)
    filters = torch.randn(count, 2, 7, 7, generator=generator, dtype=torch.float64)
    images = tuple(torch.randn(2, 1, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    found = TiledFilter(centred_response(filters, (tile, tile)), shape, tile, step)(images)
    y, x = np.mgrid[: shape[0], : shape[1]]
    expected = np.zeros((2, *shape))
    for i, row in enumerate(rows.tolist()):
        for j, column in enumerate(columns.tolist()):
            weight = np.clip(1 - abs(y - row) / step, 0, None) * np.clip(1 - abs(x - column) / step, 0, None)
            for b in range(2):
                filtered = sum(
                    ndimage.convolve(image[b, 0].numpy(), f.numpy(), mode="constant")
                    for image, f in zip(images, filters[i * len(columns) + j], strict=True)
                )
                expected[b] += weight * filtered
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-10)


def dense_minimiser(blur, y, targets, rho, domain):
    """Oracle: the x-update as a dense least-squares problem."""
    n = domain[0] * domain[1]
    unit = torch.eye(n, dtype=torch.float64).view(n, 1, *domain)
    data = torch.cat([blur.A(u[None]).reshape(1, -1) for u in unit]).T.numpy()
    gx = torch.stack([difference(u, -1).reshape(-1) for u in unit], 1).numpy()
    gy = torch.stack([difference(u, -2).reshape(-1) for u in unit], 1).numpy()
    matrix = np.concatenate((data / rho**0.5, gx, gy))
    right = np.concatenate([y.numpy().ravel() / rho**0.5, *(t.numpy().ravel() for t in targets)])
    return np.linalg.lstsq(matrix, right, rcond=None)[0].reshape(domain)


def test_cg_update_is_the_dense_minimiser():
    generator = torch.Generator().manual_seed(3)
    motion = torch.tensor([4.0, -2.0], dtype=torch.float64).expand(9, 10, 2).clone()
    motion[:, 5:] = torch.tensor([0.0, 3.0])
    blur = MotionBlur(motion, boundary="extended")
    my, mx = blur.margin
    domain = (9 + 2 * my, 10 + 2 * mx)
    y = torch.randn(1, 1, 9, 10, generator=generator, dtype=torch.float64)
    targets = tuple(torch.randn(1, 1, *domain, generator=generator, dtype=torch.float64) for _ in range(2))
    update = ConjugateGradients(Observation(y), blur, 0.05, steps=2000, tolerance=1e-12)
    found = update.solve(update.start(), targets)
    expected = dense_minimiser(blur, y, targets, 0.05, domain)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-7)


def blur_of(kind, shape, dtype=torch.float64):
    """A blur of 9 px or less, of one kernel or of a field that turns."""
    if kind == "uniform":
        return UniformBlur(torch.from_numpy(linear_motion_kernel(7, 20)).to(dtype), boundary="extended")
    return MotionBlur(torch.from_numpy(camera_shake(shape, 9.0, seed=1)).to(dtype), boundary="extended")


@pytest.mark.parametrize("kind", ["uniform", "motion"])
def test_irc_converges_to_the_minimiser(kind):
    """The fixed point of Algorithm 2.1 with local filters is that of CG, borders included."""
    blur = blur_of(kind, (70, 76))
    my, mx = blur.margin
    y = blur.A(picture(70 + 2 * my, 76 + 2 * mx))
    rho = 0.02
    cg = ConjugateGradients(Observation(y), blur, rho, steps=3000, tolerance=1e-12)
    x = cg.start()
    targets = tuple(d * 0.8 for d in cg.differences(x))
    expected = cg.solve(x, targets)
    found = IteratedResidualCompensation(Observation(y), blur, rho, steps=1200).solve(x, targets)
    # The corners of the margin, which hardly a pixel of the frame has read, converge last: 0.004 after 400 steps.
    assert (found - expected).abs().max() < 2e-3
    assert (x - expected).abs().max() > 2e-2


def test_finite_filters_leave_a_little_of_the_difference():
    """The paper's filters are exact, so they end beside the minimiser, the nearer the larger they are."""
    blur = blur_of("uniform", (90, 90))
    y = blur.A(picture(96, 96))
    cg = ConjugateGradients(Observation(y), blur, 0.02, steps=3000, tolerance=1e-12)
    x = cg.start()
    targets = tuple(d * 0.8 for d in cg.differences(x))
    expected = cg.solve(x, targets)
    found = IteratedResidualCompensation(Observation(y), blur, 0.02, steps=200, filters="bank").solve(x, targets)
    inside = (..., slice(20, -20), slice(20, -20))
    # 31 px would leave 0.027.
    assert (found - expected)[inside].abs().max() < 3e-3
    assert (x - expected)[inside].abs().max() > 2e-2


@pytest.mark.parametrize("filters", ["local", "tiles", "bank"])
def test_irc_never_diverges(filters):
    """A field that turns by 140 degrees within the filters' reach, which none of them fits."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 80), torch.linspace(0, 1, 90), indexing="ij")
    length, angle = 5 + 20 * y, torch.deg2rad(20 + 140 * x)
    motion = torch.stack((length * angle.cos(), -length * angle.sin()), -1)
    blur = MotionBlur(motion, boundary="extended")
    my, mx = blur.margin
    observed = Observation(blur.A(picture(80 + 2 * my, 90 + 2 * mx, torch.float32)))
    rho = DEFAULTS["irc"].rho
    update = IteratedResidualCompensation(observed, blur, rho, steps=1, filters=filters)
    x = update.start()
    targets = tuple(0.5 * g for g in update.differences(x))
    costs = []
    for _ in range(25):
        gaps = [t - g for t, g in zip(targets, update.differences(x), strict=True)]
        costs.append(float(update.residual(x).square().sum() / rho + sum(g.square().sum() for g in gaps)))
        x = update.solve(x, targets)
    # Rounding of a sum of 10,000 squares in single precision.
    assert all(after <= before * (1 + 1e-5) for before, after in pairwise(costs))
    assert costs[-1] < 0.5 * costs[0]


@pytest.mark.parametrize("window", [64, 96])
def test_local_inverse_of_one_motion_is_the_division(window):
    """Away from the borders a field of equal motions and its kernel have nearly the same inverse; symmetric too."""
    motion = torch.tensor([4.0, -2.0], dtype=torch.float64).expand(120, 130, 2).contiguous()
    blur = MotionBlur(motion, boundary="extended")
    shape = (120 + 2 * blur.margin[0], 130 + 2 * blur.margin[1])
    generator = torch.Generator().manual_seed(7)
    one, other = (torch.randn(1, 2, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    local = MotionCompensation(blur, shape, window=window)
    rho = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    local.set_penalty(rho)
    torch.testing.assert_close((local(one) * other).sum(), (one * local(other)).sum())
    assert (one * local(one)).sum() > 0
    length, angle = float(motion[0, 0].norm()), float(np.rad2deg(np.arctan2(2.0, 4.0)))
    kernel = UniformBlur(torch.from_numpy(linear_motion_kernel(length, angle)), boundary="extended")
    exact = UniformCompensation(kernel, shape)
    exact.set_penalty(rho)
    inside = (..., slice(30, -30), slice(30, -30))
    expected, found = exact(one)[inside], local(one)[inside]
    # Long filters are cut by the window; the bank's kernels are averaged for a length between two of its own.
    assert (found - expected).norm() < 0.2 * expected.norm()


def test_local_mean_sees_every_pixel_once():
    motion = torch.tensor([3.0, 0.0]).expand(50, 70, 2).contiguous()
    blur = MotionBlur(motion, boundary="extended")
    shape = (50 + 2 * blur.margin[0], 70 + 2 * blur.margin[1])
    local = MotionCompensation(blur, shape, window=32)
    assert local.local_mean(torch.full((1, 3, *shape), 0.25)).allclose(torch.tensor(0.25))
    # The shares of the motions add up to one in windows that lie within the frame: their power at frequency 0.
    assert local._power[0, 0, 1:3, 1:4, 0, 0] == pytest.approx(1.0, abs=0.02)


def test_bank_filter_is_eq_17():
    """Oracle: correlate each pixel's own averaged filter with what surrounds it."""
    generator = torch.Generator().manual_seed(8)
    filters = torch.randn(5, 2, 3, 5, generator=generator, dtype=torch.float64)
    images = tuple(torch.randn(1, 1, 6, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    indices = torch.randint(0, 5, (6, 7, 4), generator=generator)
    weights = torch.rand(6, 7, 4, generator=generator, dtype=torch.float64)
    found = BankFilter(filters, indices, weights)(images)[0, 0]
    padded = [torch.nn.functional.pad(i[0, 0], (2, 2, 1, 1)) for i in images]
    for row in range(6):
        for column in range(7):
            own = (weights[row, column, :, None, None, None] * filters[indices[row, column]]).sum(0).flip(-1, -2)
            expected = sum((own[i] * padded[i][row : row + 3, column : column + 5]).sum() for i in range(2))
            assert float(found[row, column]) == pytest.approx(float(expected), abs=1e-10)


def test_opponent_colours_are_a_rotation():
    image = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    turned = to_opponent(image)
    # The matrix is built in the picture's precision.
    torch.testing.assert_close(from_opponent(turned), image)
    torch.testing.assert_close(turned.square().sum(1), image.square().sum(1))
    grey = to_opponent(torch.full((1, 3, 2, 2), 0.5))
    torch.testing.assert_close(grey[:, 0], torch.full((1, 2, 2), 0.5 * 3**0.5))
    torch.testing.assert_close(grey[:, 1:], torch.zeros(1, 2, 2, 2))


@pytest.mark.parametrize("norm", [0.6, 1.0])
def test_shrink_length_minimises(norm):
    rng = np.random.default_rng(10)
    for vector in rng.normal(0, 0.5, (6, 2)):

        def cost(t, vector=vector):
            return 0.2 * np.hypot(*t) ** norm + 0.5 * np.square(t - vector).sum()

        found = [float(v) for v in shrink_length(tuple(torch.tensor(v) for v in vector), torch.tensor(0.2), norm)]
        grid = np.stack(np.meshgrid(*2 * [np.linspace(-2, 2, 401)]), -1).reshape(-1, 2)
        # The grid's spacing of 0.01 is within 5e-5 of the least; the fixed point of 0.6 takes five steps.
        assert cost(np.array(found)) <= min(map(cost, grid)) + 2e-3


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("kind", ["uniform", "motion"])
def test_majorise_minimise_finds_the_minimum_and_never_rises(kind, isotropic):
    """Oracle: a quasi-Newton method of SciPy on the same objective, with its gradient by automatic differentiation."""
    blur = blur_of(kind, (20, 22))
    my, mx = blur.margin
    y = blur.A(picture(20 + 2 * my, 22 + 2 * mx))
    y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    lam, smoothing = 2e-3, 0.05
    result = majorise_minimise(
        Observation(y), blur, y.new_full((1, 1, 1, 1), lam), 300, 1.0, isotropic, smoothing, statistics=True
    )
    figures = [i.objective for i in result.iterations]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(figures))
    domain = (1, 1, 20 + 2 * my, 22 + 2 * mx)

    def cost(flat):
        x = torch.from_numpy(flat).view(domain).requires_grad_()
        squares = [difference(x, d).square() for d in (-1, -2)]
        terms = [sum(squares)] if isotropic else squares
        value = 0.5 * (blur.A(x) - y).square().sum() + lam * sum((t + smoothing**2).sqrt().sum() for t in terms)
        (slope,) = torch.autograd.grad(value, x)
        return float(value), slope.numpy().ravel()

    start = torch.nn.functional.pad(y, (mx, mx, my, my), mode="replicate").numpy().ravel()
    best = optimize.minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 9000})
    assert figures[-1] == pytest.approx(best.fun, rel=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "motion"])
def test_inverse_filters_at_hand(kind):
    """Filters that were made for the same blur before, and used for another penalty, change nothing."""
    blur = blur_of(kind, (20, 22))
    my, mx = blur.margin
    observed = Observation(blur.A(picture(20 + 2 * my, 22 + 2 * mx)).expand(1, 3, -1, -1).contiguous())
    lam = observed.y.new_tensor([1e-3, 2e-3, 2e-3]).view(1, 3, 1, 1)
    expected = majorise_minimise(observed, blur, lam, 6, others=3)
    inverse = local_inverse(blur, (20 + 2 * my, 22 + 2 * mx))
    for _ in range(2):
        found = majorise_minimise(observed, blur, lam, 6, others=3, inverse=inverse)
        assert torch.equal(found.x, expected.x)


def test_windows_across_the_border_do_not_hold_up_the_others(monkeypatch):
    """Ten iterations come nearer to the minimum than with the average power of such windows."""
    photo = torch.from_numpy(skimage.data.camera()[100:340, 60:330] / 255.0)[None, None].float()
    blur = MotionBlur(torch.from_numpy(camera_shake((200, 230), 15.0, seed=1)), margin=(20, 20))
    y = blur.A(photo) + 0.004 * torch.randn(1, 1, 200, 230, generator=torch.Generator().manual_seed(0))

    def objective():
        return (
            majorise_minimise(Observation(y), blur, y.new_full((1, 1, 1, 1), 1e-4), 10, statistics=True)
            .iterations[-1]
            .objective
        )

    ours = objective()
    monkeypatch.setattr(compensation, "PARTLY_OBSERVED", 1.0)
    assert ours < 0.97 * objective()


@pytest.mark.parametrize("blur", [UniformBlur(torch.ones(1, 1)), MotionBlur(torch.zeros(30, 32, 2))])
def test_the_observation_is_not_worked_on_in_place(blur):
    """A blur that reads no pixel outside the frame: x then starts as the picture itself."""
    y = picture(30, 32, torch.float32)
    before = y.clone()
    result = majorise_minimise(Observation(y), blur, y.new_full((1, 1, 1, 1), 1e-2), 3)
    assert torch.equal(y, before)
    assert (result.x - y).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["uniform", "motion"])
def test_the_first_channel_goes_on_alone(kind):
    """Channels have nothing to do with each other: each is what it is after so many iterations of all."""
    blur = blur_of(kind, (20, 22))
    my, mx = blur.margin
    y = torch.cat([blur.A(picture(20 + 2 * my, 22 + 2 * mx).roll(n, -1)) for n in (0, 5, 9)], 1)
    y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    lam = y.new_tensor([1e-3, 4e-3, 4e-3]).view(1, 3, 1, 1)

    def found(iterations, others=None):
        frames = []
        result = majorise_minimise(
            Observation(y),
            blur,
            lam,
            iterations,
            statistics=True,
            callback=lambda n, x: frames.append(x.clone()),
            others=others,
        )
        figures = [i.objective for i in result.iterations]
        assert all(after <= before * (1 + 1e-12) for before, after in pairwise(figures))
        return result, frames

    (long, _), (short, _), (mixed, frames) = found(12), found(5), found(12, 5)
    # Another order of the sums of a product with one column instead of three.
    torch.testing.assert_close(mixed.x[:, :1], long.x[:, :1], atol=1e-9, rtol=0)
    torch.testing.assert_close(mixed.x[:, 1:], short.x[:, 1:], atol=1e-12, rtol=0)
    assert (long.x[:, 1:] - short.x[:, 1:]).abs().max() > 1e-3
    assert [f.shape for f in frames] == [y.shape] * 12
    torch.testing.assert_close(frames[-1], mixed.x)
    with pytest.raises(ValueError, match="iterations must be >= 1"):
        found(12, 0)


def test_saturated_pixels_do_not_ring():
    """A light that the sensor could not show: left out, what lies beside it in the motion's direction is restored."""
    blur = UniformBlur(torch.from_numpy(linear_motion_kernel(9, 0)).float(), boundary="extended")
    sharp = 0.8 * picture(60, 60, torch.float32).expand(-1, 3, -1, -1).contiguous()
    sharp[..., 25:30, 30:34] = 4.0
    y = blur.A(sharp).clamp(max=1.0)
    mask = unsaturated(y)
    assert mask.shape == (1, 1, 60, 52)
    assert mask[0, 0, 27, 24:32].sum() == 0
    assert mask[..., :20].min() == 1
    beside = (..., slice(25, 30), slice(0, 20))
    for method in ("irc-mm", "irc", "cg"):
        errors = [
            (deconvolve(y, blur, 0.01, method, mask=m).x - sharp[..., 4:-4])[beside].square().mean()
            for m in (mask, None)
        ]
        assert errors[0] < 0.2 * errors[1]
    assert unsaturated(0.9 * y) is None
    assert unsaturated(1.2 * y) is None


def test_fourier_division_is_the_periodic_minimiser():
    generator = torch.Generator().manual_seed(4)
    psf = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    psf /= psf.sum()
    blur = UniformBlur(psf, boundary="circular")
    y = torch.randn(1, 1, 8, 9, generator=generator, dtype=torch.float64)
    update = FourierDivision(y, UniformBlur(psf, boundary="extended"), 0.1, pad=False)
    targets = tuple(torch.randn(1, 1, 8, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    found = update.solve(update.start(), targets)

    def cost(flat):
        x = torch.from_numpy(flat).view(1, 1, 8, 9)
        gaps = [g - t for g, t in zip(update.differences(x), targets, strict=True)]
        return float((blur.A(x) - y).square().sum() / 0.1 + sum(g.square().sum() for g in gaps))

    # A minimiser has no downhill direction.
    slope = optimize.approx_fprime(found.numpy().ravel(), cost, 1e-6)
    assert np.abs(slope).max() < 1e-4


def test_edgetaper_keeps_the_middle_and_joins_the_rims():
    image = picture(64, 64)
    psf = torch.from_numpy(linear_motion_kernel(9, 30))
    tapered = edgetaper(image, psf)
    torch.testing.assert_close(tapered[..., 16:-16, 16:-16], image[..., 16:-16, 16:-16], atol=1e-9, rtol=0)
    jump = [(i[..., 0, :] - i[..., -1, :]).abs().mean() for i in (tapered, image)]
    assert jump[0] < 0.5 * jump[1]


@pytest.mark.parametrize("kind", ["uniform", "motion"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_restores(method, kind):
    sharp = picture(150, 160, torch.float32)
    blur = (
        UniformBlur(torch.from_numpy(linear_motion_kernel(9, 30)).float(), boundary="extended")
        if kind == "uniform"
        else MotionBlur(torch.tensor([7.0, -4.0]).expand(120, 130, 2).contiguous(), boundary="extended")
    )
    my, mx = blur.margin
    top, left = (0, 0) if kind == "uniform" else (15 - my, 15 - mx)
    seen = sharp[..., top : 150 - top, left : 160 - left]
    y = blur.A(seen)
    truth = seen[..., my : my + y.shape[-2], mx : mx + y.shape[-1]]
    y = y + 0.005 * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    x = deconvolve(y, blur, 0.005, method).x
    assert x.shape == y.shape
    before, after = ((truth - t).square().mean().log10() * -10 for t in (y, x))
    if method == "fft-nopad":
        # The ringing from the frame's borders is stronger than what is restored: that is what it exists to show.
        assert after < before
    else:
        assert after > before + 3.0


def test_the_default_filters_contract_everywhere():
    """Below 1 at the bank's motions and between them; 0 to 45 degrees, the rest are their mirror images."""
    bank = InverseBank.load(DEFAULTS["irc"].rho, MOTION_SUPPORT)
    on = torch.cartesian_prod(torch.arange(1.0, 36.0, 2.0), torch.arange(0.0, 46.0, 6.0))
    between = torch.cartesian_prod(torch.arange(2.0, 35.0, 2.0), torch.arange(3.0, 46.0, 6.0))
    assert bank.contraction(on[:, 0], on[:, 1], n_fft=128).max() < 0.05
    assert bank.contraction(between[:, 0], between[:, 1], n_fft=128).max() < 1.0


@pytest.mark.parametrize("kind", ["uniform", "motion"])
def test_the_solvers_agree_up_to_the_border(kind):
    """One objective, three ways to its minimum, and a Fourier division that takes the border for something else."""
    sharp = picture(190, 200, torch.float32)
    blur = blur_of("uniform" if kind == "uniform" else "motion", (180, 190), torch.float32)
    my, mx = blur.margin
    seen = sharp[..., 5 - my : 185 + my, 5 - mx : 195 + mx]
    y = blur.A(seen)
    truth = sharp[..., 5:185, 5:195]
    y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))

    def decibels(method, **settings):
        found = deconvolve(y, blur, 0.01, method, Settings(**settings)).x
        assert found.shape == truth.shape
        return float((truth - found).square().mean().log10() * -10)

    cg = decibels("cg", iterations=40)
    # The rounded corner of irc-mm's objective; the compensations of irc are few.
    assert decibels("irc-mm", iterations=60) == pytest.approx(cg, abs=0.1)
    assert decibels("irc", iterations=40) == pytest.approx(cg, abs=0.1)
    assert decibels("fft", iterations=40) < cg - 0.05


def test_admm_converges_and_reports():
    psf = torch.from_numpy(linear_motion_kernel(5, 0))
    blur = UniformBlur(psf, boundary="extended")
    y = blur.A(picture(40, 44))
    update = ConjugateGradients(Observation(y), blur, 0.05, steps=60)
    result = admm(update, lam=1e-3, rho=0.05, iterations=40, statistics=True)
    assert len(result.iterations) == 40
    first, last = result.iterations[0], result.iterations[-1]
    assert last.objective < first.objective
    assert last.primal < 0.05 * first.primal
    assert last.dual < 0.05 * first.dual
    assert last.seconds > first.seconds


def test_admm_with_a_mask_ignores_what_it_hides():
    blur = UniformBlur(torch.from_numpy(linear_motion_kernel(5, 45)).float(), boundary="extended")
    y = blur.A(picture(60, 60, torch.float32))
    mask = torch.ones(1, 1, *y.shape[-2:])
    mask[..., 20:24, 20:24] = 0
    spoiled = torch.where(mask > 0, y, torch.ones_like(y))
    for method in ("irc", "cg"):
        kept, lost = (
            deconvolve(spoiled, blur, 0.002, method, Settings(iterations=20, steps=5), mask=m).x for m in (mask, None)
        )
        truth = deconvolve(y, blur, 0.002, method, Settings(iterations=20, steps=5)).x
        assert (kept - truth).square().mean() < 0.3 * (lost - truth).square().mean()


def test_admm_refuses():
    blur = UniformBlur(torch.ones(1, 3), boundary="extended")
    update = make_update("cg", Observation(torch.zeros(1, 1, 5, 5)), blur, Settings())
    with pytest.raises(ValueError, match="iterations"):
        admm(update, 0.1, 0.1, iterations=0)
    with pytest.raises(ValueError, match="rho"):
        admm(update, 0.1, 0.0)
    with pytest.raises(ValueError, match="irc"):
        deconvolve(torch.zeros(1, 1, 5, 5), blur, 0.01, "magic")


@pytest.mark.parametrize("sigma", [0.0, 0.004, 0.01, 0.03])
def test_noise_estimate(sigma):
    rng = np.random.default_rng(6)
    import skimage.data

    smooth = ndimage.uniform_filter1d(skimage.data.astronaut() / 255.0, 9, axis=1)
    noisy = np.clip(smooth + rng.normal(0, sigma, smooth.shape), 0, 1)
    found = estimate_noise(torch.from_numpy(noisy).permute(2, 0, 1)[None].float())
    # Motion along x leaves some vertical detail; what it adds is below half a grey level.
    assert found == pytest.approx(sigma, rel=0.15, abs=0.002)


def test_the_prior_follows_the_noise():
    assert prior_weight(6.0, 0.01) == pytest.approx(6e-4)
    # 8^1.62: between in proportion to the noise and to its square.
    assert prior_weight(6.0, 0.04) / prior_weight(6.0, 0.005) == pytest.approx(8**1.62)
    assert prior_weight(6.0, 0.0) == prior_weight(6.0, 0.002)


@pytest.mark.parametrize("kind", ["uniform", "motion"])
@pytest.mark.parametrize("method", ["irc", "irc-mm"])
def test_more_iterations_do_not_harm(method, kind):
    """Four times the default's iterations; the prior that was fitted to the noise may cost 0.1 dB of overfitting."""
    sharp = picture(110, 120, torch.float32)
    for length, noise in ((5.0, 0.03), (21.0, 0.004), (35.0, 0.01)):
        motion = torch.tensor([0.8 * length, -0.6 * length]).expand(74, 84, 2).contiguous()
        psf = torch.from_numpy(linear_motion_kernel(length, float(np.degrees(np.arctan2(0.6, 0.8))))).float()
        blur = UniformBlur(psf) if kind == "uniform" else MotionBlur(motion)
        my, mx = blur.margin
        seen = sharp[..., 18 - my : 92 + my, 18 - mx : 102 + mx]
        y = blur.A(seen)
        y = y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
        few = DEFAULTS[method]
        errors = [
            (deconvolve(y, blur, noise, method, s).x - sharp[..., 18:92, 18:102]).square().mean().log10()
            for s in (few, replace(few, iterations=4 * few.iterations))
        ]
        assert 10 * float(errors[1] - errors[0]) < 0.1


def test_noise_of_an_empty_or_clipped_picture():
    assert estimate_noise(torch.ones(1, 3, 8, 8)) == 0.0
    assert estimate_noise(torch.rand(1, 1, 1, 1)) == 0.0


def test_windows_divided_together_are_those_divided_one_by_one():
    """What a GPU does, and a gradient asks for, against what the CPU does."""
    motion = torch.from_numpy(camera_shake((100, 130), 12.0, 3)).float()
    blur = MotionBlur(torch.stack((motion, -0.5 * motion)))
    shape = (100 + 2 * blur.margin[0], 130 + 2 * blur.margin[1])
    inverse = MotionCompensation(blur, shape)
    inverse.set_penalty(torch.tensor([0.02, 0.05]).view(2, 1, 1, 1))
    image = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    # Sums of four windows, in float32.
    torch.testing.assert_close(inverse(image), inverse._divide_all(image), rtol=1e-5, atol=1e-4)
