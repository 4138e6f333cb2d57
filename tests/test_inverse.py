"""Inverse filters: against a dense solution, exact where they must be, contractive on the bank and between."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from ircdeblur import inverse
from ircdeblur.inverse import (
    BANK_SUPPORT,
    InverseBank,
    contraction,
    default_support,
    gradient_filters,
    inverse_filters,
)
from ircdeblur.kernels import MotionBank, linear_motion_kernel
from ircdeblur.plots import plot_contraction

RHO = 0.01


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """The default bank, computed and read back from the disk cache."""
    folder = tmp_path_factory.mktemp("cache")
    computed = InverseBank.load(RHO, cache_dir=folder)
    inverse._load.cache_clear()
    loaded = InverseBank.load(RHO, cache_dir=folder)
    assert torch.equal(computed.filters, loaded.filters)
    return loaded


def random_psf(side: int, seed: int) -> np.ndarray:
    """An asymmetric kernel along a random curve, like those of a shaken camera."""
    generator = np.random.default_rng(seed)
    path = np.cumsum(generator.normal(size=(6, 2)), axis=0)
    times = np.linspace(0, 5, 400)
    curve = np.stack([np.interp(times, np.arange(6), path[:, a]) for a in (0, 1)], 1)
    curve = (curve - curve.min(0)) / (curve.max(0) - curve.min(0)) * (side - 3)
    psf = np.zeros((side, side))
    np.add.at(psf, tuple(np.rint(curve).astype(int).T + 1), 1.0)
    return convolve2d(psf / psf.sum(), np.outer([0.2, 0.6, 0.2], [0.2, 0.6, 0.2]), mode="same")


def response(psf: np.ndarray, filters: torch.Tensor, rho: float) -> np.ndarray:
    """sum_i d_i * k_i by direct convolution, (s, s) with the origin in the middle."""
    side = filters.shape[-1] + 36
    total = np.zeros((side, side))
    for d, k in zip(filters.double().numpy(), [psf / np.sqrt(rho), *gradient_filters()], strict=True):
        part = convolve2d(d, k)
        top, left = (side - part.shape[0]) // 2, (side - part.shape[1]) // 2
        total[top : top + part.shape[0], left : left + part.shape[1]] += part
    return total


def impulse(side: int) -> np.ndarray:
    delta = np.zeros((side, side))
    delta[side // 2, side // 2] = 1
    return delta


def dense_filters(psf: np.ndarray, rho: float, support: int, ridge: float) -> np.ndarray:
    """d = Q' (Q Q' + ridge I)^+ delta with Q written out column by column: shifted copies of the kernels."""
    half = support // 2
    kernels = [psf / np.sqrt(rho), *gradient_filters()]
    reach = half + max(max(k.shape) for k in kernels) // 2
    columns, places = [], []
    for i, k in enumerate(kernels):
        for r in range(-half, half + (i != 2)):  # The vertical difference leaves out the last row,
            for c in range(-half, half + (i != 1)):  # the horizontal one the last column.
                column = np.zeros((2 * reach + 1, 2 * reach + 1))
                for a, b in np.argwhere(k):
                    column[reach + r + a - k.shape[0] // 2, reach + c + b - k.shape[1] // 2] += k[a, b]
                columns.append(column.ravel())
                places.append((i, half + r, half + c))
    q = np.stack(columns, 1)
    delta = impulse(2 * reach + 1).ravel()
    d = q.T @ np.linalg.pinv(q @ q.T + ridge * np.eye(len(q)), hermitian=True) @ delta
    filters = np.zeros((3, support, support))
    filters[tuple(np.transpose(places))] = d
    return filters


def test_gradient_filters_are_differences_to_the_left_and_upper_neighbour():
    image = np.random.default_rng(0).normal(size=(5, 6))
    horizontal, vertical = (convolve2d(image, k, mode="same") for k in gradient_filters())
    np.testing.assert_allclose(horizontal[:, 1:], image[:, 1:] - image[:, :-1])
    np.testing.assert_allclose(vertical[1:], image[1:] - image[:-1])


# -- inverse_filters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.002, 0.1])
@pytest.mark.parametrize("ridge", [1e-6, 1e-2])
@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (1, 1)])
def test_filters_are_the_dense_least_norm_solution(shape, ridge, rho):
    psf = np.random.default_rng(1).random(shape)
    psf /= psf.sum()
    expected = dense_filters(psf, rho, 11, ridge)
    filters = inverse_filters(psf, rho, 11, ridge=ridge, tolerance=1e-9, max_iterations=3000)
    # The result is float32; the condition number of Q Q' + ridge I is below 1e8 and the residual 1e-9.
    np.testing.assert_allclose(filters.numpy(), expected, atol=2e-6 * np.abs(expected).max())


def test_default_accuracy_is_near_the_dense_solution():
    psf = linear_motion_kernel(7, 33)
    expected = dense_filters(psf, RHO, 15, 0.0)
    filters = inverse_filters(psf, RHO, 15).numpy()
    # Measured 2.3e-3: the solver stops at a relative residual of 5e-4, and the smallest singular values matter.
    assert np.linalg.norm(filters - expected) < 5e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "psf",
    [
        linear_motion_kernel(9, 30),
        linear_motion_kernel(35, 0),
        linear_motion_kernel(35, 42),
        random_psf(27, 3),
    ],
    ids=["9 px", "35 px horizontal", "35 px oblique", "random walk 27 px"],
)
@pytest.mark.parametrize("support", [None, 47])
def test_filters_invert_the_kernels(psf, support):
    filters = inverse_filters(psf, RHO, support)
    error = response(psf, filters, RHO)
    error -= impulse(len(error))
    # The solver stops at a 2-norm of 5e-4; the ridge adds at most as much.
    assert np.linalg.norm(error) < 1e-3
    # Over the frequencies the largest is some 10 times the root mean square.
    assert contraction(psf, filters, RHO) < 0.02


def test_default_support_follows_the_kernel_without_its_rim():
    assert default_support(np.ones((1, 1))) == 31
    assert default_support(np.ones((27, 9)) / 243) == 55
    assert default_support(np.pad(np.ones((27, 27)), 8)) == 55
    off_centre = np.zeros((35, 35))
    off_centre[3, 17] = 1
    assert default_support(off_centre) == 59  # The inverse reaches as far to the other side.


def test_off_centre_impulse_is_shifted_back():
    psf = np.zeros((11, 11))
    psf[2, 9] = 1.0
    filters = inverse_filters(psf, RHO)
    assert contraction(psf, filters, RHO) < 0.02
    d0 = filters[0].numpy()
    assert np.unravel_index(np.abs(d0).argmax(), d0.shape) == (15 + 3, 15 - 4)


def test_batch_and_tensor_input_give_the_same_filters():
    psfs = np.stack([random_psf(9, seed) for seed in range(3)])
    together = inverse_filters(torch.from_numpy(psfs).float(), RHO, 21)
    assert together.shape == (3, 3, 21, 21)
    assert together.dtype == torch.float32
    for psf, filters in zip(psfs.astype(np.float32), together, strict=True):
        assert torch.equal(inverse_filters(psf, RHO, 21), filters)


def test_a_rim_of_zeros_changes_nothing():
    psf = linear_motion_kernel(9, 30)
    padded = np.pad(psf, 20)
    assert torch.equal(inverse_filters(padded, RHO, 21), inverse_filters(psf, RHO, 21))


def test_other_prior_filters():
    laplacian = np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    psf = random_psf(7, 5)
    prior = [*gradient_filters(), laplacian]
    filters = inverse_filters(psf, RHO, 21, prior)
    assert filters.shape == (4, 21, 21)
    assert contraction(psf, filters, RHO, prior) < 0.02
    assert filters[3].abs().max() > 1e-3


@pytest.mark.parametrize(("length", "angle"), [(35, 0), (35, 6), (35, 42)])
def test_support_too_small_for_exact_filters_still_contracts(length, angle):
    psf = linear_motion_kernel(length, angle)
    # Measured 0.47, 0.47, 0.42; at 6 degrees 1.73 with a tenth of the ridge.
    assert contraction(psf, inverse_filters(psf, RHO, 21), RHO) < 0.6


def test_scaling_makes_filters_for_another_rho_as_exact():
    psf = linear_motion_kernel(9, 30)
    filters = inverse_filters(psf, 0.05)
    filters[0] *= (0.002 / 0.05) ** 0.5
    assert contraction(psf, filters, 0.002) < 0.02


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"psf": np.ones((4, 3))}, ValueError, "odd sides"),
        ({"psf": np.ones(3)}, ValueError, "odd sides"),
        ({"psf": [[1.0]]}, TypeError, "array or a tensor"),
        ({"psf": np.full((3, 3), np.nan)}, ValueError, "NaN"),
        ({"psf": np.zeros((3, 3))}, ValueError, "positive sum"),
        ({"rho": 0.0}, ValueError, "rho"),
        ({"rho": float("nan")}, ValueError, "rho"),
        ({"support": 20}, ValueError, "support"),
        ({"support": -1}, ValueError, "support"),
        ({"prior": []}, ValueError, "at least one"),
        ({"prior": [np.ones((2, 1))]}, ValueError, "odd sides"),
        ({"prior": [np.zeros((3, 1))]}, ValueError, "zero everywhere"),
        ({"ridge": -1.0}, ValueError, "ridge"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"max_iterations": 0}, ValueError, "max_iterations"),
    ],
)
def test_bad_arguments_are_refused(changes, error, message):
    arguments = {"psf": np.ones((3, 3)) / 9, "rho": RHO, "support": 9} | changes
    with pytest.raises(error, match=message):
        inverse_filters(**arguments)


# -- contraction -------------------------------------------------------------------------------------------------


def test_contraction_is_the_largest_over_the_frequencies():
    psf = random_psf(7, 1)
    filters = inverse_filters(random_psf(7, 2), RHO, 15)
    total = response(psf, filters, RHO)
    reach = len(total) // 2
    n, offsets = 2 * (15 + 7 - 1), np.arange(-reach, reach + 1)
    # The transform written out, at the sampled frequencies.
    waves = np.exp(-2j * np.pi * np.outer(np.arange(n), offsets) / n)
    expected = np.abs(1 - waves @ total @ waves.T).max()
    assert contraction(psf, filters, RHO) == pytest.approx(expected, rel=1e-9)
    # On four times the default grid it is hardly larger (at most twice by the theorem cited).
    assert contraction(psf, filters, RHO, n_fft=4 * n) < 1.05 * expected


def test_contraction_of_no_filters_is_one():
    assert contraction(np.ones((1, 1)), np.zeros((3, 5, 5)), RHO) == 1.0


def test_bad_arguments_of_contraction_are_refused():
    psf, filters = np.ones((3, 3)) / 9, np.zeros((3, 5, 5))
    with pytest.raises(ValueError, match=r"shape \(3, wf, wf\)"):
        contraction(psf, filters[:2], RHO)
    with pytest.raises(ValueError, match="n_fft must be at least 7"):
        contraction(psf, filters, RHO, n_fft=6)
    with pytest.raises(ValueError, match=r"shape \(kh, kw\)"):
        contraction(psf[None], filters, RHO)
    with pytest.raises(ValueError, match="rho"):
        contraction(psf, filters, -1.0)


def test_residual_compensation_converges_at_the_predicted_rate():
    # Filters of 9 px at 30 degrees for a blur of 10 px at 33 degrees, periodic borders.
    n, steps = 128, 40
    psf, filters = linear_motion_kernel(10, 33), inverse_filters(linear_motion_kernel(9, 30), RHO, 31)
    k = [psf / np.sqrt(RHO), *gradient_filters()]

    def spectrum(f):
        grid = np.zeros((n, n))
        grid[: f.shape[0], : f.shape[1]] = f
        return np.fft.fft2(np.roll(grid, (-(f.shape[0] // 2), -(f.shape[1] // 2)), (0, 1)))

    def convolve(f, image):
        return np.fft.ifft2(spectrum(f) * np.fft.fft2(image)).real

    truth = np.random.default_rng(0).random((n, n))
    z = [convolve(f, truth) for f in k]
    x, errors = np.zeros_like(truth), [np.linalg.norm(truth)]
    for _ in range(steps):
        x = x + sum(convolve(d, target - convolve(f, x)) for d, f, target in zip(filters.numpy(), k, z, strict=True))
        errors.append(np.linalg.norm(x - truth))
    rates = np.array(errors[1:]) / errors[:-1]
    number = contraction(psf, filters, RHO, n_fft=n)
    assert 0.1 < number < 1
    assert rates.max() <= number * (1 + 1e-9)
    # A power iteration: the slowest frequency is left over.
    assert rates[-1] > 0.97 * number


# -- the bank ----------------------------------------------------------------------------------------------------


def test_every_motion_of_the_bank_contracts(bank):
    motions = torch.tensor(MotionBank().motions)
    assert bank.filters.shape == (511, 3, BANK_SUPPORT, BANK_SUPPORT)
    assert bank.filters.dtype == torch.float32
    for against in ("continuous", "interpolated"):
        numbers = bank.contraction(motions[:, 0], motions[:, 1], against=against, n_fft=108)
        # Measured 0.012: the solver's tolerance of 5e-4 times the ratio of maximum to mean over the frequencies.
        assert numbers.shape == (511,)
        assert numbers.max() < 0.02


@pytest.mark.parametrize("against", ["continuous", "interpolated"])
def test_motions_between_those_of_the_bank_contract(bank, against):
    # Midpoints of all cells, and the lengths that are worst in the first ones; angles off the lines of symmetry too.
    lengths = torch.tensor([1.5, 1.85, 2.5, *range(2, 36, 2)])
    angles = torch.cat([torch.arange(3.0, 180, 6), torch.arange(0.0, 90, 12)])
    length, angle = (m.reshape(-1) for m in torch.meshgrid(lengths, angles, indexing="ij"))
    numbers = bank.contraction(length, angle, against=against, n_fft=108)
    # Measured 0.80 and 0.81; without SHORT_MOTION_PENALTY 1.006.
    assert numbers.max() < 0.85


def test_contraction_of_the_bank_agrees_with_the_function(bank):
    length, angle = torch.tensor([0.5, 2.0, 22.3, 50.0]), torch.tensor([10.0, 95.0, 177.0, 45.0])
    filters = bank.filters_at(length, angle)
    numbers = bank.contraction(length, angle, n_fft=162)
    for number, d, clamped, a in zip(numbers, filters, [1, 2.0, 22.3, 35.0], angle, strict=True):
        expected = contraction(linear_motion_kernel(clamped, float(a)), d, RHO, n_fft=162)
        assert float(number) == pytest.approx(expected, abs=1e-4)  # float32 against float64


def test_copies_of_the_bank_are_the_filters_of_their_own_kernels(bank):
    motions = MotionBank()
    for i_length, i_angle in [(4, 0), (4, 3), (4, 10), (4, 15), (4, 20), (4, 26), (17, 22)]:
        motion = motions.index(i_length, i_angle)
        fresh = inverse_filters(linear_motion_kernel(*motions.motions[motion]), RHO, BANK_SUPPORT)
        # The kernels agree to rounding; conjugate gradients enlarge it, far below the tolerance of 5e-4.
        torch.testing.assert_close(bank.filters[motion], fresh, rtol=0, atol=1e-5)


def test_filters_at_the_bank_are_the_bank(bank):
    motions = torch.tensor(MotionBank().motions)
    chosen = torch.tensor([0, 1, 30, 31, 200, 510])
    filters = bank.filters_at(motions[chosen, 0], motions[chosen, 1])
    torch.testing.assert_close(filters, bank.filters[chosen], rtol=0, atol=1e-7)


def test_filters_between_are_averages_of_four(bank):
    index = MotionBank.index
    # Three quarters of the way from 21 to 23 px, half way from 174 to 180 = 0 degrees.
    four = bank.filters[[index(10, 29), index(10, 0), index(11, 29), index(11, 0)]]
    expected = 0.125 * (four[0] + four[1]) + 0.375 * (four[2] + four[3])
    actual = bank.filters_at(torch.tensor([22.5]), torch.tensor([177.0]))[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    share = np.exp([-(1.5**2), -(0.5**2)])
    share = share / share.sum() / 2
    expected = share[0] * (four[0] + four[1]) + share[1] * (four[2] + four[3])
    actual = bank.filters_at(torch.tensor([22.5]), torch.tensor([177.0]), "softmax")[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", ["bilinear", "softmax"])
def test_no_blur_has_the_filters_of_the_impulse_and_long_motions_are_clamped(bank, weights):
    still = bank.filters_at(torch.tensor([0.0, 0.7, 1.0]), torch.tensor([0.0, 50.0, 179.0]), weights)
    torch.testing.assert_close(still, bank.filters[:1].expand(3, -1, -1, -1), rtol=0, atol=1e-7)
    assert contraction(np.ones((1, 1)), still[0], RHO) < 0.02
    long = bank.filters_at(torch.tensor([35.0, 80.0]), torch.tensor([51.0, 51.0]), weights)
    assert torch.equal(long[0], long[1])


def test_filters_are_differentiable_in_the_motion(bank):
    small = InverseBank(bank.filters[..., 22:25, 22:25].double(), RHO)
    length = torch.tensor([4.2, 20.7], dtype=torch.float64, requires_grad=True)
    angle = torch.tensor([50.0, 178.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(small.filters_at, (length, angle))


def test_bad_arguments_of_the_bank_are_refused(bank):
    with pytest.raises(ValueError, match="rho"):
        InverseBank.load(0.0)
    with pytest.raises(ValueError, match="support"):
        InverseBank.compute(RHO, 46)
    with pytest.raises(ValueError, match="at least 3"):
        InverseBank.compute(RHO, 1)
    with pytest.raises(ValueError, match="511"):
        InverseBank(torch.zeros(3, 3, 5, 5), RHO)
    with pytest.raises(ValueError, match="shape"):
        bank.filters_at(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="against"):
        bank.contraction(torch.zeros(1), torch.zeros(1), against="other")
    with pytest.raises(ValueError, match="n_fft"):
        bank.contraction(torch.zeros(1), torch.zeros(1), n_fft=80)


# -- the cache ---------------------------------------------------------------------------------------------------


@pytest.fixture
def computations(monkeypatch):
    """Replace the computation by random numbers on a small support; the list grows by one for each call."""
    calls = []

    def compute(rho, support):
        calls.append((rho, support))
        return torch.rand(137, 3, support, support, generator=torch.Generator().manual_seed(support))

    monkeypatch.setattr(inverse, "_compute_folded", compute)
    inverse._load.cache_clear()
    yield calls
    inverse._load.cache_clear()


def load(folder, support=5, rho=RHO):
    inverse._load.cache_clear()  # As a new process would.
    return InverseBank.load(rho, support, folder)


def test_the_cache_is_written_once_and_keyed_by_rho_and_support(tmp_path, computations):
    first = load(tmp_path / "new" / "folder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load(tmp_path / "new" / "folder")
    assert torch.equal(first.filters, again.filters)
    assert again.rho == RHO
    assert again.support == 5
    assert len(computations) == 1
    load(tmp_path / "new" / "folder", support=7)
    load(tmp_path / "new" / "folder", rho=0.02)
    assert computations == [(RHO, 5), (RHO, 7), (0.02, 5)]
    # Within a process it is read once.
    assert InverseBank.load(0.02, 5, tmp_path / "new" / "folder") is InverseBank.load(
        0.02, 5, tmp_path / "new" / "folder"
    )


def flip_a_bit(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, lambda data: data[:-7], lambda data: b"", lambda data: b"text" * 100],
    ids=["bit", "truncated", "empty", "text"],
)
def test_a_damaged_file_is_replaced(tmp_path, computations, damage):
    expected = load(tmp_path).filters
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert torch.equal(load(tmp_path).filters, expected)
    assert file.read_bytes() == whole
    assert len(computations) == 2


def test_a_file_of_another_shape_is_replaced(tmp_path, computations):
    load(tmp_path, support=7)
    (other,) = tmp_path.iterdir()
    other.rename(tmp_path / other.name.replace("support7", "support5"))
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert load(tmp_path).support == 5


def test_a_folder_that_cannot_be_written_only_warns(tmp_path, computations):
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(RuntimeWarning, match="cannot be cached"):
        filters = load(tmp_path / "file" / "cache").filters
    assert filters.shape == (511, 3, 5, 5)


def test_a_failed_write_leaves_nothing(tmp_path, computations, monkeypatch):
    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inverse.os, "replace", fail)
    with pytest.warns(RuntimeWarning, match="No space left"):
        load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_simultaneous_loading_is_safe(tmp_path, computations):
    with ThreadPoolExecutor(8) as pool:
        banks = list(pool.map(lambda _: load(tmp_path), range(16)))
    assert all(torch.equal(b.filters, banks[0].filters) for b in banks)
    assert len(list(tmp_path.iterdir())) == 1


# -- the plot ----------------------------------------------------------------------------------------------------


def test_the_plot_marks_what_diverges():
    lengths, angles = np.arange(1.0, 6), np.arange(0.0, 180, 30)
    calm = np.full((5, 6), 0.3)
    wild = calm.copy()
    wild[2, 2] = 1.2

    def red(picture):
        plane = picture[:, :400].astype(int)
        return int(((plane[..., 0] > 240) & (plane[..., 1] < 20) & (plane[..., 2] < 20)).sum())

    drawings = [plot_contraction(lengths, angles, numbers) for numbers in (calm, wild)]
    assert drawings[0].dtype == np.uint8
    assert red(drawings[0]) == 0
    assert red(drawings[1]) > 100
    with pytest.raises(ValueError, match="one row per length"):
        plot_contraction(lengths, angles, calm.T)
