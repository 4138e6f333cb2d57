"""The baselines of Table 2: their codes, the random field, the patches, the spectra, and their training."""

import itertools
import math

import numpy as np
import pytest
import scipy.signal
import skimage.data
import skimage.io
import torch

from ircdeblur import experiments, restore
from ircdeblur.experiments import motion_baselines, motion_representations
from ircdeblur.experiments.motion_baselines import fcn, patch, smoothing
from ircdeblur.experiments.motion_baselines.fcn import FcnNet
from ircdeblur.experiments.motion_baselines.patch import PatchNet, PatchNetConfig
from ircdeblur.experiments.motion_baselines.spectral import spectral_motion
from ircdeblur.kernels import LENGTHS, linear_motion_kernel
from ircdeblur.motion import canonical, from_double_angle, from_polar, to_double_angle, to_polar
from ircdeblur.nets import checkpoints
from ircdeblur.nets.motion_net import SIZES, MotionNet, MotionNetConfig
from ircdeblur.nets.weights_file import parameter_count

TINY = MotionNetConfig(stem=4, widths=(8, 8, 8), blocks=(1, 1, 1), pyramid=8, rates=(1,))
TINY_PATCH = PatchNetConfig(stem=4, widths=(8, 8), hidden=32)


def random_motions(count=400, longest=35.0):
    rng = np.random.default_rng(0)
    length, angle = (torch.from_numpy(rng.uniform(0, high, count)).float() for high in (longest, 180.0))
    return from_polar(length, angle)


def turned_by(a, b):
    """Return the angle in degrees between directions."""
    return (a - b + 90) % 180 - 90


# ------------------------------------------------------------------------------------------------------ codes


