"""Camera shake and the synthesis of training pairs."""

import numpy as np
import pytest
import torch

from ircdeblur.data.camera import camera_basis, camera_shake
from ircdeblur.data.photos import LumaPhotos, PhotosInMemory, cut, list_photos
from ircdeblur.data.synthesis import KINDS, PairSettings, SyntheticPairs, disc_blur, jpeg, line_blur
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear, steepness


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
    value, h = torch.tensor([0.02, 0.1, 0.5, 0.9], dtype=torch.float64), 1e-6
    rise = (srgb_to_linear(value + h) - srgb_to_linear(value - h)) / (2 * h)
    # The differences are exact to h^2 and rounding over h.
    np.testing.assert_allclose(steepness(value), rise, rtol=1e-8)


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
    ours = jpeg(torch.from_numpy(grey.copy()).float()[None, None] / 255, torch.tensor([80.0]))[0, 0] * 255
    error = np.abs(ours.round().numpy() - decoded)
    # The encoder's integer transform rounds otherwise: a grey level or two.
    assert np.percentile(error, 99) <= 2
    assert np.abs(decoded.astype(float) - grey).mean() > 3 * error.mean()


def test_jpeg_in_color_against_a_real_file():
    """Oracle: another library's RGB file with full colour resolution."""
    import pyvips
    import skimage.data

    rgb = np.ascontiguousarray(skimage.data.astronaut()[:128, 128:256])
    buffer = pyvips.Image.new_from_array(rgb).copy(interpretation="srgb").jpegsave_buffer(Q=75, subsample_mode="off")
    decoded = pyvips.Image.new_from_buffer(buffer, "").numpy()
    x = torch.from_numpy(rgb.copy()).float().permute(2, 0, 1)[None] / 255
    ours = (jpeg(x, torch.tensor([75.0]))[0] * 255).round().permute(1, 2, 0).numpy()
    error = np.abs(ours - decoded)
    # The file rounds luminance and colour differences to 8 bits on both ways, which blue sees 1.8 times as large.
    assert np.percentile(error, 99) <= 6
    assert error.mean() < 1.5
    assert np.abs(decoded.astype(float) - rgb).mean() > 3 * error.mean()


def test_uneven_and_bent_motion():
    """The moments of the smear of an impulse against those of the path, integrated over time."""
    margin, size, length = 24, 51, 25.0
    image = torch.zeros(1, 1, size + 2 * margin, size + 2 * margin)
    image[0, 0, margin + 25, margin + 25] = 1
    a, c = 0.4, 0.3
    motion = torch.tensor([length, 0.0]).expand(1, size, size, 2)
    spread = line_blur(image, motion, 200, torch.tensor([a]), torch.tensor([c]))[0, 0].numpy().astype(float)
    y, x = np.mgrid[:size, :size] - 25.0
    t = np.linspace(-0.5, 0.5, 20001)
    reach = np.sqrt(length**2 - 3)
    # The smear shows where in the picture the impulse's place is read from: the path turned round.
    along, across = -reach * (t + a * (t**2 - 1 / 12)), -reach * c * (t**2 - 1 / 12)
    # Interpolation between pixels adds the variance 1/4 (1 - ...) of the triangle: up to 0.25 px^2, in both directions.
    assert spread.sum() == pytest.approx(1, abs=1e-3)
    for values, path in ((x, along), (y, across)):
        assert (spread * values).sum() == pytest.approx(path.mean(), abs=0.05)
        assert (spread * values**2).sum() == pytest.approx((path**2).mean(), abs=0.3)
    skew = np.mean(along**3)
    assert (spread * x**3).sum() == pytest.approx(skew, rel=0.05)
    assert abs(skew) > 20
    assert (spread * x * x * y).sum() == pytest.approx((along**2 * across).mean(), rel=0.1)


@pytest.mark.parametrize("radius", [1.5, 4.0, 6.0])
def test_disc_blur(radius):
    reach = int(radius + 1)
    image = torch.zeros(1, 2, 31 + 2 * reach, 31 + 2 * reach)
    image[0, :, reach + 15, reach + 15] = 1
    disc = disc_blur(image, torch.tensor([radius]))[0]
    assert disc.shape == (2, 31, 31)
    y, x = np.mgrid[:31, :31] - 15.0
    np.testing.assert_allclose(disc.sum((1, 2)), 1, atol=1e-5)
    # The mean squared distance in a disc is half of its radius squared; its edge is a pixel wide.
    assert (disc[0].numpy() * (x**2 + y**2)).sum() == pytest.approx(radius**2 / 2, rel=0.1)


