"""IRC-Net: untrained it is the solver, its parts against dense matrices and finite differences, both networks learn."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from scipy.signal import correlate2d

from ircdeblur.data.camera import camera_shake
from ircdeblur.data.known_blur import KnownBlurPairs, KnownBlurSettings, round_kernel, shake_kernel, straight_motion
from ircdeblur.data.photos import PhotosInMemory
from ircdeblur.experiments.blind import Found, undo
from ircdeblur.kernels import MotionBank, linear_motion_kernel
from ircdeblur.motion import from_polar, to_polar
from ircdeblur.nets import methods
from ircdeblur.nets.checkpoints import load_irc_net, save_irc_net
from ircdeblur.nets.irc_net import ORIENTATIONS, IRCNet, IRCNetConfig, Seen, State, crop_rim, extent_of_kernel, orient
from ircdeblur.nets.joint import JointNet
from ircdeblur.nets.motion_net import MotionNet, MotionNetConfig
from ircdeblur.nets.shrinkage_net import Filters, Shrinkage, ShrinkageConfig, ShrinkageIRCNet, piecewise_linear
from ircdeblur.nets.unrolled import first_estimate
from ircdeblur.nets.x_layer import Differences, InverseGain, XLayer
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.compensation import WINDOW, local_inverse
from ircdeblur.solvers.domain import Observation
from ircdeblur.solvers.settings import SATURATED, Settings, deconvolve, estimate_noise

SMALL = IRCNetConfig(stages=2, width=8, blocks=(1, 1, 1))


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def motion_blur(shape=(60, 70), seed=1, dtype=torch.float32):
    return MotionBlur(torch.from_numpy(camera_shake(shape, 12.0, seed=seed)).to(dtype))


def uniform_blur(dtype=torch.float32):
    psf = rand(7, 9, seed=3, dtype=dtype)
    return UniformBlur(psf / psf.sum())


@pytest.mark.parametrize("color", [None, 4.0])
@pytest.mark.parametrize("kind", ["motion", "uniform"])
@pytest.mark.parametrize("masked", [False, True])
def test_untrained_shrinkage_net_is_the_solver(color, kind, masked):
    """The same operations in another order, in float32: equal to some units of the last place."""
    y = rand(1, 3, 60, 70)
    blur = motion_blur() if kind == "motion" else uniform_blur()
    mask = (rand(1, 1, 60, 70, seed=5) > 0.2).float() if masked else None
    settings = Settings(prior=7.5, rho=0.01, iterations=5, steps=2, color=color, isotropic=False)
    expected = deconvolve(y, blur, 0.02, "irc", settings, mask).x
    net = ShrinkageIRCNet(ShrinkageConfig(start=0, filters=2, size=3, color=color))
    with torch.no_grad():
        found = net(y, blur, 0.02, mask=mask)
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    with torch.no_grad():
        net.shrinkage[0].change[:, :, 45:55] += 0.01
        assert (net(y, blur, 0.02, mask=mask) - expected).abs().max() > 1e-3


def test_a_batch_is_its_pictures():
    y = rand(2, 3, 40, 44)
    psf = torch.stack([torch.from_numpy(linear_motion_kernel(9, a)) for a in (0.0, 0.0)]).float()[:, None]
    psf[1] = psf[1].flip(-1) * torch.linspace(0.5, 1.5, 9)
    fields = torch.stack([torch.from_numpy(camera_shake((40, 44), 8.0, seed=s)) for s in (0, 1)])
    net = IRCNet(SMALL)
    net.fast = False
    noise = torch.tensor([0.01, 0.02])
    reach = MotionBlur(fields).margin
    with torch.no_grad():
        for blurs in (
            [UniformBlur(psf), *(UniformBlur(psf[i : i + 1]) for i in (0, 1))],
            [MotionBlur(fields), *(MotionBlur(fields[i], margin=reach) for i in (0, 1))],
        ):
            whole = net(y, blurs[0], noise)
            for i in (0, 1):
                alone = net(y[i : i + 1], blurs[1 + i], noise[i : i + 1])
                torch.testing.assert_close(whole[i : i + 1], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("prior", [Differences(torch.zeros(1, dtype=torch.float64)), Filters(8, 5).double()])
def test_prior_filters_and_their_transpose(prior):
    x = rand(2, 3, 9, 11, dtype=torch.float64)
    with torch.no_grad():
        z = prior(x)
        # The oracle: SciPy's correlation of the image continued by its rim.
        taps = prior.taps.numpy()[:, 0]
        reach = taps.shape[-1] // 2
        padded = np.pad(x[1, 2].numpy(), reach, mode="edge")
        for i, k in enumerate(taps):
            np.testing.assert_allclose(z[1, 2, i].numpy(), correlate2d(padded, k, mode="valid"), atol=1e-12)
        w = rand(*z.shape, seed=8, dtype=torch.float64)
        torch.testing.assert_close((z * w).sum(), (x * prior.adjoint(w)).sum())
        size = (16, 18)
        impulse = np.zeros(size)
        for i, k in enumerate(taps):
            impulse[:] = 0
            impulse[: k.shape[0], : k.shape[1]] = k
            np.testing.assert_allclose(prior.powers(size)[i].numpy(), np.abs(np.fft.rfft2(impulse)) ** 2, atol=1e-12)


def dense(function, shape):
    """The matrix of a linear function of (1, 1, *shape)."""
    columns = []
    for i in range(int(np.prod(shape))):
        unit = torch.zeros(int(np.prod(shape)), dtype=torch.float64)
        unit[i] = 1
        columns.append(function(unit.view(1, 1, *shape)).flatten())
    return torch.stack(columns, 1)


def test_compensations_end_at_the_least_squares_solution():
    """One kernel: many steps reach the solution of the dense normal equations, with masks and local penalties too."""
    psf = torch.from_numpy(linear_motion_kernel(5, 30)).double()
    blur = UniformBlur(psf / psf.sum())
    y, mask = rand(1, 1, 9, 10, dtype=torch.float64), (rand(1, 1, 9, 10, seed=2, dtype=torch.float64) > 0.2).double()
    differences = Differences(y)
    layer = XLayer(Observation(y, mask), blur, differences)
    local = 1 + rand(1, 1, *layer.domain.shape, seed=4, dtype=torch.float64)
    layer.set_penalties(torch.tensor([[0.3, 0.2]], dtype=torch.float64), y.new_full((1, 1, 1, 1), 1.5), local)
    target = rand(1, 1, 2, *layer.domain.shape, seed=6, dtype=torch.float64)
    x = layer.domain.start()
    data, prior = layer.misfit(x), target - differences(x)
    pull = layer.pull(prior)
    size = [float((data**2).sum() + (layer.rho * prior**2).sum())]
    for _ in range(200):
        direction = layer.compensation(data, pull)
        a, data, pull = layer.step(direction, data, pull)
        x = x + a * direction
        prior = target - differences(x)
        size.append(float((data**2).sum() + (layer.rho * prior**2).sum()))
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(size))

    shape = layer.domain.shape
    blurs = dense(lambda t: mask * blur.A(t), shape)
    rho = layer.rho.expand(1, 1, 2, *shape).flatten()
    gradients = dense(differences, shape)
    normal = blurs.T @ blurs + gradients.T @ (rho[:, None] * gradients)
    right = blurs.T @ (mask * y).flatten() + gradients.T @ (rho * target.flatten())
    # 200 steepest descents with a good inverse: what is left is far below a grey level.
    torch.testing.assert_close(x.flatten(), torch.linalg.solve(normal, right), atol=2e-4, rtol=0)


def test_differentiable_windows_are_those_of_the_solver():
    y = rand(1, 2, 60, 70)
    blur = motion_blur()
    shape = (60 + 2 * blur.margin[0], 70 + 2 * blur.margin[1])
    inverse = local_inverse(blur, shape)
    inverse.set_penalty(torch.full((1, 1, 1, 1), 0.02))
    image = rand(1, 2, *shape, seed=4)
    with torch.no_grad():
        expected = inverse(image)
    found = inverse(image.clone().requires_grad_())
    torch.testing.assert_close(found.detach(), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert y.shape == (1, 2, 60, 70)


def test_gain_turns_with_the_motion():
    """A motion's mirror image and transpose have the mirrored and the transposed gain, as the bank's kernels have."""
    torch.manual_seed(0)
    gain, bank = InverseGain(), MotionBank()
    with torch.no_grad():
        assert bool((gain(torch.eye(511)) == 1).all())
        # A gain that is the power of the motion's own kernel, for the stored motions.
        power = local_powers(bank)
        stored = torch.full((len(gain.excess),), -1)
        for kind, indices in enumerate(gain.kinds):
            if kind == 0:
                motions = (indices >= 0).nonzero()[:, 0]
                stored[indices[motions]] = motions
        assert bool((stored >= 0).all())
        gain.excess.copy_(power[stored])
        torch.testing.assert_close(gain(torch.eye(511)), 1 + power, atol=1e-5, rtol=0)


def local_powers(bank):
    kernels = torch.from_numpy(np.array(bank.kernels))
    padded = torch.zeros(len(kernels), WINDOW, WINDOW, dtype=kernels.dtype)
    padded[:, : kernels.shape[1], : kernels.shape[2]] = kernels
    return torch.fft.rfft2(padded).abs().square().float()


def test_piecewise_linear_is_numpys_interpolation():
    values = rand(3, 101, dtype=torch.float64)
    t = 3 * rand(2, 3, 8, 9, seed=1, dtype=torch.float64) - 1.5
    t.view(-1)[:4] = torch.tensor([-1.0, 1.0, 0.98, -0.98])
    found = piecewise_linear(t, values)
    points = np.linspace(-1, 1, 101)
    for n in range(3):
        np.testing.assert_allclose(
            found[:, n].numpy(), np.interp(t[:, n].numpy(), points, values[n].numpy()), atol=1e-12
        )
    t, values = (v.clone().requires_grad_() for v in (t[:1, :, :2, :2] + 1e-3, values))
    assert torch.autograd.gradcheck(piecewise_linear, (t, values))


def test_shrinkage_starts_as_soft_thresholding_and_scales_with_the_noise():
    shrinkage = Shrinkage(torch.tensor([[0.03, 0.05], [0.2, 0.3]]))
    t = 4 * rand(1, 3, 2, 5, 5) - 2
    with torch.no_grad():
        found = shrinkage(t, [0, 1, 1], torch.full((1, 1, 1, 1, 1), 2.0))
    thresholds = 2 * torch.tensor([[0.03, 0.05], [0.2, 0.3], [0.2, 0.3]])[None, :, :, None, None]
    torch.testing.assert_close(found, torch.sign(t) * (t.abs() - thresholds).clamp(min=0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("length", "angle"), [(9, 0), (15, 30), (21, 90), (11, 120), (35, 174)])
def test_extent_of_a_line(length, angle):
    kernel = torch.from_numpy(linear_motion_kernel(length, angle))
    double, across = extent_of_kernel(kernel)
    a, b = double.flatten().tolist()
    assert np.hypot(a, b) == pytest.approx(length, abs=1.0)
    assert abs((np.degrees(np.arctan2(b, a)) / 2 - angle + 90) % 180 - 90) < 1.0
    assert float(across) < 2.5
    disc = torch.from_numpy(round_kernel(4.0, True))
    double, across = extent_of_kernel(disc)
    # The variance of a disc is a quarter of its squared radius.
    assert float(double.norm()) < 0.1
    assert float(across) == pytest.approx(np.sqrt(12 * 4.0**2 / 4), rel=0.05)


@pytest.mark.parametrize("name", ["shrinkage", "cnn"])
def test_gradients_are_finite_differences(name):
    """In float64, for parameters of each kind, and for the motion through blur, inverse filters and maps."""
    torch.manual_seed(0)
    net = (
        ShrinkageIRCNet(ShrinkageConfig(stages=2, filters=3, size=3, color=None))
        if name == "shrinkage"
        else IRCNet(IRCNetConfig(stages=2, width=4, blocks=(1, 1, 1), gain=True))
    ).double()
    if name == "cnn":
        net.fast = False
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    y, truth = rand(1, 1, 20, 22, dtype=torch.float64), rand(1, 1, 20, 22, seed=1, dtype=torch.float64)
    motion = torch.from_numpy(camera_shake((20, 22), 6.0, seed=1)).double().requires_grad_()
    error = rand(1, 20, 22, seed=7, dtype=torch.float64)

    def loss(motion):
        return ((net(y, MotionBlur(motion), 0.01, error) - truth) ** 2).sum()

    loss(motion).backward()

    # The step a is a constant for gradients: it must be one for the differences too.
    steps = []
    step = XLayer.step

    def recorded(self, z, data, pull):
        a = step(self, z, data, pull)[0]
        steps.append(a)
        return moved(self, a, z, data, pull)

    def replayed(self, z, data, pull):
        return moved(self, steps[next(place)], z, data, pull)

    def moved(self, a, z, data, pull):
        return a, data - a * self.observed.masked(self.blur.A(z)), pull - a * self.pull(self.prior(z))

    first = first_estimate
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        # The first estimate is a constant too.
        start = first(Observation(y), MotionBlur(motion), y.new_full((1, 1, 1, 1), 0.01), error, net.config.start)
        patch.setattr(sys.modules[type(net).__module__], "first_estimate", lambda *_: start)
        patch.setattr(XLayer, "step", recorded)
        loss(motion)
        patch.setattr(XLayer, "step", replayed)
        for key, parameter in net.named_parameters():
            direction = torch.randn_like(parameter)
            h = 1e-8
            values = []
            for sign in (1, -1):
                parameter.add_(sign * h * direction)
                place = iter(range(100))
                values.append(float(loss(motion)))
                parameter.sub_(sign * h * direction)
            expected = (values[0] - values[1]) / (2 * h)
            assert parameter.grad is not None, key
            # So small a step seldom crosses a kink; rounding of the loss, some 1e2, leaves 1e-6.
            assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-4), key
        direction = torch.randn_like(motion)
        h = 1e-8
        values = []
        for sign in (1, -1):
            place = iter(range(100))
            values.append(float(loss(motion + sign * h * direction)))
        assert float((motion.grad * direction).sum()) == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-3)


def test_channels():
    """Grey, RGB, two channels, and a kernel for each channel."""
    blur = uniform_blur()
    y = rand(1, 3, 30, 34)
    for net in (IRCNet(SMALL), ShrinkageIRCNet(ShrinkageConfig(stages=2))):
        net.eval()
        with torch.no_grad():
            grey = net(y[:, :1], blur, 0.01)
            assert grey.shape == (1, 1, 30, 34)
            two = net(y[:, :2], blur, 0.01)
            torch.testing.assert_close(two[:, :1], grey, atol=1e-5, rtol=0)
            own = UniformBlur(torch.stack([blur.psf, blur.psf.flip(0), blur.psf.flip(1)]))
            assert net(y, own, 0.01).shape == y.shape
            four = UniformBlur(torch.stack([own.psf[0], *own.psf]))
            assert net(torch.cat((y, y[:, :1]), 1), four, 0.01).shape == (1, 4, 30, 34)


def test_weights_survive_their_file(tmp_path):
    for net in (IRCNet(SMALL), ShrinkageIRCNet(ShrinkageConfig(stages=2))):
        save_irc_net(net, tmp_path / "w.safetensors", {"note": 1})
        again, summary = load_irc_net(tmp_path / "w.safetensors")
        assert summary == {"note": 1}
        assert again.config == net.config
        for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    (tmp_path / "w.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a readable"):
        load_irc_net(tmp_path / "w.safetensors")
    with pytest.raises(FileNotFoundError):
        load_irc_net(tmp_path / "none.safetensors")


class Noise(PhotosInMemory):
    """Photographs of smooth noise."""

    def __init__(self):
        rng = np.random.default_rng(0)
        coarse = torch.from_numpy(rng.random((4, 3, 30, 30))).float()
        self.images = list(
            (torch.nn.functional.interpolate(coarse, scale_factor=6, mode="bicubic").clamp(0, 1) * 255).byte()
        )


@pytest.mark.parametrize("kind", ["bank", "line", "shake", "round", "camera", "turning"])
def test_known_blur_pairs(kind):
    """What is blurred again by the stated blur is the blurred crop, but for its noise."""
    frequencies = dict.fromkeys(("bank", "line", "shake", "round", "camera", "turning"), 0.0) | {kind: 1.0}
    settings = KnownBlurSettings(
        crop=40, batch=3, max_length=15.0, saturated=0.0, min_noise=1e-3, max_noise=2e-3, **frequencies
    )
    first, again = (next(iter(KnownBlurPairs(Noise(), settings, seed=1))) for _ in range(2))
    assert torch.equal(first.blurred, again.blurred)
    blur = first.blur()
    assert (first.psf is None) == (kind in ("camera", "turning"))
    assert first.error is None
    my, mx = blur.margin
    inner = (..., slice(my, 40 - my), slice(mx, 40 - mx))
    # The crop itself has no margin: compare where none is needed.
    small = (
        type(blur)(first.psf)
        if first.psf is not None
        else MotionBlur(first.motion[:, my : 40 - my, mx : 40 - mx].contiguous(), margin=blur.margin)
    )
    misfit = small.A(first.sharp) - first.blurred[inner]
    assert misfit.std() == pytest.approx(float(first.noise.square().mean().sqrt()), rel=0.2)

    if kind in ("line", "camera"):
        wrong = next(
            iter(
                KnownBlurPairs(
                    Noise(), KnownBlurSettings(crop=40, batch=8, wrong=1.0, linear=0.0, **frequencies), seed=2
                )
            )
        )
        assert wrong.error.shape == (8, 40, 40)
        assert wrong.error.min() > 0.02


def test_kernels_of_shakes():
    for seed in range(20):
        kernel = shake_kernel(25.0, np.random.default_rng(seed))
        rows, columns = np.indices(kernel.shape) - kernel.shape[0] // 2
        assert kernel.min() >= 0
        assert kernel.sum() == pytest.approx(1)
        assert kernel.shape[0] == kernel.shape[1] <= 39
        assert kernel.shape[0] % 2 == 1
        assert np.hypot((kernel * rows).sum(), (kernel * columns).sum()) < 0.5


def test_saturated_pixels_are_masked():
    settings = KnownBlurSettings(crop=40, batch=4, saturated=1.0, camera=0.0, turning=0.0)
    batches = iter(KnownBlurPairs(Noise(), settings, seed=0))
    found = [next(batches) for _ in range(6)]
    masked = [b for b in found if b.mask is not None]
    assert masked
    for batch in masked:
        assert bool(((batch.blurred >= SATURATED).any(1, keepdim=True) == (batch.mask == 0)).all())
        assert batch.blurred.max() <= 1


def test_joint_net_reaches_the_motion():
    """The gradient of the sharp picture's loss arrives at Motion-Net's weights, also where nothing moves."""
    torch.manual_seed(0)
    motion_net = MotionNet(MotionNetConfig(stem=4, widths=(8, 8, 8), blocks=(1, 1, 1), pyramid=8, rates=(1,)))
    with torch.no_grad():
        motion_net.out.bias.copy_(torch.tensor([0.5, 0.2, -2.5]))  # moved, and neither certain nor doubtful
    joint = JointNet(motion_net, IRCNet(SMALL))
    y = rand(2, 3, 40, 48)
    x = joint(y, torch.tensor([0.01, 0.02]))
    assert x.shape == y.shape
    ((x - 0.5) ** 2).mean().backward()
    gradients = [p.grad for p in motion_net.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0
    with torch.no_grad():
        motion_net.out.weight.zero_()
        motion_net.out.bias.zero_()
        motion_net.shortcut.weight.zero_()
    joint.zero_grad()
    ((joint(y, 0.01) - 0.5) ** 2).mean().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in joint.parameters() if p.grad is not None)


def test_joint_net_learns_at_two_paces():
    """Motion-Net at its own, the paper's IRC-Net at those that it has alone."""
    irc_net = ShrinkageIRCNet(ShrinkageConfig(stages=2))
    joint = JointNet(MotionNet(MotionNetConfig(stem=4, widths=(8, 8, 8), blocks=(1, 1, 1), pyramid=8)), irc_net, 0.1)
    for name, _ in joint.named_parameters():
        part, own = name.split(".", 1)
        assert joint.pace(name) == (0.1 if part == "motion_net" else irc_net.pace(own))
    assert JointNet(joint.motion_net, IRCNet(SMALL)).pace("irc_net.log_rho") == 1.0


