"""The public functions: kinds of images, errors, tiles, and that they restore."""

import math

import numpy as np
import pytest
import skimage.data
import skimage.restoration
import torch

import ircdeblur
from ircdeblur import restore
from ircdeblur.data.camera import camera_shake
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.metrics import motion_mse, psnr
from ircdeblur.motion import from_double_angle
from ircdeblur.nets import methods
from ircdeblur.nets.belief import DOUBT, EXACT, LEAST_MISFIT, MISFIT
from ircdeblur.nets.blind import MotionEstimate, _in_the_right_light
from ircdeblur.nets.checkpoints import save_irc_net, save_motion_net
from ircdeblur.nets.evidence import Luma, SpectralEvidence
from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig
from ircdeblur.nets.light import (
    DOUBTFUL,
    LinearLuma,
    evidence_for_linear_light,
    is_linear_light,
    reblurring_misfit,
    seems_linear,
)
from ircdeblur.nets.methods import METHODS
from ircdeblur.nets.motion_net import MotionNet, MotionNetConfig
from ircdeblur.nets.noise import noise_of
from ircdeblur.nets.shrinkage_net import ShrinkageIRCNet
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.settings import Settings, unsaturated
from ircdeblur.srgb import srgb_to_linear

PSF = linear_motion_kernel(9, 30)


@pytest.fixture(scope="module")
def photo():
    """A piece of the astronaut, (128, 144, 3) in [0, 1]."""
    return skimage.data.astronaut()[60:188, 150:294] / 255.0


@pytest.fixture
def random_net(monkeypatch):
    """Motion-Net with random weights in place of the trained one."""
    torch.manual_seed(0)
    net = MotionNet(MotionNetConfig(stem=4, widths=(8, 8, 8), blocks=(1, 1, 1), pyramid=8, rates=(1,))).eval()
    with torch.no_grad():
        net.out.bias.copy_(torch.tensor([0.5, 0.2, -4.0]))
    monkeypatch.setattr(restore, "_motion_net", lambda device, name, runtime: net)


def kinds(photo):
    """The same photograph in every form that is accepted."""
    grey = photo.mean(-1)
    channels_first = torch.from_numpy(photo).permute(2, 0, 1).float()
    return {
        "float64": photo,
        "float32": photo.astype(np.float32),
        "uint8": (photo * 255).round().astype(np.uint8),
        "uint16": (photo * 65535).round().astype(np.uint16),
        "grey": grey,
        "one channel": grey[..., None],
        "torch CHW": channels_first,
        "torch BCHW": torch.stack((channels_first, channels_first.flip(-1))),
        "torch HW": torch.from_numpy(grey).float(),
        "torch uint8": (channels_first * 255).round().to(torch.uint8),
    }


KINDS = list(kinds(np.zeros((2, 2, 3))))


@pytest.mark.parametrize("kind", KINDS)
def test_same_kind_out(photo, kind, random_net):
    image = kinds(photo[:48, :56])[kind]
    for result in (
        ircdeblur.blur(image, psf=PSF),
        ircdeblur.deconvolve(image, psf=PSF, method="fft", noise=0.01),
        ircdeblur.deblur(image, method="fft"),
    ):
        assert type(result) is type(image)
        assert result.dtype == image.dtype
        assert result.shape == image.shape
    motion = ircdeblur.estimate_motion(image)
    assert isinstance(motion, torch.Tensor) == isinstance(image, torch.Tensor)
    assert motion.shape == ((2, 48, 56, 2) if kind == "torch BCHW" else (48, 56, 2))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_channel_axis(photo, random_net, axis):
    """Where the channels are makes no difference, as with scikit-image."""
    small = photo[:48, :56]
    moved = np.moveaxis(small, -1, axis)
    blurred = ircdeblur.blur(small, PSF)
    expected = ircdeblur.deconvolve(blurred, PSF, method="fft", noise=0.01)
    found = ircdeblur.blur(moved, PSF, channel_axis=axis)
    np.testing.assert_array_equal(found, np.moveaxis(blurred, -1, axis))
    found = ircdeblur.deconvolve(found, PSF, method="fft", noise=0.01, channel_axis=axis)
    np.testing.assert_array_equal(found, np.moveaxis(expected, -1, axis))
    sharp, motion = ircdeblur.deblur(moved, return_motion=True, method="fft", channel_axis=axis)
    assert (sharp.shape, motion.shape) == (moved.shape, (48, 56, 2))
    np.testing.assert_array_equal(ircdeblur.estimate_motion(moved, channel_axis=axis), motion)
    with pytest.raises(ValueError, match="channel_axis must be one of the three axes"):
        ircdeblur.blur(moved, PSF, channel_axis=3)


