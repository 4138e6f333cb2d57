"""Cameras that turn while they shake: their density, the kernels it makes, the search for it, and `deblur` with it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import scipy.signal
import skimage.data
import skimage.io
import skimage.transform
import torch

import ircdeblur
from ircdeblur import restore
from ircdeblur.app import cli
from ircdeblur.data.known_blur import shake_kernel
from ircdeblur.experiments.blind import Found, undo
from ircdeblur.metrics import psnr
from ircdeblur.nets.blind import MotionEstimate
from ircdeblur.nets.checkpoints import load_kernel_net
from ircdeblur.nets.curved import (
    FoundKernel,
    KernelEstimate,
    Light,
    _Picture,
    _turned,
    estimate_kernel,
    refined_density,
)
from ircdeblur.nets.evidence import SpectralEvidence
from ircdeblur.nets.kernel_net import KernelNet
from ircdeblur.psf import kernel_sheet, middle_kernel
from ircdeblur.restore import kernel_in, tiles_for
from ircdeblur.solvers import motion_density
from ircdeblur.solvers.motion_density import REACH, DensitySearch, MotionDensity
from ircdeblur.tiles import middle_of_core, strips


def shake(rng=None):
    """Places of a camera: shifts along a curve, and turns that follow it loosely."""
    time = np.linspace(0, 1, 40)
    down, right = 9 * np.sin(2.5 * time), 7 * np.sin(4 * time + 1)
    turns = 0.025 * np.sin(3 * time - 0.5)
    return MotionDensity(np.full(40, 1 / 40), np.stack((down, right), 1), turns, (149.5, 199.5)).centred()


@pytest.fixture(scope="module")
def scene():
    return skimage.data.astronaut()[40:380, 40:480] / 255


@pytest.fixture(scope="module")
def shaken(scene):
    """What `shake` makes of a scene, by another library's rotation: sharp and blurred, both (300, 400, 3)."""
    total = np.zeros_like(scene)
    density = shake()
    for (down, right), turn in zip(density.shifts, density.turns, strict=True):
        turned = skimage.transform.rotate(scene, math.degrees(turn), order=3, mode="edge")
        total += scipy.ndimage.shift(turned, (down, right, 0), order=3, mode="nearest")
    blurred = (total / len(density.turns))[20:-20, 20:-20]
    noise = np.random.default_rng(0).normal(0, 0.005, blurred.shape)
    return scene[20:-20, 20:-20].astype(np.float32), (blurred + noise).clip(0, 1).astype(np.float32)


def luma(image):
    return torch.from_numpy(np.ascontiguousarray(image @ (0.299, 0.587, 0.114), np.float32))


