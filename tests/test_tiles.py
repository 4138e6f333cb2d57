"""Large pictures: where tiles lie, how they are blended, what memory they take, and that nobody sees them."""

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ircdeblur
from ircdeblur import restore, tiles
from ircdeblur.arrays import Images
from ircdeblur.data.camera import camera_shake
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.metrics import motion_mse, psnr
from ircdeblur.motion import align_sign, to_double_angle
from ircdeblur.nets import blind
from ircdeblur.nets.evidence import Luma, SpectralEvidence
from ircdeblur.operators import MotionBlur, motion_reach
from ircdeblur.solvers.settings import estimate_noise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photo():
    return (skimage.data.astronaut()[:300, :420] / 255.0).astype(np.float32)


@pytest.fixture(scope="module")
def shake(photo):
    return camera_shake(photo.shape[:2], 14.0, seed=3)


# ----------------------------------------------------------------------------------------------------- layout


@settings(deadline=None)
@given(st.integers(1, 6000), st.integers(256, 1600), st.integers(64, 120))
def test_tiles_cover_a_length_and_their_weights_add_up_to_one(length, tile, overlap):
    tile = max(tile, 4 * overlap)
    found = tiles.strips(length, tile, overlap)
    total = np.zeros(length)
    for strip in found:
        assert 0 <= strip.window.start <= strip.core.start < strip.core.stop <= strip.window.stop <= length
        assert strip.window.stop - strip.window.start <= tile
        assert strip.window.start % tiles.ALIGNMENT == 0
        assert (strip.weight > 0).all()
        assert (strip.weight <= 1).all()
        total[strip.core] += strip.weight.numpy()
        # Unless it is the picture's, no border of a tile is near to what counts.
        for border, inner in ((strip.window.start, strip.core.start), (strip.window.stop, strip.core.stop)):
            assert border in (0, length) or abs(inner - border) >= overlap - tiles.FADE // 2
    np.testing.assert_allclose(total, 1, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(260, 900), st.integers(260, 900), st.sampled_from([256, 300, 512]))
def test_blending_windows_of_a_picture_gives_the_picture(height, width, tile):
    rng = np.random.default_rng(height)
    picture = torch.from_numpy(rng.random((1, 2, height, width), dtype=np.float32))
    result, filled, steps = torch.zeros_like(picture), np.zeros(height, int), []

    def put(rows, values):
        result[..., rows, :] = values
        filled[rows] += 1

    tiles.blend(
        lambda rows, columns: picture[..., rows, columns],
        put,
        (height, width),
        tile,
        progress=lambda *step: steps.append(step),
    )
    torch.testing.assert_close(result, picture, rtol=0, atol=1e-6)
    assert (filled == 1).all()
    count = tiles.count_tiles((height, width), tile)
    assert steps == [(n, count) for n in range(1, count + 1)]


@pytest.mark.parametrize(("tile", "valid"), [(0, None), (None, None), ("auto", "auto"), (256, 256), (1000, 1000)])
def test_valid_tiles(tile, valid):
    assert tiles.check_tile(tile) == valid


@pytest.mark.parametrize("tile", [1, 255, -1, True, False, 300.0, "all", "0"])
def test_bad_tiles(tile):
    with pytest.raises(ValueError, match="tile must be 'auto', None or 0"):
        tiles.check_tile(tile)


# ----------------------------------------------------------------------------------------------------- memory


def test_small_pictures_are_restored_whole_unless_memory_is_short():
    need = tiles.working_bytes("irc-net", 35.0)
    assert tiles.tile_side("auto", (500, 400), need, 8e9) is None
    assert tiles.tile_side("auto", (500, 400), need, None) is None
    assert tiles.tile_side("auto", (500, 400), need, 0.2e9) == 256


def test_tiles_of_large_pictures_follow_the_memory():
    need, shape = tiles.working_bytes("irc-mm", 20.0), (8000, 12000)
    assert tiles.working_bytes("irc-net", 20.0) > need  # and its tiles are smaller
    sides = [tiles.tile_side("auto", shape, need, free) for free in (None, 1e12, 4e9, 1e9, 0.5e9, 0.1e9)]
    assert sides[0] == sides[1] == sides[2] == tiles.TILE
    assert sides[2:] == sorted(sides[2:], reverse=True)
    assert sides[3] < tiles.TILE
    assert sides[-1] == tiles.MIN_TILE
    for side, free in zip(sides[2:5], (4e9, 1e9, 0.5e9), strict=True):
        assert side**2 * need <= free


def test_the_user_has_the_last_word_on_tiles():
    assert tiles.tile_side(None, (8000, 12000), 1e4, 1.0) is None
    assert tiles.tile_side(512, (8000, 12000), 1e4, 1.0) == 512
    assert tiles.tile_side(512, (500, 500), 1e4, 1.0) is None


