"""Frame averaging: films made by a known warp of a picture; the label must be the warp's, the mean its blur."""

import importlib.util

import numpy as np
import pytest
import scipy.ndimage
import torch
from skimage import data, io

from ircdeblur.data.frames import (
    Film,
    average_frames,
    follow,
    frame_pair,
    linear_motion,
    middle,
)
from ircdeblur.motion import align_sign, canonical
from ircdeblur.operators import MotionBlur
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear

SIDE = 160
needs_opencv = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scene() -> np.ndarray:
    """A textured picture, larger than the film's frames by 40 pixels on every side."""
    picture = data.astronaut()[20 : 20 + SIDE + 80, 140 : 140 + SIDE + 80].astype(float)
    return scipy.ndimage.gaussian_filter(picture, (0.7, 0.7, 0))


def render(x: np.ndarray, y: np.ndarray, picture: np.ndarray | None = None) -> np.ndarray:
    """Show at each pixel the scene at (x, y), by cubic splines."""
    picture = scene() if picture is None else picture
    channels = [scipy.ndimage.map_coordinates(picture[..., c], (y + 40, x + 40), order=3) for c in range(3)]
    return np.clip(np.stack(channels, -1).round(), 0, 255).astype(np.uint8)


def pixels() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    return x, y


def moving_film(displacement: np.ndarray) -> np.ndarray:
    """Frames in which the scene has moved by the displacements (n, 2)."""
    x, y = pixels()
    return np.stack([render(x - u, y - v) for u, v in displacement])


