"""Metrics against other people's implementations and against values worked out by hand."""

import doctest
import math

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import peak_signal_noise_ratio
from torchmetrics.functional.image import (
    peak_signal_noise_ratio as torch_psnr,
)
from torchmetrics.functional.image import (
    structural_similarity_index_measure as torch_ssim,
)

from ircdeblur import metrics
from ircdeblur.metrics import angle_error, end_point_error, motion_mse, psnr, ssim


def noisy_pair(channels: int | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A photograph in [0, 1] and the same with noise; 60 x 70, so that sides cannot be swapped unseen."""
    image = skimage.data.astronaut()[100:160, 200:270] / 255.0
    if channels is None:
        image = image[..., 1]
    noise = 0.08 * np.random.default_rng(seed).standard_normal(image.shape)
    return np.clip(image + noise, 0, 1), image


def as_batch(image: np.ndarray) -> torch.Tensor:
    """(H, W) or (H, W, C) to (1, C, H, W)."""
    return torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)[None]


def field(*vectors: tuple[float, float]) -> np.ndarray:
    """A motion field of one row."""
    return np.array([vectors], dtype=np.float64)


motion_fields = arrays(np.float64, (3, 4, 2), elements=st.floats(-40, 40))


def test_doctest_examples_hold():
    failed, attempted = doctest.testmod(metrics)
    assert attempted > 0
    assert failed == 0


class TestPsnr:
    @pytest.mark.parametrize("channels", [None, 3])
    @pytest.mark.parametrize("data_range", [1.0, 2.0])
    def test_oracles(self, channels, data_range):
        a, b = noisy_pair(channels)
        assert psnr(a, b, data_range) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=data_range), abs=1e-10)
        # torchmetrics keeps some of its constants in float32.
        assert psnr(a, b, data_range) == pytest.approx(
            float(torch_psnr(as_batch(a), as_batch(b), data_range=data_range)), abs=1e-5
        )

    def test_by_hand(self):
        a = np.zeros((4, 5))
        assert psnr(a, a + 0.1) == pytest.approx(20)
        assert psnr(a, a + 0.1, data_range=10) == pytest.approx(40)
        assert psnr(np.full((2, 2), 10, np.uint8), np.full((2, 2), 255, np.uint8), 255) == pytest.approx(
            20 * math.log10(255 / 245)
        )

    def test_equal_images_are_infinitely_close(self):
        a, _ = noisy_pair(3)
        assert psnr(a, a) == math.inf

    def test_border_is_left_out_on_each_side(self):
        a, b = np.zeros((7, 9, 3)), np.full((7, 9, 3), 0.9)
        b[2:-2, 2:-2] = 0.01
        assert psnr(a, b, border=2) == pytest.approx(40)
        assert psnr(a, b, border=1) < 20
        assert psnr(a, b, border=3) == pytest.approx(40)

    @pytest.mark.parametrize("border", [-1, 4, 100])
    def test_border_that_leaves_nothing(self, border):
        with pytest.raises(ValueError, match=f"border={border} leaves no pixel of an image of 8 x 20"):
            psnr(np.zeros((8, 20)), np.ones((8, 20)), border=border)


class TestSsim:
    @pytest.mark.parametrize("channels", [None, 3])
    @pytest.mark.parametrize("data_range", [1.0, 255.0])
    def test_oracle(self, channels, data_range):
        a, b = noisy_pair(channels)
        _, index = torch_ssim(
            as_batch(a), as_batch(b), sigma=1.5, kernel_size=11, data_range=data_range, return_full_image=True
        )
        # Its own mean counts the border, where windows see mirrored pixels; the definition has whole windows.
        expected = float(index[..., 5:-5, 5:-5].mean())
        assert ssim(a, b, data_range) == pytest.approx(expected, abs=1e-9)

    def test_definition_in_one_window(self):
        """An 11 x 11 image has one full window, so the index is one formula, written out here."""
        rng = np.random.default_rng(1)
        a, b = rng.random((2, 11, 11))
        t = np.arange(-5, 6)
        w = np.exp(-(t[:, None] ** 2 + t[None, :] ** 2) / (2 * 1.5**2))
        w /= w.sum()
        ma, mb = (w * a).sum(), (w * b).sum()
        va, vb, cab = (w * a * a).sum() - ma**2, (w * b * b).sum() - mb**2, (w * a * b).sum() - ma * mb
        c1, c2 = 0.01**2, 0.03**2
        expected = (2 * ma * mb + c1) * (2 * cab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        assert ssim(a, b) == pytest.approx(expected, abs=1e-12)

    def test_colour_is_the_mean_of_the_channels(self):
        a, b = noisy_pair(3)
        assert ssim(a, b) == pytest.approx(np.mean([ssim(a[..., c], b[..., c]) for c in range(3)]))

    def test_float32_and_uint8_agree_with_float64(self):
        a, b = ((255 * x).round().astype(np.uint8) for x in noisy_pair(3))
        expected = ssim(a / 255, b / 255)
        assert ssim(a, b, 255) == pytest.approx(expected, abs=1e-12)
        assert ssim((a / 255).astype(np.float32), (b / 255).astype(np.float32)) == pytest.approx(expected, abs=1e-6)

    def test_equal_images(self):
        a, _ = noisy_pair(None)
        assert ssim(a, a) == pytest.approx(1)

    @pytest.mark.parametrize("shape", [(10, 40), (40, 10), (1, 1, 3)])
    def test_image_smaller_than_the_window(self, shape):
        with pytest.raises(ValueError, match=f"{shape[0]} x {shape[1]}; expected sides of at least 11 pixels"):
            ssim(np.zeros(shape), np.zeros(shape))


@pytest.mark.parametrize("metric", [psnr, ssim])
class TestImageArguments:
    def test_shapes_must_agree(self, metric):
        with pytest.raises(ValueError, match=r"\(20, 30\) and \(20, 30, 3\)"):
            metric(np.zeros((20, 30)), np.zeros((20, 30, 3)))

    @pytest.mark.parametrize("shape", [(400,), (1, 3, 20, 20)])
    def test_not_an_image(self, metric, shape):
        with pytest.raises(ValueError, match=r"expected \(H, W\) or \(H, W, C\)"):
            metric(np.zeros(shape), np.zeros(shape))

    def test_empty(self, metric):
        with pytest.raises(ValueError, match="at least one pixel"):
            metric(np.zeros((0, 30)), np.zeros((0, 30)))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("which", ["first", "second"])
    def test_not_finite(self, metric, bad, which):
        good, broken = np.zeros((20, 30)), np.zeros((20, 30))
        broken[3, 4] = bad
        pair = (broken, good) if which == "first" else (good, broken)
        with pytest.raises(ValueError, match=f"the {which} array holds 1 NaN or infinite"):
            metric(*pair)

    @pytest.mark.parametrize("data_range", [0, -1, np.nan, np.inf])
    def test_data_range(self, metric, data_range):
        with pytest.raises(ValueError, match="expected a positive number"):
            metric(np.zeros((20, 30)), np.zeros((20, 30)), data_range=data_range)

    def test_integers_on_the_scale_of_floats(self, metric):
        a = np.full((20, 30), 200, np.uint8)
        with pytest.raises(ValueError, match=r"uint8 values up to 200 with data_range=1; expected .*=255"):
            metric(a, a)

    def test_not_real(self, metric):
        with pytest.raises(TypeError, match="complex128"):
            metric(np.zeros((20, 30), complex), np.zeros((20, 30), complex))


class TestMotion:
    def test_mse_by_hand(self):
        # Errors 3² + 4² = 25; none, as the sign is free; (1, 1) against (1, 0): 1. Their mean, halved.
        pred = field((3, 4), (-5, 2), (1, 1))
        true = field((0, 0), (5, -2), (1, 0))
        assert motion_mse(pred, true) == pytest.approx((25 + 0 + 1) / 3 / 2)

    def test_sign_is_chosen_per_pixel_not_per_field(self):
        true = field((4, 1), (4, 1))
        assert motion_mse(true * [[[1], [-1]]], true) == 0

    def test_end_point_error_by_hand(self):
        mean, per_pixel = end_point_error(field((3, 4), (-5, 2)), field((0, 0), (5, -1)))
        np.testing.assert_allclose(per_pixel, [[5, 1]])
        assert mean == pytest.approx(3)

    @pytest.mark.parametrize(
        ("pred", "true", "degrees"),
        [
            ((10, 0), (0, 10), 90),
            ((10, 0), (-3, 0), 0),
            ((7, 7), (7, -7), 90),
            ((10, 0), (9, 9), 45),
            ((10, 0), (-9, 9), 45),
            ((20, 1e-7), (20, 0), math.degrees(5e-9)),
        ],
    )
    def test_angle_by_hand(self, pred, true, degrees):
        mean, per_pixel = angle_error(field(pred), field(true))
        assert mean == pytest.approx(degrees, rel=1e-12, abs=1e-15)
        assert per_pixel.shape == (1, 1)

    def test_angle_wraps_at_180(self):
        """179 and 1 degrees are 2 degrees apart."""
        close = [(20 * math.cos(math.radians(t)), -20 * math.sin(math.radians(t))) for t in (179, 1)]
        assert angle_error(field(close[0]), field(close[1]))[0] == pytest.approx(2)

    def test_no_blur_has_no_angle(self):
        pred = field((10, 0), (0.6, 0.6), (0, 5))
        true = field((0, 1), (5, 0), (5, 5))
        mean, per_pixel = angle_error(pred, true)
        np.testing.assert_allclose(per_pixel, [[np.nan, np.nan, 45]])
        assert mean == pytest.approx(45)
        assert math.isnan(angle_error(true * 0, true)[0])

    @given(motion_fields, motion_fields)
    def test_laws(self, p, t):
        mean, per_pixel = end_point_error(p, t)
        assert motion_mse(p, t) == pytest.approx(np.mean(per_pixel**2) / 2)
        assert motion_mse(p, t) == motion_mse(t, p) == motion_mse(-p, t) == motion_mse(p, -t)
        assert motion_mse(p, -p) == 0
        assert mean >= 0
        angles = angle_error(p, t)[1]
        np.testing.assert_array_equal(angles, angle_error(-p, t)[1])
        assert np.all((angles >= 0) & (angles <= 90) | np.isnan(angles))
        # No vector is further from the truth than it would be with the other sign.
        np.testing.assert_array_less(per_pixel, np.linalg.norm(p - t, axis=-1) + 1e-9)
        np.testing.assert_array_less(per_pixel, np.linalg.norm(p + t, axis=-1) + 1e-9)


@pytest.mark.parametrize("metric", [motion_mse, end_point_error, angle_error])
class TestMotionArguments:
    def test_shapes_must_agree(self, metric):
        with pytest.raises(ValueError, match=r"\(4, 5, 2\) and \(5, 4, 2\)"):
            metric(np.zeros((4, 5, 2)), np.zeros((5, 4, 2)))

    @pytest.mark.parametrize("shape", [(2, 4, 5), (4, 5), (1, 2, 4, 5)])
    def test_not_a_motion_field(self, metric, shape):
        with pytest.raises(ValueError, match=r"expected \(H, W, 2\)"):
            metric(np.zeros(shape), np.zeros(shape))

    def test_not_finite(self, metric):
        broken = np.zeros((4, 5, 2))
        broken[1, 1] = np.nan
        with pytest.raises(ValueError, match="the second array holds 2 NaN"):
            metric(np.zeros((4, 5, 2)), broken)
