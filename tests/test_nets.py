"""Motion-Net, its weights, the consolidation of its answers, and its training."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ircdeblur.data.camera import camera_shake
from ircdeblur.data.mixed import MixedPairs
from ircdeblur.metrics import motion_mse
from ircdeblur.motion import align_sign, from_double_angle, to_double_angle
from ircdeblur.nets import motion_net
from ircdeblur.nets.blind import consolidate, estimate, smooth_field, without_specks
from ircdeblur.nets.camera_fit import camera_model, fit_camera
from ircdeblur.nets.checkpoints import load_motion_net, save_motion_net
from ircdeblur.nets.layers import ChannelNorm, has_fast_bfloat16
from ircdeblur.nets.motion_net import SIZES, MotionNet, MotionNetConfig, autocorrelation, decode, encode, half_circle
from ircdeblur.nets.smooth_fit import consistent_signs, fit_smooth, roughness, smooth_model, smooth_starts
from ircdeblur.operators import MotionBlur

TINY = MotionNetConfig(stem=4, widths=(8, 8, 8), blocks=(1, 1, 2), pyramid=8, rates=(1, 2))


@pytest.fixture
def net():
    """A small network with random weights."""
    torch.manual_seed(0)
    return MotionNet(TINY).eval()


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (2, 3, 61, 75), (1, 3, 8, 200), (1, 1, 1, 1)])
@torch.no_grad()
def test_any_size(net, shape):
    double, scale = net(torch.rand(shape))
    assert double.shape == (shape[0], *shape[2:], 2)
    assert scale.shape == (shape[0], *shape[2:])
    assert torch.isfinite(double).all()
    assert (scale > 0).all()


def test_refuses_other_channels(net):
    with pytest.raises(ValueError, match="1 or 3"):
        net(torch.rand(1, 4, 16, 16))


@torch.no_grad()
def test_rgb_is_luminance(net):
    rgb = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    luma = (rgb * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(net(rgb), net(luma))


def test_bfloat16_of_motion_net(net, monkeypatch):
    """Its answers are nearly the same; a training is left to itself, and the net's own answer to its processor."""
    monkeypatch.setattr(motion_net, "has_fast_bfloat16", lambda device: True)
    torch.nn.init.normal_(net.out.weight, std=0.3)
    picture = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        fast = net.forward_grid(picture)
        net.fast = False
        plain = net.forward_grid(picture)
    assert fast.dtype == torch.float32
    # Eight bits of a mantissa, in a few layers whose values are about 1.
    assert 0 < float((fast - plain).abs().max()) < 0.05 * float(plain.abs().max())
    net.fast = True
    torch.testing.assert_close(net.train().forward_grid(picture), plain, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(motion_net, "has_fast_bfloat16", lambda device: False)
    torch.testing.assert_close(net.eval().forward_grid(picture), plain, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_statistics_are_local(net):
    """What happens far away must not change the answer here: normalisation over the picture would."""
    torch.manual_seed(2)
    picture = torch.rand(1, 1, 64, 512)
    other = picture.clone()
    other[..., 400:] = other[..., 400:] * 0.2 + 0.5
    (a, _), (b, _) = net(picture), net(other)
    torch.testing.assert_close(a[:, :, :96], b[:, :, :96])
    assert (a[:, :, 420:] - b[:, :, 420:]).abs().max() > 1e-4


def test_channel_norm():
    x = torch.randn(2, 5, 3, 4)
    y = ChannelNorm(5)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, unbiased=False), torch.ones(2, 3, 4), atol=1e-3, rtol=0)


def test_half_circle():
    assert half_circle({1: 4}) == [(1, 0), (1, -1), (0, -1), (-1, -1)]
    assert len(half_circle({7: 12})) == 12


@pytest.mark.parametrize("output", ["double", "polar", "vector"])
def test_outputs_are_the_same_motion(output):
    rng = np.random.default_rng(0)
    double = torch.from_numpy(rng.normal(0, 12, (50, 2)))
    torch.testing.assert_close(decode(encode(double, output), output), double)
    assert encode(double, output).abs().max() < 5
    with pytest.raises(ValueError, match="output"):
        MotionNetConfig(output="degrees")