def rotation(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel goes when the picture turns about a point outside it, angle in radians."""
    x, y = pixels()
    cx, cy = SIDE / 2, -60.0
    c, s = np.cos(angle), np.sin(angle)
    return cx + c * (x - cx) - s * (y - cy), cy + s * (x - cx) + c * (y - cy)


def error(motion: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.linalg.norm(align_sign(motion, true) - true, axis=-1)


@needs_opencv
@pytest.mark.parametrize(("n", "step"), [(11, (1.0, 0.0)), (10, (-0.7, 1.1)), (7, (2.0, 1.5))])
def test_constant_motion(n, step):
    """n d, although the film spans n - 1 intervals only."""
    displacement = np.arange(n)[:, None] * np.array(step) - np.array(step) * middle(n)
    pair = frame_pair(moving_film(displacement))
    true = np.broadcast_to(canonical(np.array(step) * n), pair.motion.shape)
    # A tenth of the picture is a plain background, another a black jacket.
    assert pair.trust[20:-20, 20:-20].mean() > 0.7
    # The flow of one step errs by some hundredths of a pixel, n times.
    assert np.median(error(pair.motion, true)[pair.trust]) < 0.25
    assert np.quantile(error(pair.motion, true)[pair.trust], 0.95) < 0.6
    # Without the interval that the ends add, the label would be short by a whole step.
    assert np.hypot(*step) > 0.9


@needs_opencv
def test_accelerating_motion():
    """The label is chord and extension, whatever the speed; the speed decides on trust."""
    n = 11
    t = np.arange(n) / (n - 1)
    for gain, trusted in ((0.4, True), (3.0, False)):
        along = 15 * (t + gain * t * (t - 1))
        displacement = np.stack((along, 0.5 * along), -1)
        pair = frame_pair(moving_film(displacement - displacement[middle(n)]))
        inner = pair.trust[25:-25, 25:-25]
        true = np.broadcast_to(np.array([15.0, 7.5]) * n / (n - 1), pair.motion.shape)
        if trusted:
            assert inner.mean() > 0.6
            assert np.median(error(pair.motion, true)[pair.trust]) < 0.25
        else:
            # It turns back: the drift is 0.75 of the chord.
            assert inner.mean() < 0.02


@needs_opencv
def test_rotation():
    n, turn = 11, 0.012
    film = np.stack([render(*rotation(-turn * (k - middle(n)))) for k in range(n)])
    pair = frame_pair(film)
    ends = [np.stack(rotation(turn * (k - middle(n))), -1) for k in (0, n - 1)]
    true = (ends[1] - ends[0]) * n / (n - 1)
    assert 7 < np.linalg.norm(true, axis=-1).min() < 10
    assert np.linalg.norm(true, axis=-1).max() > 25
    assert pair.trust[30:-30, 30:-30].mean() > 0.75
    # 3 % and 7 % of the length, which changes by an eighth of a pixel from one pixel to the next.
    assert np.median(error(pair.motion, true)[pair.trust]) < 0.5
    assert np.quantile(error(pair.motion, true)[pair.trust], 0.95) < 1.2


def test_the_path_stays_with_its_point():
    """Exact flows of a rotation, chained: read between the pixels, where the path is and not where it began."""
    n, turn = 9, 0.03
    x, y = pixels()
    forward = torch.from_numpy(np.stack(rotation(turn), -1) - np.stack((x, y), -1)).float().expand(n - 1, -1, -1, -1)
    backward = torch.from_numpy(np.stack(rotation(-turn), -1) - np.stack((x, y), -1)).float().expand(n - 1, -1, -1, -1)
    path, round_trip = follow(forward, backward, 4)
    true = np.stack([np.stack(rotation(turn * (k - 4)), -1) for k in range(n)])
    inside = ((true >= 0) & (true <= SIDE - 1)).all(-1).all(0)
    assert inside.mean() > 0.4
    # The flow is linear in the pixels, so only float32 rounds.
    assert np.abs(path.numpy() - true).max(-1)[:, inside].max() < 1e-3
    assert round_trip.numpy()[inside].max() < 1e-3
    # Added up at the first frame's pixel instead of along the path, the flows end elsewhere.
    assert np.abs(4 * forward[0].numpy() - (true[-1] - true[4])).max(-1)[inside].max() > 0.5


@pytest.mark.parametrize("linear", [False, True])
def test_the_mean_is_the_blur_of_the_label(linear):
    """One pixel a step: the mean of n frames is the linear motion kernel of length n, exactly but for 8 bits."""
    n = 9
    steps = np.arange(n)[:, None] * np.array([1.0, 0.0]) - [middle(n), 0]
    picture = scene().round()
    x, y = pixels()
    film = np.stack([render(x - u, y - v, picture) for u, v in steps])
    motion = linear_motion(torch.from_numpy(np.broadcast_to(steps[:, None, None], (n, SIDE, SIDE, 2)).copy()))
    assert torch.equal(motion, torch.tensor([9.0, 0.0], dtype=torch.float64).expand(SIDE, SIDE, 2))
    blur = MotionBlur(motion.float())
    my, mx = blur.margin
    wide = torch.from_numpy(picture[40 - my : 40 + SIDE + my, 40 - mx : 40 + SIDE + mx]).float() / 255
    light = wide.permute(2, 0, 1)[None]
    expected = blur.A(srgb_to_linear(light) if linear else light)
    expected = (linear_to_srgb(expected) if linear else expected)[0].permute(1, 2, 0)
    found = average_frames(film, linear)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    # The two lights differ by far more than the tolerance.
    assert (found - average_frames(film, not linear)).abs().max() > 0.02


@needs_opencv
def test_the_mean_is_the_blur_of_the_middle_frame():
    """The label found, given to the blur operator, makes the average of the frames again."""
    n, turn = 11, 0.012
    film = np.stack([render(*rotation(-turn * (k - middle(n)))) for k in range(n)])
    pair = frame_pair(film)
    blur = MotionBlur(torch.from_numpy(pair.motion), boundary="replicate")
    sharp = torch.from_numpy(pair.sharp).permute(2, 0, 1)[None].float() / 255
    again = blur.A(sharp)[0].permute(1, 2, 0).numpy()
    difference = np.abs(again - pair.blurred / 255.0)[pair.trust]
    before = np.abs(pair.sharp / 255.0 - pair.blurred / 255.0)[pair.trust]
    # Arcs against chords and impulses against lines: 1 % of the range, a tenth of what the blur did.
    assert difference.mean() < 0.01
    assert difference.mean() < 0.15 * before.mean()


@needs_opencv
def test_occluded_pixels_are_rejected():
    """A patch crosses a still background: where it is in some frames only, there is no one motion."""
    n, side = 11, 50
    rng = np.random.default_rng(1)
    background, patch = (
        np.clip(128 + 250 * scipy.ndimage.gaussian_filter(rng.normal(size=(n, n, 3)), (1.5, 1.5, 0)), 0, 255).astype(
            np.uint8
        )
        for n in (SIDE, side)
    )
    film = np.repeat(background[None], n, axis=0)
    hidden = np.zeros((n, SIDE, SIDE), bool)
    for k in range(n):
        left = 50 + 2 * (k - middle(n))
        film[k, 55 : 55 + side, left : left + side] = patch
        hidden[k, 55 : 55 + side, left : left + side] = True
    pair = frame_pair(film)
    sometimes = hidden.any(0) & ~hidden.all(0)
    assert pair.trust[sometimes].mean() < 0.05
    far = ~scipy.ndimage.binary_dilation(hidden.any(0), iterations=12)
    assert pair.trust[far].mean() > 0.85
    assert np.linalg.norm(pair.motion, axis=-1)[far & pair.trust].max() < 1.0
    always = scipy.ndimage.binary_erosion(hidden.all(0), iterations=6)
    assert pair.trust[always].mean() > 0.5
    assert np.median(error(pair.motion, np.array([2.0 * n, 0.0]))[always & pair.trust]) < 0.5


@needs_opencv
@pytest.mark.parametrize("kind", ["flat", "cut", "fast"])
def test_what_cannot_be_followed_is_rejected(kind):
    n = 7
    if kind == "flat":
        noise = np.random.default_rng(0).normal(0, 1, (n, SIDE, SIDE, 3))
        film = (128 + noise).round().astype(np.uint8)
    elif kind == "cut":
        film = np.concatenate((moving_film(np.zeros((4, 2))), np.repeat(data.coffee()[None, :SIDE, :SIDE], 3, axis=0)))
    else:
        film = moving_film(np.arange(n)[:, None] * np.array([6.0, 0.0]) - [18, 0])
    assert frame_pair(film).trust.mean() < 0.02


def test_folder_of_frames_is_in_the_order_of_numbers(tmp_path):
    for k in (1, 2, 10):
        io.imsave(tmp_path / f"frame{k}.png", np.full((40, 50, 3), k, np.uint8), check_contrast=False)
    film = Film(tmp_path)
    assert len(film) == 3
    assert film.shape == (40, 50)
    assert film.read(1, 2)[:, 0, 0, 0].tolist() == [2, 10]
    assert film.source(2) == "frame10.png"
    with pytest.raises(ValueError, match="frames 2 to 3"):
        film.read(2, 2)


def test_frames_of_two_sizes(tmp_path):
    for k, side in enumerate((40, 41)):
        io.imsave(tmp_path / f"{k}.png", np.zeros((side, 40, 3), np.uint8), check_contrast=False)
    with pytest.raises(ValueError, match="different sizes"):
        Film(tmp_path).read(0, 2)


@needs_opencv
def test_video(tmp_path):
    import cv2

    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (64, 48))
    for k in range(6):
        writer.write(np.full((48, 64, 3), (200, 40, 20 * k), np.uint8))  # blue, green, red
    writer.release()
    film = Film(path)
    assert (len(film), film.shape, film.source(3)) == (6, (48, 64), "film.avi#3")
    frames = film.read(2, 3)
    np.testing.assert_allclose(frames[:, 20, 20], [[20 * k, 40, 200] for k in (2, 3, 4)], atol=6)


def test_film_refuses_what_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder or video"):
        Film(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no photographs"):
        Film(tmp_path)
    (tmp_path / "text.txt").write_text("no film")
    with pytest.raises(ValueError, match="not a video"):
        Film(tmp_path / "text.txt")


@needs_opencv
def test_broken_video(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"no film" * 100)
    with pytest.raises(ValueError, match="not a video that OpenCV can read"):
        Film(tmp_path / "film.mp4")


def test_frame_pair_refuses_other_arrays():
    with pytest.raises(ValueError, match="uint8"):
        frame_pair(np.zeros((3, 40, 40, 3)))
    with pytest.raises(ValueError, match="at least 2 frames"):
        frame_pair(np.zeros((1, 40, 40, 3), np.uint8))