def test_long_blurs_have_more_overlap_and_tiles_to_hold_it():
    overlap = tiles.overlap_for(60)
    assert tiles.overlap_for(18) == tiles.OVERLAP < overlap
    assert tiles.tile_side(256, (8000, 12000), 1e4, None, overlap) >= 4 * overlap


GROUP = "0::/user/job\n"


def fake_system(tmp_path, monkeypatch, available_kib, groups=GROUP, files=None):
    """Put files in place of those by which Linux tells of its memory."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available_kib} kB\n")
    (tmp_path / "proc/self/cgroup").write_text(groups)
    (tmp_path / "cgroup").mkdir()
    for name, text in (files or {}).items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(tiles, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(tiles, "_GROUPS", tmp_path / "cgroup")


def group(folder, limit, used, given_up=0):
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 1\ninactive_file {given_up}\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4096_000),
        (group("user/job/", "max", 10), 4096_000),
        (group("user/job/", 1_000_000, 400_000), 600_000),
        (group("user/job/", 1_000_000, 400_000, 100_000), 700_000),
        (group("user/job/", 1_000_000, 1_400_000), 0),
        # The group above leaves less.
        ({**group("user/job/", 1_000_000, 400_000), **group("user/", 500_000, 450_000)}, 50_000),
        # In a container the path is that of the machine outside.
        (group("", 900_000, 400_000), 500_000),
        (group("user/job/", 9_000_000, 0), 4096_000),
    ],
)
def test_available_memory(tmp_path, monkeypatch, files, expected):
    fake_system(tmp_path, monkeypatch, 4000, files=files)
    assert tiles.available_memory() == expected


def test_available_memory_of_older_groups(tmp_path, monkeypatch):
    files = {
        "memory/job/memory.limit_in_bytes": "1000000\n",
        "memory/job/memory.usage_in_bytes": "300000\n",
        "memory/job/memory.stat": "total_inactive_file 50000\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.usage_in_bytes": "300000\n",
        "memory/memory.stat": "total_inactive_file 0\n",
    }
    fake_system(tmp_path, monkeypatch, 4000, "5:cpu:/job\n4:hugetlb,memory:/job\n", files)
    assert tiles.available_memory() == 750_000


def test_memory_of_other_systems_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, "_PROC", tmp_path)
    assert tiles.available_memory() is None


def test_short_memory_is_answered_by_tiles(photo, shake, monkeypatch):
    sides = []
    monkeypatch.setattr(restore, "available_memory", lambda device: 0.1e9)
    monkeypatch.setattr(
        restore, "blend", lambda *a: sides.append(a[3]) or a[1](slice(0, 300), torch.zeros(1, 3, 300, 420))
    )
    ircdeblur.deconvolve(photo, motion=shake, noise=0.01)
    ircdeblur.deconvolve(photo, motion=shake, noise=0.01, tile=0)
    assert sides == [256, None]


# --------------------------------------------------------------------------------------------------- the result


@pytest.mark.parametrize("how", ["psf", "motion", "blind"])
def test_a_small_picture_is_the_same_without_tiles_and_automatically(photo, shake, how):
    small = photo[:200, :240]
    if how == "blind":
        blurred = ircdeblur.blur(small, motion=shake[:200, :240], noise=0.01, seed=0)
        results = [ircdeblur.deblur(blurred, tile=tile) for tile in (0, None, "auto")]
    else:
        known = {"motion": shake[:200, :240]} if how == "motion" else {"psf": linear_motion_kernel(11, 30)}
        results = [ircdeblur.deconvolve(small, tile=tile, **known) for tile in (0, None, "auto")]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("method", ["irc-net", "irc-mm"])
@pytest.mark.parametrize("how", ["psf", "motion"])
def test_no_seams(photo, shake, how, method):
    known = {"motion": shake} if how == "motion" else {"psf": linear_motion_kernel(13, 30)}
    blurred = ircdeblur.blur(photo, **known, noise=0.01, seed=0)
    options = {"method": method, "noise": 0.01, **known}
    whole = ircdeblur.deconvolve(blurred, tile=None, **options)
    tiled = ircdeblur.deconvolve(blurred, tile=288, **options)
    assert not np.array_equal(tiled, whole)
    assert psnr(tiled, whole) > 50


def test_the_motion_does_not_depend_on_the_tiles(photo, shake):
    blurred = ircdeblur.blur(photo, motion=shake, noise=0.01, seed=0)
    (whole, first), (tiled, second) = (
        ircdeblur.deblur(blurred, tile=tile, return_motion=True, method="irc-mm") for tile in (None, 288)
    )
    np.testing.assert_array_equal(first, second)
    assert psnr(tiled, whole) > 50


KINDS = {
    "uint8": lambda x: np.rint(255 * x).astype(np.uint8),
    "uint16": lambda x: np.rint(65535 * x).astype(np.uint16),
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "grey": lambda x: x.mean(-1),
    "grey uint8": lambda x: np.rint(255 * x.mean(-1)).astype(np.uint8),
    "two channels": lambda x: x[..., :2],
    "turned": lambda x: np.asfortranarray(x),
    "torch": lambda x: torch.from_numpy(x).permute(2, 0, 1),
    "torch grey": lambda x: torch.from_numpy(x.mean(-1)),
    "torch uint8": lambda x: torch.from_numpy(np.rint(255 * x).astype(np.uint8)).permute(2, 0, 1),
    "torch uint16": lambda x: torch.from_numpy(np.rint(65535 * x).astype(np.uint16)).permute(2, 0, 1),
    "batch": lambda x: torch.from_numpy(np.stack((x, x[::-1]))).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_images_in_tiles(photo, kind):
    image = KINDS[kind](photo[:280, :300])
    before = image.clone() if isinstance(image, torch.Tensor) else image.copy()
    options = {"psf": linear_motion_kernel(5, 30), "method": "wiener", "noise": 0.01}
    whole, tiled = (ircdeblur.deconvolve(image, tile=tile, **options) for tile in (None, 256))
    assert type(tiled) is type(image)
    assert (tiled.dtype, tiled.shape) == (image.dtype, image.shape)
    scale = {"uint8": 255.0, "uint16": 65535.0}.get(str(tiled.dtype).removeprefix("torch."), 1.0)
    values = [
        np.asarray(r if isinstance(r, np.ndarray) else r.numpy(), dtype=np.float64) / scale for r in (tiled, whole)
    ]
    assert np.sqrt(np.mean((values[0] - values[1]) ** 2)) < 10 ** (-50 / 20)
    # What the user gave is as it was.
    assert (np.asarray(image) == np.asarray(before)).all()


def test_values_above_one_are_kept_and_never_taken_for_saturated(photo):
    options = {"psf": linear_motion_kernel(5, 30), "method": "irc-mm", "noise": 0.01}
    bright = 1.5 * ircdeblur.blur(photo[:280, :300], psf=options["psf"], noise=0.01, seed=0)
    whole, tiled = (ircdeblur.deconvolve(bright, tile=tile, **options) for tile in (None, 256))
    assert tiled.max() > 1.2
    assert psnr(tiled, whole) > 50


def test_saturated_patches_in_one_tile_only(photo, shake):
    blurred = ircdeblur.blur(photo, motion=shake, noise=0.01, seed=0)
    blurred[40:90, 30:70] = 1.0
    options = {"motion": shake, "method": "irc-mm", "noise": 0.01}
    whole, tiled = (ircdeblur.deconvolve(blurred, tile=tile, **options) for tile in (None, 288))
    assert psnr(tiled, whole) > 48


def test_noise_of_a_large_picture_is_that_of_a_part_of_its_blocks():
    rng = np.random.default_rng(0)
    large = (0.5 + rng.normal(0, 0.03, (700, 901, 3))).astype(np.float32)
    images = Images(large, CPU)
    sample = images.sample(0, 60_000)
    assert sample[0, 0].numel() < 60_000
    assert estimate_noise(sample) == pytest.approx(0.03, rel=0.05)
    # Blocks are kept whole: those of one value have no noise at all.
    blocks = np.kron(rng.random((350, 450)), np.ones((2, 2))).astype(np.float32)
    for kind in (blocks, torch.from_numpy(blocks)):
        assert estimate_noise(Images(kind, CPU).sample(0, 10_000)) == pytest.approx(0, abs=1e-6)


# --------------------------------------------------------------------------------------------------- the motion


def test_windows_of_a_motion_grid_are_those_of_the_whole_field():
    rng = np.random.default_rng(0)
    planes = torch.from_numpy(rng.normal(0, 9, (3, 7, 9)).astype(np.float32))
    grid = blind.MotionGrid(planes, (131, 178), 1.0)
    motion, error = grid.window(slice(None), slice(None))
    expected = torch.nn.functional.interpolate(planes[None], size=(131, 178), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(to_double_angle(motion).permute(2, 0, 1), expected[:2], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(error, expected[2], atol=1e-4, rtol=1e-4)
    part = grid.window(slice(20, 90, 3), slice(5, None, 2))
    torch.testing.assert_close(part[0], motion[20:90:3, 5::2])
    torch.testing.assert_close(part[1], error[20:90:3, 5::2])
    assert grid.longest >= float(motion.norm(dim=-1).max()) - 1e-4


def test_the_reach_of_a_motion_is_the_margin_of_its_blur(shake):
    motion = torch.from_numpy(shake.astype(np.float32))
    assert motion_reach(motion) == MotionBlur(motion).margin


def test_evidence_is_the_same_from_windows_as_from_the_whole(photo):
    luma = torch.from_numpy(photo.mean(-1))[None, None]
    parts = SpectralEvidence(Luma(luma), 0.01)
    whole = SpectralEvidence(luma, 0.01)
    motion = torch.full((len(whole.x), 2), 5.0)
    assert torch.equal(parts.log_likelihood(motion, 3.0), whole.log_likelihood(motion, 3.0))


class OneMotion:
    """A network that answers with the motion (u, 0) of so many pixels, whatever it sees, and counts the pixels."""

    def __init__(self, length):
        self.length, self.largest = length, 0

    def __call__(self, image):
        height, width = image.shape[-2:]
        self.largest = max(self.largest, height * width)
        double = torch.tensor([self.length, 0.0]).expand(1, height, width, 2)
        return double, torch.full((1, height, width), 1.0)


@pytest.mark.parametrize("consolidation", ["none", "answers"])
def test_estimation_in_parts_is_of_the_whole_picture(consolidation):
    net = OneMotion(9.0)
    found = blind.estimate_in_parts(net, Luma(torch.rand(1, 1, 1700, 1003)), 0.01, consolidation)
    assert net.largest <= (blind.PART + 2 * blind.CONTEXT + blind.STRIDE) ** 2
    motion, _ = found.window(slice(None, None, 50), slice(None, None, 50))
    np.testing.assert_allclose(motion[..., 0], 9.0, rtol=1e-3)
    np.testing.assert_allclose(motion[..., 1], 0.0, atol=1e-2)


@pytest.mark.slow
def test_motion_found_in_parts_is_that_found_at_once(monkeypatch):
    large = np.tile(skimage.data.astronaut(), (1, 2, 1))[:, :800] / 255.0
    shake = camera_shake(large.shape[:2], 16.0, seed=5)
    blurred = ircdeblur.blur(large, motion=shake, noise=0.01, seed=0)
    at_once = ircdeblur.estimate_motion(blurred)
    for module in (restore, blind):
        monkeypatch.setattr(module, "WHOLE_PIXELS", 100_000)
    monkeypatch.setattr(blind, "PART", 256)
    steps = []
    in_parts = ircdeblur.estimate_motion(blurred, progress=lambda *step: steps.append(step))
    assert steps == [(n, 8) for n in range(1, 9)]
    assert motion_mse(in_parts, shake) < 1.0
    assert np.abs(align_sign(in_parts, at_once) - at_once).mean() < 0.3
    np.testing.assert_array_equal(ircdeblur.estimate_motion(blurred, tile=0), at_once)


def test_long_motions_of_large_pictures_are_looked_for_in_smaller_ones(monkeypatch):
    monkeypatch.setattr(blind, "WHOLE_PIXELS", 100_000)

    class Saturating(OneMotion):
        """Answers 34 pixels, and half of that in pictures of half the size of the first."""

        def __call__(self, image):
            self.length = 34.0 if image.shape[-1] > 460 else 22.0
            return super().__call__(image)

    found = blind.estimate_in_parts(Saturating(0.0), Luma(torch.rand(1, 1, 640, 900)), 0.01, "answers")
    assert found.shape == (640, 900)
    motion, _ = found.window(slice(100, 200), slice(100, 200))
    assert float(motion.norm(dim=-1).mean()) == pytest.approx(44.0, rel=0.01)


def test_progress_covers_the_estimation(photo):
    steps = []
    photo = ircdeblur.blur(photo, psf=linear_motion_kernel(11, 20))
    ircdeblur.deblur(photo, method="wiener", tile=256, progress=lambda *step: steps.append(step))
    count = tiles.count_tiles(photo.shape[:2], 256)
    assert steps == [(n, count + 1) for n in range(1, count + 2)]


@pytest.mark.parametrize("step", [1, 7])
def test_motion_at_every_so_many_pixels(photo, step, monkeypatch):
    grid = blind.MotionGrid(torch.rand(3, 5, 6), (300, 420), 1.0)
    for found in (grid, blind.MotionEstimate(*grid.window(slice(None), slice(None)), 1.0)):
        monkeypatch.setattr(restore, "_estimate", lambda *_, found=found: found)
        _, motion = ircdeblur.deblur(photo, strength=0.0, return_motion=True, motion_step=step)
        expected = grid.window(slice(None, None, step), slice(None, None, step))[0].numpy()
        np.testing.assert_allclose(motion, expected, atol=1e-6)
    with pytest.raises(ValueError, match="motion_step"):
        ircdeblur.deblur(photo, motion_step=0)