def test_sizes():
    small, base = (MotionNet(SIZES[name]) for name in ("small", "base"))
    counts = [sum(p.numel() for p in net.parameters()) for net in (small, base)]
    assert counts[0] < counts[1] < 3_000_000


@pytest.mark.parametrize("step", [1, 2])
def test_autocorrelation_by_loops(step):
    rng = np.random.default_rng(3)
    dx, dy = rng.normal(size=(2, 8, 16))
    shifts = [(0, 0), (3, 0), (2, -5), (-1, -2)]
    found = autocorrelation(*(torch.from_numpy(g)[None, None] for g in (dx, dy)), shifts, 4, step)[0].numpy()

    def at(g, y, x):
        return g[y, x] if 0 <= y < 8 and 0 <= x < 16 else 0.0

    for k, (sx, sy) in enumerate(shifts):
        for i in range(2):
            for j in range(4):
                total = sum(
                    at(g, y - sy // 2, x - sx // 2) * at(g, y + sy - sy // 2, x + sx - sx // 2)
                    for g in (dx, dy)
                    for y in range(4 * i, 4 * i + 4, step)
                    for x in range(4 * j, 4 * j + 4, step)
                )
                assert found[k, i, j] == pytest.approx(total * step**2 / 16)


def test_gradient_reaches_every_weight(net):
    net.train()
    double, scale = net(torch.rand(1, 1, 48, 48))
    (double.square().sum() + scale.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in net.parameters())


def test_weights_round_trip(net, tmp_path):
    path = tmp_path / "net.safetensors"
    save_motion_net(net, path, {"seed": 3})
    again = load_motion_net(path)
    assert again.config == TINY
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(image), net(image), rtol=0, atol=0)
    save_motion_net(net, path, half=True)
    with torch.no_grad():
        # Half precision rounds each weight by up to 0.05 %.
        torch.testing.assert_close(load_motion_net(path)(image), net(image), rtol=0.02, atol=0.02)