@pytest.mark.parametrize("turn", [0, 18])
def test_patch_classes_round_trip(turn):
    motion = random_motions()
    shares = patch.encode(motion, turn)
    torch.testing.assert_close(shares.sum(-1), torch.ones(len(motion)))
    length, angle = to_polar(motion)
    number = shares.argmax(-1) - 1
    found_length = torch.where(
        number < 0, 1.0, torch.from_numpy(LENGTHS.copy()).float()[1 + number // patch.DIRECTIONS]
    )
    # Below 3 px the directions share what a motion has, no motion has its own in one piece.
    assert (found_length - length)[length >= 3].abs().max() <= 1 + 1e-4
    moved = number >= 0
    off = turned_by(30.0 * (number % patch.DIRECTIONS) - turn, angle)[moved]
    assert off.abs().max() <= 15 + 1e-3
    # Linear shares have the exact length as their mean.
    lengths = torch.from_numpy(np.r_[1.0, np.repeat(LENGTHS[1:], patch.DIRECTIONS)]).float()
    torch.testing.assert_close(shares @ lengths, length.clamp(min=1))


def test_pixel_classes_round_trip():
    motion = canonical(random_motions())
    u, v = fcn.encode(-motion)
    logits = torch.cat([20.0 * torch.nn.functional.one_hot(c, n) for c, n in ((u, 39), (v, 73))], -1)
    parts = fcn.split(logits.T[None, :, :, None])
    found = torch.stack([fcn.decode(share, low)[0][0, :, 0] for share, low in parts], -1)
    assert (found - motion).abs().max() <= 0.5 + 1e-3


def test_answer_lies_between_classes():
    """The mean about the mode and the spread, against sums by hand; mass far away does not move the answer."""
    share = torch.zeros(1, 39, 1, 1)
    share[0, :, 0, 0] = 1e-9
    for k, p in ((0, 0.4), (1, 0.3), (30, 0.3)):
        share[0, k] = p
    value, spread = fcn.decode(share.log(), -5)
    mean = 0.3 / 0.7
    assert float(value) == pytest.approx(mean - 5, abs=1e-4)
    squared = 0.4 * mean**2 + 0.3 * (1 - mean) ** 2 + 0.3 * (30 - mean) ** 2
    assert float(spread) == pytest.approx(math.sqrt(squared), rel=1e-3)


# ------------------------------------------------------------------------------------------------ random field


def exact(evidence, cost):
    """Return the marginals, the best labelling and all energies of a small grid, by enumeration."""
    height, width, labels = evidence.shape
    places = list(itertools.product(range(height), range(width)))
    edges = [(a, b) for a in places for b in places if b in ((a[0] + 1, a[1]), (a[0], a[1] + 1))]
    energies, marginals = {}, np.zeros(evidence.shape)
    for labelling in itertools.product(range(labels), repeat=len(places)):
        at = dict(zip(places, labelling, strict=True))
        energies[labelling] = -sum(evidence[p][k] for p, k in at.items()) + sum(cost[at[a], at[b]] for a, b in edges)
    for labelling, energy in energies.items():
        for place, k in zip(places, labelling, strict=True):
            marginals[place][k] += np.exp(-energy)
    return marginals / marginals.sum(-1, keepdims=True), energies


def random_field(seed, strength):
    rng = np.random.default_rng(seed)
    evidence = 2 * rng.normal(size=(2, 3, 4))
    cost = rng.uniform(0, strength, size=(4, 4))
    cost = cost + cost.T
    np.fill_diagonal(cost, 0)
    return evidence, cost


@pytest.mark.parametrize("seed", range(5))
def test_weakly_tied_field_has_the_exact_marginals(seed):
    evidence, cost = random_field(seed, 0.15)
    marginals, _ = exact(evidence, cost)
    share = smoothing.mean_field(*map(torch.from_numpy, (evidence, cost)))
    np.testing.assert_allclose(share.numpy(), marginals, atol=0.02)
    alone = np.exp(evidence) / np.exp(evidence).sum(-1, keepdims=True)
    assert np.abs(alone - marginals).max() > 0.03


def test_strongly_tied_field_finds_low_energies():
    gaps, best = [], 0
    for seed in range(20):
        evidence, cost = random_field(seed, 2.0)
        _, energies = exact(evidence, cost)
        share = smoothing.mean_field(*map(torch.from_numpy, (evidence, cost)), sweeps=30)
        ordered = sorted(energies.values())
        energy = energies[tuple(share.argmax(-1).flatten().tolist())]
        gaps.append(energy - ordered[0])
        best += energy == ordered[0]
        # Among 4096 labellings.
        assert energy <= ordered[40]
    assert best >= 12
    assert np.mean(gaps) < 0.5


def test_free_energy_never_rises():
    evidence, cost = (torch.from_numpy(a) for a in random_field(1, 3.0))

    def free_energy(share):
        met = (share[1:] @ cost * share[:-1]).sum() + (share[:, 1:] @ cost * share[:, :-1]).sum()
        return float((share * (torch.log(share) - evidence)).sum() + met)

    energies = [free_energy(smoothing.mean_field(evidence, cost, sweeps=n)) for n in range(8)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(energies))
    assert energies[-1] < energies[0] - 0.1


def test_distances_do_not_know_signs():
    vectors = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [0.0, 0.0], [4.0, 3.0]])
    found = smoothing.squared_distances(vectors)
    expected = torch.tensor(
        [[0.0, 0.0, 25.0, 2.0], [0.0, 0.0, 25.0, 2.0], [25.0, 25.0, 0.0, 25.0], [2.0, 2.0, 25.0, 0.0]]
    )
    torch.testing.assert_close(found, expected)


def test_smoothing_mends_a_wrong_place():
    """One place of 5 x 5 insists on another motion; the others say 17 px at 177 degrees, between the bank's motions."""
    vectors = smoothing.bank_vectors()
    truth, wrong = (from_polar(torch.tensor(n), torch.tensor(a)) for n, a in ((17.0, 177.0), (9.0, 80.0)))

    def says(motion):
        return -0.05 * smoothing.squared_distances(torch.cat((vectors, motion[None])))[-1, :-1]

    evidence = says(truth).repeat(5, 5, 1)
    evidence[2, 2] = says(wrong)
    found = from_double_angle(smoothing.smooth(evidence, 0.2, 40.0, 6.0))
    length, angle = to_polar(found)
    assert (length[2, 2] - 17).abs() < 4
    assert turned_by(angle[2, 2], 177.0).abs() < 10
    assert turned_by(angle[0, 0], 177.0).abs() < 3
    alone = to_polar(from_double_angle(smoothing.smooth(evidence, 0.0, 40.0, 6.0)))[1]
    assert turned_by(alone[2, 2], 80.0).abs() < 3


# ------------------------------------------------------------------------------------------------------ patches


def patch_net(seed=0):
    torch.manual_seed(seed)
    net = PatchNet(TINY_PATCH)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