@pytest.mark.parametrize("shape", [(7, 9), (60, 80), (1, 5), (40, 200)])
def test_small_photographs_are_continued_by_reflection(shape):
    image = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    for seed in range(4):
        crop, top, left = cut(torch.from_numpy(image), 64, np.random.default_rng(seed))
        # Oracle: numpy's padding, also where it goes to and fro.
        part = image[:, top : top + 64, left : left + 64]
        missing = [(0, 64 - n) for n in part.shape[1:]]
        whole = np.pad(part, [(0, 0), *missing], mode="reflect") if max(missing)[1] else part
        turned = [np.rot90(p, k, (1, 2)) for p in (whole, whole[:, :, ::-1]) for k in range(4)]
        assert any(np.array_equal(crop.numpy(), t) for t in turned)


def test_pairs_are_repeatable_and_in_range(photos):
    source = LumaPhotos(list_photos(photos))
    settings = PairSettings(crop=32, batch=12, max_length=12.0)
    first, second = (next(iter(SyntheticPairs(source, settings, seed=7))) for _ in range(2))
    other = next(iter(SyntheticPairs(source, settings, seed=8)))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(first.motion, other.motion)
    assert first.blurred.shape == first.sharp.shape == (12, 1, 32, 32)
    assert first.motion.shape == (12, 32, 32, 2)
    assert first.known.shape == (12, 32, 32)
    for t in (first.blurred, first.sharp):
        assert 0 <= t.min() <= t.max() <= 1
    assert first.motion.norm(dim=-1).max() <= 12.0 + 1e-4
    color = PhotosInMemory(list_photos(photos))
    assert next(iter(SyntheticPairs(color, settings, seed=7))).blurred.shape == (12, 3, 32, 32)


def only(kind, **more):
    return PairSettings(**{**dict.fromkeys(KINDS, 0.0), kind: 1.0, **more})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_blur(photos, kind):
    source = LumaPhotos(list_photos(photos))
    settings = only(kind, crop=48, batch=4, max_noise=0.0, max_softness=0.0)
    pairs = next(iter(SyntheticPairs(source, settings, seed=1)))
    assert torch.isfinite(pairs.blurred).all()
    spread = pairs.motion.flatten(1, 2).std(1).amax(-1)
    if kind in ("uniform", "still", "defocus"):
        assert (spread < 1e-5).all()
    else:
        assert spread.max() > 0.05
    assert bool((pairs.known == (kind != "defocus")).all())
    roughness = [(t[..., 1:] - t[..., :-1]).abs().flatten(1).mean(1) for t in (pairs.blurred, pairs.sharp)]
    if kind == "defocus":
        assert (roughness[0] < 0.9 * roughness[1]).all()
        assert (pairs.motion == 0).all()


def test_still_pairs_are_their_sharp_picture(photos):
    source = LumaPhotos(list_photos(photos))
    settings = only("still", crop=32, batch=16, max_noise=0.0, max_softness=0.0)
    maker = SyntheticPairs(source, settings, seed=0)
    rng, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
    drawn = maker.draw(rng)
    pairs = maker.render(drawn, rng, noise)
    clean = torch.from_numpy((drawn.quality == 0) & (drawn.shot == 0))
    assert 2 < clean.sum() < 14
    # 8-bit rounding.
    assert (pairs.blurred - pairs.sharp)[clean].abs().max() <= 0.5 / 255 + 1e-4
    assert (pairs.blurred - pairs.sharp)[~clean].abs().max() > 2 / 255


def test_an_object_hides_the_background():
    """Where an object's motion is stated, the picture no longer shows the background, and the other way round."""
    settings = only("object", crop=96, batch=8, max_noise=0.0, max_softness=0.0, max_length=10.0)
    front, back = (next(iter(SyntheticPairs(s, settings, seed=5))) for s in (Plain(1.0), Plain(0.0)))
    assert front.motion.equal(back.motion)
    # Light on light stays light, dark on dark dark; what is between them is the objects' soft edges alone.
    assert front.blurred.min() > 0.5
    assert back.blurred.max() < 0.2
    mixed = next(iter(SyntheticPairs(Alternating(8), settings, seed=5)))
    share = ((mixed.sharp > 0.3) & (mixed.sharp < 0.5)).float().mean()
    assert 0 < share < 0.2
    assert (mixed.sharp > 0.5).float().mean() > 0.1


class Plain:
    """Crops of one grey level."""

    def __init__(self, value):
        self.value = value

    def crop(self, size, rng):
        return torch.full((size, size), round(255 * self.value), dtype=torch.uint8)


class Alternating:
    """Black for the first crops (the backgrounds), white for those that follow (the objects)."""

    def __init__(self, count):
        self.left = count

    def crop(self, size, rng):
        self.left -= 1
        return torch.full((size, size), 0 if self.left >= 0 else 255, dtype=torch.uint8)


def test_missing_folder():
    with pytest.raises(FileNotFoundError):
        list_photos("/nowhere/at/all")