def test_joint_net_restores_as_photographs_are_restored():
    """Oracle: what the tables and `deblur` make of the same motion and its expected error."""
    torch.manual_seed(0)
    motion_net = MotionNet(MotionNetConfig(stem=4, widths=(8, 8, 8), blocks=(1, 1, 1), pyramid=8, rates=(1,)))
    irc_net = IRCNet(SMALL)
    joint = JointNet(motion_net, irc_net)
    y = 0.8 * rand(1, 3, 72, 80)
    for certainty, believed in ((-4.0, 1.0), (-2.0, 0.6), (1.0, 0.0)):
        with torch.no_grad():
            motion_net.out.bias.copy_(torch.tensor([0.5, 0.2, certainty]))
            x = joint(y, estimate_noise(y))[0].permute(1, 2, 0).clamp(0, 1).numpy()
            motion, error = (t[0].numpy() for t in joint.motion(y))
        image = y[0].permute(1, 2, 0).numpy()
        expected = undo(image, Found(motion, error), "irc-net", irc_net)
        np.testing.assert_allclose(x, expected, atol=1e-5)
        assert (np.abs(expected - image).max() > 0) == (believed > 0)


def write_photos(folder):
    import skimage.io

    for name in ("train", "val"):
        (folder / name).mkdir()
        skimage.io.imsave(folder / name / "a.png", skimage.data.astronaut()[:180, :200])


