"""Camera shake and the synthesis of training pairs."""

import numpy as np
import pytest
import torch

from ircdeblur.data.camera import camera_basis, camera_shake
from ircdeblur.data.light import linear_to_srgb, srgb_to_linear
from ircdeblur.data.photos import LumaPhotos, list_photos
from ircdeblur.data.synthesis import PairSettings, SyntheticPairs, jpeg_luminance, line_blur
from ircdeblur.kernels import linear_motion_kernel


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with two photographs that scikit-image ships."""
    import skimage.data
    import skimage.io

    folder = tmp_path_factory.mktemp("photos")
    skimage.io.imsave(folder / "astronaut.png", skimage.data.astronaut())
    skimage.io.imsave(folder / "camera.png", skimage.data.camera())
    return folder


def test_camera_shake_has_the_chosen_length_and_is_repeatable():
    field = camera_shake((60, 80), 12.5, seed=3)
    assert field.shape == (60, 80, 2)
    assert field.dtype == np.float32
    # float32 rounding of a value of 12.5.
    assert np.hypot(field[..., 0], field[..., 1]).max() == pytest.approx(12.5, rel=1e-6)
    np.testing.assert_array_equal(field, camera_shake((60, 80), 12.5, seed=3))
    assert not np.array_equal(field, camera_shake((60, 80), 12.5, seed=4))


def test_camera_basis_is_a_pinhole():
    """Oracle: points on the plane at depth 1, moved by the camera and projected; first order in the movement."""
    shape, focal, small = (21, 31), 25.0, 1e-5
    basis = camera_basis(shape, focal, dtype=torch.float64).numpy()
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    points = np.stack(((x - 15) / focal, (y - 10) / focal, np.ones(shape)), -1)
    for i in range(6):
        move = np.eye(6)[i] * small
        # The camera moves by t and turns by w, so the point moves by -t - w x P.
        moved = points - move[:3] - np.cross(move[3:], points)
        flow = focal * (moved[..., :2] / moved[..., 2:] - points[..., :2]) / small
        # The second order of the movement: 1e-5 times values of some hundreds.
        np.testing.assert_allclose(basis[i], flow, atol=5e-3)


def test_camera_shake_is_smooth():
    field = camera_shake((100, 120), 20.0, seed=1)
    assert max(np.abs(np.diff(field, axis=a)).max() for a in (0, 1)) < 1.0


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_camera_shake_refuses_bad_lengths(bad):
    with pytest.raises(ValueError, match="max_length"):
        camera_shake((4, 4), bad)


def test_light_is_the_srgb_curve():
    value = torch.tensor([0.0, 0.04045, 0.5, 1.0], dtype=torch.float64)
    # 0.214041 is the linear light of the sRGB value 0.5.
    np.testing.assert_allclose(srgb_to_linear(value), [0, 0.04045 / 12.92, 0.2140411, 1], atol=1e-6)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(value)), value, atol=1e-6)


@pytest.mark.parametrize(("length", "angle"), [(9, 0), (15, 90), (21, 30), (33, 135)])
def test_line_blur_is_the_linear_motion_kernel(length, angle):
    """An impulse spread by the samples has the kernel's second moments along and its place."""
    margin, size = 20, 41
    image = torch.zeros(1, 1, size + 2 * margin, size + 2 * margin)
    image[0, 0, margin + 20, margin + 20] = 1
    radians = np.deg2rad(angle)
    motion = torch.tensor([length * np.cos(radians), -length * np.sin(radians)]).float().expand(1, size, size, 2)
    spread = line_blur(image, motion, 60)[0, 0].numpy().astype(float)
    kernel = linear_motion_kernel(length, angle)

    def variance(k):
        y, x = np.mgrid[: k.shape[0], : k.shape[1]]
        along = (x - k.shape[1] // 2) * np.cos(radians) - (y - k.shape[0] // 2) * np.sin(radians)
        return (k * along**2).sum() / k.sum(), (k * along).sum() / k.sum()

    assert spread.sum() == pytest.approx(1.0, abs=0.02)
    # Both are a line of the same variance; the kernel's rounding of its ends moves it by a few per cent.
    assert variance(spread)[0] == pytest.approx(variance(kernel)[0], rel=0.06)
    assert variance(spread)[1] == pytest.approx(0.0, abs=0.05)


def test_line_blur_leaves_still_pictures_alone():
    image = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    blurred = line_blur(image, torch.zeros(1, 12, 12, 2), 5)
    # Rounding of the sampling positions.
    torch.testing.assert_close(blurred, image[..., 4:-4, 4:-4], atol=1e-4, rtol=0)


def test_jpeg_against_a_real_file():
    """Oracle: a grey JPEG file of the same quality, written by another library."""
    import pyvips
    import skimage.data

    grey = skimage.data.camera()[:128, 128:256]
    image = pyvips.Image.new_from_array(grey)
    decoded = pyvips.Image.new_from_buffer(image.jpegsave_buffer(Q=80), "").numpy().reshape(128, 128)
    ours = jpeg_luminance(torch.from_numpy(grey.copy()).float()[None, None] / 255, torch.tensor([80.0]))[0, 0] * 255
    error = np.abs(ours.round().numpy() - decoded)
    # The encoder's integer transform rounds otherwise: a grey level or two.
    assert np.percentile(error, 99) <= 2
    assert np.abs(decoded.astype(float) - grey).mean() > 3 * error.mean()


def test_pairs_are_repeatable_and_in_range(photos):
    source = LumaPhotos(list_photos(photos))
    settings = PairSettings(crop=32, batch=6, max_length=12.0)
    first, second = (next(iter(SyntheticPairs(source, settings, seed=7))) for _ in range(2))
    other = next(iter(SyntheticPairs(source, settings, seed=8)))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first[1], other[1])
    blurred, motion = first
    assert blurred.shape == (6, 1, 32, 32)
    assert motion.shape == (6, 32, 32, 2)
    assert 0 <= blurred.min() <= blurred.max() <= 1
    assert motion.norm(dim=-1).max() <= 12.0 + 1e-4


def test_every_kind_of_motion(photos):
    source = LumaPhotos(list_photos(photos))
    none = dict.fromkeys(("camera", "uniform", "turning", "piecewise", "still"), 0.0)
    for kind in none:
        settings = PairSettings(crop=48, batch=4, **{**none, kind: 1.0})
        blurred, motion = next(iter(SyntheticPairs(source, settings, seed=1)))
        assert torch.isfinite(blurred).all()
        spread = motion.flatten(1, 2).std(1).amax(-1)
        if kind in ("uniform", "still"):
            assert (spread < 1e-5).all()
        else:
            assert spread.max() > 0.05


def test_missing_folder():
    with pytest.raises(FileNotFoundError):
        list_photos("/nowhere/at/all")
