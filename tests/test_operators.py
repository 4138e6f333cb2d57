"""The blur operators against dense matrices built pixel by pixel, and against SciPy's convolutions.

Tolerances: oracles are float64, and sums of up to a thousand products of numbers around 1 differ by up to
about 1e-13 with the order of the additions, Fourier transforms of such images likewise; 1e-11 is well above
that and far below any fault. Single precision is 2^29 times coarser: 1e-5 on images in [0, 1].
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from torch import Tensor

from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.operators import MotionBlur, UniformBlur, _matrix_of_elements, _transpose, pad, pad_adjoint

BOUNDARIES = ["extended", "replicate", "reflect", "circular"]
INTERPOLATIONS = ["continuous", "softmax", "bilinear"]
NUMPY_PAD = {"replicate": "edge", "reflect": "reflect", "circular": "wrap"}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def random(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def varying_motion(h: int, w: int, longest: float = 20.0, seed: int = 1) -> Tensor:
    """Motions of lengths 0 to `longest` and all directions, unlike their neighbours; some special ones."""
    rng = np.random.default_rng(seed)
    length, angle = rng.uniform(0, longest, (h, w)), rng.uniform(0, 2 * np.pi, (h, w))
    motion = np.stack([length * np.cos(angle), length * np.sin(angle)], -1)
    special = [(0, 0), (1, 0), (0.3, -0.2), (9, 0), (0, -7), (0, 7), (3, 4), (-6, 8), (5, 5), (longest, 0)]
    motion.reshape(-1, 2)[rng.permutation(h * w)[: len(special)]] = special
    return torch.from_numpy(motion)


def kernel_of(u: float, v: float, interpolation: str) -> np.ndarray:
    """Kernel at a pixel, (71, 71)."""
    length, angle = math.hypot(u, v), math.degrees(math.atan2(-v, u)) % 180
    if length <= 1:
        parts = [(1.0, 1.0, 0.0)]
    elif interpolation == "continuous":
        parts = [(1.0, length, angle)]
    else:
        length = min(length, 35)
        low = max(n for n in range(1, 34, 2) if n <= length)
        left = 6 * math.floor(angle / 6)
        parts = []
        for other_length in (low, low + 2):
            for other_angle in (left, left + 6):
                d_length, d_angle = abs(length - other_length), abs(angle - other_angle)
                if interpolation == "bilinear":
                    weight = (1 - d_length / 2) * (1 - d_angle / 6)
                elif other_length == 1:  # it has no angle, so only the length is apart
                    weight = math.exp(-(d_length**2))
                else:
                    weight = math.exp(-(d_length**2 + d_angle**2))
                parts.append((weight, other_length, other_angle % 180))
    total = sum(weight for weight, _, _ in parts)
    out = np.zeros((71, 71))
    for weight, length, angle in parts:
        kernel = linear_motion_kernel(length, angle)
        ry, rx = kernel.shape[0] // 2, kernel.shape[1] // 2
        out[35 - ry : 36 + ry, 35 - rx : 36 + rx] += weight / total * kernel
    return out


def dense_matrix(motion: Tensor, boundary: str, interpolation: str, margin: tuple[int, int]) -> np.ndarray:
    """Matrix of the blur, row by row: pixel p is the sum of k_p[o] x[p - o]."""
    h, w = motion.shape[:2]
    if boundary == "extended":
        my, mx = margin
        source = np.arange((h + 2 * my) * (w + 2 * mx)).reshape(h + 2 * my, w + 2 * mx)
    else:
        my = mx = 35
        source = np.pad(np.arange(h * w).reshape(h, w), 35, mode=NUMPY_PAD[boundary])
    matrix = np.zeros((h * w, source.max() + 1))
    for y in range(h):
        for x in range(w):
            kernel = kernel_of(*motion[y, x].tolist(), interpolation)
            for oy, ox in np.argwhere(kernel) - 35:
                matrix[y * w + x, source[y + my - oy, x + mx - ox]] += kernel[35 + oy, 35 + ox]
    return matrix


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_motion_blur_is_the_dense_matrix(boundary, interpolation):
    motion = varying_motion(7, 11)
    blur = MotionBlur(motion, boundary, interpolation)
    matrix = dense_matrix(motion, boundary, interpolation, blur.margin)
    x = random(2, 3, 7 + 2 * blur.margin[0], 11 + 2 * blur.margin[1])
    y = random(2, 3, 7, 11, seed=1)
    expected = torch.from_numpy(x.flatten(2).numpy() @ matrix.T).reshape(y.shape)
    torch.testing.assert_close(blur.A(x), expected, rtol=0, atol=1e-11)
    expected = torch.from_numpy(y.flatten(2).numpy() @ matrix).reshape(x.shape)
    torch.testing.assert_close(blur.A_adjoint(y), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(blur.A(x[:1, :1]), blur.A(x)[:1, :1], rtol=0, atol=1e-11)
    torch.testing.assert_close(blur.A_adjoint(y[:1, :1]), blur.A_adjoint(y)[:1, :1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_motion_blur_in_single_precision(interpolation, device):
    motion = varying_motion(9, 13, seed=5)
    double = MotionBlur(motion, interpolation=interpolation)
    single = MotionBlur(motion.float().to(device), interpolation=interpolation)
    assert single.margin == double.margin
    x, y = random(1, 3, 9 + 2 * double.margin[0], 13 + 2 * double.margin[1]), random(1, 3, 9, 13)
    blurred, back = single.A(x.float().to(device)), single.A_adjoint(y.float().to(device))
    assert blurred.dtype == back.dtype == torch.float32
    torch.testing.assert_close(blurred.double().cpu(), double.A(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(back.double().cpu(), double.A_adjoint(y), rtol=0, atol=1e-5)


def test_blur_gathers():
    # The left half does not move, the right half moves by 9 px. A light in the right half reaches no pixel of
    # the left half, though its own kernel would. The scatter form, sum_i k_i conv (w_i x), sends it there.
    motion = torch.zeros(5, 20, 2, dtype=torch.float64)
    motion[:, 10:, 0] = 9
    x = torch.zeros(1, 1, 5, 20, dtype=torch.float64)
    x[0, 0, 2, 11] = 1
    y = MotionBlur(motion, boundary="replicate").A(x)
    expected = torch.zeros_like(x)
    expected[0, 0, 2, 10:16] = 1 / 9
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("length", "angle"), [(0.5, 10), (9, 0), (5, 120), (14.3, 77), (35, 6), (20, 45)])
def test_constant_motion_is_a_uniform_blur(boundary, length, angle):
    radians = math.radians(angle)
    motion = torch.tensor([length * math.cos(radians), -length * math.sin(radians)], dtype=torch.float64)
    psf = torch.from_numpy(linear_motion_kernel(length, angle))
    uniform = UniformBlur(psf, boundary)
    # Given, because some kernels have an outermost row or column of zeros, which no motion needs.
    margin = uniform.margin if boundary == "extended" else None
    non_uniform = MotionBlur(motion.expand(30, 40, 2).contiguous(), boundary, margin=margin)
    x = random(1, 2, 30 + 2 * uniform.margin[0], 40 + 2 * uniform.margin[1])
    torch.testing.assert_close(non_uniform.A(x), uniform.A(x), rtol=0, atol=1e-11)
    y = random(1, 2, 30, 40, seed=1)
    torch.testing.assert_close(non_uniform.A_adjoint(y), uniform.A_adjoint(y), rtol=0, atol=1e-11)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_no_blur_up_to_one_pixel(boundary, interpolation):
    motion = 0.7 * (2 * random(6, 8, 2) - 1)
    motion[0, 0] = 0
    motion[0, 1] = torch.tensor([-1.0, 0.0])
    blur = MotionBlur(motion, boundary, interpolation)
    x = random(1, 1, 6, 8)
    assert blur.margin == (0, 0)
    assert torch.equal(blur.A(x), x)
    assert torch.equal(blur.A_adjoint(x), x)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_window_of_a_blur_is_the_blur_of_the_window(interpolation):
    # Of more pixels than are assembled at a time.
    y, x = np.mgrid[:100, :110] / 100
    length, angle = 15 + 14 * np.sin(3 * y + 2 * x), 1 + 3 * x - y
    motion = torch.from_numpy(np.stack([length * np.cos(angle), -length * np.sin(angle)], -1))
    margin = (17, 17)
    image = random(1, 3, 134, 144)
    whole = MotionBlur(motion, interpolation=interpolation, margin=margin).A(image)
    for top, left in [(0, 0), (40, 61), (70, 80)]:
        window = motion[top : top + 30, left : left + 30]
        blur = MotionBlur(window, interpolation=interpolation, margin=margin)
        expected = blur.A(image[..., top : top + 64, left : left + 64])
        torch.testing.assert_close(whole[..., top : top + 30, left : left + 30], expected, rtol=0, atol=1e-11)


def test_opposite_motions_are_one_blur():
    motion = varying_motion(6, 7)
    a, b = MotionBlur(motion), MotionBlur(-motion)
    x = random(1, 1, 6 + 2 * a.margin[0], 7 + 2 * a.margin[1])
    torch.testing.assert_close(a.A(x), b.A(x), rtol=0, atol=1e-11)


def test_motion_for_each_image():
    motion = torch.stack([varying_motion(6, 8, 5.0), varying_motion(6, 8, 14.0, seed=2)]).requires_grad_()
    both = MotionBlur(motion)
    x, y = random(2, 3, 6 + 2 * both.margin[0], 8 + 2 * both.margin[1]), random(2, 3, 6, 8)
    (gradient,) = torch.autograd.grad((both.A(x) * y).sum(), motion)
    for i in range(2):
        field = motion[i].detach().requires_grad_()
        one = MotionBlur(field, margin=both.margin)
        blurred = one.A(x[i : i + 1])
        torch.testing.assert_close(both.A(x)[i : i + 1], blurred, rtol=0, atol=1e-11)
        torch.testing.assert_close(both.A_adjoint(y)[i : i + 1], one.A_adjoint(y[i : i + 1]), rtol=0, atol=1e-11)
        (expected,) = torch.autograd.grad((blurred * y[i : i + 1]).sum(), field)
        torch.testing.assert_close(gradient[i], expected, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="2 motion fields cannot blur 3 images"):
        both.A(random(3, 1, *x.shape[-2:]))
    single = MotionBlur(motion[:1].detach(), margin=both.margin)
    assert single.A(x).shape == y.shape


OPERATORS = {
    **{f"motion, {b}": lambda dtype, b=b: MotionBlur(varying_motion(12, 17).to(dtype), b) for b in BOUNDARIES},
    **{f"psf, {b}": lambda dtype, b=b: UniformBlur(random(5, 9, dtype=dtype), b) for b in BOUNDARIES},
    "softmax": lambda dtype: MotionBlur(varying_motion(12, 17).to(dtype), interpolation="softmax"),
    "wide margin": lambda dtype: MotionBlur(varying_motion(12, 17).to(dtype), margin=(12, 20)),
    "psf, wide margin": lambda dtype: UniformBlur(random(5, 9, dtype=dtype), margin=(12, 5)),
    "psf of each channel": lambda dtype: UniformBlur(random(2, 3, 1, dtype=dtype)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint(name, dtype):
    blur = OPERATORS[name](dtype)
    my, mx = blur.margin
    # Of random sign, so that an error does not hide behind a large sum.
    x = 2 * random(2, 2, 12 + 2 * my, 17 + 2 * mx, dtype=dtype) - 1
    y = 2 * random(2, 2, 12, 17, seed=1, dtype=dtype) - 1
    blurred, back = blur.A(x), blur.A_adjoint(y)
    assert blurred.shape == y.shape
    assert back.shape == x.shape
    assert blurred.dtype == back.dtype == dtype
    difference = (blurred * y).sum() - (x * back).sum()
    # Rounding errors of some hundred additions, half of them up.
    bound = 1e-5 if dtype == torch.float32 else 1e-13
    assert difference.abs() <= bound * blurred.norm() * y.norm()


@pytest.mark.parametrize("name", OPERATORS)
def test_gradient_by_the_image(name):
    blur = OPERATORS[name](torch.float64)
    x = random(1, 2, 12 + 2 * blur.margin[0], 17 + 2 * blur.margin[1]).requires_grad_()
    y = random(1, 2, 12, 17, seed=1).requires_grad_()
    # gradcheck's own tolerances; a linear map has no error of second order. Fast mode: one random direction.
    assert torch.autograd.gradcheck(blur.A, x, fast_mode=True)
    assert torch.autograd.gradcheck(blur.A_adjoint, y, fast_mode=True)
    assert torch.autograd.gradgradcheck(blur.A, x, fast_mode=True)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_gradient_by_the_psf(boundary):
    psf = random(3, 5).requires_grad_()
    margin = (1, 2) if boundary == "extended" else (0, 0)
    x = random(2, 2, 4 + 2 * margin[0], 6 + 2 * margin[1]).requires_grad_()
    y = random(2, 2, 4, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, psf: UniformBlur(psf, boundary).A(x), (x, psf), fast_mode=True)
    assert torch.autograd.gradcheck(lambda y, psf: UniformBlur(psf, boundary).A_adjoint(y), (y, psf), fast_mode=True)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("boundary", ["extended", "reflect"])
def test_gradient_by_the_motion(boundary, interpolation):
    # Away from kinks: none of these lengths and angles is within 1e-4 of the bank's, no tap about to change
    # rule.
    motion = varying_motion(3, 4, 9.0, seed=3)
    motion[motion.norm(dim=-1) < 1.1] = torch.tensor([2.3, -1.2], dtype=torch.float64)
    motion += 0.0123
    motion[1, 1] = torch.tensor([0.2, 0.1])  # no blur
    margin = (5, 5) if boundary == "extended" else None
    my, mx = margin or (0, 0)
    x, y = random(2, 1, 3 + 2 * my, 4 + 2 * mx), random(2, 1, 3, 4, seed=1)
    motion.requires_grad_()

    def blur(motion):
        return MotionBlur(motion, boundary, interpolation, margin)

    # gradcheck's tolerances (1e-5, 1e-3 relative): finite differences of 1e-6 on smooth functions err by
    # 1e-9.
    assert torch.autograd.gradcheck(lambda motion: blur(motion).A(x), motion)
    assert torch.autograd.gradcheck(lambda motion: blur(motion).A_adjoint(y), motion)
    # And of the image in the same pass.
    image = x.clone().requires_grad_()
    blur(motion).A(image).backward(y)
    torch.testing.assert_close(image.grad, blur(motion).A_adjoint(y), rtol=0, atol=1e-11)


def test_gradient_is_finite_everywhere():
    motion = torch.tensor([[0, 0], [1, 0], [0, 1], [9, 0], [0, 9], [3, 3], [7, 0], [1e-30, 0]]).reshape(2, 4, 2)
    motion = motion.float().requires_grad_()
    for interpolation in INTERPOLATIONS:
        blur = MotionBlur(motion, "replicate", interpolation)
        (gradient,) = torch.autograd.grad(blur.A(random(1, 1, 2, 4).float()).square().sum(), motion)
        assert gradient.isfinite().all()
        assert gradient[0, 0].eq(0).all()


def test_no_second_order_gradient_by_the_motion():
    motion = varying_motion(3, 4, 9.0).requires_grad_()
    x = random(1, 1, 3, 4).requires_grad_()
    loss = MotionBlur(motion, "replicate").A(x).square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_motion_is_read_once():
    motion = varying_motion(4, 5).requires_grad_()
    blur = MotionBlur(motion, "replicate")
    x = random(1, 1, 4, 5)

    def results():
        blurred = blur.A(x)
        return blurred.detach(), blur.A_adjoint(x), *torch.autograd.grad(blurred.square().sum(), motion)

    before = results()
    with torch.no_grad():
        motion.mul_(-0.5)
    for result, expected in zip(results(), before, strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("size", [(3, 5), (1, 1), (1, 7), (9, 3), (21, 21)])
def test_uniform_blur_is_a_convolution(size):
    # An asymmetric kernel: a correlation would show.
    psf = random(*size, seed=3)
    psf /= psf.sum()
    x = random(2, 3, 20 + size[0], 31 + size[1])
    y = UniformBlur(psf).A(x)
    for item, expected in zip(y.flatten(0, 1), x.flatten(0, 1), strict=True):
        expected = scipy.signal.convolve2d(expected.numpy(), psf.numpy(), mode="valid")
        np.testing.assert_allclose(item.numpy(), expected, rtol=0, atol=1e-11)
    single = UniformBlur(psf.float()).A(x.float())
    torch.testing.assert_close(single.double(), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("boundary", "mode"), [("replicate", "nearest"), ("reflect", "mirror"), ("circular", "wrap")])
@pytest.mark.parametrize("size", [(3, 5), (15, 11), (31, 5)])
def test_uniform_blur_with_boundaries(boundary, mode, size):
    psf = random(*size, seed=3)
    psf /= psf.sum()
    x = random(1, 2, 9, 14)
    y = UniformBlur(psf, boundary).A(x)
    for channel, sharp in zip(y[0], x[0], strict=True):
        expected = scipy.ndimage.convolve(sharp.numpy(), psf.numpy(), mode=mode)
        np.testing.assert_allclose(channel.numpy(), expected, rtol=0, atol=1e-11)


def test_uniform_blur_by_a_psf_for_each_channel():
    psf, x = random(3, 5, 3), random(2, 3, 12, 10)
    y = UniformBlur(psf).A(x)
    for c in range(3):
        expected = UniformBlur(psf[c]).A(x[:, c : c + 1])
        torch.testing.assert_close(y[:, c : c + 1], expected, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="psf has 3 channels, the image has 1"):
        UniformBlur(psf).A(x[:, :1])


@pytest.mark.parametrize("channels", [1, 3])
def test_uniform_blur_by_a_psf_for_each_image(channels):
    psf, x = random(2, channels, 3, 5), random(2, 3, 12, 10)
    blur = UniformBlur(psf)
    y = blur.A(x)
    for b in range(2):
        alone = UniformBlur(psf[b].expand(3, -1, -1))
        torch.testing.assert_close(y[b : b + 1], alone.A(x[b : b + 1]), rtol=0, atol=1e-11)
        torch.testing.assert_close(blur.A_adjoint(y)[b : b + 1], alone.A_adjoint(y[b : b + 1]), rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="2 kernels cannot blur 3 images"):
        blur.A(random(3, 3, 12, 10))


def test_uniform_blur_of_several_sizes():
    blur = UniformBlur(random(5, 5))
    for size in [(20, 20), (31, 20), (20, 20)]:
        x = random(1, 1, *size)
        expected = scipy.signal.convolve2d(x[0, 0].numpy(), blur.psf.numpy(), mode="valid")
        np.testing.assert_allclose(blur.A(x)[0, 0].numpy(), expected, rtol=0, atol=1e-11)


def test_wide_margin_is_not_read():
    psf, x = random(3, 5), random(1, 1, 20, 24)
    inner = UniformBlur(psf).A(x[..., 4:-4, 1:-1])
    torch.testing.assert_close(UniformBlur(psf, margin=(5, 3)).A(x), inner, rtol=0, atol=1e-11)
    motion = varying_motion(8, 9, 5.0)
    x, tight = random(1, 1, 28, 29), MotionBlur(motion)
    my, mx = (10 - m for m in tight.margin)
    inner = tight.A(x[..., my:-my, mx:-mx])
    torch.testing.assert_close(MotionBlur(motion, margin=(10, 10)).A(x), inner, rtol=0, atol=1e-11)


@pytest.mark.parametrize("margin", [(0, 0), (1, 0), (0, 2), (3, 4), (11, 17)])
@pytest.mark.parametrize("boundary", ["replicate", "reflect", "circular"])
@pytest.mark.parametrize("size", [(5, 6), (1, 3), (2, 1)])
def test_pad(size, boundary, margin):
    x = random(2, 1, *size)
    padded = pad(x, margin, boundary)
    widths = [(0, 0), (0, 0), (margin[0],) * 2, (margin[1],) * 2]
    np.testing.assert_array_equal(padded.numpy(), np.pad(x.numpy(), widths, mode=NUMPY_PAD[boundary]))
    y = random(*padded.shape, seed=1)
    folded = pad_adjoint(y, margin, boundary)
    assert folded.shape == x.shape
    # Sums of up to some hundred numbers below 1.
    assert float((padded * y).sum()) == pytest.approx(float((x * folded).sum()), abs=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sparse_matrices_without_scipy(dtype):
    # What other devices than the CPU use; here on the CPU, with elements in any order and some at one place.
    generator = torch.Generator().manual_seed(2)
    row, column = (torch.randint(n, (200,), generator=generator).to(torch.int32) for n in (11, 17))
    value = random(200, dtype=dtype)
    dense = torch.zeros(11, 17, dtype=dtype).index_put((row, column), value, accumulate=True)
    matrix = _matrix_of_elements(row, column, value, (11, 17))
    # Sums of up to five numbers below 1: a few roundings.
    atol = 8 * torch.finfo(dtype).eps
    for product, expected in [
        (matrix, dense),
        (_matrix_of_elements(column, row, value, (17, 11)), dense.T),
        (_transpose(matrix), dense.T),
    ]:
        product = product @ torch.eye(expected.shape[1], dtype=dtype)
        torch.testing.assert_close(product, expected, rtol=0, atol=atol)


def test_lengths_beyond_the_bank_are_reported():
    motion = torch.tensor([40.0, 0.0]).expand(4, 5, 2).contiguous()
    motion[0, 0] = 1.5
    x = random(1, 1, 4, 5).float()
    for interpolation in ("softmax", "bilinear"):
        with pytest.warns(UserWarning, match="19 motions are longer"):
            blur = MotionBlur(motion, "replicate", interpolation)
        clamped = MotionBlur(motion.clamp(max=35), "replicate", interpolation)
        assert torch.equal(blur.A(x), clamped.A(x))
    # The continuous kernels know no longest motion.
    assert MotionBlur(motion).margin == (1, 20)


@pytest.mark.parametrize(
    ("psf", "error", "match"),
    [
        (torch.ones(2, 3), ValueError, "odd sides"),
        (torch.ones(3), ValueError, "odd sides"),
        (torch.ones(1, 1, 1, 3, 3), ValueError, "odd sides"),
        (torch.zeros(3, 3), ValueError, "positive sum"),
        (torch.full((3, 3), math.nan), ValueError, "NaN"),
        (torch.full((3, 3), math.inf), ValueError, "NaN"),
        (torch.ones(3, 3, dtype=torch.int64), TypeError, "torch.int64"),
        (np.ones((3, 3)), TypeError, "ndarray"),
    ],
)
def test_bad_psf_is_refused(psf, error, match):
    with pytest.raises(error, match=match):
        UniformBlur(psf)


@pytest.mark.parametrize(
    ("motion", "error", "match"),
    [
        (torch.ones(4, 5), ValueError, r"\(H, W, 2\)"),
        (torch.ones(4, 5, 3), ValueError, r"\(H, W, 2\)"),
        (torch.ones(0, 5, 2), ValueError, r"\(H, W, 2\)"),
        (torch.full((4, 5, 2), math.nan), ValueError, "NaN"),
        (torch.ones(4, 5, 2, dtype=torch.float16), TypeError, "float16"),
        (np.ones((4, 5, 2)), TypeError, "ndarray"),
    ],
)
def test_bad_motion_is_refused(motion, error, match):
    with pytest.raises(error, match=match):
        MotionBlur(motion)


def test_bad_options_are_refused():
    motion = torch.full((4, 5, 2), 6.0)
    for make in (
        lambda **options: MotionBlur(motion, **options),
        lambda **o: UniformBlur(torch.ones(5, 7), **o),
    ):
        with pytest.raises(ValueError, match="boundary must be one of"):
            make(boundary="zero")
        with pytest.raises(ValueError, match="margin must be at least"):
            make(margin=(1, 9))
        with pytest.raises(ValueError, match="needs the boundary 'extended'"):
            make(boundary="reflect", margin=(9, 9))
    with pytest.raises(ValueError, match="interpolation must be one of"):
        MotionBlur(motion, interpolation="nearest")
    with pytest.raises(ValueError, match="to pad an image"):
        pad(random(1, 1, 2, 2), (1, 1), "extended")


def test_bad_images_are_refused():
    motion_blur = MotionBlur(torch.full((4, 5, 2), 6.0), margin=(5, 5))
    uniform_blur = UniformBlur(torch.ones(5, 7))
    for blur in (motion_blur, uniform_blur):
        with pytest.raises(TypeError, match="float32"):
            blur.A(random(1, 1, 14, 15))
        for product in (blur.A, blur.A_adjoint):
            with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
                product(torch.ones(14, 15))
    with pytest.raises(ValueError, match=r"\(B, C, 14, 15\)"):
        motion_blur.A(torch.ones(1, 1, 4, 5))
    with pytest.raises(ValueError, match=r"\(B, C, 4, 5\)"):
        motion_blur.A_adjoint(torch.ones(1, 1, 14, 15))
    with pytest.raises(ValueError, match="larger than the margin"):
        uniform_blur.A(torch.ones(1, 1, 4, 15))


def test_constants_stay():
    # Kernels sum to 1, so a constant image is not changed; rounding of 70 weights in single precision.
    motion = varying_motion(15, 16, 34.0).float()
    for interpolation in INTERPOLATIONS:
        y = MotionBlur(motion, "reflect", interpolation).A(torch.ones(1, 1, 15, 16))
        torch.testing.assert_close(y, torch.ones_like(y), rtol=0, atol=1e-5)


def test_taps_are_the_weights_that_are_not_zero():
    motion = torch.tensor([[[5.0, 0.0], [0.0, 0.0], [0.0, 3.0]]])
    # Five in a row; one; three in a column.
    assert MotionBlur(motion).taps == 9


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_any_number_of_channels(channels):
    """Products are made of four columns at a time; each channel is blurred as if it were alone."""
    motion = torch.tensor([4.0, -2.0], dtype=torch.float64).expand(9, 10, 2).contiguous()
    blur = MotionBlur(motion)
    my, mx = blur.margin
    x = torch.rand(
        2, channels, 9 + 2 * my, 10 + 2 * mx, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    y = blur.A(x)
    assert y.is_contiguous()
    for b in range(2):
        for c in range(channels):
            torch.testing.assert_close(y[b : b + 1, c : c + 1], blur.A(x[b : b + 1, c : c + 1]))
            alone = blur.A_adjoint(y[b : b + 1, c : c + 1])
            torch.testing.assert_close(blur.A_adjoint(y)[b : b + 1, c : c + 1], alone)