@torch.no_grad()
def test_patches_at_once_are_patches_one_by_one():
    net = patch_net()
    maps = torch.randn(3, 1, 1, 52, 58)
    maps[2].abs_().add_(0.1)
    together = net.classify(*maps)
    assert together.shape == (1, patch.CLASSES, 4, 5)
    for i, j in ((0, 0), (1, 3), (3, 4)):
        window = maps[..., 6 * i : 6 * i + 34, 6 * j : 6 * j + 34]
        torch.testing.assert_close(net.classify(*window)[..., 0, 0], together[..., i, j], rtol=1e-4, atol=1e-4)
    # All of a patch counts.
    for y, x in ((1, 1), (33, 33)):
        changed = maps.clone()
        changed[:, ..., y, x] += 3
        assert (net.classify(*changed)[..., 0, 0] - together[..., 0, 0]).abs().max() > 1e-4


def test_rotation_is_counter_clockwise():
    image = torch.rand(1, 1, 7, 7)
    for mode in ("bicubic", "bilinear"):
        found = patch.rotate(image, 90, (7, 7), (7, 7), mode)
        torch.testing.assert_close(found[0, 0], torch.rot90(image[0, 0]), rtol=0, atol=1e-5)
    # The box, not what lies beyond it, is in the middle.
    torch.testing.assert_close(patch.rotate(image, 0, (3, 3), (5, 5))[0, 0], image[0, 0, 1:4, 1:4], rtol=0, atol=1e-5)


def test_turned_pictures_are_counted_together():
    """A network that knows: the answer between the classes' directions is right."""
    motion = random_motions(40, 34.0)
    net = patch_net()
    for m in motion:
        turns = iter(patch.TURNS)

        def knows(luma, m=m, turns=turns):
            rows, columns = ((n - 28) // 6 for n in luma.shape[-2:])
            shares = patch.encode(m, next(turns)).clamp(min=1e-9)
            return shares.log().view(1, -1, 1, 1).expand(1, -1, rows, columns)

        net.forward_grid = knows
        double, spread = net(torch.zeros(1, 1, 20, 31))
        assert double.shape == (1, 20, 31, 2)
        assert spread.shape == (1, 20, 31)
        length, angle = (t[0, 7, 5] for t in to_polar(from_double_angle(double)))
        true_length, true_angle = to_polar(m)
        if true_length >= 5:
            assert abs(length - true_length) < 2
            assert turned_by(angle, true_angle).abs() < 6


def test_labels_follow_the_picture():
    """Turning a picture turns the motion that its spectrum shows as `patch.encode` says."""
    texture = blurred_texture(15, 40, 220)
    for turn in (12, 24):
        turned = patch.rotate(texture, turn, (160, 160), (220, 220))[0, 0]
        _, angle = to_polar(from_double_angle(spectral_motion(turned)))
        assert turned_by(angle.median(), 40.0 + turn).abs() < 5


def test_sizes_are_alike():
    for config in SIZES.values():
        wanted = parameter_count(MotionNet(config))
        assert parameter_count(PatchNet(PatchNetConfig.like(config))) == pytest.approx(wanted, rel=0.02)
        assert parameter_count(FcnNet(config)) == pytest.approx(wanted, rel=0.1)


# ------------------------------------------------------------------------------------------------------ spectra


def blurred_texture(length, angle, size, noise=0.003, seed=0):
    """Return a random texture with a photograph's spectrum, (1, 1, size, size) float32, blurred by one motion."""
    rng = np.random.default_rng(seed)
    n = size + 40
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    sharp = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(n, n))) / np.maximum(frequency, 4 / n) ** 0.85, s=(n, n))
    sharp = 0.5 + 0.15 * sharp / sharp.std()
    blurred = scipy.signal.fftconvolve(sharp, linear_motion_kernel(length, angle), mode="same")[20:-20, 20:-20]
    return torch.from_numpy(blurred + rng.normal(0, noise, blurred.shape)).float()[None, None]


@pytest.mark.parametrize(("length", "angle"), [(7, 90), (12, 133), (20, 3), (31, 57)])
def test_spectra_find_a_uniform_motion(length, angle):
    found = from_double_angle(spectral_motion(blurred_texture(length, angle, 200)[0, 0]))
    assert found.shape == (200, 200, 2)
    lengths, angles = to_polar(found)
    assert (lengths - length).abs().max() < 2
    assert turned_by(angles, float(angle)).abs().max() < 5


def test_spectra_see_that_nothing_moved():
    lengths, _ = to_polar(from_double_angle(spectral_motion(blurred_texture(1, 0, 150)[0, 0])))
    assert lengths.max() < 3


def test_spectra_see_a_motion_that_changes():
    halves = [blurred_texture(15, angle, 300)[0, 0, :, :150] for angle in (0, 90)]
    _, angles = to_polar(from_double_angle(spectral_motion(torch.cat(halves, 1))))
    for columns, angle in ((slice(0, 70), 0.0), (slice(230, 300), 90.0)):
        assert turned_by(angles[:, columns], angle).abs().median() < 5