@pytest.mark.parametrize("prior", ["cnn", "shrinkage"])
def test_training(tmp_path, prior):
    """A few steps: finite, files appear, a stopped run goes on, and another one starts from its weights."""
    pytest.importorskip("lightning")
    from ircdeblur.training.irc_net import load_config, train_irc_net

    write_photos(tmp_path)
    (tmp_path / "c.yaml").write_text(
        f"prior: {prior}\ntrain_time: '00:00:03'\nfolders: [train]\nvalidate_every: 2\nvalidation_pictures: 2\n"
        "start: 3\npairs: {crop: 32, batch: 2, max_length: 10.0, wrong: 0.5, saturated: 0.5}\n"
        "cnn: {stages: 2, width: 4, blocks: [1, 1, 1]}\nshrinkage: {stages: 2, filters: 2, size: 3}\n"
    )
    config = load_config(tmp_path / "c.yaml")
    out = tmp_path / "run"
    weights = train_irc_net(config, tmp_path, out, max_time="00:00:02", progress=False, command="test")
    net, summary = load_irc_net(weights)
    assert len(net.priors if prior == "cnn" else net.shrinkage) == 2
    assert net.config.start == 3
    assert summary["command"] == "test"
    lines = (out / "log.csv").read_text().splitlines()
    assert "val_moderate_gain" in lines[0]
    assert np.isfinite(float(lines[1].split(",")[3]))
    train_irc_net(config, tmp_path, out, resume=out / "last.ckpt", command="test", progress=False)
    assert len((out / "log.csv").read_text().splitlines()) > len(lines)
    other = train_irc_net(config, tmp_path, tmp_path / "next", max_time="00:00:01", weights=weights, progress=False)
    assert load_irc_net(other)[1]["started from"]["command"] == "test"


