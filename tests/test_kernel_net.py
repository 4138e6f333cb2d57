"""Kernel-Net: what it is shown, what it answers, what it learns from, and its training."""

import itertools

import numpy as np
import pytest
import skimage.data
import skimage.io
import torch

import ircdeblur
from ircdeblur import restore
from ircdeblur.app.cli import main
from ircdeblur.app.job import describe_kernel
from ircdeblur.data.known_blur import shake_kernel
from ircdeblur.nets.checkpoints import load_kernel_net, save_kernel_net
from ircdeblur.nets.evidence import SpectralEvidence
from ircdeblur.nets.kernel_net import CHANNELS, POLISHED, KernelNet, KernelNetConfig, corrected, maps_of
from ircdeblur.nets.weights_file import training_summary
from ircdeblur.solvers.blind_kernel import RIDGE, edge_maps, polished
from ircdeblur.training import kernel_net as training
from ircdeblur.training.kernel_net import (
    LEAST_NOISE,
    VIEW,
    FoundKernels,
    Kernels,
    KernelTrainingConfig,
    Replay,
    aligned,
    decibels,
    expected_errors,
    load_config,
    train_kernel_net,
)

TINY = KernelNetConfig(widths=(4, 6), blocks=1)


@pytest.fixture(scope="module")
def curve():
    """The curved path of a shaking hand, in a square of 27 px."""
    psf = shake_kernel(14.0, np.random.default_rng(8))
    return np.pad(psf, (27 - len(psf)) // 2)


@pytest.fixture(scope="module")
def shaken(curve):
    """A part of the astronaut, blurred by it, (H, W) float64."""
    scene = skimage.data.astronaut()[20:280, 130:390] @ (0.299, 0.587, 0.114) / 255
    size = scene.shape
    blurred = np.fft.irfft2(np.fft.rfft2(scene) * np.fft.rfft2(curve, s=size), s=size)[26:, 26:]
    return torch.from_numpy(blurred + np.random.default_rng(5).normal(0, 0.004, blurred.shape))


def test_slopes_of_a_kernel_are_finite_differences(curve, shaken):
    evidence = SpectralEvidence(shaken[None, None], 0.004)
    wrong = (curve + np.roll(curve, 2, 0)) / 2
    slopes = evidence.kernel_slopes(wrong, 2.0)[0]
    size = np.abs(slopes).max()
    for place in ((13, 13), (11, 15), (16, 9), (3, 20)):
        step = np.zeros_like(wrong)
        step[place] = 1e-5
        both = [float(evidence.log_likelihood_of_kernel(wrong + s, 2.0).sum()) for s in (step, -step)]
        # The amplitudes are only nearly the most likely ones.
        assert slopes[place] == pytest.approx((both[0] - both[1]) / 2e-5, rel=0.02, abs=0.002 * size)


def test_deviations_have_the_phase_of_the_kernel_and_are_standard():
    """Of windows without any blur, for the kernel 1: about one standard deviation at each frequency."""
    rng = np.random.default_rng(0)
    fy, fx = np.fft.fftfreq(260)[:, None], np.fft.rfftfreq(260)[None]
    scene = np.fft.irfft2(
        np.fft.rfft2(rng.normal(size=(260, 260))) / np.maximum(np.hypot(fy, fx), 1 / 64), s=(260, 260)
    )
    evidence = SpectralEvidence(torch.from_numpy(0.5 + 0.15 * scene / scene.std())[None, None], 0.002)
    one = np.zeros((65, 65))
    one[32, 32] = 1
    deviations = evidence.kernel_slopes(one, 2.0)[1]
    # A sum of cosines around the pixel.
    np.testing.assert_allclose(deviations, deviations[::-1, ::-1], atol=1e-9)
    moved = evidence.kernel_slopes(np.roll(one, (3, -5), (0, 1)), 2.0)[1]
    np.testing.assert_allclose(moved[10:-10, 10:-10], np.roll(deviations, (3, -5), (0, 1))[10:-10, 10:-10], atol=1e-9)
    # A few less than there are, as the amplitudes are fitted; more, as neighbouring windows overlap.
    count = evidence._at.weight * len(evidence._at.index)
    assert 0.3 < 2 * deviations.var() / count < 3


def test_edge_maps_are_what_the_search_cleans(curve, shaken):
    maps = edge_maps(shaken, curve, (RIDGE, 0.1 * RIDGE))
    assert maps.shape == (2, 27, 27)
    stiff, loose = maps

    def like(k):
        return (k * curve).sum() / np.sqrt((k**2).sum() * (curve**2).sum())

    assert like(stiff) > 0.8
    assert stiff.min() < 0  # nothing is cut off
    assert (loose**2).sum() > (stiff**2).sum()


def test_maps_turn_with_the_photograph(curve, shaken):
    """Transposed, mirrored: nearly so, as the lattice of the frequencies and the forward differences are not turned."""
    polish = polished(shaken, curve)

    def maps(turn):
        luma = turn(shaken).contiguous()
        kernels = [turn(torch.from_numpy(k)).numpy().copy() for k in (curve, polish)]
        return maps_of(luma, SpectralEvidence(luma[None, None], 0.004), *kernels)

    plain = maps(lambda t: t)
    assert plain.shape == (CHANNELS, 27, 27)
    assert plain.dtype == torch.float32
    assert plain[POLISHED].max() == 1
    for turn in (lambda t: t.mT, lambda t: t.flip(-1)):
        for number, (a, b, c) in enumerate(zip(maps(turn)[:-1], turn(plain), plain, strict=False)):
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > (0.85 if number in (4, 5) else 0.97)
            assert np.corrcoef(a.ravel(), c.ravel())[0, 1] < 0.8


def test_no_network_of_nothing():
    with pytest.raises(ValueError, match="at least 1"):
        KernelNetConfig(widths=())
    with pytest.raises(ValueError, match="at least 1"):
        KernelNetConfig(blocks=0)


@pytest.mark.parametrize("side", [3, 25, 45, 81])
def test_kernels_of_any_side(side):
    torch.manual_seed(0)
    net = KernelNet(TINY)
    maps = torch.randn(2, CHANNELS, side, side)
    kernels = net(maps)
    assert kernels.shape == (2, side, side)
    assert kernels.min() >= 0
    torch.testing.assert_close(kernels.sum((-2, -1)), torch.ones(2), rtol=0, atol=1e-5)
    # Without its last layer it answers with the kernel that was found.
    torch.nn.init.zeros_(net.last.weight)
    before = maps[:, POLISHED].clamp(min=0)
    torch.testing.assert_close(net(maps), before / before.sum((-2, -1), keepdim=True))


def test_the_answer_is_centred(curve):
    net = KernelNet(TINY)
    torch.nn.init.zeros_(net.last.weight)
    maps = torch.zeros(CHANNELS, 27, 27)
    maps[POLISHED] = torch.from_numpy(np.roll(curve, (2, -1), (0, 1)))
    np.testing.assert_allclose(corrected(net, maps), curve, atol=1e-6)
    # One that leaves nothing of it is not asked.
    net.last.bias.data.fill_(-10.0)
    np.testing.assert_allclose(corrected(net, maps), curve, atol=1e-6)


def test_weights_survive_their_file(tmp_path):
    torch.manual_seed(1)
    net = KernelNet(TINY).eval()
    save_kernel_net(net, tmp_path / "k.safetensors", {"made by": "test"})
    other = load_kernel_net(tmp_path / "k.safetensors")
    assert other.config == TINY
    maps = torch.randn(1, CHANNELS, 25, 25)
    assert torch.equal(net(maps), other(maps))
    assert training_summary(tmp_path / "k.safetensors") == {"made by": "test"}


def test_expected_errors_are_those_of_many_scenes(curve):
    """Oracle: Wiener's filter of a wrong kernel, in NumPy, on scenes that are drawn with that power."""
    rng = np.random.default_rng(2)
    n, noise = training.GRID, 0.02
    wrong = (curve + np.roll(curve, 1, 1)) / 2
    f = np.fft.fftfreq(n)
    power = 1 / (f[:, None] ** 2 + f**2 + training.CORNER**2)
    power *= training.VARIANCE / power.mean()
    true, believed = (np.fft.fft2(k, s=(n, n)) for k in (curve, wrong))
    inverse = believed.conj() * power / (np.abs(believed) ** 2 * power + noise**2)
    lost = []
    for _ in range(60):
        scene = np.fft.fft2(rng.normal(size=(n, n))) * np.sqrt(power)
        seen = scene * true + np.fft.fft2(rng.normal(0, noise, (n, n)))
        lost.append(np.mean(np.abs(np.fft.ifft2(inverse * seen - scene)) ** 2))
    k, t = (torch.from_numpy(a).float()[None] for a in (wrong, curve))
    found = float(expected_errors(k, t, torch.tensor([noise])))
    assert found == pytest.approx(np.mean(lost), abs=4 * np.std(lost) / np.sqrt(len(lost)))
    best = float(expected_errors(t, t, torch.tensor([noise])))
    assert float(decibels(k, t, torch.tensor([noise]))) == pytest.approx(10 * np.log10(found / best), rel=1e-4)
    # Less noise than LEAST_NOISE counts as that much.
    low, least = (expected_errors(k, t, torch.tensor([s])) for s in (0.0, LEAST_NOISE))
    assert torch.equal(low, least)


def test_the_place_of_a_kernel_does_not_count(curve):
    """One that is moved by fractions of a pixel is moved back: to an eighth, of which little is lost."""
    n = 64
    turns = np.fft.fftfreq(n)[:, None] * 3.3 + np.fft.fftfreq(n) * -1.6
    found = np.fft.ifft2(np.fft.fft2(np.pad(curve, (0, n - 27))) * np.exp(-2j * np.pi * turns)).real
    found = np.pad(found, ((0, 0), (2, 0)))[:VIEW, :VIEW]
    moved = aligned(curve, found, 0.01)
    k, t, start = (torch.from_numpy(a).float()[None] for a in (found, moved, np.pad(curve, (VIEW - 27) // 2)))
    noise = torch.tensor([0.01])
    assert float(decibels(k, t, noise)) < 0.2
    assert float(decibels(k, start, noise)) > 3


def test_kernels_are_found_where_they_are_believed(monkeypatch):
    monkeypatch.setattr(training, "SIDES", (25, 45))
    photo = torch.from_numpy(skimage.data.camera()[100:400, 100:400].copy())[None]
    config = KernelTrainingConfig(shakes=(10.0, 14.0), noise=(0.003, 0.005), linear=0.0, compressed=0.0)
    first, again = (next(iter(FoundKernels([photo], config, 3))) for _ in range(2))
    assert first.maps.shape == (1, CHANNELS, VIEW, VIEW)
    assert first.truth.shape == (1, VIEW, VIEW)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert float(first.truth.sum()) == pytest.approx(1, abs=0.05)
    found = first.maps[:, POLISHED]
    assert 0 <= float(decibels(found / found.sum(), first.truth, first.noise)) < 10
    flat = torch.full((1, 300, 300), 128, dtype=torch.uint8)
    assert FoundKernels([flat], config, 3).found_in(flat, np.random.default_rng(0)) is None


@pytest.mark.parametrize(("linear", "compressed"), [(False, False), (True, True)])
def test_photographs_are_shaken_as_said(curve, linear, compressed):
    """Oracle: sums over shifted copies in NumPy; in linear light, and as a JPEG file, if so."""
    config = KernelTrainingConfig(noise=(1e-4, 1e-4), compressed=float(compressed))
    photo = torch.from_numpy(skimage.data.camera()[::4, ::4].copy())[None]
    psf = curve[4:-4, 4:-4] / curve[4:-4, 4:-4].sum()
    found = FoundKernels([photo], config, 0)._shaken(photo, psf, linear, np.random.default_rng(0))[0, 0].numpy()
    scene = photo[0].numpy() / 255
    light = np.where(scene <= 0.04045, scene / 12.92, ((scene + 0.055) / 1.055) ** 2.4) if linear else scene
    total = sum(w * np.roll(light, (i - 9, j - 9), (0, 1)) for (i, j), w in np.ndenumerate(psf))
    if linear:
        total = np.where(total <= 0.0031308, 12.92 * total, 1.055 * total ** (1 / 2.4) - 0.055)
    total = total[20:-20, 20:-20]
    assert found.shape == tuple(n // 8 * 8 for n in total.shape) if compressed else found.shape == total.shape
    off = found - total[: found.shape[0], : found.shape[1]]
    # Rounding to 8 bits, and what a JPEG file of quality 85 loses.
    assert np.sqrt((off**2).mean()) < (0.03 if compressed else 0.0016)


def test_batches_are_turned_kernel_by_kernel():
    torch.manual_seed(0)
    one = Kernels(torch.randn(1, CHANNELS, VIEW, VIEW), torch.randn(1, VIEW, VIEW), torch.tensor([0.01]))
    assert one.blurred is one.maps
    turns = list(itertools.product((False, True), repeat=3))
    copies = [one.oriented(*turn) for turn in turns]
    for i, a in enumerate(copies):
        # Maps and truth together.
        assert float((a.maps[0, 0] * a.truth[0]).sum()) == pytest.approx(float((one.maps[0, 0] * one.truth[0]).sum()))
        assert not any(torch.equal(a.truth, b.truth) for b in copies[:i])
    config = KernelTrainingConfig(batch=24, kept=4, replay=2)
    batch = next(iter(Replay(itertools.repeat(one), config, 0)))
    assert batch.maps.shape == (24, CHANNELS, VIEW, VIEW)
    assert batch.noise.shape == (24,)
    seen = {next(i for i, c in enumerate(copies) if torch.equal(c.truth[0], t)) for t in batch.truth}
    assert len(seen) > 5


def test_specks_are_not_told_as_path(curve):
    rows, columns = (np.ptp(places) + 1 for places in np.nonzero(curve > 0.01 * curve.max()))
    specks = curve + 1e-4 * curve.max()
    assert describe_kernel(specks) == f"a curved path, the same all over, of {columns} x {rows} px"


def test_weights_of_ones_own(tmp_path, monkeypatch, capsys):
    """From Python and from the command line: they are used, and refused if they are none."""
    asked = []

    def asks(images, index, found, net):
        asked.append(net)

    monkeypatch.setattr(restore, "kernel_of", asks)
    monkeypatch.setattr(restore, "is_sure", lambda *arguments: False)
    own, photo = tmp_path / "own.safetensors", tmp_path / "in.png"
    save_kernel_net(KernelNet(TINY), own)
    skimage.io.imsave(photo, skimage.data.astronaut()[:80, :90])
    image = skimage.io.imread(photo)
    assert ircdeblur.estimate_psf(image, kernel_net=own) is None
    ircdeblur.deblur(image, kernel_net=own, method="fft")
    ircdeblur.deblur(image, method="fft")
    out = str(tmp_path / "out.png")
    assert main(["psf", str(photo), "-o", str(tmp_path / "k.tif"), "--kernel-net", str(own)]) == 1  # there is none
    assert main(["deblur", str(photo), "-o", out, "--kernel-net", str(own), "--method", "fft"]) == 0
    assert main(["batch", str(tmp_path), str(tmp_path / "outs"), "--kernel-net", str(own), "--method", "fft"]) == 0
    assert [net.config == TINY for net in asked] == [True, True, False, True, True, True, True]
    capsys.readouterr()
    missing = ["--kernel-net", str(tmp_path / "none.safetensors"), "--overwrite"]
    assert main(["deblur", str(photo), "-o", out, *missing]) != 0
    assert "the weights are missing" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        ircdeblur.deblur(image, kernel_net=photo)


@pytest.fixture
def photos(tmp_path):
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            skimage.io.imsave(tmp_path / folder / f"{i}.png", skimage.data.astronaut()[:300, 100 + 10 * i : 400])
    return tmp_path


def test_training(photos, monkeypatch, capfd):
    monkeypatch.setattr(training, "SIDES", (25,))
    monkeypatch.setattr(FoundKernels, "SEARCHES", 1)
    text = """
        train_time: "00:00:04"
        folders: [train]
        validate_every: 2
        validation_pictures: 1
        batch: 2
        replay: 8
        kept: 4
        workers: 1
        shakes: [8.0, 12.0]
        noise: [0.002, 0.004]
        network: {widths: [4, 6], blocks: 1}
    """
    (photos / "c.yaml").write_text(text)
    out = photos / "run"
    options = ["--config", str(photos / "c.yaml"), "--data", str(photos), "--quiet", "--max-time", "00:00:02"]
    assert main(["train", "kernel-net", *options, "--out", str(out)]) == 0
    weights = out / "kernel-net.safetensors"
    assert load_kernel_net(weights).config == TINY
    summary = training_summary(weights)
    assert summary["command"].startswith("ircdeblur train kernel-net --config")
    assert {"val_found", "val_decibels", "val_mean"} <= set(summary)
    before = summary["step"]
    config = load_config(photos / "c.yaml")
    train_kernel_net(config, photos, out, resume=out / "last.ckpt", progress=False)
    assert training_summary(weights)["step"] > before
    train_kernel_net(config, photos, photos / "next", max_time="00:00:02", weights=weights, progress=False)
    assert "started from" in training_summary(photos / "next" / "kernel-net.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shakes: [20, 10]", "the smaller one first"),
        ("shakes: [5, 50]", "from 2 to 35 px"),
        ("noise: [0, 0.1]", "above 0"),
        ("workers: 0", "at least 1"),
        ("kept: 2", "kept at least 4"),
        ("depth: 3", "unknown setting depth"),
        ("optimizer: sgd", "optimizer must be one of"),
    ],
)
def test_bad_configuration(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "c.yaml")
