"""Kernels of curved paths: found from edges, believed by spectra, undone by `deblur`."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.optimize
import scipy.signal
import skimage.data
import skimage.io
import torch

import ircdeblur
from ircdeblur import restore
from ircdeblur.app import cli
from ircdeblur.data.known_blur import round_kernel, shake_kernel
from ircdeblur.experiments.blind import Found, undo
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.metrics import psnr
from ircdeblur.nets.checkpoints import load_kernel_net
from ircdeblur.nets.curved import (
    BRIGHT,
    CORRECTIONS,
    EVEN,
    KEPT,
    LIKELIER,
    TOO_UNEVEN,
    WAYS,
    KernelEstimate,
    _Runner,
    estimate_kernel,
    floor_of_kernel,
    least_gain,
    refined_kernel,
)
from ircdeblur.nets.evidence import SpectralEvidence
from ircdeblur.nets.kernel_net import POLISHED, KernelNet, KernelNetConfig
from ircdeblur.nets.noise import noise_of
from ircdeblur.psf import read_psf
from ircdeblur.solvers import blind_kernel
from ircdeblur.solvers.blind_kernel import (
    STEEPER,
    STEEPEST,
    KernelSearch,
    PeriodicImage,
    Search,
    continued,
    mean_kernel,
    polished,
    search_kernel,
)
from ircdeblur.solvers.settings import estimate_noise
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear


def photograph(psf, linear=False, noise=0.005, part=np.s_[20:266, 130:390]):
    """A part of the astronaut, blurred by another library's convolution: sharp and blurred, both (H, W, 3)."""
    scene = skimage.data.astronaut()[part].astype(np.float64) / 255
    light = srgb_to_linear(torch.from_numpy(scene)).numpy() if linear else scene
    blurred = scipy.signal.fftconvolve(light, psf[..., None], mode="valid", axes=(0, 1))
    blurred = linear_to_srgb(torch.from_numpy(blurred).clamp(0, 1)).numpy() if linear else blurred
    blurred = blurred + np.random.default_rng(5).normal(0, noise, blurred.shape)
    rim = psf.shape[0] // 2
    return scene[rim : -rim or None, rim : -rim or None], blurred.clip(0, 1).astype(np.float32)


def luma(image):
    return torch.from_numpy(np.ascontiguousarray(image @ (0.299, 0.587, 0.114), np.float32))


def alike(a, b):
    """Largest correlation of two kernels over all shifts, 1 for the same; paths a pixel apart count as alike."""
    a, b = (scipy.ndimage.gaussian_filter(np.pad(k, 5), 1.0) for k in (a, b))
    product = scipy.signal.fftconvolve(a, b[::-1, ::-1])
    return product.max() / np.sqrt((a**2).sum() * (b**2).sum())


@pytest.fixture(autouse=True)
def few_sides(monkeypatch):
    """One side of kernels, which the one here needs, and no camera that turns: each takes its time."""
    monkeypatch.setattr("ircdeblur.nets.curved.SIDES", (31,))
    monkeypatch.setattr("ircdeblur.nets.curved.UNTURNED", math.inf)


@pytest.fixture(scope="module")
def curve():
    """The curved path of a shaking hand, some 16 px long."""
    return shake_kernel(16.0, np.random.default_rng(8))


@pytest.fixture(scope="module")
def shaken(curve):
    return photograph(curve)


def strong_edges(image, psf, edge):
    return torch.fft.irfft2(PeriodicImage(image).strong_edges(psf, edge), s=image.shape)


def test_edges_tell_the_kernel(curve, shaken):
    found = search_kernel(luma(shaken[1]), Search(31)).double().numpy()
    assert found.shape == (31, 31)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-6)  # rounding of float32
    # A straight motion, even the best one, is not as much like it.
    straight = max(
        alike(linear_motion_kernel(length, angle), curve) for length in range(5, 31, 4) for angle in range(0, 180, 12)
    )
    assert alike(found, curve) > max(0.8, straight + 0.1)