def test_bad_weights_are_refused(net, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_motion_net(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="safetensors"):
        load_motion_net(tmp_path / "text.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={"network": "else"})
    with pytest.raises(ValueError, match="Motion-Net"):
        load_motion_net(tmp_path / "other.safetensors")
    config = {**TINY.__dict__, "stem": 6}
    state = {k: v.contiguous() for k, v in net.state_dict().items()}
    save_file(
        state,
        tmp_path / "wrong.safetensors",
        metadata={"network": "motion-net", "config": json.dumps(config)},
    )
    with pytest.raises(ValueError, match="fit"):
        load_motion_net(tmp_path / "wrong.safetensors")


def test_camera_model_contains_the_camera():
    """The fields of `camera_shake` are linear in the model's six parameters."""
    motion = camera_shake((45, 60), 20.0, seed=5).reshape(-1, 2).astype(float)
    y, x = np.mgrid[:45, :60].astype(float)
    design = camera_model((x.ravel() - 29.5) / 30, (y.ravel() - 22) / 30)
    found, *_ = np.linalg.lstsq(design.reshape(-1, 6), motion.ravel(), rcond=None)
    # float32 rounding of 20 px.
    np.testing.assert_allclose(design @ found, motion, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_camera_fit_with_unknown_signs_noise_and_outliers(seed):
    rng = np.random.default_rng(seed)
    y, x = (g.ravel() for g in np.mgrid[-0.75:0.75:24j, -1:1:32j])
    parameters = rng.normal(size=6) * [8, 8, 4, 6, 2, 2]
    truth = camera_model(x, y) @ parameters
    seen = truth * rng.choice([-1, 1], size=(len(truth), 1)) + rng.normal(size=truth.shape)
    error = np.full(len(truth), 1.0)
    wrong = rng.random(len(truth)) < 0.2
    seen[wrong] = rng.uniform(-20, 20, (wrong.sum(), 2))
    error[wrong] = 6.0
    found = fit_camera(seen, error, x, y, count=3)[0]
    model = camera_model(x, y) @ found
    off = np.minimum(np.abs(model - truth).max(), np.abs(model + truth).max())
    # 768 vectors with noise 1 px: the fit's own error is some 0.1 px, at the corners up to three times that.
    assert off < 0.6


def test_smooth_model_contains_the_camera_and_no_more_than_cubics():
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 60))
    design, camera = smooth_model(x, y), camera_model(x, y)
    for column in camera.reshape(120, 6).T:
        found, _, rank, _ = np.linalg.lstsq(design.reshape(120, 20), column, rcond=None)
        assert rank == 20
        np.testing.assert_allclose(design.reshape(120, 20) @ found, column, atol=1e-12)
    # A place where all monomials differ, in their documented order.
    place = smooth_model(np.array([2.0]), np.array([3.0]))[0]
    monomials = [1, 2, 3, 4, 6, 9, 8, 12, 18, 27]
    np.testing.assert_allclose(place, [[*monomials, *[0] * 10], [*[0] * 10, *monomials]])
    np.testing.assert_allclose(roughness(2.0, 5.0), [0, 0, 0, 2, 2, 2, 5, 5, 5, 5] * 2)


@pytest.mark.parametrize("seed", range(3))
def test_smooth_fit_with_unknown_signs_and_outliers(seed):
    rng = np.random.default_rng(seed)
    shape = (9, 12)
    y, x = (g.ravel() for g in np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    design = smooth_model(x, y)
    # Mostly to the right, so that the field has no zero and one sign.
    truth = design @ (rng.normal(size=20) * 3 + np.eye(20)[0] * 25)
    seen = truth * rng.choice([-1, 1], size=(len(truth), 1)) + 0.2 * rng.normal(size=truth.shape)
    error = np.full(len(truth), 0.5)
    wrong = rng.random(len(truth)) < 0.15
    seen[wrong] = rng.uniform(-30, 30, (wrong.sum(), 2))
    error[wrong] = 8.0
    signed = consistent_signs(seen, error, shape)[~wrong]
    agree = (signed * truth[~wrong]).sum(-1) > 0
    assert agree.all() or not agree.any()
    for degree in (2, 3):
        found = design @ fit_smooth(consistent_signs(seen, error, shape), error, design, degree)
        off = np.minimum(np.abs(found - truth).max(), np.abs(found + truth).max())
        # 90 vectors with noise 0.2 px: at the corners the cubic's own error is some 0.3 px; a parabola can't follow.
        assert (off < 1.0) == (degree == 3)


def test_signs_of_several_grids_are_each_its_own():
    rng = np.random.default_rng(3)
    motion, error = rng.normal(size=(5, 35, 2)) * 4 + (9, 2), rng.uniform(0.3, 4, (5, 35))
    motion *= rng.choice([-1, 1], size=(5, 35, 1))
    each = [consistent_signs(m, e, (5, 7)) for m, e in zip(motion, error, strict=True)]
    np.testing.assert_array_equal(consistent_signs(motion, error, (5, 7)), each)
    # The most certain cell keeps its sign.
    for signed, given, e in zip(each, motion, error, strict=True):
        np.testing.assert_array_equal(signed[e.argmin()], given[e.argmin()])


def test_several_smooth_fits_are_each_its_own():
    rng = np.random.default_rng(0)
    design = smooth_model(*rng.uniform(-1, 1, (2, 60)))
    motion, error = rng.normal(size=(3, 60, 2)) * 5 + (20, 3), rng.uniform(0.3, 4, (3, 60))
    together = fit_smooth(motion, error, design)
    each = [fit_smooth(m, e, design) for m, e in zip(motion, error, strict=True)]
    # The sums of products are in another order: rounding in float64.
    np.testing.assert_allclose(together, each, rtol=1e-9, atol=1e-9)


def test_smooth_starts_know_a_part_of_the_picture():
    """Where the answers are wrong, and all alike, some fits hardly believe them."""
    shape = (10, 10)
    y, x = (g.ravel() for g in np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    design = smooth_model(x, y)
    truth = np.stack((14 + 4 * x, 3 * y), -1)
    wrong = (x - 0.7) ** 2 + (y - 0.7) ** 2 < 0.7**2
    seen = np.where(wrong[:, None], np.stack((4 * y, 20 + x), -1), truth)
    places, answers = np.stack((x, y), -1), [(seen, np.full(100, 1.0))]
    starts = smooth_starts(answers, design, places, shape, 40)
    assert starts.shape == (40, 20)
    fields = starts @ design.reshape(200, 20).T
    off = np.minimum(*(np.square(sign * fields - truth.ravel()).mean(1) for sign in (1, -1)))
    assert off.min() < 0.7 * off[0]
    np.testing.assert_array_equal(starts, smooth_starts(answers, design, places, shape, 40))


def test_consolidation_averages_noise_away():
    motion = torch.from_numpy(camera_shake((120, 160), 15.0, seed=2))
    noisy = to_double_angle(motion) + 3.0 * torch.randn(120, 160, 2, generator=torch.Generator().manual_seed(0))
    # Noise of the network is the same over a cell, not white.
    cells = torch.nn.functional.avg_pool2d(noisy.permute(2, 0, 1)[None], 8) * 1.0
    noise = 2.0 * torch.randn(cells.shape, generator=torch.Generator().manual_seed(1))
    raw = torch.nn.functional.interpolate(cells + noise, scale_factor=8)[0].permute(1, 2, 0)
    found = consolidate(raw, torch.full((120, 160), 3.0))

    def mse(double_or_motion, is_double):
        m = from_double_angle(double_or_motion) if is_double else double_or_motion
        return float((align_sign(m, motion) - motion).square().mean())

    assert mse(found.motion, False) < 0.3 * mse(raw, True)
    assert found.camera_share > 0.7
    assert found.error.shape == (120, 160)


def test_consolidation_keeps_a_moving_object():
    motion = torch.tensor([10.0, 0.0]).expand(128, 192, 2).clone()
    motion[32:96, 64:128] = torch.tensor([0.0, 12.0])
    found = consolidate(to_double_angle(motion), torch.full((128, 192), 1.0)).motion
    inside, outside = found[56:72, 88:104], found[:16, :32]
    # The object differs from the camera by far more than the expected error of 1 px.
    assert (align_sign(inside, motion[56:72, 88:104]) - motion[56:72, 88:104]).abs().max() < 2.0
    assert (align_sign(outside, motion[:16, :32]) - motion[:16, :32]).abs().max() < 1.0


def shaken(motion, noise=0.01, name="astronaut"):
    """A photograph that scikit-image ships, blurred by a motion, as (1, 1, H, W)."""
    import skimage.data

    height, width = motion.shape[:2]
    grey = getattr(skimage.data, name)()[:height, :width].mean(-1) / 255
    blurred = MotionBlur(torch.tensor(motion).float(), boundary="reflect").A(torch.from_numpy(grey).float()[None, None])
    return blurred + noise * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(0))


def answer(motion, length=1.0, turn=0.0, error=6.0):
    """A network that answers with a motion whose lengths and angles are wrong."""
    radians = 2 * np.deg2rad(turn)
    rotation = torch.tensor([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]]).float()
    double = length * to_double_angle(torch.tensor(motion).float()) @ rotation
    return lambda image: (double[None], torch.full((1, *motion.shape[:2]), error))


@pytest.mark.parametrize(("length", "turn"), [(1.35, 5.0), (0.65, -10.0)])
def test_the_picture_corrects_the_network(length, turn):
    motion = camera_shake((320, 384), 18.0, seed=11)
    image = shaken(motion)
    found = estimate(answer(motion, length, turn), image)
    before = motion_mse(from_double_angle(answer(motion, length, turn)(image)[0][0]).numpy(), motion)
    after = motion_mse(found.motion.numpy(), motion)
    # On photographs 0.1 to 1 px^2 is usual; the answers were wrong by a third of the length.
    assert before > 5
    assert after < 1.2
    assert found.camera_share > 0.9
    off = (align_sign(found.motion, torch.from_numpy(motion)) - torch.from_numpy(motion)).norm(dim=-1)
    # What it states is what it is off by, and a little more, as the stripes of a motion that turns are not all dark.
    assert off.median() / 2 < found.error.median() < 3.0


def turning_field():
    """Lengths 5 to 25 px, angles 20 to 160 degrees across 512 px."""
    ramp = np.linspace(0, 1, 512)[None] * np.ones((512, 1))
    length, angle = 5 + 20 * ramp, np.deg2rad(20 + 140 * ramp)
    return np.stack((length * np.cos(angle), -length * np.sin(angle)), -1)


def test_a_motion_that_no_camera_makes_is_found(monkeypatch):
    """The network's lengths are wrong by a sixth, and at the picture's rim by much more."""
    motion = turning_field()
    double, error = answer(motion, 1.15)(None)
    double[:, :, 400:] = double[:, :, 400:] * 0.6

    def net(image):
        return double, error

    before = motion_mse(from_double_angle(double[0]).numpy(), motion)
    found = estimate(net, shaken(motion))
    after = motion_mse(found.motion.numpy(), motion)
    assert before > 7
    # What the issue of such fields asked for is 3.
    assert after < 2
    off = (align_sign(found.motion, torch.from_numpy(motion)) - torch.from_numpy(motion)).norm(dim=-1)
    assert off.mean() / 2 < found.error.mean() < 4 * off.mean()
    # Without the polynomial the windows at the rim stay where they were led to.
    monkeypatch.setattr("ircdeblur.nets.blind.UNEXPLAINED", math.inf)
    assert motion_mse(estimate(net, shaken(motion)).motion.numpy(), motion) > 2 * after


def test_a_motion_that_nothing_smooth_makes_is_kept():
    """Two halves that move across each other: neither a camera nor a polynomial, place by place."""
    motion = np.zeros((384, 512, 2))
    motion[:, :256, 0] = 14.0
    motion[:, 256:, 1] = 14.0
    found = estimate(answer(motion, 1.2, error=3.0), shaken(motion)).motion
    for columns in (slice(64, 192), slice(320, 448)):
        truth = torch.from_numpy(motion[:, columns])
        # The network was off by 2.8 px; a polynomial over both halves is by 9 in one of them.
        assert (align_sign(found[:, columns], truth) - truth).norm(dim=-1).median() < 2.5


@pytest.mark.parametrize("moved", [False, True])
def test_a_thing_that_moves_before_a_still_background(moved):
    """A disc of the picture that moved, or is only a little soft; the network believes in a motion either way."""
    import skimage.data
    from scipy.ndimage import gaussian_filter1d

    inside = np.hypot(*np.meshgrid(*(np.arange(384) - 192,) * 2)) < 110
    sharp = shaken(np.zeros((384, 384, 2)))
    if moved:
        image = shaken(np.where(inside[..., None], [14.0, 0.0], [0.0, 0.0]))
    else:
        soft = gaussian_filter1d(skimage.data.astronaut()[:384, :384].mean(-1) / 255, 1.5, axis=1)
        image = torch.where(
            torch.from_numpy(inside), torch.from_numpy(soft).float() + 0.01 * torch.randn(384, 384), sharp
        )
    seen = np.where(inside[..., None], [11.0 if moved else 6.0, 0.0], [0.0, 0.0]).astype(np.float32)
    middle = estimate(answer(seen, error=2.0), image).motion[152:232, 152:232]
    length = float(middle.norm(dim=-1).median())
    assert 12 < length < 16 if moved else length < 0.1


@pytest.mark.parametrize("shape", [(65, 65), (97, 160), (160, 97)])
def test_a_single_row_of_windows(shape):
    """Its centre is the picture's: some movements of the camera move nothing there."""
    motion = np.broadcast_to(np.array([8.0, -3.0], np.float32), (*shape, 2))
    found = estimate(answer(motion * 1.3, error=3.0), shaken(motion)).motion
    assert motion_mse(found.numpy(), motion) < 2


def test_specks():
    """Areas count as cells without trust; those that touch at corners are apart."""
    trust = torch.full((6, 8), 0.95)
    trust[0, :3] = trust[2:4, 5:7] = trust[4, 7] = trust[5, 0] = 0.2
    expected = trust.clone()
    expected[0, :3] = expected[4, 7] = expected[5, 0] = 1.0
    assert torch.equal(without_specks(trust, 3.0 / 48), expected)
    assert torch.equal(without_specks(trust, 0.7 / 48), trust)
    expected[2:4, 5:7] = 1.0
    assert torch.equal(without_specks(trust, 3.3 / 48), expected)
    assert torch.equal(without_specks(torch.ones(1, 3), 0.5), torch.ones(1, 3))


def test_what_does_not_look_like_motion_stays_doubtful():
    motion = camera_shake((192, 192), 6.0, seed=3)
    image = shaken(motion)
    sure, unsure = (estimate(answer(motion, error=e), image).error.median() for e in (2.0, 15.0))
    assert sure < 1
    assert unsure > 10


def test_long_motions_are_found_in_a_smaller_picture():
    """A network that knows motions up to 36 px, as the trained ones do."""
    motion = np.broadcast_to(np.array([52.0, -30.0], np.float32), (400, 480, 2))
    calls = []

    def net(image):
        calls.append(image.shape)
        scale = image.shape[-1] / 480
        field = torch.from_numpy(motion.copy())[: image.shape[-2], : image.shape[-1]] * scale
        field = field * (36 / field.norm(dim=-1, keepdim=True)).clamp(max=1)
        return to_double_angle(field)[None], torch.full((1, *image.shape[-2:]), 4.0)

    found = estimate(net, shaken(motion))
    assert [shape[-1] for shape in calls] == [480, 240]
    assert found.motion.shape == (400, 480, 2)
    assert motion_mse(found.motion.numpy(), motion) < 4


def test_tiny_pictures_are_not_refined():
    motion = np.broadcast_to(np.array([5.0, 0.0], np.float32), (40, 40, 2))
    found = estimate(answer(motion), torch.rand(1, 3, 40, 40)).motion
    assert (found - torch.from_numpy(motion.copy())).abs().max() < 0.1


def test_smoothing_weighs_by_confidence():
    double = torch.zeros(9, 9, 2)
    error = torch.full((9, 9), 1.0)
    double[4, 4], error[4, 4] = 100.0, 1000.0
    smoothed, _ = smooth_field(double, error, 1.0)
    assert smoothed.abs().max() < 0.01


def test_training_end_to_end(tmp_path):
    """A few steps on two photographs: the loss is finite, files appear, and a stopped run goes on."""
    pytest.importorskip("lightning")
    import skimage.data
    import skimage.io

    from ircdeblur.training.motion_net import load_config, train_motion_net

    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        skimage.io.imsave(tmp_path / folder / "a.png", skimage.data.astronaut()[:200, :220])
    (tmp_path / "c.yaml").write_text(
        "train_time: '00:00:04'\nfolders: [train]\nvalidate_every: 2\nvalidation_pictures: 2\nprecision: 32-true\n"
        "pairs: {crop: 32, batch: 2, max_length: 10.0}\n"
        "network: {stem: 4, widths: [8, 8, 8], blocks: [1, 1, 1], pyramid: 8, rates: [1]}\n"
    )
    config = load_config(tmp_path / "c.yaml")
    out = tmp_path / "run"
    weights = train_motion_net(config, tmp_path, out, max_time="00:00:02", progress=False, command="test")
    assert load_motion_net(weights).config.stem == 4
    lines = (out / "log.csv").read_text().splitlines()
    assert len(lines) >= 2
    assert "val_moderate" in lines[0]
    steps = int(lines[-1].split(",")[0])
    train_motion_net(config, tmp_path, out, resume=out / "last.ckpt", progress=False)
    assert int((out / "log.csv").read_text().splitlines()[-1].split(",")[0]) > steps


def test_loss_counts_only_what_is_known(net):
    pytest.importorskip("lightning")
    from ircdeblur.data.synthesis import Pairs
    from ircdeblur.training.motion_net import UNKNOWN, motion_loss

    blurred = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    motion = torch.zeros(1, 32, 32, 2)
    motion[..., 16:, 0] = 30.0
    known = torch.ones(1, 32, 32)
    known[..., 16:] = torch.nan
    some = motion_loss(net, Pairs(blurred, motion, known, blurred))
    motion[..., 16:, 0] = -5.0
    torch.testing.assert_close(motion_loss(net, Pairs(blurred, motion, known, blurred)), some)
    assert torch.isfinite(some)
    # Where the blur is no motion the stated error is drawn to its value: the loss falls on the way there.
    nothing = Pairs(blurred, 0 * motion, 0 * torch.ones(1, 32, 32), blurred)
    with torch.no_grad():
        net.out.weight.zero_()
        net.out.bias.copy_(torch.tensor([0.0, 0.0, np.log(UNKNOWN)]))
        best = motion_loss(net, nothing)
        net.out.bias[2] += 1
        assert motion_loss(net, nothing) == pytest.approx(float(best) + 0.1, abs=1e-5)

    mixed = iter(MixedPairs(itertools.repeat("a"), itertools.repeat("b"), 0.25, seed=0))
    drawn = [next(mixed) for _ in range(400)]
    assert 70 < drawn.count("b") < 130


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed: 3", "unknown setting speed"),
        ("pairs: {size: 3}", "pairs.size"),
        ("train_time: '5'", "HH:MM:SS"),
        ("pairs: 3", "pairs"),
        ("dataset_share: 0.2", "needs datasets"),
    ],
)
def test_bad_configuration(tmp_path, text, message):
    pytest.importorskip("lightning")
    from ircdeblur.training.motion_net import load_config

    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("known", [("amx_tile", "avx512_bf16"), ("amx_tile",), ()])