def test_end_to_end_training(tmp_path):
    pytest.importorskip("lightning")
    from ircdeblur.nets.checkpoints import load_motion_net, save_motion_net
    from ircdeblur.training.end_to_end import load_config, train_end_to_end

    write_photos(tmp_path)
    torch.manual_seed(0)
    motion_net = MotionNet(MotionNetConfig(stem=4, widths=(8, 8, 8), blocks=(1, 1, 1), pyramid=8, rates=(1,)))
    save_motion_net(motion_net, tmp_path / "m.safetensors")
    save_irc_net(IRCNet(SMALL), tmp_path / "i.safetensors")
    (tmp_path / "c.yaml").write_text(
        "train_time: '00:00:03'\nfolders: [train]\nvalidate_every: 2\nvalidation_pictures: 2\n"
        "pairs: {crop: 32, batch: 2, max_length: 10.0}\n"
    )
    out = tmp_path / "run"
    files = (tmp_path / "m.safetensors", tmp_path / "i.safetensors")
    weights = train_end_to_end(load_config(tmp_path / "c.yaml"), tmp_path, out, weights=files, progress=False)
    assert weights == out / "irc-net.safetensors"
    moved = load_motion_net(out / "motion-net.safetensors")
    assert any(not torch.equal(a, b) for a, b in zip(moved.parameters(), motion_net.parameters(), strict=True))
    assert "val_severe_gain" in (out / "log.csv").read_text()
    assert moved.config == motion_net.config


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        ("irc_net", "prior: magic", "cnn, shrinkage"),
        ("irc_net", "pairs: {size: 3}", "pairs.size"),
        ("irc_net", "taught: 0.5", "replay of at least 1"),
        ("irc_net", "replay: 2\ntogether: true\nprior: shrinkage", "prior: cnn"),
        ("irc_net", "replay: 2\ntaught: 1.5", "taught must be in"),
        ("irc_net", "blind: 2", "blind must be in"),
        ("irc_net", "camera_pairs: {speed: 3}", "camera_pairs.speed"),
        ("irc_net", "view: 64", "replay of at least 1"),
        ("irc_net", "replay: 2\nview: -5", "0 or in 1"),
        ("irc_net", "loss: cubic", "absolute, rms"),
        ("irc_net", "train_time: '5'", "HH:MM:SS"),
        ("irc_net", "optimizer: sgd", "adamw, muon"),
        ("end_to_end", "optimizer: sgd", "adamw, muon"),
        ("end_to_end", "dataset_share: 0.2", "needs datasets"),
        ("end_to_end", "loss: huge", "loss must be one of"),
        ("irc_net", "replay: 2\nview: 121", "the crop less 8 px"),
        ("irc_net", "replay: 2\njoined: 2", "1 without a view"),
        ("irc_net", "workers: -1", "workers at least 0"),
        ("irc_net", "kept: 3", "kept must be at least 4"),
        ("irc_net", "start: -1", "start must be 0 or more"),
        ("end_to_end", "speed: 3", "unknown setting speed"),
    ],
)
def test_bad_configuration(tmp_path, module, text, message):
    pytest.importorskip("lightning")
    import importlib

    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        importlib.import_module(f"ircdeblur.training.{module}").load_config(tmp_path / "c.yaml")