def test_the_kernel_is_least_squares():
    """Against a dense solution: of the circular convolutions of two gradients, with a ridge."""
    rng = np.random.default_rng(0)
    size, ridge = (8, 9), 0.3
    sharp, blurred = (torch.from_numpy(rng.random(size)) for _ in range(2))
    rows, right = [], []
    for axis in (1, 0):
        a, b = (np.roll(t.numpy(), -1, axis) - t.numpy() for t in (sharp, blurred))
        shifts = [np.roll(a, (i, j), (0, 1)).ravel() for i in range(size[0]) for j in range(size[1])]
        rows.append(np.stack(shifts, 1))
        right.append(b.ravel())
    matrix, seen = np.concatenate(rows), np.concatenate(right)
    # A kernel's differences cost too: they are as many matrices on the vector of its values.
    one = np.eye(72).reshape(72, *size)
    across, down = ((np.roll(one, -1, axis) - one).reshape(72, 72) for axis in (2, 1))
    cost = ridge * (np.eye(72) + blind_kernel.ROUGH * (across @ across.T + down @ down.T))
    dense = np.linalg.solve(matrix.T @ matrix + cost, matrix.T @ seen).reshape(size)
    side = 5
    expected = np.roll(dense, (2, 2), (0, 1))[:side, :side]
    found = PeriodicImage(blurred).kernel(torch.fft.rfft2(sharp), side, ridge)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-12)