def test_light_goes_where_another_library_turns_it_to():
    """A point of a picture, turned counterclockwise about the middle, then moved."""
    picture = np.zeros((101, 121))
    picture[20, 90] = 1
    turned = skimage.transform.rotate(scipy.ndimage.gaussian_filter(picture, 1.5), math.degrees(0.02), order=3)
    moved = scipy.ndimage.center_of_mass(scipy.ndimage.shift(turned, (2, -3), order=3))
    one = MotionDensity(np.ones(1), np.array([[2.0, -3.0]]), np.array([0.02]), (50.0, 60.0))
    offset = one.offsets(np.array([20]), np.array([90]))[0, 0]
    # Of the turn what is of second order is left out: 0.02^2 / 2 of 42 px.
    np.testing.assert_allclose(offset, np.subtract(moved, (20, 90)), atol=0.03)
    kernel = one.kernel(20, 90)
    np.testing.assert_allclose(np.subtract(scipy.ndimage.center_of_mass(kernel), len(kernel) // 2), offset, atol=1e-9)


def test_kernels_are_those_of_all_places_together():
    density = shake()
    kernels = density.kernels(np.array([0, 149.5, 299]), np.array([0, 199.5, 0]))
    assert kernels.shape[1] == kernels.shape[2]
    assert kernels.shape[1] % 2 == 1
    assert kernels.min() >= 0
    np.testing.assert_allclose(kernels.sum((1, 2)), 1)
    # Their means lie where they belong, all over the picture.
    for kernel in kernels:
        np.testing.assert_allclose(scipy.ndimage.center_of_mass(kernel), len(kernel) // 2, atol=1e-9)
    # In the middle the turns move nothing.
    plain = MotionDensity(density.weights, density.shifts, 0 * density.turns, density.middle)
    same = plain.kernel(10, 20)
    rim = (len(kernels[1]) - len(same)) // 2
    np.testing.assert_allclose(kernels[1], np.pad(same, rim))
    assert density.reach((300, 400)) + 1 >= len(kernels[0]) // 2


def test_a_density_follows_from_its_kernels():
    """Places with and without weight, of which the true ones make the kernels."""
    lattice = np.stack(np.meshgrid(*[np.arange(-2.0, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    places = lattice[:, :2] + 0.3, lattice[:, 2] * 0.01, (149.5, 199.5)
    true = np.zeros(len(lattice))
    true[[7, 31, 62, 88, 120]] = 0.1, 0.3, 0.2, 0.15, 0.25
    rows, columns = (n.ravel() for n in np.meshgrid((75, 150, 225), (100, 200, 300)))
    kernels = MotionDensity(true, *places).kernels(rows, columns)
    found = MotionDensity(np.full(len(lattice), 1 / len(lattice)), *places).like(rows, columns, kernels)
    assert found.weights.min() > 0
    assert len(found.weights) == len(found.turns) == len(found.shifts) < len(lattice)
    again = np.zeros(len(lattice))
    for weight, shift, turn in zip(found.weights, found.shifts, found.turns, strict=True):
        off = np.abs(places[0] - shift).sum(1) + np.abs(places[1] - turn)
        assert off.min() == 0
        again[off.argmin()] = weight
    # The steps towards the least squares end where they change the cost by a few billionths.
    np.testing.assert_allclose(again, true, atol=0.02)
    nothing = np.zeros_like(kernels)
    nothing[:, 0, 0] = 1  # where none of the places is
    one = MotionDensity(np.ones(1), np.zeros((1, 2)), np.zeros(1), (149.5, 199.5))
    np.testing.assert_array_equal(one.like(rows, columns, nothing).weights, 1)


def test_a_density_of_a_larger_picture():
    density = shake()
    np.testing.assert_array_equal(density.moved(30, 50).kernel(40, 70), density.kernel(10, 20))


def small_search(monkeypatch, image):
    """A picture of few windows and its density's grid, from a kernel of three pixels."""
    monkeypatch.setattr(motion_density, "WINDOW", 0.7)
    psf = np.zeros((5, 5))
    psf[2, 1:4] = 1 / 3
    grid = motion_density._Grid.of_kernel(psf, 0.3)
    return grid, motion_density._WindowedPicture(image, grid)


def test_the_cost_of_a_density_against_convolutions(monkeypatch):
    """Value and slopes: windows of the sharp picture, each blurred by another library, and finite differences."""
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.random((40, 48))).float()
    sharp = rng.random((40, 48)).astype(np.float32)
    grid, picture = small_search(monkeypatch, image)
    weights = rng.random(int(grid.free.sum()))
    weights /= weights.sum()
    half, ridge = grid.half, 0.5
    blurred = np.zeros((40, 48))
    rows, columns = (motion_density._tapers(n, 0.7 * math.hypot(40, 48) / 2) for n in (40, 48))
    assert len(rows) * len(columns) >= 4
    for r, down, vertical in rows:
        for c, right, horizontal in columns:
            window = np.zeros((40, 48))
            window[r, c] = np.outer(vertical, horizontal) * sharp[r, c]
            turn, i, j = np.nonzero(grid.free)
            middle = grid.free.shape[-1] // 2
            shifts = np.stack((i - middle, j - middle), 1)
            density = MotionDensity(weights, shifts, grid.turns[turn] / (math.hypot(40, 48) / 2), (19.5, 23.5))
            blurred += scipy.signal.convolve2d(window, density.kernel(down, right), mode="same")
    off = (blurred - image.numpy())[half:-half, half:-half]
    scale = sum(float(np.square(np.diff(sharp, axis=axis)).sum()) for axis in (0, 1))
    expected = sum(float(np.square(np.diff(off, axis=axis)).sum()) for axis in (0, 1)) + ridge * float(
        weights @ weights
    )
    cost = picture.cost(sharp, ridge)
    value, slopes = cost(weights)
    assert value == pytest.approx(expected / 2 / scale, rel=1e-4)  # float32
    for k in rng.integers(0, len(weights), 8):
        step = np.zeros(len(weights))
        step[k] = 0.05  # the cost is a square: any step is exact
        difference = (cost(weights + step)[0] - cost(weights - step)[0]) / 0.1
        assert slopes[k] == pytest.approx(difference, rel=1e-3, abs=1e-4 * np.abs(slopes).max())


def test_the_density_is_fitted_to_what_blurred(monkeypatch):
    """A picture that a known density made of a sharp one gives it back."""
    rng = np.random.default_rng(2)
    sharp = rng.random((60, 72)).astype(np.float32)
    grid, picture = small_search(monkeypatch, torch.zeros(60, 72))
    true = np.zeros(int(grid.free.sum()))
    true[rng.integers(0, len(true), 4)] = 0.25
    # The cost of zeros has the blurred picture in its slopes; here it is made by the windows themselves.
    whole = np.zeros((60, 72))
    for window, kernel in zip(picture._windows, picture._kernels(true).numpy(), strict=True):
        part = np.zeros((60, 72))
        part[window.rows, window.columns] = window.taper * sharp[window.rows, window.columns]
        whole += scipy.signal.convolve2d(part, kernel, mode="same")
    grid, picture = small_search(monkeypatch, torch.from_numpy(whole).float())
    monkeypatch.setattr(motion_density, "SEARCHES", 400)
    found = picture.fitted(sharp, np.full(len(true), 1 / len(true)), 0.0)
    assert found.min() >= 0
    np.testing.assert_allclose(found, true, atol=0.02)


@pytest.mark.parametrize(("length", "step"), [(30, 100.0), (97, 20.0), (100, 55.0)])
def test_tapers_add_up_to_one(length, step):
    total = np.zeros(length)
    for pixels, centre, taper in motion_density._tapers(length, step):
        total[pixels] += taper
        assert pixels.start <= centre <= pixels.stop - 1
    np.testing.assert_allclose(total, 1)


def test_what_is_weak_or_an_island_is_dropped():
    psf = np.ones((5, 5))
    grid = motion_density._Grid.of_kernel(psf, 1.0)
    weights = np.zeros(grid.free.shape)
    weights[5, 3:6, 3] = 1.0
    weights[6, 4, 4] = 0.019  # weak
    weights[9, 3, 3] = 0.05  # an island that is low, and small
    cleaned = grid.cleaned(weights[grid.free])
    assert np.count_nonzero(cleaned.weights) == 3
    np.testing.assert_array_equal(cleaned.weights[5, 3:6, 3], 1)


def test_something_is_left_of_a_density():
    """Where the least squares answer with nothing, or with dust, the weights before stay."""
    grid = motion_density._Grid.of_kernel(np.ones((9, 9)), 1.0)
    dust = np.zeros(grid.free.shape)
    dust[::2, ::2, ::2] = grid.free[::2, ::2, ::2]  # each alone has less than `SPECKLE` of the sum
    assert dust.sum() > 1 / motion_density.SPECKLE
    for values in (np.zeros(grid.free.sum()), dust[grid.free]):
        np.testing.assert_array_equal(grid.cleaned(values).weights, grid.weights)


def test_of_a_large_picture_the_middle_tells(monkeypatch):
    """The density that is found there turns about the middle of the whole."""
    density = shake()
    monkeypatch.setattr("ircdeblur.nets.noise.SIDE", 200)
    found = KernelEstimate(density.kernel(99.5, 99.5), False, 30.0, 0.0, 0.0, replace(density, middle=(99.5, 99.5)))
    monkeypatch.setattr(restore, "estimate_kernel", lambda luma, *others: found if luma.shape[-1] == 200 else None)
    images = restore.Images(np.zeros((300, 421), np.float32), torch.device("cpu"), -1)
    field = MotionEstimate(torch.zeros(300, 421, 2), torch.zeros(300, 421), 0.0)
    assert restore.kernel_of(images, 0, field).density.middle == (149.5, 209.5)


def test_a_grid_is_enlarged_about_its_middle():
    psf = np.zeros((9, 9))
    psf[4, 4] = 1
    small = motion_density._Grid.of_kernel(psf, 0.5)
    large = small.enlarged(1.0)
    assert large.turns[-1] == REACH
    at = [
        float((np.arange(n) - n // 2) @ large.weights.sum(axis))
        for axis, n in zip(((0, 2), (0, 1)), large.weights.shape[1:], strict=True)
    ]
    np.testing.assert_allclose(at, 0, atol=1e-9)
    assert large.turns @ large.weights.sum((1, 2)) == pytest.approx(0, abs=1e-9)


def test_spectra_of_a_part(shaken):
    """Each window is as likely as among all of them, on the same frequencies."""
    evidence = SpectralEvidence(luma(shaken[1])[None, None], 0.005)
    of_all = evidence.coarse  # is kept there, and must not be taken for the part's
    part = evidence.within(slice(40, 260), slice(0, 330))
    kept = (evidence.y >= 40) & (evidence.y < 260) & (evidence.x < 330)
    assert 0 < len(part.x) == kept.sum() < len(kept)
    assert part.shape[0] * part.shape[1] == len(part.x)
    np.testing.assert_array_equal(part.x, evidence.x[kept])
    np.testing.assert_array_equal(part.brightest, evidence.brightest[kept])
    psf = shake().kernel(149.5, 199.5)
    for some, whole in ((part, evidence), (part.coarse, of_all)):
        for looked in (some, whole):
            looked._arrange((1, 1, 2))
        mine, theirs = (e.log_likelihood_of_power(e.kernel_power(psf), 2.0) for e in (some, whole))
        torch.testing.assert_close(mine, theirs[torch.from_numpy(kept)])


def test_a_part_without_a_window_has_the_nearest():
    """A strip has one row of windows, whose centres lie in its middle."""
    evidence = SpectralEvidence(torch.rand(1, 1, 79, 400, generator=torch.Generator().manual_seed(0)), 0.01)
    part = evidence.within(slice(40, 79), slice(0, 200))
    assert evidence.shape[0] == part.shape[0] == 1
    np.testing.assert_array_equal(part.x, evidence.x[evidence.x < 200])


def test_a_search_goes_on_from_a_density(shaken):
    """On the grid of a copy it makes the same kernels, but for what the grid's steps blur; a turn beyond the grid's end
    lies there. The search then looks at that copy first."""
    density, diagonal = shake(), math.hypot(300, 400) / 2
    grid = motion_density._Grid.of_density(density, 1.0, diagonal)
    turn, i, j = np.nonzero(grid.weights)
    middle = grid.weights.shape[-1] // 2
    shifts = np.stack((i - middle, j - middle), 1).astype(float)
    same = MotionDensity(grid.weights[turn, i, j], shifts, grid.turns[turn] / diagonal, density.middle)
    # Sharing places among those around changes no mean of theirs.
    assert same.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(same.weights @ same.shifts, 0, atol=1e-9)
    assert same.weights @ same.turns == pytest.approx(0, abs=1e-9)
    assert same.turn == pytest.approx(density.turn, rel=0.02)
    assert alike(same.kernel(30, 40), density.kernel(30, 40)) > 0.98
    assert (grid.free >= (grid.weights > 0)).all()
    far = replace(density, turns=np.full(40, 2 * REACH / diagonal))
    assert motion_density._Grid.of_density(far, 1.0, diagonal).weights[-1].sum() == pytest.approx(1)

    search = DensitySearch(luma(shaken[1]), density, 0.005, level=0)
    assert search.level == 1
    search.go_on()
    assert search.level == 0
    assert alike(search.density().kernel(30, 40), density.kernel(30, 40)) > 0.9


def test_power_of_a_kernel_in_each_window(shaken):
    evidence = SpectralEvidence(luma(shaken[1])[None, None], 0.005)
    kernels = shake().kernels(evidence.y, evidence.x)
    together = evidence.kernel_power(kernels)
    assert together.shape[-1] == len(evidence.x)
    for k in (0, 7, len(kernels) - 1):
        torch.testing.assert_close(together[..., k : k + 1], evidence.kernel_power(kernels[k]))


def alike(a, b):
    """Largest correlation of two kernels over all shifts, 1 for the same; paths a pixel apart count as alike."""
    a, b = (scipy.ndimage.gaussian_filter(np.pad(k, 5), 1.0) for k in (a, b))
    return scipy.signal.fftconvolve(a, b[::-1, ::-1]).max() / np.sqrt((a**2).sum() * (b**2).sum())


def test_the_search_finds_how_the_camera_turned(shaken):
    """From the kernel of the middle: all over the picture the kernels come nearer to the true ones."""
    true, rows, columns = shake(), np.array([30, 30, 150, 270, 270]), np.array([40, 360, 200, 40, 360])
    middle = true.kernel(149.5, 199.5)
    search = DensitySearch(luma(shaken[1]), middle, 0.005)
    with pytest.raises(RuntimeError, match="nothing"):
        search.density()
    while search.level:
        search.go_on()
    with pytest.raises(RuntimeError, match="end"):
        search.go_on()
    found = search.density()
    assert found.weights.sum() == pytest.approx(1)
    assert found.weights.min() > 0
    assert 0.5 < found.turn / true.turn < 1.5
    correlated = [alike(a, b) for a, b in zip(found.kernels(rows, columns), true.kernels(rows, columns), strict=True)]
    without = [alike(middle, b) for b in true.kernels(rows, columns)]
    assert np.mean(correlated) > np.mean(without) + 0.05
    assert min(correlated) > 0.85


def test_places_around_a_density():
    """Each of the found ones is there with its weight, and all that are up to two steps away with none."""
    image = torch.from_numpy(np.random.default_rng(3).random((90, 100))).float()
    psf = np.zeros((9, 9))
    psf[4, 2:7] = 1 / 5
    search = DensitySearch(image, psf, 0.01)
    while search.level:
        search.go_on()
    found, more = search.density(), search.density(2)
    np.testing.assert_array_equal(more.weights[more.weights > 0], found.weights)
    np.testing.assert_allclose(more.turns[more.weights > 0], found.turns, atol=1e-12)
    steps = np.abs(more.shifts[:, None] - found.shifts).max(-1)
    assert steps.min(1).max() == pytest.approx(2)
    np.testing.assert_allclose(more.kernel(10, 20), np.pad(found.kernel(10, 20), 2), atol=1e-9)


def inner(kernel, side):
    """The middle of a kernel, or a kernel with a rim of 0."""
    kernel = np.pad(kernel, side)
    first = (len(kernel) - side) // 2
    return kernel[first : first + side, first : first + side]


def test_kernels_are_corrected_part_by_part(shaken, monkeypatch):
    """A network that knows the true kernel of each part turns another density into the true one; one that leaves
    kernels as they are leaves the density."""
    blurred, density = luma(shaken[1]), shake()
    light = Light(blurred, SpectralEvidence(blurred[None, None], 0.005), 0.0)
    corners = [(0, 0), (0, 100), (0, 200), (75, 0), (75, 100), (75, 200), (150, 0), (150, 100), (150, 200)]
    true = density.kernels(*np.array([(top + 74.5, left + 99.5) for top, left in corners]).T)
    asked = []

    def shown(part, evidence, found, polished):
        top, left = corners[len(asked) // 2]
        assert torch.equal(part, blurred[top : top + 150, left : left + 200])
        assert ((evidence.y >= top) & (evidence.y < top + 150)).all()
        assert ((evidence.x >= left) & (evidence.x < left + 200)).all()
        asked.append(polished)
        return polished

    monkeypatch.setattr("ircdeblur.nets.curved.maps_of", shown)
    monkeypatch.setattr("ircdeblur.nets.curved.corrected_in_place", lambda net, maps: maps)
    same = refined_density(light, density, KernelNet())
    assert len(asked) == 18
    np.testing.assert_allclose(inner(same.kernel(75, 100), 25), inner(density.kernel(75, 100), 25), atol=2e-3)

    asked.clear()
    monkeypatch.setattr("ircdeblur.nets.curved.corrected_in_place", lambda net, maps: true[(len(asked) - 1) // 2])
    wrong = replace(density, weights=np.linspace(0, 2 / 40, 40)[::-1])
    better = refined_density(light, wrong, KernelNet())
    # The mean of the one that was found and two that are true.
    expected = replace(wrong, weights=(wrong.weights + 2 * density.weights) / 3).centred()
    corrected, meant, before = (inner(d.kernel(75, 100), 25) for d in (better, expected, wrong.centred()))
    assert np.abs(corrected - meant).sum() < 0.2 * np.abs(before - meant).sum()


def test_the_likelier_of_several_searches_is_taken(shaken, monkeypatch):
    """Whatever their order is: the cost of edges is far too large in one of them."""
    blurred = luma(shaken[1])
    light = Light(blurred, SpectralEvidence(blurred[None, None], 0.005), 0.0)
    picture, best = _Picture(blurred[None, None], 0.005, [light, light]), FoundKernel(9.0, shake().kernel(149.5, 199.5))
    found = []
    for edges in (((2e-3, 3e-4),), ((2e-3, 3e-4), (3e-1, 3e-1)), ((3e-1, 3e-1), (2e-3, 3e-4)), ((3e-1, 3e-1),)):
        monkeypatch.setattr("ircdeblur.nets.curved.EDGES", edges)
        found.append(_turned(picture, best, False, None))
    first, *both, bad = found
    assert bad.likelihood < first.likelihood - 5
    for same in both:
        assert same.likelihood == first.likelihood
        np.testing.assert_array_equal(same.density.weights, first.density.weights)


def test_a_turning_camera_is_found_and_undone(shaken, monkeypatch):
    monkeypatch.setattr("ircdeblur.nets.curved.SIDES", (31,))
    sharp, blurred = shaken
    result, kernels = ircdeblur.deblur(blurred, return_psf=True)
    assert kernels.shape[:2] == (3, 3)
    assert ircdeblur.estimate_psf(blurred) is None  # there is not one for all
    monkeypatch.setattr("ircdeblur.nets.curved.UNTURNED", math.inf)
    even = ircdeblur.deblur(blurred)

    def best(image):
        rim = np.s_[8:-8, 8:-8]
        moves = [(i, j) for i in range(-3, 4) for j in range(-3, 4)]
        return max(psnr(np.roll(image, move, (0, 1))[rim], sharp[rim]) for move in moves)

    assert best(result) > best(blurred) + 2
    assert best(result) > best(even) + 1
    for row, column, kernel in ((49.5, 199.5, kernels[0, 1]), (149.5, 199.5, kernels[1, 1])):
        assert alike(kernel, shake().kernel(row, column)) > 0.8


def test_a_shake_that_does_not_turn_stays_so(scene, monkeypatch):
    """Freedom to turn explains it a little better, but not clearly."""
    monkeypatch.setattr("ircdeblur.nets.curved.SIDES", (31,))
    psf = shake_kernel(16.0, np.random.default_rng(8))
    blurred = scipy.signal.fftconvolve(scene, psf[..., None], mode="valid", axes=(0, 1))
    blurred = blurred + np.random.default_rng(0).normal(0, 0.005, blurred.shape)
    found = estimate_kernel(luma(blurred.clip(0, 1))[None, None], net=load_kernel_net())
    assert found is not None
    assert found.density is None


def test_tiles_are_as_small_as_the_turns_ask_for():
    density = shake()
    side, overlap = tiles_for(density, (300, 400))
    assert side is not None
    assert overlap >= density.reach((300, 400))
    assert tiles_for(MotionDensity(density.weights, density.shifts, 0 * density.turns, (0, 0)), (300, 400))[0] is None
    faster = MotionDensity(density.weights, density.shifts, 3 * density.turns, density.middle)
    side_of_faster, more = tiles_for(faster, (300, 400))
    assert side_of_faster - 2 * more <= side - 2 * overlap


def test_kernels_of_tiles_are_those_of_what_they_count_for():
    """But for the fading, the middle of a tile's core is where its weight is."""
    found = strips(500, 190, 47)
    for strip in found[1:-1]:
        weighed = float((torch.arange(strip.core.start, strip.core.stop) * strip.weight).sum() / strip.weight.sum())
        assert middle_of_core(strip.window, 500, 47) == pytest.approx(weighed, abs=0.5)
    assert middle_of_core(found[0].window, 500, 47) == (190 - 47 - 1) / 2
    assert middle_of_core(slice(0, 500), 500, 47) == 249.5
    density = shake()
    window = slice(96, 286), slice(0, 190)
    np.testing.assert_array_equal(kernel_in(density, window, (500, 500), 47), density.kernel(190.5, 71.0))


def test_the_tables_undo_it_as_deblur_does(shaken, monkeypatch):
    density = shake()
    kernel = KernelEstimate(density.kernel(149.5, 199.5), False, 30.0, 0.0, 0.0, density)
    monkeypatch.setattr(restore, "kernel_of", lambda *arguments: kernel)
    result, motion, error = ircdeblur.deblur(shaken[1], method="irc-mm", return_motion=True, return_error=True)
    by_table = undo(shaken[1], Found(motion, error, kernel=kernel), "irc-mm")
    np.testing.assert_allclose(by_table, result.clip(0, 1), atol=1e-5)


def test_a_sheet_of_kernels():
    kernels = np.arange(1.0, 1 + 2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    sheet = kernel_sheet(kernels)
    assert sheet.shape == (11, 17)
    np.testing.assert_array_equal(sheet[6:, 12:], kernels[1, 2])
    assert not sheet[5].any()
    assert not sheet[:, 11].any()
    np.testing.assert_array_equal(middle_kernel(kernels), kernels[1, 1])
    for same in (kernel_sheet, middle_kernel):
        np.testing.assert_array_equal(same(kernels[0, 0]), kernels[0, 0])


def test_from_the_command_line(shaken, tmp_path, capsys, monkeypatch):
    density = shake()
    kernel = KernelEstimate(density.kernel(149.5, 199.5), False, 30.0, 0.0, 0.0, density)
    monkeypatch.setattr(restore, "kernel_of", lambda *arguments: kernel)
    skimage.io.imsave(tmp_path / "photo.png", (shaken[1] * 255).round().astype(np.uint8))
    names = [str(tmp_path / name) for name in ("photo.png", "sharp.png", "report.html")]
    assert cli.main(["deblur", names[0], "-o", names[1], "--report", names[2], "--method", "irc-mm"]) == 0
    assert "a curved path of a camera that turned, of " in "".join(capsys.readouterr())
    page = (tmp_path / "report.html").read_text()
    assert "of a camera that turned" in page
    assert "Blur kernels over the picture, enlarged" in page


def test_noise_is_never_a_turning_camera():
    noise = np.random.default_rng(0).random((200, 220)).astype(np.float32)
    assert estimate_kernel(torch.from_numpy(noise)[None, None]) is None