@pytest.mark.parametrize("has", ["amx_tile", "avx512_bf16", ""])
def test_processors_that_multiply_bfloat16(monkeypatch, known, has):
    """By tiles or by dot products; a release of torch that cannot tell has none."""
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
        if name in known:
            monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda n=name: n == has, raising=False)
    assert has_fast_bfloat16(torch.device("cpu")) == (has in known)
    assert not has_fast_bfloat16(torch.device("meta"))


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_emulated_bfloat16_is_not_trained_in(monkeypatch, fast, expected):
    loop = pytest.importorskip("ircdeblur.training.loop", reason="the extra train is not installed")
    monkeypatch.setattr(loop, "has_fast_bfloat16", lambda device: fast)
    assert loop.usable_precision("bf16-mixed", torch.device("cpu")) == expected
    assert loop.usable_precision("32-true", torch.device("cpu")) == "32-true"


def test_the_weights_that_were_validated_are_saved(tmp_path):
    """After each validation, not only after the last one: the running average, which is not what is trained on."""
    loop = pytest.importorskip("ircdeblur.training.loop", reason="the extra train is not installed")
    net = torch.nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.zero_()
    validated, saved, trained = [], [], []

    class Pictures:
        def evaluate(self, net, device):
            validated.append(float(net.weight))
            return {"weight": float(net.weight)}

    def save(net, path, summary):
        saved.append((float(net.weight), summary["val_weight"]))
        path.write_bytes(b"")

    def loss(net, batch):
        trained.append(float(net.weight.detach()))
        return -net.weight.sum()

    class Schedule:
        seed, train_time, optimizer, learning_rate, weight_decay = 0, "00:01:00", "adamw", 0.1, 0.0
        average, precision, validate_every = 0.9, "32-true", 4

    batches = [SimpleNamespace(blurred=torch.zeros(1, 1, 1, 1))] * 12
    out = loop.run(
        net,
        loss,
        save,
        Schedule(),
        lambda apart, device: batches,
        Pictures(),
        tmp_path / "w",
        {},
        "00:00:02",
        progress=False,
    )
    assert out == tmp_path / "w"
    assert len(validated) > 3
    assert [weight for weight, _ in saved] == pytest.approx(validated)
    assert [figure for _, figure in saved] == pytest.approx(validated, abs=1e-4)
    assert validated[0] < 0.9 * trained[4]