def test_a_polished_kernel_is_non_negative_least_squares(curve, shaken):
    """Against Lawson and Hanson's method on the dense equations of the correlations."""
    image, psf = luma(shaken[1])[:100, :120], np.pad(curve, 2)
    side, free = len(psf), scipy.ndimage.binary_dilation(psf > 0, np.ones((3, 3)), iterations=blind_kernel.AROUND)
    size = [scipy.fft.next_fast_len(n + side, real=True) for n in image.shape]
    seen = continued(image, size)
    sharp = strong_edges(seen, torch.from_numpy(psf).float(), blind_kernel.LAST_EDGE)
    rows, columns = np.nonzero(free)
    matrix, right = np.zeros((len(rows),) * 2), np.zeros(len(rows))
    for axis in (0, 1):
        a, b = (np.roll(t.double().numpy(), -1, axis) - t.double().numpy() for t in (sharp, seen))
        moves = zip(rows - side // 2, columns - side // 2, strict=True)
        shifted = np.stack([np.roll(a, move, (0, 1)).ravel() for move in moves])
        matrix += shifted @ shifted.T
        right += shifted @ b.ravel()
        next_one = (rows[:, None] == rows + (axis == 0)) & (columns[:, None] == columns + (axis == 1))
        matrix += blind_kernel.RIDGE * blind_kernel.ROUGH * (2 * np.eye(len(rows)) - next_one - next_one.T)
    matrix += blind_kernel.RIDGE * np.eye(len(rows))
    root = np.linalg.cholesky(matrix)
    dense = np.zeros_like(psf)
    dense[free] = scipy.optimize.nnls(root.T, np.linalg.solve(root, right))[0]
    # The method stops before its end, and sets faint pixels to 0, at most 1 % of the largest each.
    found = np.pad(polished(image, psf), 8)
    assert (found >= 0).all()
    shifted = [np.pad(dense / dense.sum(), 8 + np.array([[i, -i], [j, -j]])) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert min(np.abs(found - other).max() for other in shifted) < 0.03 * dense.max() / dense.sum()


def test_a_polished_kernel_has_its_gaps_filled(curve, shaken):
    """A search sets what is weak to 0, also in the middle of a path."""
    middle = len(curve) // 2
    gap = curve.copy()
    gap[:, middle : middle + 2] = 0
    found = polished(luma(shaken[1]), gap / gap.sum())
    lost, again = (psf[:, middle : middle + 2].sum() for psf in (curve, found))
    assert again > 0.3 * lost > 0
    assert alike(found, curve) > alike(gap, curve)


def test_a_search_goes_from_the_smallest_copy_to_the_whole(shaken):
    """What it has found so far is a kernel of the whole at any time."""
    search = Search(31)
    running = KernelSearch(luma(shaken[1]), search)
    levels = []
    while running.level:
        running.go_on()
        levels.append(running.level)
        psf = running.psf()
        assert psf.shape == (31, 31)
        assert float(psf.sum()) == pytest.approx(1, abs=1e-6)
    assert levels == list(reversed(range(search.sizes)))
    torch.testing.assert_close(running.psf(), search_kernel(luma(shaken[1]), search), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="at its end"):
        running.go_on()


@pytest.mark.parametrize("side", [1, 24])
def test_sides_are_odd(side):
    with pytest.raises(ValueError, match=f"odd and at least 3, got {side}"):
        Search(side)


def test_threads_do_not_decide(shaken, monkeypatch):
    """The same kernel whether searches run beside each other or not, for two sides."""
    monkeypatch.setattr("ircdeblur.nets.curved.SIDES", (25, 45))
    monkeypatch.setattr("ircdeblur.nets.curved.WAYS", WAYS[:1])
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        found.append(estimate_kernel(luma(shaken[1])[None, None]))
    assert found[0] is not None
    np.testing.assert_array_equal(found[0].psf, found[1].psf)


def test_so_many_searches_go_on(shaken, monkeypatch):
    looked = Counter()
    go_on = KernelSearch.go_on

    def noted(self):
        go_on(self)
        looked[self.level] += 1

    monkeypatch.setattr(KernelSearch, "go_on", noted)
    monkeypatch.setattr("ircdeblur.nets.curved.KEPT", {3: 3, 2: 2, 1: 1})
    assert estimate_kernel(luma(shaken[1])[None, None]) is not None
    assert [looked[level] for level in (3, 2, 1, 0)] == [2 * n for n in (len(WAYS), 3, 2, 1)]  # in two lights


def test_the_mean_of_kernels_is_one_of_their_shapes():
    """Kernels that differ by shifts and errors: their mean is nearer to the truth than each of them."""
    rng = np.random.default_rng(3)
    truth = np.pad(shake_kernel(9.0, rng), 6)
    truth = truth / truth.sum()
    kernels = [np.roll(truth, (i, j), (0, 1)) for i, j in ((0, 0), (3, -2), (-1, 4), (2, 2))]
    kernels = [k * rng.uniform(0.2, 1.8, k.shape) for k in kernels]
    kernels = [k / k.sum() for k in kernels]
    kernels[1] = np.pad(kernels[1], 3)
    mean = mean_kernel(kernels)
    assert mean.shape == kernels[1].shape
    assert mean.sum() == pytest.approx(1)
    centre = scipy.ndimage.center_of_mass(mean)
    assert np.abs(np.subtract(centre, len(mean) // 2)).max() <= 0.5 + 1e-9

    def error(kernel):
        """Distance from the truth over all shifts, as both have a fixed sum of squares."""
        padded = np.pad(truth, (len(kernel) - len(truth)) // 2)
        product = scipy.signal.fftconvolve(kernel, padded[::-1, ::-1]).max()
        return (kernel**2).sum() + (padded**2).sum() - 2 * product

    assert error(mean) < 0.5 * min(map(error, kernels))


def test_what_leaves_the_square_does_not_come_back():
    """A kernel that lies at the top, with a speck at the bottom: when it is centred the speck is lost."""
    kernel = np.zeros((11, 11))
    kernel[2, 3:8], kernel[10, 5] = 0.19, 0.05
    mean = mean_kernel([kernel])
    expected = np.zeros((11, 11))
    expected[5, 3:8] = 0.2
    np.testing.assert_allclose(mean, expected, atol=1e-12)


def test_little_is_looked_at_where_nothing_is_blurred(monkeypatch):
    """The search ends on a small copy of a sharp picture, with the first way."""
    looked = set()
    go_on = KernelSearch.go_on

    def noted(self):
        go_on(self)
        looked.add((self.search.edges, self.level))

    monkeypatch.setattr(KernelSearch, "go_on", noted)
    sharp = luma(skimage.data.coffee()[:300, :400] / 255)
    assert estimate_kernel(sharp[None, None]) is None
    assert min(level for _, level in looked) == max(KEPT)
    assert {edges for edges, _ in looked} == {WAYS[0][0]}


@pytest.mark.parametrize("level", [2, 1])
def test_a_search_without_hope_ends(shaken, monkeypatch, level):
    """Where the likeliest kernel on a level has less than its share of the bar, no search goes on from there."""
    gains = []
    go_to = _Runner.go_to

    def noted(self, reached, lights):
        go_to(self, reached, lights)
        gains.append((reached, self.found.gain))

    monkeypatch.setattr(_Runner, "go_to", noted)
    assert estimate_kernel(luma(shaken[1])[None, None]) is not None
    best = {at: max(gain for reached, gain in gains if reached == at) for at in (2, 1, 0)}
    gains.clear()
    bar = least_gain(100)
    needed = {3: 0.0, 2: 0.0, 1: 0.0, 0: 0.0} | {level: 1.01 * best[level] / bar}
    monkeypatch.setattr("ircdeblur.nets.curved.HOPEFUL", needed)
    monkeypatch.setattr("ircdeblur.nets.curved.least_gain", lambda windows: bar)
    assert estimate_kernel(luma(shaken[1])[None, None]) is None
    assert min(reached for reached, _ in gains) == level


def test_without_a_cost_of_edges_nothing_is_flattened():
    """With edges that cost next to nothing the splitting leaves a sharp picture, for the kernel 1."""
    image = continued(torch.from_numpy(np.random.default_rng(1).random((30, 32))), [36, 40])
    one = torch.zeros(3, 3, dtype=torch.float64)
    one[1, 1] = 1
    # The first steps, whose penalty is as small, flatten all of it: that much stays of them.
    torch.testing.assert_close(strong_edges(image, one, 1e-12), image, rtol=0, atol=1e-6)


def test_weak_edges_are_flattened_and_strong_ones_kept():
    """Of a noisy step the noise goes, and the step stays: an edge costs 4e-3, the step's square is 0.25."""
    step = torch.zeros(40, 48, dtype=torch.float64)
    step[:, 12:36] = 0.5
    noisy = step + 0.02 * torch.from_numpy(np.random.default_rng(2).standard_normal(step.shape))
    one = torch.ones(1, 1, dtype=torch.float64)
    flat = strong_edges(noisy, one, 4e-3)
    assert (flat - step).std() < 0.3 * (noisy - step).std()
    assert STEEPEST / (2 * 4e-3) > STEEPER**4  # several steps of the splitting


def test_a_step_of_the_splitting_is_least_squares():
    """Against a dense solution: with one step, gradients are either those of the image or 0."""
    rng = np.random.default_rng(3)
    size, edge = (8, 10), 0.9 * blind_kernel.STEEPEST / 2  # the next penalty is beyond the steepest
    image, psf = rng.random(size), rng.random((3, 3))
    penalty = 2 * edge
    one = np.eye(80).reshape(80, *size)
    turns = [(psf[i, j], np.roll(one, (i - 1, j - 1), (1, 2))) for i in range(3) for j in range(3)]
    blur = sum(weight * turned for weight, turned in turns).reshape(80, 80).T
    across, down = ((np.roll(one, -1, axis) - one).reshape(80, 80).T for axis in (2, 1))
    a, d = across @ image.ravel(), down @ image.ravel()
    kept = a**2 + d**2 >= edge / penalty
    assert 5 < kept.sum() < 75
    matrix = blur.T @ blur + penalty * (across.T @ across + down.T @ down)
    right = blur.T @ image.ravel() + penalty * (across.T @ (a * kept) + down.T @ (d * kept))
    expected = torch.from_numpy(np.linalg.solve(matrix, right).reshape(size))
    found = strong_edges(torch.from_numpy(image), torch.from_numpy(psf), edge)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_a_continued_image_has_no_seam():
    ramp = torch.linspace(0, 1, 40)[:, None] * torch.linspace(1, 2, 50)
    larger = continued(ramp, [60, 72])
    assert larger.shape == (60, 72)
    assert torch.equal(larger[:40, :50], ramp)
    for axis in (0, 1):
        around = torch.roll(larger, -1, axis) - larger
        assert around.abs().max() < 0.2  # from 2 to 0 at once without the continuation


def test_a_curved_shake_is_believed_and_undone(curve, shaken):
    sharp, blurred = shaken
    result, motion, psf = ircdeblur.deblur(blurred, return_motion=True, return_psf=True)
    assert motion.shape == (*blurred.shape[:2], 2)
    assert alike(psf, curve) > 0.8
    before, after = psnr(blurred, sharp), max(psnr(np.roll(result, s, (0, 1)), sharp) for s in shifts())
    assert after > before + 3
    half = ircdeblur.deblur(blurred, strength=0.5)
    inside = (result > 0) & (result < 1)  # what is outside [0, 1] is cut off later
    np.testing.assert_allclose(half[inside], ((blurred + result) / 2)[inside], atol=1e-5)
    straight, none = ircdeblur.deblur(blurred, path="straight", return_psf=True)
    assert none is None
    assert max(psnr(np.roll(straight, s, (0, 1)), sharp) for s in shifts()) < after - 2


def shifts():
    """Pixels by which picture and kernel may be off together: a blind kernel is centred on its mean."""
    return [(i, j) for i in range(-3, 4) for j in range(-3, 4)]


def test_the_tables_undo_it_as_deblur_does(shaken, curve, monkeypatch):
    blurred = shaken[1]
    kernel = KernelEstimate(curve, False, 30.0, 0.084, 0.002)
    monkeypatch.setattr(restore, "kernel_of", lambda *arguments: kernel)
    result, motion, error = ircdeblur.deblur(blurred, method="irc-mm", return_motion=True, return_error=True)
    by_table = undo(blurred, Found(motion, error, kernel=kernel), "irc-mm")
    np.testing.assert_allclose(by_table, result.clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["sharp", "straight", "noise"])
def test_no_kernel_where_something_else_explains_the_picture(kind):
    if kind == "noise":
        blurred = np.random.default_rng(0).random((200, 220, 3)).astype(np.float32)
    else:
        blurred = photograph(linear_motion_kernel(*((15, 30) if kind == "straight" else (1, 0))))[1]
    assert ircdeblur.estimate_psf(blurred) is None


def test_a_kernel_must_be_clearly_likelier(shaken, monkeypatch):
    found = estimate_kernel(luma(shaken[1])[None, None])
    assert found is not None
    assert found.evidence > LIKELIER
    assert not found.linear_light
    assert found.unevenness == 0
    monkeypatch.setattr("ircdeblur.nets.curved.LIKELIER", found.evidence + 1)
    assert estimate_kernel(luma(shaken[1])[None, None]) is None


def test_the_kernel_is_corrected_twice(shaken, monkeypatch):
    """A network that answers with what it is shown changes nothing; of one that moves weights the mean is taken."""
    image = luma(shaken[1])[None, None]
    found = estimate_kernel(image).psf
    same = KernelNet(KernelNetConfig(widths=(4, 6), blocks=1))
    torch.nn.init.zeros_(same.last.weight)
    # Rounding of float32.
    np.testing.assert_allclose(estimate_kernel(image, net=same).psf, found, atol=1e-6)
    shown = []

    def blurrier(net, maps):
        shown.append(maps[POLISHED].double().numpy())
        return scipy.ndimage.gaussian_filter(shown[-1] / shown[-1].sum(), 0.5)

    monkeypatch.setattr("ircdeblur.nets.curved.corrected", blurrier)
    once = scipy.ndimage.gaussian_filter(found, 0.5)
    expected = (found + once + scipy.ndimage.gaussian_filter(once, 0.5)) / 3
    assert alike(estimate_kernel(image, net=same).psf, expected) > 0.9999
    assert len(shown) == 2 * CORRECTIONS == 4  # in either light


def test_the_packages_kernel_net_comes_nearer(curve, shaken):
    image = luma(shaken[1])[None, None]
    before, after = (estimate_kernel(image, net=net).psf for net in (None, load_kernel_net()))

    def share(kernel):
        """Of the true kernel's energy that remains, at the best shift, once both have the same sum."""
        product = scipy.signal.fftconvolve(kernel, curve[::-1, ::-1]).max()
        return 1 - ((kernel**2).sum() + (curve**2).sum() - 2 * product) / (curve**2).sum()

    assert share(after) > share(before) + 0.02


@pytest.mark.parametrize("linear", [False, True])
def test_each_light_is_judged_by_the_kernel_refined_in_it(shaken, monkeypatch, linear):
    """The light with much the smaller misfit is taken, and its kernel."""
    kernels, judged = [], []

    def refined(light, psf, net):
        kernels.append(refined_kernel(light, psf, net))
        return kernels[-1]

    def misfit(luma, blur, noise, light):
        judged.append((blur.psf, light))
        return 0.1 if light == linear else 1.0

    monkeypatch.setattr("ircdeblur.nets.curved.refined_kernel", refined)
    monkeypatch.setattr("ircdeblur.nets.curved.reblurring_misfit", misfit)
    found = estimate_kernel(luma(shaken[1])[None, None])
    assert [light for _, light in judged] == [False, True]
    for (psf, _), kernel in zip(judged, kernels, strict=True):
        np.testing.assert_array_equal(psf, kernel.astype(np.float32))
    assert not np.array_equal(*kernels)
    assert found.linear_light == linear
    assert found.psf is kernels[linear]
    noise = estimate_noise(luma(shaken[1])[None, None])
    assert found.residual == pytest.approx(math.sqrt(0.1**2 - noise**2))


def test_light_of_a_curved_shake(curve):
    _sharp, blurred = photograph(curve, linear=True, noise=0.002)
    found = estimate_kernel(luma(blurred)[None, None])
    assert found is not None
    assert found.linear_light
    assert found.unevenness == 0  # of the spectra in this light: in the other one it is not
    assert alike(found.psf, curve) > 0.7
    decided = ircdeblur.deblur(blurred)
    np.testing.assert_array_equal(decided, ircdeblur.deblur(blurred, linear_light=True))


def test_kernels_of_a_batch(shaken):
    still = photograph(round_kernel(0.1, True))[1]
    height, width = shaken[1].shape[:2]
    batch = torch.from_numpy(np.stack((shaken[1], still[:height, :width]))).permute(0, 3, 1, 2)
    kernels = ircdeblur.estimate_psf(batch)
    assert isinstance(kernels, list)
    assert kernels[1] is None
    np.testing.assert_array_equal(kernels[0], ircdeblur.estimate_psf(shaken[1]))


def test_few_windows_say_nothing(monkeypatch):
    """Mostly sky: of its four windows a kernel explains the one with an edge far better than no blur."""
    monkeypatch.setattr("ircdeblur.nets.curved.SIDES", (25, 45))
    rocket = np.ascontiguousarray(skimage.data.rocket()[180:308, 270:398])
    np.testing.assert_array_equal(ircdeblur.deblur(rocket), rocket)


def test_the_bar_is_higher_for_fewer_windows(shaken, monkeypatch):
    found = estimate_kernel(luma(shaken[1])[None, None])
    assert found is not None
    monkeypatch.setattr("ircdeblur.nets.curved.FEW_WINDOWS", 16 * (found.evidence / LIKELIER + 1) ** 2)
    assert estimate_kernel(luma(shaken[1])[None, None]) is None


def test_a_kernel_that_is_not_the_same_everywhere(curve):
    """Other places moved along the mirrored path: the same kernel leaves more of the power."""
    one, other = (photograph(kernel)[1] for kernel in (curve, curve[:, ::-1].copy()))
    half = one.shape[1] // 2
    floors = []
    for picture in (one, np.concatenate((one[:, :half], other[:, half:]), 1)):
        evidence = SpectralEvidence(luma(picture)[None, None], 0.005)
        floors.append(floor_of_kernel(evidence, curve, evidence.brightest >= 0))
    assert floors[0] <= EVEN
    assert floors[1] > EVEN


def test_highlights_do_not_make_a_kernel_uneven(curve):
    """Lamps that are cut off fill the gaps of the spectra; the windows without them do not count less."""
    scene = skimage.data.astronaut() / 510
    rng = np.random.default_rng(0)
    for row, column in rng.integers((0, 0), (512, 256), (60, 2)):
        scene[row : row + 4, column : column + 4] = 20.0
    blurred = scipy.signal.fftconvolve(scene, curve[..., None], mode="valid", axes=(0, 1))
    blurred = (blurred + rng.normal(0, 0.005, blurred.shape)).clip(0, 1)
    evidence = SpectralEvidence(luma(blurred)[None, None], 0.005)
    dark = evidence.brightest < BRIGHT
    assert 4 <= int(dark.sum()) < len(dark)
    assert floor_of_kernel(evidence, curve, dark) <= EVEN
    assert floor_of_kernel(evidence, curve, dark | True) > 3 * EVEN
    assert floor_of_kernel(evidence, curve, dark & False) == floor_of_kernel(evidence, curve, dark | True)


def test_an_uneven_kernel_is_not_believed(shaken, monkeypatch):
    monkeypatch.setattr("ircdeblur.nets.curved.floor_of_kernel", lambda *arguments: TOO_UNEVEN)
    found = estimate_kernel(luma(shaken[1])[None, None])
    assert found is not None
    assert found.unevenness == pytest.approx(math.sqrt(TOO_UNEVEN - EVEN))
    monkeypatch.setattr("ircdeblur.nets.curved.floor_of_kernel", lambda *arguments: 1.01 * TOO_UNEVEN)
    assert estimate_kernel(luma(shaken[1])[None, None]) is None


@pytest.mark.parametrize(
    ("unevenness", "residual", "expected"),
    [
        (0.0, 0.0, 0.005),
        (0.1, 0.0, math.hypot(0.005, 0.02)),
        (0.1, 0.003, math.hypot(0.005, 0.02, 0.015)),
        (0, 1, 0.05),
    ],
)
def test_what_a_kernel_does_not_explain_counts_as_noise(shaken, curve, monkeypatch, unevenness, residual, expected):
    told = []

    def noted(y, operator, sigma, *arguments, **named):
        told.append(sigma)
        return run_method(y, operator, sigma, *arguments, **named)

    run_method = restore.run_method
    monkeypatch.setattr(restore, "run_method", noted)
    kernel = KernelEstimate(curve, False, 30.0, unevenness, residual)
    monkeypatch.setattr(restore, "kernel_of", lambda *arguments: kernel)
    ircdeblur.deblur(shaken[1], method="irc-mm")
    own = noise_of(torch.from_numpy(shaken[1]).permute(2, 0, 1)[None], kernel.psf)
    assert told == [pytest.approx(math.hypot(own, expected), rel=1e-5)]


@pytest.mark.parametrize("size", [(20, 30), (64, 64), (1, 1)])
def test_small_pictures(size):
    image = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    assert ircdeblur.estimate_psf(image) is None


def test_paths_are_known():
    with pytest.raises(ValueError, match="path must be one of any, straight, got 'curved'"):
        ircdeblur.deblur(np.zeros((70, 70), np.float32), path="curved")


def test_from_the_command_line(shaken, tmp_path, capsys):
    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        return code, "".join(capsys.readouterr())

    source, kernel = tmp_path / "shaken.png", tmp_path / "kernel.tif"
    skimage.io.imsave(source, (shaken[1] * 255).round().astype(np.uint8))
    code, said = call("psf", source, "-o", kernel)
    assert code == 0
    assert "a curved path" in said
    assert read_psf(kernel).sum() == pytest.approx(1)
    code, said = call("deblur", source, "-o", tmp_path / "sharp.png", "--report", tmp_path / "report.html")
    assert code == 0
    assert "a curved path" in said
    assert "found, of a curved path" in (tmp_path / "report.html").read_text()
    code, said = call("deblur", source, "-o", tmp_path / "straight.png", "--path", "straight")
    assert code == 0
    assert "a curved path" not in said
    skimage.io.imsave(source, skimage.data.astronaut()[:200, 100:300])
    code, said = call("psf", source, "-o", tmp_path / "none.tif")
    assert code == 1
    assert "no kernel that explains all of it" in said
    assert not (tmp_path / "none.tif").exists()