def test_called_as_scikit_image_is(photo):
    """`restoration.wiener(image, psf, ...)` and ours take the same image and kernel in the same places."""
    grey = photo.mean(2)
    blurred = ircdeblur.blur(grey, PSF)
    ours = ircdeblur.deconvolve(blurred, PSF)
    inside = (slice(16, -16), slice(16, -16))
    assert ours.shape == skimage.restoration.wiener(blurred, PSF, 0.1).shape
    assert psnr(ours[inside], grey[inside]) > psnr(blurred[inside], grey[inside]) + 3


def test_scales_agree(photo):
    """8 and 16 bits are the float result, rounded."""
    images = kinds(photo)
    exact = ircdeblur.deconvolve(images["uint16"] / 65535.0, psf=PSF, method="fft", noise=0.01)
    sixteen = ircdeblur.deconvolve(images["uint16"], psf=PSF, method="fft", noise=0.01)
    # Rounding to 16 bits, and that of float32.
    np.testing.assert_allclose(sixteen / 65535.0, exact, atol=1.0 / 65535)


@pytest.mark.parametrize("method", ["irc", "cg", "fft"])
def test_deconvolve_by_psf_and_by_motion(photo, method):
    motion = camera_shake(photo.shape[:2], 9.0, seed=1)
    for how in ({"psf": PSF}, {"motion": motion}):
        blurred = ircdeblur.blur(photo, **how, noise=0.004, seed=0)
        sharp = ircdeblur.deconvolve(blurred, **how, method=method, noise=0.004)
        inside = (slice(12, -12), slice(12, -12))
        assert psnr(sharp[inside], photo[inside]) > psnr(blurred[inside], photo[inside]) + 2.0


def test_psf_and_uniform_motion_agree(photo):
    motion = np.broadcast_to(9 * np.array([np.cos(np.pi / 6), -np.sin(np.pi / 6)]), (*photo.shape[:2], 2))
    # float32 rounding of angle and weights.
    np.testing.assert_allclose(ircdeblur.blur(photo, motion=motion), ircdeblur.blur(photo, psf=PSF), atol=1e-4)