@pytest.mark.parametrize("shape", [(40, 200), (33, 35), (129, 1)])
def test_spectra_of_small_pictures(shape):
    found = spectral_motion(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (*shape, 2)
    assert torch.isfinite(found).all()
    assert torch.isfinite(spectral_motion(torch.full(shape, 0.5))).all()


# -------------------------------------------------------------------------------------------- weights, training


def test_weights_round_trip(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights"):
        motion_baselines.load_baselines(tmp_path)
    nets = {"patch": patch_net(), "fcn": FcnNet(TINY).eval()}
    for name, net in nets.items():
        path = motion_baselines.weights_path(tmp_path, name)
        path.parent.mkdir()
        motion_baselines.save(name, net, path, {"crops": 7})
    found = motion_baselines.load_baselines(tmp_path)
    assert len(found) == 3
    image = np.random.default_rng(0).random((40, 52, 3))
    for baseline in found.values():
        motion = baseline(image)
        assert motion.shape == (40, 52, 2)
        np.testing.assert_array_equal(motion, canonical(motion))
    fcn_like = found["FCN-like"]
    assert fcn_like.summary == {"crops": 7}
    grey = np.repeat(image[..., :1], 3, 2)
    with torch.no_grad():
        direct = from_double_angle(nets["fcn"](torch.from_numpy(grey[..., 0]).float()[None, None])[0])[0].numpy()
    np.testing.assert_allclose(fcn_like(grey), direct, atol=1e-3)
    other = motion_baselines.weights_path(tmp_path, "patch")
    other.write_bytes(motion_baselines.weights_path(tmp_path, "fcn").read_bytes())
    with pytest.raises(ValueError, match="not the weights of a CNN-Patch-like network"):
        motion_baselines.load_baselines(tmp_path)


@pytest.mark.parametrize("name", ["patch", "fcn"])
def test_losses_learn_one_motion(name):
    """A few dozen steps on one batch: the loss falls well below where it began, and the answer is the motion."""
    from ircdeblur.data.synthesis import Pairs

    torch.manual_seed(0)
    blurred = torch.cat([blurred_texture(15, 30, 80, seed=s) for s in range(2)])
    motion = from_polar(torch.tensor(15.0), torch.tensor(30.0)).expand(2, 80, 80, 2)
    pairs = Pairs(blurred, motion, torch.ones(2, 80, 80), blurred)
    net, loss = (PatchNet(TINY_PATCH), patch.patch_loss) if name == "patch" else (FcnNet(TINY), fcn.fcn_loss)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(net, pairs)
        value.backward()
        losses.append(float(value.detach()))
        optimizer.step()
    # Nothing known: log 103, log 39 + log 73.
    assert losses[0] == pytest.approx({"patch": math.log(103), "fcn": math.log(39) + math.log(73)}[name], rel=0.15)
    with torch.no_grad():
        double, _ = net.eval()(blurred)
    wanted = to_double_angle(motion)
    assert (double - wanted).norm(dim=-1).median() < 3
    with pytest.raises(ValueError, match="at least 68"):
        patch.patch_loss(PatchNet(TINY_PATCH), Pairs(*(t[:, ..., :40] for t in pairs)))


@pytest.mark.parametrize("name", ["patch", "fcn"])
def test_training_end_to_end(tmp_path, name, capsys):
    pytest.importorskip("lightning")
    from ircdeblur.experiments.motion_baselines.__main__ import main

    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        skimage.io.imsave(tmp_path / folder / "a.png", skimage.data.astronaut()[:200, :220])
    (tmp_path / "c.yaml").write_text(
        "train_time: '00:00:03'\nfolders: [train]\nvalidate_every: 500\nvalidation_pictures: 2\nprecision: 32-true\n"
        "pairs: {crop: 72, batch: 2, max_length: 10.0}\n"
        "network: {stem: 4, widths: [8, 8, 8], blocks: [1, 1, 1], pyramid: 8, rates: [1]}\n"
    )
    arguments = ["train", name, "--config", str(tmp_path / "c.yaml"), "--data", str(tmp_path), "--out", str(tmp_path)]
    assert main([*arguments, "--quiet"]) == 0
    (baseline,) = [b for b in motion_baselines.load_baselines(tmp_path).values() if b.summary]
    assert baseline.summary["crops"] > 0
    assert baseline.summary["parameters"] > 1000
    assert baseline.summary["seconds"] >= 2
    assert np.isfinite(baseline(np.full((50, 60, 3), 0.5))).all()
    assert (tmp_path / name / "log.csv").read_text().count("\n") >= 2
    capsys.readouterr()
    assert main([*arguments, "--resume", str(tmp_path / "none.ckpt")]) == 1
    assert capsys.readouterr().err.startswith("error: no such file")


# ------------------------------------------------------------------------------------------------------- tables


def test_table2_takes_the_baselines_in(tmp_path, monkeypatch):
    (tmp_path / "voc-test").mkdir()
    skimage.io.imsave(tmp_path / "voc-test" / "000.png", skimage.data.astronaut()[:200, :220])
    package = tmp_path / "package"
    package.mkdir()
    checkpoints.save_motion_net(
        MotionNet(TINY), package / checkpoints.MOTION_NET, {"parameters": 5, "crops": 12, "seconds": 90}
    )
    monkeypatch.setattr(checkpoints, "weights_folder", lambda: package)
    restore._motion_net.cache_clear()
    weights = motion_baselines.weights_path(tmp_path, "patch")
    weights.parent.mkdir()
    motion_baselines.save("patch", patch_net(), weights, {"parameters": 7, "crops": 34, "seconds": 180})
    text = experiments.run("table2", tmp_path, tmp_path / "out", quick=True, baselines=tmp_path)
    restore._motion_net.cache_clear()
    # A mean of one picture and its median are the same figure.
    rows = {}
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        rows.setdefault(cells[0], []).append(cells[1:])
    for name, size, training in (
        ("Motion-Net small, raw", 5, "2 min, 12 crops"),
        ("CNN-Patch-like", 7, "3 min, 34 crops"),
        (motion_baselines.SPECTRAL, "", ""),
    ):
        means, details = rows[name]
        assert [float(f) for f in means[:2]] == pytest.approx([float(f) for f in details[:2]], abs=0.01)
        assert details[2:] == [str(size), training]
        assert means[-1] == "2"
    assert "FCN-like" not in rows
    summary = (tmp_path / "out" / "table2-summary.csv").read_text()
    assert ",CNN-Patch-like,median MSE severe," in summary
    # A uniform answer of nothing is worse than the spectra.
    spectral, none = (float(rows[name][0][1].split(" ")[0]) for name in (motion_baselines.SPECTRAL, "no motion"))
    assert spectral < none


def test_representations_end_to_end(tmp_path, capsys):
    pytest.importorskip("lightning")
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        skimage.io.imsave(tmp_path / folder / "a.png", skimage.data.astronaut()[:200, :220])
    config = tmp_path / "c.yaml"
    config.write_text(
        "folders: [train]\nvalidate_every: 500\nvalidation_pictures: 2\nprecision: 32-true\n"
        "pairs: {crop: 72, batch: 2, max_length: 10.0}\n"
        "network: {stem: 4, widths: [8, 8, 8], blocks: [1, 1, 1], pyramid: 8, rates: [1]}\n"
    )
    out = tmp_path / "runs"
    assert motion_representations.main(["--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("error: no weights below")
    arguments = ["--config", str(config), "--data", str(tmp_path), "--out", str(out), "--only", "polar", "fcn"]
    assert motion_representations.main([*arguments, "--minutes", "0.034"]) == 0
    rows = {row["answer"]: row for row in motion_representations.collect(out)}
    assert list(rows) == [motion_representations.RUNS[name] for name in ("polar", "fcn")]
    assert checkpoints.load_motion_net(motion_representations.weights(out, "polar")).config.output == "polar"
    lines = (out / "polar" / "log.csv").read_text().splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    row = rows[motion_representations.RUNS["polar"]]
    assert row["MSE severe"] == float(last["val_severe"])
    text = capsys.readouterr().out
    assert f"| {row['MSE moderate']:.2f} | {row['MSE severe']:.2f} |" in text
    assert "Not comparable" not in text
    # What is done is left alone.
    before = motion_representations.weights(out, "polar").stat().st_mtime_ns
    assert motion_representations.main([*arguments, "--minutes", "0.034"]) == 0
    assert motion_representations.weights(out, "polar").stat().st_mtime_ns == before
    config.write_text(config.read_text().replace("batch: 2", "batch: 3"))
    arguments[-2:] = ["double"]
    assert motion_representations.main([*arguments, "--minutes", "0.034"]) == 0
    assert "Not comparable" in capsys.readouterr().out
