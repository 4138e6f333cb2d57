"""The linear motion kernel against published values and properties; taps and bank against it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ircdeblur.kernels import (
    ANGLES,
    LENGTHS,
    MAX_LENGTH,
    MotionBank,
    half_sizes,
    half_taps,
    linear_motion_kernel,
    linear_motion_taps,
    steps_needed,
)

# Half of the kernels that are given up to point symmetry; rows from the top of the picture down.
GOLDEN = {
    (9, 0): [[1 / 9] * 9],
    (3, 45): [
        [0, 0.0754421808, 0.1883493834],
        [0.0754421808, 0.3215325097, 0.0754421808],
        [0.1883493834, 0.0754421808, 0],
    ],
    (5, 30): [
        [0, 0, 0.0267949192, 0.1267949192, 0.1464101615],
        [0, 0.1, 0.2, 0.1, 0],
        [0.1464101615, 0.1267949192, 0.0267949192, 0, 0],
    ],
    (5, 45): [
        [0, 0, 0, 0.0500554336, 0.0303939776],
        [0, 0, 0.0518857652, 0.1771490832, 0.0500554336],
        [0, 0.0518857652, 0.1771490832, 0.0518857652, 0],
        [0.0500554336, 0.1771490832, 0.0518857652, 0, 0],
        [0.0303939776, 0.0500554336, 0, 0, 0],
    ],
    (5, 120): [
        [0, 0.1464101615, 0, 0, 0],
        [0, 0.1267949192, 0.1, 0, 0],
        [0, 0.0267949192, 0.2, 0.0267949192, 0],
        [0, 0, 0.1, 0.1267949192, 0],
        [0, 0, 0, 0.1464101615, 0],
    ],
    (7, 6): [
        [0, 0, 0, 0.0007790678, 0.0156445675, 0.0305100672, 0.0445685241],
        [0.0975571487, 0.1124838502, 0.1273493498, 0.1422148495, 0.1273493498, 0.1124838502, 0.0975571487],
        [0.0445685241, 0.0305100672, 0.0156445675, 0.0007790678, 0, 0, 0],
    ],
}

motion_lengths = st.floats(0, 60, allow_subnormal=False)
motion_angles = st.floats(-720, 720, allow_subnormal=False)


@pytest.mark.parametrize("motion", GOLDEN)
def test_golden_values(motion):
    kernel = linear_motion_kernel(*motion)
    assert kernel.dtype == np.float64
    # The values are printed with ten decimals.
    np.testing.assert_allclose(kernel, GOLDEN[motion], rtol=0, atol=0.5001e-10)


def test_golden_values_of_the_diagonal():
    expected = np.zeros((7, 7))
    for i in range(7):
        expected[i, 6 - i] = 0.0755136399 if i in (0, 6) else 0.0997064915
        if i < 6:
            expected[i, 5 - i] = expected[i + 1, 6 - i] = 0.0292033552
    np.testing.assert_allclose(linear_motion_kernel(9, 45), expected, rtol=0, atol=0.5001e-10)


def test_golden_values_of_the_longest():
    kernel = linear_motion_kernel(35, 6)
    assert kernel.shape == (5, 35)
    assert np.count_nonzero(kernel) == 71
    assert kernel.max() == pytest.approx(0.0284593746, abs=0.5001e-10)


@given(motion_lengths, motion_angles)
def test_kernel_is_a_symmetric_average(length, angle):
    kernel = linear_motion_kernel(length, angle)
    assert kernel.shape[0] % 2 == 1
    assert kernel.shape[1] % 2 == 1
    assert kernel.min() >= 0
    # The definition divides by (sum + eps length^2) with a sum of at least length / 2: off by 2 eps length or
    # less.
    assert kernel.sum() == pytest.approx(1, abs=2**-51 * max(length, 1) + 1e-15)
    # Point symmetry holds up to the order of the additions: a few units of rounding of values up to 1.
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], rtol=0, atol=1e-15)


@given(motion_lengths, st.integers(-8 * 720, 8 * 720), st.integers(-3, 3))
def test_half_turns_change_nothing(length, eighths, turns):
    # Eighths of a degree are exact in binary, so the remainder is exact as well.
    a, b = linear_motion_kernel(length, eighths / 8), linear_motion_kernel(length, eighths / 8 + 180 * turns)
    np.testing.assert_array_equal(a, b)


def test_tiny_negative_angle_is_no_half_turn():
    assert linear_motion_kernel(9, -1e-20).shape == (1, 9)


@given(motion_lengths, st.integers(0, 180))
def test_mirrored_angle_mirrors_the_kernel(length, angle):
    a, b = centred(linear_motion_kernel(length, angle)), centred(linear_motion_kernel(length, 180 - angle))
    # cos(pi - t) differs from -cos(t) by 2e-16, times a distance of up to 30 px.
    np.testing.assert_allclose(a[:, ::-1], b, rtol=0, atol=1e-13)


@given(st.floats(0, 1), motion_angles)
def test_up_to_one_pixel_there_is_no_blur(length, angle):
    np.testing.assert_array_equal(linear_motion_kernel(length, angle), [[1.0]])


@given(st.floats(1, 60), motion_angles, st.floats(-1e-6, 1e-6), st.floats(-1e-6, 1e-6))
@settings(max_examples=300)
def test_continuous_in_length_and_angle(length, angle, d_length, d_angle):
    a = centred(linear_motion_kernel(length, angle))
    b = centred(linear_motion_kernel(max(length + d_length, 1), angle + d_angle))
    # A weight before normalisation moves by at most half the change of length plus the arc at its distance (<
    # 32 px), both below 1e-6. Pixels that change between the two rules of the definition meanwhile step, see
    # its Notes.
    change = 2e-6
    half = (length - 1) / 2
    y, x = np.indices(a.shape) - a.shape[0] // 2
    changes_rule = np.abs(np.hypot(x, y) - half) <= 1e-6
    # The sum before normalisation is at least 1; the steps of all pixels change it.
    step = step_bound(half) * changes_rule
    bound = change * (1 + 70 * 3 * a) + step + a * step.sum()
    assert (np.abs(a - b) <= bound).all()


def step_bound(half: float) -> float:
    """Largest difference of the weights that the two rules give at distance `half` from the centre."""
    if half < 0.5:
        return 1e-6  # only the centre is that near, and is on the line
    across = np.linspace(0, min(half, 1), 1001)
    to_end = np.hypot(across, half - np.sqrt(half**2 - across**2))
    # 1e-3: no finer than the grid of the distances
    return float((np.maximum(1 - across, 0) - np.maximum(1 - to_end, 0)).max()) + 1e-3


def centred(kernel: np.ndarray, size: int = 65) -> np.ndarray:
    """`kernel` in the middle of a (size, size) array of zeros."""
    out = np.zeros((size, size))
    top, left = (size - kernel.shape[0]) // 2, (size - kernel.shape[1]) // 2
    out[top : top + kernel.shape[0], left : left + kernel.shape[1]] = kernel
    return out


def test_angle_is_counter_clockwise_on_the_screen():
    kernel = linear_motion_kernel(9, 30)
    top_right = kernel[: kernel.shape[0] // 2, kernel.shape[1] // 2 + 1 :].sum()
    assert top_right > 0.3
    assert kernel[: kernel.shape[0] // 2, : kernel.shape[1] // 2].sum() == 0


@pytest.mark.parametrize(
    ("length", "angle"), [(-1, 0), (math.nan, 0), (math.inf, 0), (5, math.nan), (5, math.inf), (5, -math.inf)]
)
def test_bad_motion_is_refused(length, angle):
    with pytest.raises(ValueError, match="finite"):
        linear_motion_kernel(length, angle)


def scatter_taps(dy: torch.Tensor, dx: torch.Tensor, weight: torch.Tensor, size: int = 65) -> np.ndarray:
    """Kernel (size, size) of one motion's taps; a tap given twice is an error."""
    out = np.zeros((size, size))
    for y, x, w in zip(dy.tolist(), dx.tolist(), weight.tolist(), strict=True):
        if w != 0:
            assert out[size // 2 + y, size // 2 + x] == 0
            out[size // 2 + y, size // 2 + x] = w
    return out


def test_taps_are_the_kernel():
    rng = np.random.default_rng(7)
    special = [*GOLDEN, (9, 45), (35, 6), (0, 10), (1, 77), (1 + 1e-9, 12), (2, 135), (60, 45), (37.5, 90)]
    grid = [(length, angle) for length in range(1, 22, 2) for angle in range(0, 180, 15)]
    lengths = np.concatenate([[m[0] for m in special + grid], rng.uniform(0, 60, 400), rng.uniform(0, 4, 200)])
    angles = np.concatenate([[m[1] for m in special + grid], rng.uniform(-360, 360, 600)])
    dy, dx, weight = linear_motion_taps(torch.tensor(lengths), torch.tensor(angles))
    assert weight.dtype == torch.float64
    for i, (length, angle) in enumerate(zip(lengths, angles, strict=True)):
        # Distances of up to 30 px carry rounding errors of 30 x 2^-53 and weights below 8 x 31 x 2^-52 =
        # 6e-14 are dropped.
        np.testing.assert_allclose(
            scatter_taps(dy[i], dx[i], weight[i]),
            centred(linear_motion_kernel(length, angle)),
            rtol=0,
            atol=1e-13,
            err_msg=f"length {length}, angle {angle}",
        )


def test_taps_in_single_precision():
    generator = torch.Generator().manual_seed(3)
    length, angle = 40 * torch.rand(500, generator=generator), 180 * torch.rand(500, generator=generator)
    # Motions at which a pixel changes rule step (see the kernel's Notes), in another place in single
    # precision.
    dy, dx, weight = linear_motion_taps(length, angle)
    assert weight.dtype == torch.float32
    ddy, ddx, double = linear_motion_taps(length.double(), angle.double())
    assert torch.equal(dy, ddy)
    assert torch.equal(dx, ddx)
    # Errors of the angle (180 x 2^-24 degrees) and of the products show at 20 px from the centre: 20 x 1e-6.
    torch.testing.assert_close(weight.double(), double, rtol=0, atol=2e-5)


def test_taps_of_axis_aligned_lines_are_exact_in_single_precision():
    length = torch.tensor([9.0, 9.0, 3.0])
    _, _, weight = linear_motion_taps(length, torch.tensor([0.0, 90.0, 0.0]))
    # Rounding of cos(90 degrees) must not add taps beside the line.
    assert (weight > 0).sum(1).tolist() == [9, 9, 3]


def test_steps():
    length, angle = torch.tensor([9.0, 2.0]), torch.tensor([0.0, 45.0])
    assert linear_motion_taps(length, angle)[2].shape == (2, 27)
    assert linear_motion_taps(length, angle, steps=6)[2].shape == (2, 39)
    with pytest.raises(ValueError, match="at least 4"):
        linear_motion_taps(length, angle, steps=3)
    assert linear_motion_taps(torch.zeros(0), torch.zeros(0))[2].shape[0] == 0


def test_half_sizes_are_those_of_the_kernel():
    rng = np.random.default_rng(11)
    length, angle = rng.uniform(0, 60, 300), rng.uniform(0, 180, 300)
    phi = torch.deg2rad(torch.tensor(angle))
    rows, columns = half_sizes(torch.tensor(length), phi.cos(), phi.sin())
    shapes = [linear_motion_kernel(*motion).shape for motion in zip(length, angle, strict=True)]
    assert [(2 * r + 1, 2 * c + 1) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)] == shapes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sizes_do_not_grow_by_rounding(dtype):
    # Half lengths times cosines that would be whole numbers, were the cosines exact.
    length = torch.tensor([11, 21, 31, 9], dtype=dtype)
    above = 1 + 2 * torch.finfo(dtype).eps
    cos, sin = (above * torch.tensor(c, dtype=dtype) for c in ([0.6, 0.6, 0.8, 1.0], [0.8, 0.8, 0.6, 0.0]))
    rows, columns = half_sizes(length, cos, sin)
    assert rows.tolist() == [4, 8, 9, 0]
    assert columns.tolist() == [3, 6, 12, 4]
    assert steps_needed(length, cos, sin).tolist() == [4, 8, 12, 4]


def test_taps_gradient():
    # Away from the kinks: no tap within 1e-3 of distance 0 or 1, none about to change rule.
    length = torch.tensor([5.3, 12.7, 1.9, 8.45], dtype=torch.float64, requires_grad=True)
    angle = torch.tensor([33.0, 127.3, 64.0, 171.2], dtype=torch.float64, requires_grad=True)
    # gradcheck's own tolerances: finite differences of 1e-6 err by about 1e-9.
    assert torch.autograd.gradcheck(lambda *m: linear_motion_taps(*m, steps=7)[2], (length, angle))


@pytest.mark.parametrize(("length", "angle"), [(0.0, 0.0), (1.0, 90.0), (9.0, 0.0), (9.0, 90.0), (9.0, 45.0)])
def test_taps_gradient_is_finite_at_kinks(length, angle):
    parameters = torch.tensor([length, angle], requires_grad=True)
    _, _, weight = linear_motion_taps(parameters[:1], parameters[1:])
    (weight * torch.arange(weight.shape[1])).sum().backward()
    assert parameters.grad.isfinite().all()


def test_direction_either_sign():
    cos, sin = torch.tensor([0.6], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    length = torch.tensor([11.0], dtype=torch.float64)
    for a, b in zip(half_taps(length, cos, sin), half_taps(length, -cos, -sin), strict=True):
        assert torch.equal(a, b)


def test_bank():
    bank = MotionBank()
    assert len(bank) == 511
    assert bank.motions.shape == (511, 2)
    assert LENGTHS.tolist() == list(range(1, 36, 2))
    assert ANGLES.tolist() == list(range(0, 180, 6))
    assert MAX_LENGTH == 35
    assert len({tuple(m) for m in bank.motions}) == 511
    assert bank.motions[0].tolist() == [1, 0]
    for i_length, length in enumerate(LENGTHS):
        for i_angle, angle in enumerate(ANGLES):
            expected = [length, angle] if i_length else [1, 0]
            assert bank.motions[bank.index(i_length, i_angle)].tolist() == expected
    assert bank.index(4, 30) == bank.index(4, 0)
    assert bank.index(4, -1) == bank.index(4, 29)
    for bad in (-1, 18):
        with pytest.raises(IndexError, match="from 0 to 17"):
            bank.index(bad, 0)


def test_bank_kernels():
    bank = MotionBank()
    assert bank.kernels.shape == (511, 35, 35)
    assert bank.kernels.dtype == np.float64
    assert bank.kernels is bank.kernels
    for i in [0, *range(1, 511, 13), 510]:
        np.testing.assert_array_equal(bank.kernels[i], centred(linear_motion_kernel(*bank.motions[i]), 35))
    with pytest.raises(ValueError, match="read-only"):
        bank.kernels[0, 0, 0] = 1
