"""Motion fields: conventions, double angle, interpolation on the bank, files."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ircdeblur import motion as mo
from ircdeblur.kernels import MotionBank

VECTORS = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 4.0], [0.0, -4.0], [5.0, -5.0], [-1.0, -1.0], [0.0, 0.0]])


def both(array):
    """The same values as NumPy array and as tensor."""
    return [np.asarray(array), torch.as_tensor(np.asarray(array))]


@pytest.mark.parametrize("vectors", both(VECTORS))
def test_polar_follows_fspecial(vectors):
    length, angle = mo.to_polar(vectors)
    # u right is 0 degrees; v down means that the upper right, (5, -5), is 45 degrees.
    np.testing.assert_allclose(angle, [0, 0, 90, 90, 45, 135, 0], atol=1e-12)
    np.testing.assert_allclose(length, [3, 3, 4, 4, 50**0.5, 2**0.5, 0])


@pytest.mark.parametrize("vectors", both(VECTORS))
def test_canonical_half_plane(vectors):
    found = np.asarray(mo.canonical(vectors))
    assert all(u > 0 or (u == 0 and v >= 0) for u, v in found)
    np.testing.assert_allclose(np.abs(found), np.abs(VECTORS))
    # The sign is flipped as a whole, never one component alone.
    np.testing.assert_allclose(found.prod(-1), VECTORS.prod(-1))


@given(st.floats(0.01, 40), st.floats(0, 360))
def test_double_angle_is_blind_to_the_sign_and_invertible(length, degrees):
    vector = length * np.array([[np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]])
    double = mo.to_double_angle(vector)
    np.testing.assert_allclose(mo.to_double_angle(-vector), double, atol=1e-9)
    back = mo.from_double_angle(double)
    # m and -m are one blur, and at u = 0 rounding decides which is canonical.
    np.testing.assert_allclose(mo.align_sign(back, vector), vector, atol=1e-9)


def test_polar_round_trip():
    rng = np.random.default_rng(0)
    vectors = mo.canonical(rng.normal(size=(50, 2)))
    np.testing.assert_allclose(mo.align_sign(mo.from_polar(*mo.to_polar(vectors)), vectors), vectors, atol=1e-12)


def test_align_sign():
    reference = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(mo.align_sign(np.array([[2.0, 1.0], [-2.0, 1.0]]), reference), [[2, 1], [2, -1]])


@pytest.mark.parametrize("weights", ["softmax", "bilinear"])
def test_interpolation_finds_the_four_neighbours(weights):
    indices, w = mo.bank_interpolation(torch.tensor([8.5]), torch.tensor([31.0]), weights)
    motions = MotionBank().motions[indices[0].numpy()]
    assert {tuple(m) for m in motions} == {(7.0, 30.0), (7.0, 36.0), (9.0, 30.0), (9.0, 36.0)}
    assert float(w.sum()) == pytest.approx(1.0)
    nearest = motions[int(w.argmax())]
    # Of (8.5, 31) the nearest is (9, 30): with the sign of Eq. 17 as printed it would be (7, 36).
    assert tuple(nearest) == (9.0, 30.0)


def test_softmax_weights_by_hand():
    _, w = mo.bank_interpolation(torch.tensor([8.5], dtype=torch.float64), torch.tensor([31.0], dtype=torch.float64))
    squared = np.array([1.5**2 + 1, 1.5**2 + 25, 0.5**2 + 1, 0.5**2 + 25])
    expected = np.exp(-squared) / np.exp(-squared).sum()
    np.testing.assert_allclose(w[0], expected, rtol=1e-12)


def test_bilinear_is_exact_on_the_bank_and_for_linear_functions():
    motions = torch.from_numpy(MotionBank().motions)
    indices, w = mo.bank_interpolation(motions[:, 0], motions[:, 1], "bilinear")
    chosen = indices.gather(1, w.argmax(1, keepdim=True))[:, 0]
    np.testing.assert_array_equal(chosen, np.arange(len(motions)))
    np.testing.assert_allclose(w.max(1).values, 1.0)
    length, angle = torch.tensor([4.2, 18.9]), torch.tensor([10.0, 91.0])
    indices, w = mo.bank_interpolation(length, angle, "bilinear")
    np.testing.assert_allclose((w * motions[indices][..., 0]).sum(-1), length, rtol=1e-6)
    np.testing.assert_allclose((w * motions[indices][..., 1]).sum(-1), angle, rtol=1e-6)


@pytest.mark.parametrize("weights", ["softmax", "bilinear"])
def test_interpolation_wraps_clamps_and_knows_no_angle_at_length_one(weights):
    indices, _ = mo.bank_interpolation(torch.tensor([10.0]), torch.tensor([177.0]), weights)
    angles = set(MotionBank().motions[indices[0].numpy()][:, 1])
    assert angles == {174.0, 0.0}
    indices, _ = mo.bank_interpolation(torch.tensor([1.5]), torch.tensor([50.0]), weights)
    assert (indices[0, :2] == 0).all()
    indices, w = mo.bank_interpolation(torch.tensor([99.0]), torch.tensor([60.0]), weights)
    assert MotionBank().motions[int(indices[0, w[0].argmax()])][0] == 35.0


@pytest.mark.parametrize("weights", ["softmax", "bilinear"])
def test_interpolation_gradient(weights):
    def weight(length, angle):
        return mo.bank_interpolation(length, angle, weights)[1]

    inputs = tuple(
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([4.3, 1.4, 20.2], [7.0, 100.0, 178.0])
    )
    assert torch.autograd.gradcheck(weight, inputs)


def test_interpolation_refuses_unknown_weights():
    with pytest.raises(ValueError, match="softmax"):
        mo.bank_interpolation(torch.ones(1), torch.ones(1), "nearest")


@pytest.mark.parametrize("suffix", [".npz", ".flo"])
def test_files_round_trip(tmp_path, suffix):
    field = np.random.default_rng(1).normal(size=(5, 7, 2)).astype(np.float32)
    path = tmp_path / f"m{suffix}"
    mo.write_motion(path, field)
    np.testing.assert_array_equal(mo.read_motion(path), field)


def test_flo_layout(tmp_path):
    """Middlebury's: the tag 202021.25, width, height, then u and v interleaved, row by row."""
    path = tmp_path / "m.flo"
    mo.write_motion(path, np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    data = path.read_bytes()
    assert data[:4] == b"PIEH"
    assert list(np.frombuffer(data, "<i4", 2, 4)) == [3, 2]
    np.testing.assert_array_equal(np.frombuffer(data, "<f4", offset=12), np.arange(12))


def test_bad_files(tmp_path):
    for name, content in {
        "a.npz": b"",
        "b.npz": b"PK\x03\x04 broken",
        "c.flo": b"PIEH",
        "d.flo": b"",
        "e.npz": b"text",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            mo.read_motion(tmp_path / name)
    np.savez(tmp_path / "other.npz", flow=np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="motion"):
        mo.read_motion(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"\.npz or \.flo"):
        mo.read_motion(tmp_path / "m.txt")
    with pytest.raises(FileNotFoundError):
        mo.read_motion(tmp_path / "absent.npz")


def test_check_motion_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"\(H, W, 2\), got \(4, 4\)"):
        mo.check_motion(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="NaN"):
        mo.check_motion(np.full((4, 4, 2), np.nan))
    with pytest.raises(ValueError, match="4 x 4"):
        mo.check_motion(np.zeros((4, 4, 2)), (5, 4))
    with pytest.raises(TypeError):
        mo.check_motion(np.full((2, 2, 2), "a"))


def test_describe():
    assert mo.describe(np.zeros((3, 3, 2))) == "no motion found"
    text = mo.describe(np.broadcast_to(np.array([6.0, -6.0]), (4, 4, 2)))
    assert "8.5 px" in text
    assert "45 degrees" in text
    assert "100 %" in text
    assert "confidence" not in text


def test_summary_by_hand():
    motion = np.zeros((4, 25, 2))
    # The angles 170 and 10 degrees are 20 degrees apart, around 0. Motions of up to 2 px do not count.
    for row, (length, angle) in enumerate(((10.0, 170.0), (10.0, 10.0), (1.9, 90.0))):
        motion[row] = mo.from_polar(np.array(length), np.array(angle))
    error = np.full((4, 25), 9.0)
    error[0, :20] = 4.9
    found = mo.summarize(motion, error)
    assert (found.moved, found.length, found.shortest, found.longest) == pytest.approx((0.5, 10, 10, 10))
    assert min(found.angle, 180 - found.angle) == pytest.approx(0, abs=1e-3)
    # Mardia's circular standard deviation of +-20 degrees, the double angles, halved.
    assert found.spread == pytest.approx(np.rad2deg(np.sqrt(-2 * np.log(np.cos(np.deg2rad(20))))) / 2, rel=1e-4)
    assert (found.sure, found.confidence, found.error) == pytest.approx((0.4, "low", 9.0))
    text = mo.describe(motion, error)
    assert text.startswith("median length 10.0 px (10.0 to 10.0), mean angle 0 degrees (spread 10), 50 % of the frame")
    assert text.endswith("confidence low (40 % of that is sure, expected error 9.0 px)")


@pytest.mark.parametrize(("share", "word"), [(0.81, "high"), (0.79, "medium"), (0.51, "medium"), (0.49, "low")])
def test_confidence_in_words(share, word):
    error = np.where(np.arange(100) < 100 * share, 4.9, 5.1)[None]
    assert mo.summarize(np.broadcast_to(np.array([10.0, 0.0]), (1, 100, 2)), error).confidence == word


def test_angles_without_common_direction():
    angles = np.arange(0.0, 180.0)[None]
    found = mo.summarize(mo.from_polar(np.full_like(angles, 9.0), angles))
    assert found.spread == pytest.approx(angles.std(), abs=0.01)


def test_describe_still_pictures_and_few_pixels():
    assert mo.describe(np.full((3, 3, 2), 1.0), np.full((3, 3), 0.7)) == "no motion found, expected error 0.7 px"
    motion = np.zeros((20, 20, 2))
    motion[0, 0, 0] = 9
    assert "less than 1 % of the frame moved" in mo.describe(motion)


def test_confidence_is_what_a_motion_is_believed_by():
    """`restoration_weight`, but for the share that says whether there was a motion at all."""
    from ircdeblur.nets.belief import restoration_weight

    length, share = np.meshgrid(np.linspace(0, 20, 81), np.linspace(0, 1.2, 61))
    motion = mo.from_polar(length, np.full_like(length, 30.0)).astype(np.float32)
    error = (share * length).astype(np.float32)
    weight = restoration_weight(*(torch.from_numpy(a).float() for a in (length, error))).numpy()
    moved = np.clip((length - mo.STILL) / mo.STILL, 0, 1)
    np.testing.assert_allclose(weight, moved * mo.confidence(motion, error), atol=1e-5)


def test_of_doubtful_motions_less_is_mixed_in():
    """All that is believed up to 1.3 px, at most 0.6 from 4 px on, between them on a line."""
    from ircdeblur.nets.belief import mixing_weight, restoration_weight

    length, error = torch.meshgrid(torch.linspace(0, 60, 31), torch.linspace(0, 20, 41), indexing="ij")
    most = np.interp(error.numpy(), (1.3, 4.0), (1.0, 0.6))
    expected = np.minimum(restoration_weight(length, error).numpy(), most)
    np.testing.assert_allclose(mixing_weight(length, error).numpy(), expected, atol=1e-6)


def test_confidence_refuses_bad_errors():
    motion = np.ones((2, 3, 2))
    for error, words in ((np.ones((3, 2)), "size"), (np.full((2, 3), -1), ">= 0"), (np.full((2, 3), np.nan), "finite")):
        with pytest.raises(ValueError, match=words):
            mo.confidence(motion, error)


def test_kernel_at_is_the_blur_of_that_pixel():
    """The blurred pixel is the sum of the kernel there times the sharp pixels around it, column x and row y."""
    import ircdeblur

    rng = np.random.default_rng(0)
    sharp = rng.random((60, 80))
    rows, columns = np.meshgrid(np.linspace(0, 1, 60), np.linspace(0, 1, 80), indexing="ij")
    motion = mo.from_polar(4 + 13 * rows, 20 + 140 * columns)
    blurred = ircdeblur.blur(sharp, motion=motion)
    for x, y in ((20, 30), (60, 20), (50, 45)):
        kernel = mo.kernel_at(torch.from_numpy(motion), x, np.int64(y))
        high, wide = (n // 2 for n in kernel.shape)
        around = sharp[y - high : y + high + 1, x - wide : x + wide + 1]
        assert blurred[y, x] == pytest.approx((kernel * around).sum(), abs=1e-5)


def test_kernel_at_golden_values():
    """MATLAB's ``fspecial('motion', 3, 45)``: rising to the right on the screen."""
    motion = np.zeros((2, 3, 2))
    motion[1, 2] = mo.from_polar(np.array(3.0), np.array(45.0))
    golden = [
        [0, 0.0754421808, 0.1883493834],
        [0.0754421808, 0.3215325097, 0.0754421808],
        [0.1883493834, 0.0754421808, 0],
    ]
    np.testing.assert_allclose(mo.kernel_at(motion, 2, 1), golden, atol=1e-6)
    np.testing.assert_array_equal(mo.kernel_at(motion, 0, 1), [[1]])


def test_kernel_at_refuses_what_is_outside():
    for x, y in ((3, 0), (0, 2), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=f"pixel {x}, {y} is outside: x is from 0 to 2, y from 0 to 1"):
            mo.kernel_at(np.zeros((2, 3, 2)), x, y)
    with pytest.raises(TypeError):
        mo.kernel_at(np.zeros((2, 3, 2)), 0.5, 0)
