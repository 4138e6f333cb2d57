"""The likelihood of motions given the spectra of a picture, and what is fitted to it."""

import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ircdeblur.data.synthesis import disc_blur
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.motion import align_sign, from_polar, to_double_angle
from ircdeblur.nets import evidence as spectra
from ircdeblur.nets.blind import SEEN, SEEN_NOISE, SHORT, UNSURE, consolidate
from ircdeblur.nets.camera_fit import camera_model
from ircdeblur.nets.evidence import SpectralEvidence
from ircdeblur.nets.noise import RECKONED, hidden_noise
from ircdeblur.nets.refine import (
    _vectors,
    descend,
    improve_camera,
    improve_local,
    likeliest_floor,
    misfit,
    refine_camera,
    refine_local,
    refine_smooth,
    smoothest_labels,
    standing_still,
)
from ircdeblur.nets.smooth_fit import consistent_signs, fit_smooth, smooth_model
from ircdeblur.operators import MotionBlur
from ircdeblur.solvers.settings import estimate_noise


def texture(shape, seed=0):
    """Noise whose power falls with the frequency, as a photograph's does, (1, 1, H, W)."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    falling = 1 / np.maximum(np.hypot(fy, fx), 1 / 64) ** 1.5
    image = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * falling, s=shape)
    return torch.from_numpy(0.5 + 0.15 * image / image.std()).float()[None, None]


def moved(motion, noise=0.005, seed=0):
    field = torch.from_numpy(np.ascontiguousarray(motion)).float()
    blurred = MotionBlur(field, boundary="reflect").A(texture(motion.shape[:2], seed))
    return blurred + noise * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(seed))


def uniform(shape, length, angle):
    return np.broadcast_to(from_polar(np.array(length), np.array(float(angle))), (*shape, 2))


def model(lattice, side, u, v, a):
    """Rows (power, expected power of unit amplitude, noise) of each sector, written out in NumPy."""
    image = moved(uniform((side + 1, side + 1), 7.0, 30.0))
    grey = image[0, 0].double().numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(side) / (side - 1))
    taper = np.outer(window, window)
    taper /= np.sqrt((taper**2).sum())
    power = 0
    for gradient in (grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1]):
        gradient = gradient - (gradient * taper).sum() / taper.sum()
        power = power + np.abs(np.fft.fft2(gradient * taper)) ** 2
    sectors: dict[int, list[tuple[float, float, float]]] = {}
    seen = used = 0
    for i, j in itertools.product(range(side), range(side // 2 + 1)):
        row = i if i < side // 2 else i - side
        fy, fx = row / side, j / side
        radius = math.hypot(fx, fy)
        if not 2.5 / side < radius < spectra.HIGHEST or (fx == 0 and fy < 0):
            continue
        used += 1
        if (lattice[0] * row + lattice[1] * j) % lattice[2]:
            continue
        seen += 1
        gain = abs(np.exp(2j * np.pi * fx) - 1) ** 2 + abs(np.exp(2j * np.pi * fy) - 1) ** 2
        shape = gain * radius**-a * (np.sinc(fx * u + fy * v) ** 2 + spectra.FLOOR)
        sector = int(min(math.atan2(fy, fx) % math.pi / math.pi * spectra.SECTORS, spectra.SECTORS - 1))
        sectors.setdefault(sector, []).append((power[i, j], shape, 0.005**2 * gain))
    return image, [np.array(rows).T for rows in sectors.values()], used / seen


@pytest.mark.parametrize("lattice", [(1, 1, 1), spectra.FINE, spectra.COARSE])
def test_likelihood_by_the_formula(lattice):
    """Oracle: the model written out in NumPy, with amplitudes found by a search on a fine grid."""
    u, v, a = 5.0, -3.0, 3.0
    image, sectors, scale = model(lattice, 32, u, v, a)
    evidence = SpectralEvidence(image, 0.005, window=32, lattice=lattice)
    assert evidence.shape == (1, 1)
    total = 0.0
    for p, shape, noise in sectors:
        mean = np.exp(np.linspace(-25, 5, 20001))[:, None] * shape + noise
        total += scale * (-np.log(mean) - p / mean).sum(1).max()
    found = float(evidence.log_likelihood(torch.tensor([[u, v]]), a))
    # A few updates do not quite reach the best amplitudes: never above them, and below by less than they matter.
    assert total - 1.0 * scale < found < total + 0.05


@pytest.mark.parametrize("floor", spectra.FLOORS)
def test_another_floor(floor):
    """Oracle: evidence that was made with it."""
    picture = moved(uniform((330, 340), 9.0, 30.0))
    evidence, other = SpectralEvidence(picture, 0.005), SpectralEvidence(picture, 0.005, floor=floor)
    motion = torch.tensor([[4.0, 2.0]]).repeat(len(evidence.x), 1)
    for coarse_first in (False, True):
        if coarse_first:
            assert evidence.coarse.floor == spectra.FLOOR
        changed = evidence.with_floor(floor)
        assert torch.equal(changed.log_likelihood(motion, 3.0), other.log_likelihood(motion, 3.0))
        assert torch.equal(changed.coarse.log_likelihood(motion, 3.0), other.coarse.log_likelihood(motion, 3.0))
    assert (evidence.floor == floor) == (floor == spectra.FLOOR)


def uneven(shape, length, angle, seed=0):
    """A picture that stood still for a third of the time, and moved for the rest of it."""
    moving, still = moved(uniform(shape, length, angle), 0.0, seed), texture(shape, seed)
    noise = 0.005 * torch.randn(still.shape, generator=torch.Generator().manual_seed(seed))
    return 2 / 3 * moving + still / 3 + noise


def test_the_floor_tells_even_motions_from_uneven_ones():
    shape = (250, 300)
    for length, angle in ((9.0, 20.0), (17.0, 100.0), (27.0, 150.0)):
        floors = []
        for picture in (moved(uniform(shape, length, angle)), uneven(shape, length, angle)):
            evidence = SpectralEvidence(picture, 0.005)
            motion = torch.from_numpy(from_polar(np.array(length), np.array(angle))).float().repeat(len(evidence.x), 1)
            # Of two candidates the likelier one counts.
            floors.append(likeliest_floor(evidence, torch.stack((motion.flip(-1), motion)), 3.0))
        even, other = floors
        assert even <= 0.008 < 0.1 <= other


def test_the_usual_floor_is_that_of_the_motion():
    """Oracle: the floor that is the likeliest, for pictures whose motion is long, turns, or neither."""
    x = np.mgrid[:330, :340][1] / 335
    fields = {
        "long": from_polar(np.full_like(x, 27.0), np.full_like(x, 40.0)),
        "turning": from_polar(np.full_like(x, 16.0), 20 + 130 * x),
        "short": from_polar(np.full_like(x, 8.0), np.full_like(x, 100.0)),
    }
    usual = {}
    for name, field in fields.items():
        evidence = SpectralEvidence(moved(field, 0.001), 0.001)
        at = torch.from_numpy(np.ascontiguousarray(field)).float().permute(2, 0, 1)
        motion = evidence.sample(at, field.shape[:2]).T
        usual[name] = evidence.usual_floor(to_double_angle(motion.double().numpy()))
        found = likeliest_floor(evidence, motion[None], 3.0)
        # Lattices of floors and frequencies make either coarse.
        assert usual[name] / 5 < found < 2 * max(usual[name], 0.003), name
    assert usual["short"] < 0.5 * min(usual["long"], usual["turning"])


def test_improvement_with_another_floor():
    """A motion that was found roughly is found exactly with the floor that it has."""
    shape, length, angle = (250, 300), 12.0, 40.0
    evidence = SpectralEvidence(moved(uniform(shape, length, angle)), 0.005, floor=0.3)
    truth = from_polar(np.array(length), np.array(angle))
    seen = to_double_angle(torch.from_numpy(truth).float().repeat(len(evidence.x), 1)) * 1.1
    design = camera_model(evidence.x / 150 - 1, evidence.y / 150 - 1)
    rough = refine_local(evidence, seen)
    start = np.linalg.lstsq(design.reshape(-1, 6), np.tile(1.1 * truth, len(evidence.x)), rcond=None)[0]
    camera = refine_camera(evidence, design, start[None], rough.exponent, rough.best)
    exact = evidence.with_floor(spectra.FLOORS[0])
    local = improve_local(exact, rough)
    moved_camera = improve_camera(exact, design, camera, local.best)
    goal = to_double_angle(truth)

    def error(parameters):
        return np.hypot(*(parameters - goal).T).mean()

    before, after = (to_double_angle(design @ found.parameters) for found in (camera, moved_camera))
    assert error(local.parameters) < 0.5 * error(rough.parameters)
    assert error(after) < 0.5 * error(before)


def test_fewer_frequencies_of_many_windows():
    picture = moved(uniform((330, 340), 9.0, 30.0))
    few, many = SpectralEvidence(picture[..., :200, :], 0.005), SpectralEvidence(picture, 0.005)
    assert len(few.x) < spectra.MANY <= len(many.x)
    assert few.coarse is few
    motion = torch.tensor([[4.0, 2.0]]).repeat(len(many.x), 1)
    by_hand = SpectralEvidence(picture, 0.005, lattice=spectra.COARSE).log_likelihood(motion, 3.0)
    torch.testing.assert_close(many.coarse.log_likelihood(motion, 3.0), by_hand)
    # They say the same about the whole picture.
    whole = SpectralEvidence(picture, 0.005, lattice=spectra.ALL).log_likelihood(motion, 3.0)
    assert float(many.log_likelihood(motion, 3.0).sum()) == pytest.approx(float(whole.sum()), rel=0.01)


def test_information_by_the_formula():
    """Oracle: Fisher's information of all parameters by finite differences, the amplitudes' part taken out."""
    at, side = np.array([5.0, -3.0, 3.0]), 48
    image, sectors, scale = model(spectra.FINE, side, *at)
    evidence = SpectralEvidence(image, 0.005, window=side, lattice=spectra.FINE)
    amplitudes = []
    for p, shape, noise in sectors:
        grid = np.exp(np.linspace(-25, 5, 20001))
        mean = grid[:, None] * shape + noise
        amplitudes.append(grid[(-np.log(mean) - p / mean).sum(1).argmax()])

    def logarithm(values):
        rows = model(spectra.FINE, side, *values)[1]
        return [np.log(c * shape + noise) for c, (_, shape, noise) in zip(amplitudes, rows, strict=True)]

    columns = []
    for k, step in enumerate((1e-3, 1e-3, 1e-4)):
        ahead, behind = (logarithm(at + sign * step * np.eye(3)[k]) for sign in (1, -1))
        columns.append([(x - y) / (2 * step) for x, y in zip(ahead, behind, strict=True)])
    information = np.zeros((3, 3))
    for s, (_, shape, noise) in enumerate(sectors):
        slopes = np.stack([column[s] for column in columns])
        own = amplitudes[s] * shape / (amplitudes[s] * shape + noise)
        information += scale * (slopes @ slopes.T - np.outer(slopes @ own, slopes @ own) / (own @ own))
    found = evidence.slopes(torch.from_numpy(at[None, :2]).float(), at[2])[2][0].double().numpy()
    # The amplitudes are only nearly the best ones.
    np.testing.assert_allclose(found, information, rtol=0.02, atol=0.02 * np.abs(information).max())


@pytest.mark.parametrize(("length", "angle"), [(9.0, 20.0), (17.0, 100.0), (30.0, 160.0)])
def test_the_true_motion_is_likeliest(length, angle):
    evidence = SpectralEvidence(moved(uniform((200, 220), length, angle)), 0.005, floor=spectra.FLOORS[0])
    count = len(evidence.x)

    def total(length, angle):
        field = torch.from_numpy(np.broadcast_to(from_polar(np.array(length), np.array(angle)), (count, 2)).copy())
        return float(evidence.log_likelihood(field.float(), 3.0).sum())

    best = total(length, angle)
    assert all(total(length * s, angle) < best for s in (0.6, 0.8, 0.92, 1.08, 1.25, 1.6))
    assert all(total(length, angle + t) < best for t in (-40.0, -12.0, 12.0, 40.0, 90.0))
    assert total(length, angle + 180) == pytest.approx(best, rel=1e-5)


def test_slopes_by_finite_differences():
    evidence = SpectralEvidence(moved(uniform((100, 150), 11.0, 40.0)), 0.005)
    motion = torch.tensor([[8.0, -6.0], [0.0, 0.0], [3.0, 9.0]]).repeat(len(evidence.x) // 3 + 1, 1)[: len(evidence.x)]
    values, gradient, _ = evidence.slopes(motion, 3.0)
    torch.testing.assert_close(values, evidence.log_likelihood(motion, 3.0), rtol=1e-4, atol=0.05)
    step = 0.05
    for axis in (0, 1):
        ahead, behind = (motion.clone() for _ in range(2))
        ahead[:, axis] += step
        behind[:, axis] -= step
        slope = (evidence.log_likelihood(ahead, 3.0) - evidence.log_likelihood(behind, 3.0)) / (2 * step)
        # The amplitudes are only nearly at their best, where they would not matter: some per cent.
        torch.testing.assert_close(gradient[:, axis], slope, rtol=0.1, atol=0.5)
    slope = (evidence.log_likelihood(motion, 3.05) - evidence.log_likelihood(motion, 2.95)) / 0.1
    torch.testing.assert_close(gradient[:, 2], slope, rtol=0.1, atol=2.0)
    assert gradient[:, :2].abs().max() > 5
    assert gradient[:, 2].abs().max() > 5


def test_vectors_of_double_angles_by_finite_differences():
    double = np.array([[3.0, 4.0], [-7.0, 1.0], [0.5, -9.0], [2.0, 0.0]])
    vectors, slopes = _vectors(double)
    np.testing.assert_allclose(to_double_angle(vectors), double, atol=1e-12)
    for k in (0, 1):
        ahead, behind = (_vectors(double + sign * 1e-6 * np.eye(2)[k])[0] for sign in (1, -1))
        np.testing.assert_allclose(slopes[..., k], (ahead - behind) / 2e-6, atol=1e-6)
    assert np.isfinite(_vectors(np.zeros((1, 2)))[1]).all()


def test_sampling_and_spreading():
    evidence = SpectralEvidence(torch.rand(1, 1, 240, 333), 0.01)
    x, y = torch.from_numpy(evidence.x).float(), torch.from_numpy(evidence.y).float()
    columns, rows = torch.meshgrid(torch.arange(333.0), torch.arange(240.0), indexing="xy")
    plane = (2 * columns - rows)[None]
    # A plane stays one: bilinear interpolation between pixels, then between windows.
    torch.testing.assert_close(evidence.sample(plane, (240, 333))[0], 2 * x - y, atol=1e-2, rtol=1e-4)
    spread = evidence.spread((2 * x - y)[None], (240, 333), (240, 333))[0]
    inner = (slice(48, 192), slice(48, 285))
    torch.testing.assert_close(spread[inner], plane[0][inner], atol=0.6, rtol=0)


def test_too_small_a_picture():
    with pytest.raises(ValueError, match="17 x 17"):
        SpectralEvidence(torch.rand(1, 1, 12, 40), 0.01)


def test_misfit_is_bounded_and_smooth():
    d = torch.tensor([-5.0, 0.0, 1e-3, 1e6], requires_grad=True)
    cost = misfit(d, 10.0)
    torch.testing.assert_close(cost.detach(), torch.tensor([-5.0, 0.0, 1e-3, 10.0]))
    cost.sum().backward()
    assert d.grad[0] == 1
    assert d.grad[3] == 0


@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
def test_labels_of_a_chain_are_optimal(shape):
    """On a chain belief propagation is exact; oracle: all labelings."""
    rng = np.random.default_rng(1)
    unary, pairwise = rng.random((*shape, 3)), rng.random((3, 3))
    pairwise = pairwise + pairwise.T
    found = smoothest_labels(torch.from_numpy(unary), torch.from_numpy(pairwise), sweeps=60).flatten().tolist()
    flat = unary.reshape(-1, 3)

    def cost(labels):
        return sum(flat[i, k] for i, k in enumerate(labels)) + sum(
            pairwise[a, b] for a, b in itertools.pairwise(labels)
        )

    assert tuple(found) == min(itertools.product(range(3), repeat=4), key=cost)


def test_local_refinement():
    """A field that turns: started with lengths a fifth too long and turned by 10 degrees."""
    shape = (240, 288)
    ramp = np.linspace(0, 1, shape[1])[None] * np.ones((shape[0], 1))
    motion = from_polar(14 + 4 * ramp, 30 + 40 * ramp)
    evidence = SpectralEvidence(moved(motion), 0.005)
    place = (evidence.y.astype(int), evidence.x.astype(int))
    truth = motion[place]
    wrong = to_double_angle(from_polar(1.2 * (14 + 4 * ramp), 40 + 40 * ramp))[place]
    found = refine_local(evidence, torch.from_numpy(wrong).float())
    off = np.hypot(*(found.parameters - to_double_angle(truth)).T)
    assert np.hypot(*(wrong - to_double_angle(truth)).T).min() > 5
    # The lengths vary by 2 px within a window, and the spectra of one window tell them to 5 %.
    assert np.median(off) < 2.0
    assert (found.likelihood <= found.best).all()


def test_camera_refinement():
    shape = (240, 300)
    y, x = (g.ravel() for g in np.mgrid[-0.8:0.8:240j, -1:1:300j])
    truth = np.array([9.0, 6.0, 1.0, -5.0, 1.0, 0.5])
    motion = (camera_model(x, y) @ truth).reshape(*shape, 2)
    evidence = SpectralEvidence(moved(motion, seed=3), 0.005)
    design = camera_model((evidence.x - 149.5) / 150, (evidence.y - 119.5) / 150)
    best = evidence.log_likelihood(torch.from_numpy(design @ truth).float(), 3.0)
    start = 0.75 * truth + [0.0, -1.0, 0.5, 0.5, 0.0, 0.0]
    # The other start is hopeless.
    found = refine_camera(evidence, design, np.stack((start, [0.0, 20, 0, 0, 0, 0])), 3.0, best)
    windows = design @ found.parameters
    off = np.hypot(*(align_sign(windows, design @ truth) - design @ truth).T)
    # Seven numbers from some twenty windows, each of which tells its motion to 5 %.
    assert off.mean() < 0.5
    assert float(misfit(found.best - found.likelihood).sum()) + found.penalty < 10 * len(evidence.x)


def compressed(image, quality):
    """A picture (1, 1, H, W) as JPEG keeps it."""
    file = io.BytesIO()
    grey = (image[0, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(grey).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file), np.float32) / 255)[None, None]


@pytest.mark.parametrize(("quality", "noise", "shown"), [(80, 0.01, (0.005, 0.016)), (0, 0.01, None), (0, 0.002, None)])
def test_noise_that_compression_has_hidden(quality, noise, shown):
    image = moved(uniform((240, 288), 12.0, 30.0), noise=noise)
    image = compressed(image, quality) if quality else image
    estimated = estimate_noise(image)
    motion = torch.tensor(uniform((240, 288), 12.0, 30.0))
    kernel = linear_motion_kernel(12.0, 30.0)
    found = [hidden_noise(image, blur) for blur in (motion, kernel)]
    if shown is None:
        # White noise is where it is looked for.
        assert found == [0.0, 0.0]
        assert estimated > 0.9 * noise
    else:
        assert estimated < 0.5 * noise
        for one in found:
            assert shown[0] < one / RECKONED < shown[1]
    assert hidden_noise(image[..., :40, :], motion[:40]) == 0.0


def test_of_a_large_photograph_the_middle_tells_the_noise(monkeypatch):
    monkeypatch.setattr("ircdeblur.nets.noise.SIDE", 160)
    image = torch.rand(1, 1, 240, 288, generator=torch.Generator().manual_seed(0))
    image[..., 40:200, 64:224] = compressed(moved(uniform((160, 160), 12.0, 30.0), noise=0.01), 80)
    # The motion at the rim is another: it must not be looked at.
    motion = torch.tensor(uniform((240, 288), 3.0, 120.0))
    motion[40:200, 64:224] = torch.tensor(uniform((160, 160), 12.0, 30.0))
    found = hidden_noise(image, motion)
    assert found == hidden_noise(image[..., 40:200, 64:224], motion[40:200, 64:224])
    assert 0.005 < found / RECKONED < 0.016


@pytest.mark.parametrize("which", ["fine", "coarse"])
@pytest.mark.parametrize("groups", [3, 100])
def test_many_motions_together(monkeypatch, groups, which):
    """However many are looked at at once, each is as likely as alone, with another floor or noise as well."""
    picture = moved(uniform((300, 400), 12.0, 30.0))
    whole, other = (SpectralEvidence(picture, 0.005) for _ in range(2))
    assert whole.coarse is not whole
    if which == "coarse":
        whole, other = whole.coarse, other.coarse
    count = len(whole.x)
    motion = torch.from_numpy(np.random.default_rng(0).normal(0, 9, (7, count, 2))).float()
    radii = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0])
    # Evidence that has been asked before is changed, too.
    for change in (lambda e: e, lambda e: e.with_noise(0.02), lambda e: e.with_floor(0.1)):
        monkeypatch.setattr(spectra, "TOGETHER", groups * whole._power.numel())
        evidence = change(whole)
        found = evidence.log_likelihood(motion, 3.0), evidence.log_likelihood_of_discs(radii, 3.0)
        monkeypatch.setattr(spectra, "TOGETHER", 1)
        evidence = change(other)
        # Sums of some hundred float32 logarithms, in another order.
        torch.testing.assert_close(found[0], evidence.log_likelihood(motion, 3.0), rtol=1e-5, atol=0.02)
        torch.testing.assert_close(found[1], evidence.log_likelihood_of_discs(radii, 3.0), rtol=1e-5, atol=0.02)


def test_another_noise_of_the_same_spectra():
    image = moved(uniform((200, 220), 9.0, 70.0), noise=0.01)
    motion = torch.from_numpy(from_polar(np.full(16, 9.0), np.full(16, 70.0))).float()
    direct, other = SpectralEvidence(image, 0.01), SpectralEvidence(image, 0.002).with_noise(0.01)
    motion = motion[:1].expand(len(direct.x), 2)
    assert other.noise == direct.noise == 0.01
    torch.testing.assert_close(other.log_likelihood(motion, 3.0), direct.log_likelihood(motion, 3.0))
    torch.testing.assert_close(other.coarse.log_likelihood(motion, 3.0), direct.coarse.log_likelihood(motion, 3.0))
    assert SpectralEvidence(image, 0.002).noise == 0.002


def test_likelihood_of_a_kernel():
    """A straight kernel is as likely as its motion; of others the true one is the likeliest."""
    evidence = SpectralEvidence(moved(uniform((240, 288), 12.0, 0.0)), 0.005)
    motion = torch.tensor([12.0, 0.0]).expand(len(evidence.x), 2)
    straight = evidence.log_likelihood_of_kernel(linear_motion_kernel(12.0, 0.0), 3.0)
    # A row of twelve pixels is no continuous line: sin(12 x) / (12 sin x) for sin(12 x) / (12 x).
    torch.testing.assert_close(straight, evidence.log_likelihood(motion, 3.0), rtol=0.01, atol=5)
    others = [linear_motion_kernel(12.0, angle) for angle in (10, 90)] + [
        linear_motion_kernel(14.0, 0.0),
        np.ones((1, 1)),
    ]
    assert all(float(straight.sum()) > float(evidence.log_likelihood_of_kernel(k, 3.0).sum()) + 50 for k in others)
    # No blur is no blur.
    still = evidence.log_likelihood(torch.zeros(len(evidence.x), 2), 3.0)
    torch.testing.assert_close(evidence.log_likelihood_of_kernel(np.ones((1, 1)), 3.0), still, rtol=1e-4, atol=0.1)


def test_smooth_refinement():
    """A field that a camera cannot make, from a parabola whose lengths are a fifth too short."""
    shape = (336, 336)
    ramp = np.linspace(0, 1, shape[1])[None] * np.ones((shape[0], 1))
    motion = from_polar(9 + 9 * ramp, 20 + 90 * ramp)
    evidence = SpectralEvidence(moved(motion), 0.005)
    x, y = ((places - 167.5) / 168 for places in (evidence.x, evidence.y))
    design = smooth_model(x, y)
    truth = motion[evidence.y.astype(int), evidence.x.astype(int)]
    error = np.full(len(truth), 1.0)
    start = 0.8 * fit_smooth(consistent_signs(truth, error, evidence.shape), error, design, 2)
    best = evidence.log_likelihood(torch.from_numpy(truth).float(), 3.0)
    hopeless = np.zeros(20)
    hopeless[10] = 20.0
    found = refine_smooth(evidence, design, np.stack((hopeless, start)), 3.0, best)
    assert found is not None
    # No start is better than what there was.
    assert refine_smooth(evidence, design, np.stack((start, hopeless)), 3.0, best) is None

    def off(parameters):
        field = torch.from_numpy(design @ parameters)
        return float((align_sign(field, torch.from_numpy(truth)) - torch.from_numpy(truth)).norm(dim=-1).mean())

    assert off(start) > 2
    # Twenty numbers from 36 windows, within which the motion turns by 20 degrees.
    assert off(found.parameters) < 0.8


def test_descent_with_a_rest():
    """Where spectra tell nothing the penalty decides: its minimum is at the rest, wherever the descent starts."""
    evidence = SpectralEvidence(torch.full((1, 1, 200, 200), 0.5), 0.01)
    design = smooth_model(evidence.x / 100 - 1, evidence.y / 100 - 1)
    best = torch.zeros(len(evidence.x))
    rest = np.linspace(-3, 3, 20)

    def motion(parameters):
        return design @ parameters, design

    found = descend(evidence, motion, rest + 2, 1e4 * np.eye(20), 3.0, best, rest=rest)
    np.testing.assert_allclose(found.parameters, rest, atol=0.05)
    kept = descend(evidence, motion, rest + 2, 1e4 * np.eye(20), 3.0, best)
    np.testing.assert_allclose(kept.parameters, rest + 2, atol=0.05)


@pytest.mark.parametrize(("length", "moved"), [(0.0, False), (6.0, True), (20.0, True)])
def test_standing_still(length, moved):
    evidence = SpectralEvidence(moved_uniformly(length), 0.005)
    found = torch.from_numpy(
        np.broadcast_to(from_polar(np.array(max(length, 1.5)), np.array(30.0)), (len(evidence.x), 2)).copy()
    )
    in_focus, out_of_focus = standing_still(evidence, found.float(), 3.0)
    assert (in_focus > 0.1) == moved
    assert out_of_focus > 0


def moved_uniformly(length):
    return moved(uniform((200, 220), length, 30.0))


def test_out_of_focus_is_no_motion():
    blurred = disc_blur(texture((220, 240)), torch.tensor([4.0]))
    blurred = blurred + 0.005 * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(0))
    evidence = SpectralEvidence(blurred, 0.005)
    radii = torch.tensor([0.0, 2.0, 3.0, 4.0, 5.0, 6.5])
    totals = evidence.log_likelihood_of_discs(radii, 3.0).sum(-1)
    assert int(totals.argmax()) == 3
    # A disc of no size is no motion of no length.
    still = evidence.log_likelihood(torch.zeros(len(evidence.x), 2), 3.0)
    torch.testing.assert_close(evidence.log_likelihood_of_discs(radii[:1], 3.0)[0], still, rtol=1e-4, atol=0.1)
    found = torch.tensor([[6.0, 0.0]]).repeat(len(evidence.x), 1)
    in_focus, out_of_focus = standing_still(evidence, found, 3.0)
    assert out_of_focus < -0.1 < in_focus


@pytest.mark.parametrize(("answered", "still"), [(0.5 * SHORT, True), (2 * SHORT, False)])
def test_a_picture_that_looks_out_of_focus_moved_if_the_network_says_so(answered, still):
    blurred = disc_blur(texture((300, 320)), torch.tensor([3.0]))
    blurred = blurred + 0.005 * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(0))
    raw = to_double_angle(torch.tensor([answered, 0.0])).expand(300, 320, 2).contiguous()
    found = consolidate(raw, torch.full((300, 320), 9.0), SpectralEvidence(blurred, 0.005))
    assert (float(found.motion.norm(dim=-1).median()) < 0.5) == still
    # The network's own error counts: no straight motion explains such a picture.
    assert still or float(found.error.median()) >= 0.75 * 9.0


@pytest.mark.parametrize(("answered", "noise"), [(1.2, 0.005), (3.0, 0.005), (1.2, 0.04)])
def test_a_short_motion_that_the_network_does_not_see_is_none(answered, noise):
    """By the spectra alone it would be found: what sharp pictures seem to have moved is no less likely.

    In much noise the network sees little.
    """
    direction = torch.from_numpy(from_polar(np.array(1.0), np.array(30.0))).float()
    raw = to_double_angle(answered * direction).expand(300, 320, 2).contiguous()
    evidence = SpectralEvidence(moved(uniform((300, 320), 5.0, 30.0), noise), noise)
    length = float(consolidate(raw, torch.full((300, 320), 2.0), evidence).motion.norm(dim=-1).median())
    seen = answered > SEEN * 5.0 or noise > SEEN_NOISE
    assert length == pytest.approx(5.0 if seen else 0.0, abs=0.5)


@pytest.mark.parametrize("sure", [True, False])
def test_a_part_of_a_still_picture_moves_if_the_network_is_sure(sure):
    shape, length = (300, 320), 14.0
    right = torch.arange(shape[1]).expand(shape) > 144
    blurred = torch.where(right, moved(uniform(shape, length, 30.0)), moved(uniform(shape, 0.0, 30.0)))
    vector = torch.from_numpy(from_polar(np.array(length), np.array(30.0))).float()
    raw = to_double_angle(vector) * right[..., None]
    error = torch.where(right, length * (0.5 * UNSURE if sure else 1.2 * UNSURE), 0.5)
    found = consolidate(raw, error, SpectralEvidence(blurred, 0.005)).motion.norm(dim=-1)
    assert float(found[:, :100].median()) < 0.5
    # An object is found within some pixels: the windows at its edge see both.
    assert float(found[:, 200:].median()) == pytest.approx(length if sure else 0.0, abs=1.0)


@pytest.mark.parametrize("sure", [True, False])
def test_a_part_of_a_moved_picture_moves_alone_if_the_network_contradicts_the_camera(sure):
    """Whatever the spectra say: these have a stripe pattern that no camera explains in either case."""
    shape = (300, 400)
    right = (torch.arange(shape[1]) > 260).expand(shape)
    camera, own = (from_polar(np.array(length), np.array(angle)) for length, angle in ((10.0, 30.0), (22.0, 100.0)))
    blurred = torch.where(right, moved(uniform(shape, 22.0, 100.0)), moved(uniform(shape, 10.0, 30.0)))
    vectors = torch.where(right[..., None], torch.from_numpy(own), torch.from_numpy(camera)).float()
    # Double-angle vectors of the two are some 30 px apart.
    error = torch.where(right, 2.0 if sure else 40.0, 2.0)
    found = consolidate(to_double_angle(vectors), error, SpectralEvidence(blurred, 0.005)).motion.norm(dim=-1)
    assert float(found[:, :200].median()) == pytest.approx(10.0, abs=1.0)
    assert float(found[:, 330:].median()) == pytest.approx(22.0 if sure else 10.0, abs=1.5)