def test_blur_is_repeatable(photo):
    first, second, other = (ircdeblur.blur(photo, psf=PSF, noise=0.02, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.std(other - ircdeblur.blur(photo, psf=PSF)) == pytest.approx(0.02, rel=0.1)


def test_still_motion_changes_nothing(photo):
    still = np.zeros((*photo.shape[:2], 2))
    # float32 rounding.
    np.testing.assert_allclose(ircdeblur.deconvolve(photo, motion=still), photo, atol=1e-6)
    np.testing.assert_allclose(ircdeblur.blur(photo, motion=still), photo, atol=1e-6)


def test_linear_light(photo):
    blurred = ircdeblur.blur(photo, psf=PSF, linear_light=True)
    right, wrong = (
        ircdeblur.deconvolve(blurred, psf=PSF, method="cg", noise=0.003, linear_light=flag) for flag in (True, False)
    )
    inside = (slice(12, -12), slice(12, -12))
    assert psnr(right[inside], photo[inside]) > psnr(wrong[inside], photo[inside])


def light_cases():
    """A photograph of 256 x 256, and what a motion makes of it in pixel values and in linear light."""
    photo = skimage.data.astronaut()[:256, 100:356] / 255.0
    motion = np.broadcast_to([11.0, -5.0], (256, 256, 2)).astype(np.float32)
    return motion, [
        ircdeblur.blur(photo, motion=motion, noise=0.003, seed=1, linear_light=linear).clip(0, 1)
        for linear in (False, True)
    ]


def test_the_light_is_found():
    motion, blurred = light_cases()
    kernel = linear_motion_kernel(float(np.hypot(11, 5)), float(np.degrees(np.arctan2(5, 11))))
    for image, expected in zip(blurred, (False, True), strict=True):
        luma = torch.from_numpy(image.mean(-1))[None, None].float()
        spectra = (SpectralEvidence(seen, 0.003) for seen in (luma, LinearLuma(Luma(luma))))
        values, linear = spectra
        for blur in (torch.tensor([[11.0, -5.0]]).expand(len(values.x), 2), kernel):
            assert (evidence_for_linear_light(values, linear, blur) > 0) == expected
            assert abs(evidence_for_linear_light(values, linear, blur)) > DOUBTFUL[1]
        whole = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        assert is_linear_light(whole, torch.from_numpy(motion)) == is_linear_light(whole, kernel) == expected
        assert not is_linear_light(whole[..., :40], kernel)  # too small to tell
    for image, expected in zip(blurred, (False, True), strict=True):
        options = {"psf": kernel, "method": "fft"}
        found = ircdeblur.deconvolve(image, linear_light="auto", **options)
        np.testing.assert_array_equal(found, ircdeblur.deconvolve(image, linear_light=expected, **options))
        assert np.abs(found - ircdeblur.deconvolve(image, linear_light=not expected, **options)).max() > 0.05
    # A blind restoration and its motion go by it, unless told; values above 1 are no sRGB values.
    found = ircdeblur.deblur(blurred[1])
    np.testing.assert_array_equal(found, ircdeblur.deblur(blurred[1], linear_light=True))
    # Answers that were not refined on the picture can't tell.
    found = ircdeblur.deblur(blurred[1], consolidation="answers")
    np.testing.assert_array_equal(found, ircdeblur.deblur(blurred[1], consolidation="answers", linear_light=False))
    bright = np.concatenate((blurred[1], np.full_like(blurred[1][:1], 1.5)))[1:]
    np.testing.assert_array_equal(
        ircdeblur.deconvolve(bright, linear_light="auto", **options), ircdeblur.deconvolve(bright, **options)
    )
    for function, options in ((ircdeblur.deblur, {}), (ircdeblur.deconvolve, {"psf": PSF})):
        with pytest.raises(ValueError, match="linear_light must be"):
            function(blurred[0], linear_light="yes", **options)


def test_noise_of_a_window_in_linear_light():
    """Of a ramp from dark to bright, in which there is nothing but noise beyond the lowest frequencies."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0.05, 0.95, 129) + np.zeros((900, 1))
    luma = Luma(torch.from_numpy(ramp + rng.normal(0, 0.01, ramp.shape))[None, None])
    ratios = []
    for seen in (luma, LinearLuma(luma)):
        evidence = SpectralEvidence(seen, 0.01, lattice=(1, 0, 1))
        fine = (evidence._at.log_radius > np.log(0.1)) & (evidence._at.gain > 0)
        ratios.append(float((evidence._power * fine).sum() / (evidence._noise * fine).sum()))
    # Some thousands of powers, each as uncertain as it is large.
    assert ratios == pytest.approx([1, 1], abs=0.05)
    slope = np.diff(srgb_to_linear(torch.from_numpy(ramp[0])).numpy())
    assert (slope**2).mean() / np.exp(2 * np.log(slope).mean()) > 1.3  # what it would be without regard to the place


def test_the_light_by_blurring_again():
    """In the right light the restoration explains the photograph, up to its noise; in the wrong one it does not."""
    motion, blurred = light_cases()
    kernel = linear_motion_kernel(float(np.hypot(11, 5)), float(np.degrees(np.arctan2(5, 11))))
    field = torch.from_numpy(motion)
    cases = (kernel, UniformBlur(torch.from_numpy(kernel).float())), (field, MotionBlur(field))
    for linear, image in enumerate(blurred):
        luma = torch.from_numpy(image.mean(-1))[None, None].float()
        for blur, operator in cases:
            right, wrong = (reblurring_misfit(luma, operator, 0.003, light) for light in (bool(linear), not linear))
            assert right < 0.003  # the noise of the mean of three colours is 0.0017
            assert wrong > 3 * right
            # It decides where the spectra leave doubts, and there alone.
            low, high = DOUBTFUL
            assert [seems_linear(spectra, luma, blur, 0.003) for spectra in (low, low + 1, high - 1, high)] == [
                False,
                bool(linear),
                bool(linear),
                True,
            ]


@pytest.mark.parametrize("doubtful", [False, True])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("better", ["values", "linear"])
def test_the_motion_is_that_of_the_right_light(linear, better, doubtful, monkeypatch):
    motion, blurred = light_cases()
    if doubtful:
        monkeypatch.setattr("ircdeblur.nets.light.DOUBTFUL", (-math.inf, math.inf))
    luma = Luma(torch.from_numpy(blurred[linear].mean(-1))[None, None].float())
    right, wrong = (
        MotionEstimate(torch.from_numpy(factor * motion), torch.ones(256, 256), 1.0) for factor in (1.0, 0.8)
    )
    asked = []

    def consolidated(evidence):
        asked.append(evidence)
        return right if (len(asked) == 1) == (better == "values") else wrong

    found = _in_the_right_light(luma, 0.003, consolidated)
    assert found.linear_light == linear
    # Asked again only in linear light, and believed only if that explains more.
    assert len(asked) == 1 + linear
    expected = right if linear or better == "values" else wrong
    torch.testing.assert_close(found.motion, expected.motion, rtol=0, atol=0)


def test_noise_that_is_given_is_that_of_the_values(photo):
    blurred = torch.from_numpy(ircdeblur.blur(photo, psf=PSF, linear_light=True)).permute(2, 0, 1)[None].float()
    found = ircdeblur.deconvolve(blurred, psf=PSF, method="fft", noise=0.01, linear_light=True)
    step = 1e-4
    slopes = (srgb_to_linear(blurred + step) - srgb_to_linear(blurred - step)) / (2 * step)
    slope = float(slopes.square().mean().sqrt())
    expected = ircdeblur.deconvolve(srgb_to_linear(blurred), psf=PSF, method="fft", noise=0.01 * slope)
    # The slope of differences of float32 is right to 1e-3, and noise so little wrong changes less than that.
    np.testing.assert_allclose(srgb_to_linear(found), expected, atol=2e-4)


def test_noise_that_is_estimated_is_that_of_the_values(photo):
    """Of linear light it differs from place to place, which an estimate takes for less than it is."""
    blurred = ircdeblur.blur(photo, psf=PSF, linear_light=True, noise=0.02, seed=0).clip(0, 1)
    planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(blurred, -1, 0)))[None].float()
    found, expected = (
        ircdeblur.deconvolve(blurred, psf=PSF, method="fft", noise=noise, linear_light=True)
        for noise in (None, noise_of(planes, np.array(PSF)))
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("how", ["psf", "motion"])
def test_tiles_leave_no_seams(how):
    large = np.tile(skimage.data.camera()[:256, :256] / 255.0, (2, 2))[:420, :400]
    motion = camera_shake(large.shape, 9.0, seed=4)
    known = {"psf": PSF} if how == "psf" else {"motion": motion}
    blurred = ircdeblur.blur(large, **known, noise=0.004, seed=0)
    steps = []
    options = {"method": "cg", "noise": 0.004, **known}
    whole = ircdeblur.deconvolve(blurred, tile=None, **options)
    tiled = ircdeblur.deconvolve(blurred, tile=256, progress=lambda done, of: steps.append((done, of)), **options)
    assert psnr(tiled, whole) > 50
    assert steps[-1] == (9, 9)


def test_blind_leaves_still_and_doubtful_pictures_alone(photo, monkeypatch):
    class Net:
        """Answers with one motion and one error."""

        def __init__(self, length, error):
            self.length, self.error = length, error

        def __call__(self, image):
            height, width = image.shape[-2:]
            double = torch.tensor([self.length, 0.0]).expand(1, height, width, 2)
            return double, torch.full((1, height, width), self.error)

    for length, error, changes in ((1.0, 0.2, False), (10.0, 20.0, False), (10.0, 0.5, True)):
        net = Net(length, error)
        monkeypatch.setattr(restore, "_motion_net", lambda device, name, runtime, net=net: net)
        blurred = ircdeblur.blur(photo, motion=np.broadcast_to([length, 0.0], (*photo.shape[:2], 2)))
        sharp, motion = ircdeblur.deblur(blurred, return_motion=True, noise=0.002)
        # So small a picture has few windows to be refined by: a long motion comes out to some 15 %, and between none
        # and three pixels they cannot tell.
        np.testing.assert_allclose(np.abs(motion[..., 0]), length, **({"rtol": 0.15} if length > 3 else {"atol": 1.5}))
        if changes:
            assert psnr(sharp, photo) > psnr(blurred, photo) + 1.0
            half = ircdeblur.deblur(blurred, noise=0.002, strength=0.5)
            inside = (sharp > 0) & (sharp < 1)
            # Where the full restoration was not clipped, half of it is the mean; float32 rounding.
            np.testing.assert_allclose(half[inside], ((blurred + sharp) / 2)[inside], atol=1e-5)
        else:
            # What is between still and moved is undone in part, where more than 2 px are found for the one there is:
            # a difference of 1 %.
            assert psnr(sharp, blurred) > 40


def test_the_expected_error_of_the_motion_comes_with_the_result(photo):
    """What `estimate_motion` says of the same picture, and last whatever else is returned, as the image came."""
    blurred = ircdeblur.blur(photo[:96, :96], psf=PSF, noise=0.005, seed=0)
    motion, error = ircdeblur.estimate_motion(blurred, return_error=True)
    sharp, *rest = ircdeblur.deblur(blurred, return_motion=True, return_error=True)
    np.testing.assert_array_equal(rest[0], motion)
    np.testing.assert_array_equal(rest[1], error)
    batch = torch.from_numpy(np.stack([blurred, blurred])).permute(0, 3, 1, 2)
    restored, errors = ircdeblur.deblur(batch, return_error=True)
    assert restored.shape == batch.shape
    # The same but for the rounding of float32 against float64 input.
    np.testing.assert_allclose(errors.numpy(), np.stack([error, error]), rtol=1e-3)
    np.testing.assert_allclose(restored[1].permute(1, 2, 0).numpy(), sharp, atol=1e-4)


@pytest.mark.slow
def test_trained_weights_see_the_motion_and_undo_it():
    """The main job, on a photograph that no training has seen."""
    photo = skimage.data.astronaut() / 255.0
    shake = camera_shake(photo.shape[:2], 13.0, seed=2)
    blurred = ircdeblur.blur(photo, motion=shake, noise=0.004, seed=0)
    sharp, motion = ircdeblur.deblur(blurred, return_motion=True)
    # Refined on the picture: 0.1 px^2 is usual, where the network alone is wrong by some 5.
    assert motion_mse(motion, shake) < 1.0
    assert psnr(sharp, photo) > psnr(blurred, photo) + 4.0
    assert psnr(ircdeblur.deblur(photo), photo) > 40


@pytest.mark.slow
def test_motions_longer_than_the_network_knows_are_found_and_undone():
    photo = np.tile(skimage.data.astronaut(), (1, 2, 1))[:420, :560] / 255.0
    motion = np.tile(np.array([44.0, 16.0], np.float32), (420, 560, 1))
    blurred = ircdeblur.blur(photo, motion=motion, noise=0.005, seed=0)
    sharp, found = ircdeblur.deblur(blurred, return_motion=True)
    # In half the size, errors are doubled.
    assert motion_mse(found, motion) < 4.0
    assert psnr(sharp, photo) > psnr(blurred, photo) + 3.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: ircdeblur.deconvolve(i), ValueError, "psf or motion"),
        (lambda i: ircdeblur.deconvolve(i, psf=PSF, motion=np.zeros((48, 48, 2))), ValueError, "not both"),
        (lambda i: ircdeblur.deconvolve(i, psf=PSF, method="magic"), ValueError, "irc, cg, fft"),
        (lambda i: ircdeblur.deconvolve(i, psf=PSF, settings=Settings()), ValueError, "settings are for the solvers"),
        (lambda i: ircdeblur.deconvolve(i, psf=PSF, irc_net="none"), ValueError, "file of weights"),
        (lambda i: ircdeblur.deconvolve(i, psf=PSF, method="irc", irc_net=__file__), ValueError, "irc_net is for"),
        (lambda i: ircdeblur.deblur(i, method="irc", irc_net=__file__), ValueError, "irc_net is for"),
        (lambda i: ircdeblur.deconvolve(i, psf=PSF, noise=-1.0), ValueError, "noise"),
        (lambda i: ircdeblur.deconvolve(i, psf=np.zeros((3, 3))), ValueError, "sums to 0"),
        (lambda i: ircdeblur.deconvolve(i, psf=-PSF), ValueError, "negative"),
        (lambda i: ircdeblur.deconvolve(i, psf=np.ones(3)), ValueError, "two-dimensional"),
        (lambda i: ircdeblur.deconvolve(i, motion=np.zeros((4, 4, 2))), ValueError, "4 x 4"),
        (lambda i: ircdeblur.deconvolve(i, psf=PSF, tile=10), ValueError, "tile"),
        (lambda i: ircdeblur.deconvolve(i, psf=PSF, device="quantum"), ValueError, "device"),
        (lambda i: ircdeblur.deconvolve(i, psf=PSF, device="meta"), ValueError, "device"),
        (lambda i: ircdeblur.blur(i), ValueError, "psf or motion"),
        (lambda i: ircdeblur.deblur(i, strength=2.0), ValueError, "strength"),
        (lambda i: ircdeblur.deblur(i[None, ..., None, None]), ValueError, "shape"),
        (lambda i: ircdeblur.deblur(i > 0.5), TypeError, "bool"),
        (lambda i: ircdeblur.deblur(np.where(i > 0.5, np.nan, i)), ValueError, "NaN"),
        (lambda i: ircdeblur.blur(np.where(i > 0.5, np.inf, i), psf=PSF), ValueError, "infinity"),
        (lambda i: ircdeblur.blur(np.zeros((0, 5)), psf=PSF), ValueError, "empty"),
    ],
)
def test_bad_arguments(photo, call, error, message):
    with pytest.raises(error, match=message):
        call(photo[:48, :48].mean(-1))


def test_even_psf_is_padded_and_said():
    image = skimage.data.camera()[:60, :60] / 255.0
    even = np.ones((1, 4))
    with pytest.warns(UserWarning, match="1 x 5"):
        blurred = ircdeblur.blur(image, psf=even)
    np.testing.assert_allclose(blurred, ircdeblur.blur(image, psf=np.array([[1, 1, 1, 1, 0.0]])))


def test_a_one_pixel_image(random_net):
    pixel = np.full((1, 1, 3), 0.5)
    assert ircdeblur.deblur(pixel).shape == (1, 1, 3)
    assert ircdeblur.deconvolve(pixel, psf=PSF, noise=0.01).shape == (1, 1, 3)


@pytest.mark.parametrize("method", METHODS)
def test_white_pictures_and_white_patches(method):
    """Saturated pixels are left out, and what is left is restored; of a white picture nothing is."""
    white = np.ones((40, 44, 3))
    np.testing.assert_allclose(ircdeblur.deconvolve(white, psf=PSF, method=method), white, atol=0.02)
    patch = np.full((60, 64, 3), 0.3, dtype=np.float32)
    patch[20:40, 24:44] = 1.0
    blurred = ircdeblur.blur(patch, psf=PSF)
    # Only noise-free filters overshoot the flat parts, by a few per cent of the step.
    assert np.abs(ircdeblur.deconvolve(blurred, psf=PSF, method=method, noise=0.005)[:10] - 0.3).max() < 0.1


def test_a_network_of_ones_own(photo, tmp_path):
    torch.manual_seed(0)
    net = MotionNet(MotionNetConfig(stem=2, widths=(4, 4, 4), blocks=(1, 1, 1), pyramid=4, rates=(1,))).eval()
    path = tmp_path / "own.safetensors"
    save_motion_net(net, path)
    found = ircdeblur.estimate_motion(photo, motion_net=path, consolidation="none")
    with torch.no_grad():
        double = net(torch.from_numpy(photo).float().permute(2, 0, 1)[None])[0][0]
    np.testing.assert_allclose(found, from_double_angle(double).numpy(), atol=1e-4)
    for name in ("large", str(tmp_path / "none.safetensors")):
        with pytest.raises(ValueError, match="motion_net must be small or base or a file"):
            ircdeblur.estimate_motion(photo, motion_net=name)
    with pytest.raises(TypeError, match="motion_net"):
        ircdeblur.deblur(photo, motion_net=3)
    with pytest.raises(ValueError, match="consolidation"):
        ircdeblur.estimate_motion(photo, consolidation="all")


@pytest.mark.parametrize("build", [lambda: IRCNet(IRCNetConfig(stages=2, width=4)), ShrinkageIRCNet])
def test_irc_net_of_ones_own(photo, tmp_path, build):
    """Weights from a file, and the public function is the network on the operator of the same blur."""
    torch.manual_seed(0)
    net = build().eval()
    save_irc_net(net, tmp_path / "own.safetensors")
    image = photo[:60, :64].astype(np.float32)
    found = ircdeblur.deconvolve(image, psf=PSF, noise=0.01, irc_net=tmp_path / "own.safetensors")
    with torch.no_grad():
        y = torch.from_numpy(image).permute(2, 0, 1)[None]
        x = net(y, UniformBlur(torch.from_numpy(PSF).float()), 0.01, mask=unsaturated(y))
    np.testing.assert_allclose(found, x[0].permute(1, 2, 0).clamp(0, 1).numpy(), atol=1e-5)


def test_networks_are_told_how_uncertain_the_motion_is(photo, monkeypatch):
    """`deblur` passes the expected error of the motion on, and a larger one changes the result."""
    seen = []

    def recorded(y, blur, noise, method, settings=None, mask=None, error=None, irc_net=None, runtime="torch"):
        seen.append((method, settings, error, noise))
        return methods.deconvolve(y, blur, noise, method, settings, mask, error, irc_net)

    motion = torch.zeros(60, 64, 2)
    motion[..., 0] = 9.0
    for wrong in (0.2, 2.0):
        found = restore.MotionEstimate(motion, torch.full((60, 64), wrong), 1.0)
        monkeypatch.setattr(restore, "_estimate", lambda *_, found=found: found)
        monkeypatch.setattr(restore, "run_method", recorded)
        ircdeblur.deblur(photo[:60, :64], noise=0.01)
    large = 2.0 - EXACT
    assert [float(error.mean()) for _, _, error, _ in seen] == pytest.approx([0.0, DOUBT * large])
    told = [np.hypot(0.01, LEAST_MISFIT), np.sqrt(0.01**2 + LEAST_MISFIT**2 + (MISFIT * large) ** 2)]
    assert [noise for *_, noise in seen] == pytest.approx(told)
    assert all(
        method == "irc-net" and settings is None and error.shape == (1, 60, 64) for method, settings, error, _ in seen
    )


def test_specks_of_motion_are_left_alone(photo, monkeypatch):
    """A few pixels that moved, in a picture that did not, are taken for an error of the estimate."""
    image = (255 * photo[:60, :64]).round().astype(np.uint8)
    for rows, changed in ((1, False), (20, True)):
        motion = torch.zeros(60, 64, 2)
        motion[:rows, :, 0] = 9.0
        found = restore.MotionEstimate(motion, torch.full((60, 64), 0.2), 1.0)
        monkeypatch.setattr(restore, "_estimate", lambda *_, found=found: found)
        calls = []
        sharp = ircdeblur.deblur(image, progress=lambda *call, calls=calls: calls.append(call))
        assert np.array_equal(sharp, image) != changed
        assert calls[-1][0] == calls[-1][1]


def test_belief_in_a_motion():
    """Means over the photograph, by hand: a half is believed, and its expected error is 2 px too large."""
    motion = torch.zeros(130, 40, 2)
    motion[:65, :, 1] = 20.0
    field = restore.MotionEstimate(motion, torch.full((130, 40), EXACT + 2), 1.0)
    belief = restore.belief_in(field, (130, 40))
    assert belief.share == pytest.approx(0.5)
    assert belief.noise == pytest.approx(np.hypot(2 * MISFIT, LEAST_MISFIT))
    # Exact as a motion may look, it does not explain all.
    sure = restore.MotionEstimate(motion, torch.full((130, 40), 0.1), 1.0)
    assert restore.belief_in(sure, (130, 40)).noise == pytest.approx(LEAST_MISFIT)