def test_polar_of_a_disturbed_motion_stays_within_reach():
    settings = KnownBlurSettings(crop=40, batch=4, wrong=1.0, max_error=20.0, bank=0, line=0, shake=0, round=0)
    batch = next(iter(KnownBlurPairs(Noise(), settings, seed=0)))
    assert float(to_polar(batch.motion)[0].max()) <= 35 + 1e-3
    assert from_polar(torch.tensor(3.0), torch.tensor(0.0))[0] == 3


def test_errors_of_motions_may_be_understated():
    honest, understated = (
        next(iter(KnownBlurPairs(Noise(), KnownBlurSettings(crop=40, batch=8, wrong=1.0, understated=share), seed=0)))
        for share in (0.0, 1.0)
    )
    torch.testing.assert_close(honest.blurred, understated.blurred, rtol=0, atol=0)
    ratio = (understated.error / honest.error)[:, 0, 0]
    assert 0 <= float(ratio.min()) < float(ratio.max()) <= 0.5
    assert float(ratio.std()) > 0.05


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_what_a_prior_is_shown_turns_with_the_picture(transpose, upside_down, mirror):
    """The oracle is the solver on the turned picture, with its motions turned by the definition of u and v."""
    blur = motion_blur()
    my, mx = blur.margin
    photo = torch.from_numpy(skimage.data.astronaut()[: 60 + 2 * my, 150 : 220 + 2 * mx].copy()).permute(2, 0, 1)[None]
    y, motion = blur.A(photo / 255), blur.motion
    net = IRCNet(dataclasses.replace(SMALL, start=8))
    net.log_rho.data[0] = 0.0

    def shown(y, motion):
        state = net.start(y, MotionBlur(motion.contiguous()), 0.02, torch.full(y[:, 0].shape, 0.5))
        state.v = 0.9 * state.seen.x  # in place of a proposal: a network does not turn with the picture
        net.update(state, 1)
        return state.seen

    turned = motion.transpose(0, 1).flip(-1) if transpose else motion
    if upside_down:
        turned = turned.flip(0) * turned.new_tensor([1, -1])
    if mirror:
        turned = turned.flip(1) * turned.new_tensor([-1, 1])
    with torch.no_grad():
        truth = shown(orient(y, transpose, upside_down, mirror), turned)
        seen = shown(y, motion).oriented(transpose, upside_down, mirror)
    np.testing.assert_allclose(seen.maps.numpy(), truth.maps.numpy(), atol=1e-5)
    # Where windows begin, and that differences look back, is not symmetric: that leaves some thousandths.
    for mine, other in zip((seen.x, *seen.residuals), (truth.x, *truth.residuals), strict=True):
        np.testing.assert_allclose(mine.mean(), other.mean(), atol=2e-3)
        assert float((mine - other).abs().mean()) < (3e-3 if upside_down or mirror else 1e-6)


@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_an_ensemble_turns_with_the_picture(turn):
    """Whatever the weights: what all orientations propose on average is the same for a picture and for it turned."""
    torch.manual_seed(3)
    net = IRCNet(SMALL)
    net.fast = False
    with torch.no_grad():
        for prior in net.priors:
            prior.exit.weight.mul_(100)
        y, blur = rand(1, 3, 32, 36), motion_blur((32, 36))
        state = net.start(y, blur, 0.01)
        blurred = state.layer.extend(y)
        # Of whole blocks of 4 x 4, which lie alike in all orientations.
        rows, columns = (n // 4 * 4 for n in blurred.shape[-2:])
        cut = (slice(None), slice(None), slice(0, rows), slice(0, columns))
        seen = Seen(
            state.seen.x[cut], tuple(r[cut] for r in state.seen.residuals), state.seen.maps[cut], state.seen.unit
        )
        blurred = blurred[cut]

        def proposed(seen, blurred, all_of_them):
            net.orientations = ORIENTATIONS if all_of_them else ORIENTATIONS[:1]
            layer = SimpleNamespace(extend=lambda y: y, observed=SimpleNamespace(y=blurred))
            now = State(layer, state.sigma, None, seen, state.data, seen.x)
            net.propose(now, 0)
            return net.propose(now, 1)

        expected = orient(proposed(seen, blurred, True), *turn)
        found = proposed(seen.oriented(*turn), orient(blurred, *turn), True)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
        if any(turn):
            alone = proposed(seen.oriented(*turn), orient(blurred, *turn), False)
            assert (alone - orient(proposed(seen, blurred, False), *turn)).abs().max() > 1e-3


def test_the_packages_ensemble_is_better(tmp_path):
    photo = torch.from_numpy(skimage.data.astronaut()[60:240, 130:330] / 255.0).permute(2, 0, 1)[None].float()
    blur = MotionBlur(torch.from_numpy(camera_shake((140, 160), 15.0, seed=2)), margin=(20, 20))
    y = blur.A(photo) + 0.01 * torch.randn(1, 3, 140, 160, generator=torch.Generator().manual_seed(0))
    sharp = photo[..., 20:-20, 20:-20]
    errors = [
        float((methods.deconvolve(y, blur, 0.01, name).x - sharp).square().mean())
        for name in ("irc-net", "irc-net-plus")
    ]
    assert errors[1] < 0.99 * errors[0]
    plain, plus = (methods.irc_net(torch.device("cpu"), name) for name in ("irc-net", "irc-net-plus"))
    assert plain.config.start < plus.config.start == methods.ENSEMBLE_START
    save_irc_net(ShrinkageIRCNet(ShrinkageConfig(stages=1)), tmp_path / "paper.safetensors")
    with pytest.raises(ValueError, match="takes the weights of an irc-net"):
        methods.deconvolve(y, blur, 0.01, "irc-net-plus", irc_net_weights=tmp_path / "paper.safetensors")


def test_penalties_and_scales_learn_faster():
    pytest.importorskip("lightning")
    from ircdeblur.training.loop import TrainingModule

    net = ShrinkageIRCNet(ShrinkageConfig(stages=2, filters=2, size=3))
    schedule = SimpleNamespace(optimizer="adamw", learning_rate=1e-3, weight_decay=0.1)
    groups = TrainingModule(net, None, schedule, None).configure_optimizers().param_groups
    pace = {id(p): g["pace"] for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(pace) == len(list(net.parameters()))
    found = {name: pace[id(p)] for name, p in net.named_parameters()}
    assert found["log_rho"] == found["penalty_exponent"] == found["shrinkage.1.log_scale"] == 30
    assert found["filters.taps"] == found["shrinkage.0.change"] == 1
    assert found["gain.excess"] == 0.5
    assert {(p.ndim > 1, g["weight_decay"]) for g in groups for p in g["params"]} == {(True, 0.1), (False, 0.0)}
    other = TrainingModule(IRCNet(SMALL), None, schedule, None).configure_optimizers().param_groups
    assert {g["pace"] for g in other} == {1.0}


def test_a_batch_with_its_start_is_the_batch():
    pytest.importorskip("lightning")
    from ircdeblur.training.irc_net import deconvolution_loss, started_loss
    from ircdeblur.training.replay import StartedReplay

    net = ShrinkageIRCNet(ShrinkageConfig(stages=2, filters=2, size=3, start=4))
    photos = [torch.randint(0, 256, (3, 90, 90), generator=torch.Generator().manual_seed(i)) for i in range(2)]
    source = SimpleNamespace(crop=lambda size, rng: photos[int(rng.integers(2))][:, :size, :size].to(torch.uint8))
    pairs = KnownBlurPairs(source, KnownBlurSettings(crop=32, batch=2, wrong=0.5, saturated=0.5), seed=1)
    seen = list(itertools.islice(StartedReplay(net, pairs, 2, seed=0), 3))
    whole, started = deconvolution_loss(0.1), started_loss(0.1)
    for batch in seen:
        assert batch.blurred is batch.pair.blurred
        with torch.no_grad():
            assert float(started(net, batch)) == pytest.approx(float(whole(net, batch.pair)), rel=1e-6)


class OnePhoto:
    """A source of crops for small training pairs."""

    def __init__(self):
        self.image = (255 * rand(3, 90, 90)).to(torch.uint8)

    def crop(self, size, rng):
        """The same corner each time."""
        return self.image[:, :size, :size]


def trained_by(net, loss):
    """Names of the parameters that a loss reaches."""
    net.zero_grad()
    loss.backward()
    return {name for name, p in net.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}


def test_batches_are_replayed_as_often_as_asked_for():
    pytest.importorskip("lightning")
    from ircdeblur.training.replay import replayed

    made = []
    source = (made.append(i) or i for i in itertools.count())
    views = list(itertools.islice(replayed(source, 5, np.random.default_rng(0), kept=20), 2000))
    assert len(made) == 5 + 399
    assert abs(np.bincount(views)[5:-20].mean() - 5) < 0.3
    assert min(views[-100:]) > 200
    # The first one of five: 5 / 5 + 5 / 6 + ... + 5 / 20 views until the memory is full, and 5 more. Alone at first it
    # would have had 5 / 1 + ... + 5 / 4 besides: 23 instead of 13.
    orders = (
        itertools.islice(replayed(itertools.count(), 5, np.random.default_rng(i), kept=20), 600) for i in range(40)
    )
    assert 9 < np.mean([list(order).count(0) for order in orders]) < 17


def test_replayed_batches():
    """Each is one of the prepared ones, turned; the loss of the second prior sees the first one's features."""
    pytest.importorskip("lightning")
    from ircdeblur.training.irc_net import stage_loss
    from ircdeblur.training.replay import RIM, Preparation, Replay

    torch.manual_seed(0)
    net = IRCNet(SMALL)
    pairs = KnownBlurPairs(OnePhoto(), KnownBlurSettings(crop=32, batch=2, max_length=9.0, wrong=0.5), 0)
    batches = list(itertools.islice(Replay(map(Preparation(net, 1), pairs), times=60, seed=0), 60))
    assert len({round(float(b.blurred.double().sum()), 6) for b in batches}) <= 24
    assert len({float(b.blurred[0, 0, 0, 0]) for b in batches}) > 30  # turned
    batches = batches[:9]
    for batch in batches:
        assert len(batch.seen) == 2
        # The sharp crop lies in the middle of what is shown, and is like it.
        rim = [(a - b) // 2 for a, b in zip(batch.seen[0].x.shape[-2:], batch.target.shape[-2:], strict=True)]
        assert all(0 <= r <= RIM for r in rim)
        assert batch.seen[1].maps.shape[-2:] == batch.seen[1].x.shape[-2:] == batch.blurred.shape[-2:]
    trained = trained_by(net, stage_loss(1)(net, batches[0]))
    assert trained
    assert all(name.startswith("priors.1.") for name in trained)


def test_views_of_replayed_batches():
    """Each is a square of its crop: of everything the same one, for each crop another, with the rim around it."""
    pytest.importorskip("lightning")
    from ircdeblur.training.irc_net import stage_loss
    from ircdeblur.training.replay import Preparation, Replay

    torch.manual_seed(0)
    net = IRCNet(SMALL)
    pairs = KnownBlurPairs(OnePhoto(), KnownBlurSettings(crop=48, batch=3, max_length=9.0), 0)
    whole = Preparation(net, 1)(next(iter(pairs)))
    # Row and column in place of the pixels, so that the place of a square can be read off.
    height, width = whole.blurred.shape[-2:]
    rims = [(a - b) // 2 for a, b in zip((height, width), whole.target.shape[-2:], strict=True)]
    rows, columns = torch.meshgrid(torch.arange(height) - rims[0], torch.arange(width) - rims[1], indexing="ij")
    place = torch.stack((rows, columns)).float().expand(3, -1, -1, -1)
    marked = whole._replace(
        blurred=place,
        target=crop_rim(place, *rims),
        seen=tuple(seen.mapped(lambda t: place.repeat(1, 3, 1, 1)[:, : t.shape[1]]) for seen in whole.seen),
    )
    corners = set()
    rng = np.random.default_rng(0)
    for _ in range(40):
        view = marked.cut(20, rng)
        assert view.target.shape == (3, 2, 20, 20)
        for i in range(3):
            top, left = (int(v) for v in view.target[i, :, 0, 0])
            corners.add((top, left))
            assert 0 <= min(top, left) <= max(top, left) <= 28
            inner = crop_rim(view.blurred, *rims)[i]
            torch.testing.assert_close(inner, view.target[i], rtol=0, atol=0)
            expected = place[i, :, top : top + 20 + 2 * rims[0], left : left + 20 + 2 * rims[1]]
            for t in (view.blurred, *(t[:, :2] for seen in view.seen for t in (seen.x, seen.maps, *seen.residuals))):
                torch.testing.assert_close(t[i], expected, rtol=0, atol=0)
    assert len(corners) > 80
    view = next(iter(Replay(map(Preparation(net, 1), pairs), times=1, seed=0, view=20)))
    assert view.target.shape[-2:] == (20, 20)
    assert trained_by(net, stage_loss(1)(net, view))


def test_squares_of_several_batches_are_joined():
    """Batches whose crops have rims of other widths give squares with the same one, and stay in order."""
    pytest.importorskip("lightning")
    from ircdeblur.training.irc_net import stage_loss
    from ircdeblur.training.replay import RIM, Preparation, Prepared, Replay

    rng = np.random.default_rng(0)

    def batch(rims, count):
        whole = rand(count, 3, 40 + 2 * rims[0], 40 + 2 * rims[1], seed=count)
        seen = Seen(whole, (whole, whole, whole), whole.repeat(1, 2, 1, 1), rand(1, 1, 1, 1))
        return Prepared(whole, crop_rim(whole, *rims), (seen, seen))

    parts = [batch(rims, count).cut(24, rng) for rims, count in (((4, 4), 2), ((2, 3), 3), ((0, 4), 1))]
    joined = Prepared.joined(parts)
    assert joined.target.shape == (6, 3, 24, 24)
    for t in (joined.blurred, *(t[:, :3] for s in joined.seen for t in (s.x, *s.residuals, s.maps))):
        assert t.shape[-2:] == (24 + 2 * RIM, 24 + 2 * RIM)
        torch.testing.assert_close(crop_rim(t, RIM, RIM), joined.target, rtol=0, atol=0)
        torch.testing.assert_close(t, torch.cat([part.blurred for part in parts]), rtol=0, atol=0)
    assert all(s.unit.shape == (6, 1, 1, 1) for s in joined.seen)

    torch.manual_seed(0)
    net = IRCNet(SMALL)
    pairs = KnownBlurPairs(OnePhoto(), KnownBlurSettings(crop=48, batch=2, max_length=9.0), 0)
    replay = Replay(map(Preparation(net, 1), pairs), times=2, seed=0, view=32, joined=3, kept=8)
    for together in itertools.islice(replay, 4):
        assert together.target.shape == (6, 3, 32, 32)
    assert trained_by(net, stage_loss(1)(net, together))


def test_pairs_made_beside():
    """Other processes make what this one would make, each from a seed of its own, in the same order every time."""
    pytest.importorskip("lightning")
    from ircdeblur.training.irc_net import WORKERS_APART, IRCTrainingConfig, pairs_of, training_pairs

    config = IRCTrainingConfig(workers=2, pairs=KnownBlurSettings(crop=32, batch=2, max_length=9.0, wrong=0.5))
    cpu = torch.device("cpu")
    made = pairs_of(OnePhoto(), config, 5, cpu)
    own = [iter(training_pairs(OnePhoto(), config, 5 + k * WORKERS_APART, cpu)) for k in range(2)]
    for number, pair in enumerate(itertools.islice(made, 8)):
        expected = next(own[number % 2])
        for a, b in zip(pair, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                # One thread there, two here: sums are added up in another order.
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
                assert not a.is_shared()


def test_losses():
    pytest.importorskip("lightning")
    from ircdeblur.training.irc_net import distance

    x, sharp = (rand(2, 3, 8, 8, seed=seed) for seed in range(2))
    off = (x - sharp).numpy()
    # Rounding off at 0.001 changes differences of this size by some 1e-5 of theirs.
    assert float(distance([x], sharp, 0.1)) == pytest.approx(100 * np.abs(off).mean(), rel=1e-3)
    rms = 100 * np.sqrt((off**2).mean((1, 2, 3))).mean()
    assert float(distance([x], sharp, 0.1, "rms")) == pytest.approx(rms, rel=1e-3)
    assert float(distance([sharp, x], sharp, 0.1, "rms")) == pytest.approx(rms + 0.1 * 0.1, rel=1e-3)
    assert float(distance([x, sharp], sharp, 0.5, "rms")) == pytest.approx(0.1 + rms / 2, rel=1e-3)


def test_priors_trained_together():
    """The loss is that of the whole network, but for the x-update, which is as it was prepared."""
    pytest.importorskip("lightning")
    from ircdeblur.training.irc_net import distance, stage_loss
    from ircdeblur.training.replay import Preparation

    torch.manual_seed(0)
    net = IRCNet(SMALL)
    net.copy_first_prior()
    pairs = KnownBlurPairs(OnePhoto(), KnownBlurSettings(crop=32, batch=2, max_length=9.0), 0)
    pair = next(iter(pairs))
    prepare = Preparation(net, 1, rim=99)  # the estimates' whole rim, as the network has it
    batch = prepare(pair)
    loss = stage_loss(1, together=True, earlier=0.25)
    with torch.no_grad():
        whole = distance(net.estimates(pair.blurred, pair.blur(), pair.noise), pair.sharp, 0.25)
    assert float(loss(net, batch).detach()) == pytest.approx(float(whole), rel=1e-5)
    trained = trained_by(net, loss(net, batch))
    assert {name.split(".conv")[0] for name in trained} >= {
        "observe.weight",
        "priors.0.entry.weight",
        "priors.1.exit.weight",
    }
    assert not trained & {"log_rho", "merge", "noise_exponent"}
    # Without the earlier estimates the first prior is still reached, through its features.
    assert "priors.0.entry.weight" in trained_by(net, stage_loss(1, together=True)(net, batch))


def test_the_teacher_is_nearer_to_the_truth_than_the_network():
    pytest.importorskip("lightning")
    from ircdeblur.training.replay import Preparation, Teacher

    photo = torch.from_numpy(skimage.data.astronaut()[60:200, 130:270]).permute(2, 0, 1)
    settings = KnownBlurSettings(crop=64, batch=2, max_length=12.0, camera=1, turning=0, line=0, shake=0, round=0)
    settings = dataclasses.replace(settings, min_noise=0.004, max_noise=0.03, saturated=0.0)
    source = SimpleNamespace(crop=lambda size, rng: photo[:, :size, :size])
    pairs = KnownBlurPairs(source, settings, 1)
    net = load_irc_net("irc-net")[0]
    teacher = Teacher(net)
    for pair in itertools.islice(pairs, 3):
        state = net.start(pair.blurred, pair.blur(), pair.noise)
        taught = teacher(state, pair)
        with torch.no_grad():
            own = net(pair.blurred, pair.blur(), pair.noise)
            net.orientations = ORIENTATIONS
            oriented = net(pair.blurred, pair.blur(), pair.noise)
            net.orientations = ORIENTATIONS[:1]
        assert not state.features
        assert ((taught - pair.sharp).square().mean((1, 2, 3)) < (own - pair.sharp).square().mean((1, 2, 3))).all()
        for i, noise in enumerate(pair.noise.tolist()):
            # Only noisy crops are shown to epll.
            changed = float((taught - oriented)[i].abs().max())
            assert (changed > 1e-4) == (noise >= Teacher.LEAST_NOISE)
    assert teacher.net is not net
    target = Preparation(net, 1, taught=0.25)(pair).target
    torch.testing.assert_close(target, 0.75 * pair.sharp + 0.25 * taught, rtol=0, atol=1e-5)
    # A motion that may be wrong would mislead epll.
    doubtful = pair._replace(error=torch.ones_like(pair.blurred[:, 0]))
    torch.testing.assert_close(teacher(net.start(pair.blurred, pair.blur(), pair.noise), doubtful), oriented)


def test_a_believed_motion_is_that_of_the_kernel():
    for length, angle in ((10, 30), (20, 100), (15, 0), (25, 150)):
        found = straight_motion(linear_motion_kernel(length, angle))
        # A kernel has a width of a pixel: its variance is a twelfth of one more.
        assert found[0] == pytest.approx(length, abs=0.1)
        assert found[1] == pytest.approx(angle, abs=0.5)
        assert found[2] < 1.5
    length, _, wide = straight_motion(round_kernel(3, True))
    # The variance of a disc of radius r along any axis is r^2 / 4.
    assert length == pytest.approx(wide)
    assert length == pytest.approx(3 * np.sqrt(3), rel=0.05)
