"""Tables of blind deblurring: the direct network, the rows, Tables 4 and 5, and the contact sheet."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.io
import torch

import ircdeblur
from ircdeblur import experiments
from ircdeblur.experiments import blind, contact_sheet, direct_cnn, motion_baselines, results, table4, table5
from ircdeblur.experiments.blind import BlindRows, Found, undo
from ircdeblur.experiments.config import BlindRow, BlindTable, ConfigError, ShakenTable, default_path, load
from ircdeblur.experiments.direct_cnn import DirectConfig, DirectNet
from ircdeblur.experiments.motion_baselines.fcn import FcnNet
from ircdeblur.experiments.report import Column, Report
from ircdeblur.metrics import psnr, ssim
from ircdeblur.nets.checkpoints import load_kernel_net, load_motion_net, save_motion_net
from ircdeblur.nets.motion_net import MotionNetConfig
from ircdeblur.nets.weights_file import parameter_count

ROWS = """
folder: voc-test
photos: 2
rows:
  ours: {method: irc-mm}
  raw: {method: irc, motion: raw}
  known: {method: irc-mm, motion: "true"}
  fcn: {method: irc-mm, motion: fcn, photos: 1}
  direct: {method: direct}
  a network: {method: irc-mm, motion_net: own/motion-net.safetensors}
  absent: {method: irc-mm, motion: patch}
differences: [[known, ours]]
strips: [ours, direct, fcn]
pictured: 1
quick: {photos: 1}
"""


def read_csv(path):
    """All rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with two photographs, a pair and two pictures of a scene, where the experiments look."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("voc-test", "gopro-pairs/blur", "gopro-pairs/sharp", "koehler"):
        (folder / name).mkdir(parents=True)
    astronaut, coffee = skimage.data.astronaut(), skimage.data.coffee()
    skimage.io.imsave(folder / "voc-test" / "000.png", astronaut[40:180, 150:300])
    skimage.io.imsave(folder / "voc-test" / "001.png", coffee[100:240, 200:350])
    sharp = astronaut[20:220, 140:350]
    motion = np.full((200, 210, 2), [6.0, 2.0])
    blurred = ircdeblur.blur(sharp, motion=motion)
    skimage.io.imsave(folder / "gopro-pairs" / "sharp" / "07.png", sharp)
    skimage.io.imsave(folder / "gopro-pairs" / "blur" / "07.png", blurred)
    skimage.io.imsave(folder / "koehler" / "sharp_1.png", sharp)
    skimage.io.imsave(folder / "koehler" / "blurry_1_1.png", blurred)
    skimage.io.imsave(folder / "koehler" / "blurry_1_3.png", np.roll(blurred, (5, -7), (0, 1)))
    return folder


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    """A folder of small untrained baselines, and the package's Motion-Net under another name."""
    folder = tmp_path_factory.mktemp("baselines")
    torch.manual_seed(0)
    places = [direct_cnn.weights_path(folder), motion_baselines.weights_path(folder, "fcn")]
    places.append(folder / "own" / "motion-net.safetensors")
    for place in places:
        place.parent.mkdir()
    direct_cnn.save(DirectNet(DirectConfig(width=4, blocks=1)), places[0], {"crops": 3})
    tiny = MotionNetConfig(stem=4, widths=(8, 8, 8), blocks=(1, 1, 1), pyramid=8, rates=(1,))
    motion_baselines.save("fcn", FcnNet(tiny), places[1], {"parameters": 1234})
    save_motion_net(load_motion_net(), places[2])
    return folder


def config_file(folder, text):
    """A configuration with this text."""
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def quick_motion(monkeypatch):
    """In place of the estimation: a constant motion whose length tells what was asked for; counts the calls."""
    asked = []

    def estimate(image, consolidation, motion_net, return_error):
        asked.append((image.shape, consolidation, Path(motion_net).parent.name))
        motion = np.zeros((*image.shape[:2], 2), np.float32)
        motion[..., 0] = 7.0 if consolidation == "picture" else 5.0
        return motion, np.full(image.shape[:2], 0.1, np.float32)

    monkeypatch.setattr(blind, "estimate_motion", estimate)
    return asked


# ------------------------------------------------------------------------------------------------ direct network


def randomised(seed=0, width=6, blocks=2):
    """A small network whose corrections are not small."""
    torch.manual_seed(seed)
    net = DirectNet(DirectConfig(width=width, blocks=blocks))
    with torch.no_grad():
        for scale in net.scales:
            scale[-1].weight.mul_(30)
    return net.eval()


@torch.no_grad()
def test_direct_network_is_coarse_to_fine():
    """Oracle: what it answers where only one scale corrects anything."""
    x = torch.rand(2, 3, 32, 48)
    nothing = randomised()
    for scale in nothing.scales:
        scale[-1].weight.zero_()
    for result, times in zip(nothing.estimates(x), (4, 2, 1), strict=True):
        torch.testing.assert_close(result, torch.nn.functional.avg_pool2d(x, times))
    torch.testing.assert_close(nothing(x), x)
    net = randomised()
    quarter, half, full = net.estimates(x)
    assert [tuple(r.shape[-2:]) for r in (quarter, half, full)] == [(8, 12), (16, 24), (32, 48)]
    assert (full - x).abs().mean() > 1e-3
    # A change of the coarsest scale's correction reaches the finest result.
    net.scales[0][-1].bias.add_(0.5)
    assert (net.estimates(x)[-1] - full).abs().max() > 1e-3


@torch.no_grad()
def test_direct_network_takes_any_size_and_grey():
    net = randomised()
    x = torch.rand(1, 3, 37, 51)
    padded = torch.nn.functional.pad(x, (0, 5, 0, 3), mode="replicate")
    torch.testing.assert_close(net(x), net(padded)[..., :37, :51])
    assert net(torch.rand(1, 3, 1, 2)).shape == (1, 3, 1, 2)
    grey = torch.rand(1, 1, 24, 24)
    torch.testing.assert_close(net(grey), net(grey.expand(-1, 3, -1, -1)).mean(1, keepdim=True))
    image = np.random.default_rng(0).random((20, 26, 3)) * 3 - 1
    out = net.restore(image)
    assert out.shape == image.shape
    assert out.min() == 0.0
    assert out.max() == 1.0
    with pytest.raises(ValueError, match=re.escape("(1, 4, 8, 8)")):
        net(torch.rand(1, 4, 8, 8))


def test_direct_loss():
    """Oracle: the same in numpy."""
    rng = np.random.default_rng(0)
    sharp = rng.random((2, 3, 16, 16))
    results = [rng.random((2, 3, n, n)) for n in (4, 8, 16)]

    def pooled(x, k):
        return x.reshape(2, 3, 16 // k, k, 16 // k, k).mean((3, 5))

    expected = sum(
        weight * np.sqrt((r - pooled(sharp, k)) ** 2 + 1e-6).mean()
        for weight, k, r in zip((0.5, 0.5, 1.0), (4, 2, 1), results, strict=True)
    )
    found = direct_cnn.direct_loss([torch.from_numpy(r) for r in results], torch.from_numpy(sharp))
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_direct_weights_round_trip(tmp_path):
    net = randomised()
    direct_cnn.save(net, tmp_path / "d.safetensors", {"crops": 5})
    again, summary = direct_cnn.load(tmp_path / "d.safetensors")
    assert summary == {"crops": 5}
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x))
    save_motion_net(load_motion_net(), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="not the weights of a DMCNN-like"):
        direct_cnn.load(tmp_path / "m.safetensors")


def test_direct_training(tmp_path, capsys):
    pytest.importorskip("lightning")
    from ircdeblur.experiments.direct_cnn.__main__ import load_config, main

    for folder, photo in (("train", skimage.data.astronaut()), ("val", skimage.data.coffee()[:100, :110])):
        (tmp_path / folder).mkdir()
        skimage.io.imsave(tmp_path / folder / "a.png", photo)
    settings = (
        "folders: [train]\nvalidate_every: 2\nvalidation_pictures: 2\n"
        "pairs: {crop: 32, batch: 2, max_length: 8}\nnetwork: {width: 4, blocks: 1}\n"
    )
    config = config_file(tmp_path, settings + "train_time: '00:00:02'\n")
    arguments = ["train", "--config", str(config), "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(arguments) == 0
    weights = direct_cnn.weights_path(tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[-1] == str(weights)
    net, summary = direct_cnn.load(weights)
    assert net.config == DirectConfig(width=4, blocks=1)
    assert summary["parameters"] == parameter_count(net)
    log = read_csv(weights.with_name("log.csv"))
    assert {"val_moderate_gain", "val_severe_gain"} <= set(log[0])
    assert abs(float(log[-1]["val_severe_gain"])) < 3
    steps = int(log[-1]["step"])
    # What is learned comes back, and goes on.
    config.write_text(settings + "train_time: '00:00:03'\n")
    checkpoint = weights.with_name("last.ckpt")
    assert main([*arguments, "--resume", str(checkpoint)]) == 0
    assert int(read_csv(weights.with_name("log.csv"))[-1]["step"]) > steps
    config.write_text("networks: {}\n")
    assert main(arguments) == 1
    assert "unknown setting networks" in capsys.readouterr().err
    assert main([*arguments, "--resume", str(tmp_path / "none.ckpt")]) == 1
    assert main([*arguments, "--max-time", "1h"]) == 1
    repository = load_config(default_path("direct-cnn"))
    assert repository.pairs.crop % 8 == 0
    assert repository.pairs.max_length == 36.0


# ---------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize(("method", "consolidation"), [("irc-mm", "picture"), ("irc-mm", "none"), ("epll", "picture")])
def test_a_row_is_what_deblur_does(data, method, consolidation):
    """Oracle: the public function, which estimates the same motion."""
    image = skimage.io.imread(data / "gopro-pairs" / "blur" / "07.png")[40:140, 30:140].astype(np.float32) / 255
    motion = {"picture": "refined", "none": "raw"}[consolidation]
    rows = BlindRows({"row": BlindRow(method, motion)})
    ((name, outcome),) = rows.run(image)
    expected, field = ircdeblur.deblur(image, method=method, consolidation=consolidation, return_motion=True)
    assert name == "row"
    np.testing.assert_allclose(outcome.found.motion, field, atol=1e-5)
    np.testing.assert_allclose(outcome.x, expected, atol=1e-5)
    assert np.abs(outcome.x - image).max() > 0.05
    corrector = parameter_count(load_kernel_net()) if consolidation == "picture" else 0
    assert rows.parameters == {"row": parameter_count(load_motion_net()) + corrector}


def test_rows_share_their_motions(quick_motion, monkeypatch):
    undone = []

    def pretend(image, found, method, net, known):
        undone.append((method, float(found.motion[0, 0, 0]), known))
        return image

    monkeypatch.setattr(blind, "undo", pretend)
    rows = BlindRows(
        {
            "a": BlindRow("irc-mm"),
            "b": BlindRow("epll", photos=1),
            "c": BlindRow("irc-mm", "raw"),
            "d": BlindRow("irc", "true"),
        }
    )
    image = np.full((70, 80, 3), 0.5)
    truth = np.full((70, 80, 2), 3.0, np.float32)
    assert [name for name, _ in rows.run(image, truth)] == ["a", "b", "c", "d"]
    assert undone == [("irc-mm", 7.0, False), ("epll", 7.0, False), ("irc-mm", 5.0, False), ("irc", 3.0, True)]
    assert [consolidation for _, consolidation, _ in quick_motion] == ["picture", "none"]
    # The second picture is one too many for b, and without the truth there is no d.
    assert [name for name, _ in rows.run(image, None, 1)] == ["a", "c"]


def test_seconds_are_those_of_motion_and_restoration(monkeypatch, quick_motion):
    clock = iter([0.0, 4.0, 10.0, 11.5, 20.0, 22.0])
    monkeypatch.setattr(blind.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(blind, "undo", lambda image, *_, **__: image)
    rows = BlindRows({"a": BlindRow("irc-mm"), "b": BlindRow("irc")})
    assert [outcome.seconds for _, outcome in rows.run(np.zeros((64, 64, 3)))] == [5.5, 6.0]


def test_known_motion_is_undone_everywhere():
    rng = np.random.default_rng(0)
    sharp = skimage.data.astronaut()[60:140, 180:280].astype(np.float32) / 255
    motion = np.full((*sharp.shape[:2], 2), [7.0, 0.0], np.float32)
    blurred = (ircdeblur.blur(sharp, motion=motion) + rng.normal(0, 0.01, sharp.shape)).astype(np.float32)
    # All in doubt: only a known motion is undone nevertheless.
    found = Found(motion, np.full(sharp.shape[:2], 30.0, np.float32))
    np.testing.assert_array_equal(undo(blurred, found, "irc-mm"), blurred.clip(0, 1))
    assert psnr(undo(blurred, found, "irc-mm", known=True), sharp) > psnr(blurred.clip(0, 1), sharp) + 3


def test_rows_without_their_weights(baselines, tmp_path):
    rows = {
        "ours": BlindRow("irc-mm"),
        "patch": BlindRow("epll", "patch"),
        "fcn": BlindRow("epll", "fcn"),
        "direct": BlindRow("direct"),
        "own": BlindRow("irc-mm", motion_net="own/motion-net.safetensors"),
        "none": BlindRow("irc-mm", motion_net="none.safetensors"),
        "net": BlindRow("irc-net", irc_net="separate/irc-net.safetensors"),
    }
    bare = BlindRows(rows)
    assert list(bare.rows) == ["ours"]
    assert set(bare.left_out) == set(rows) - {"ours"}
    assert "Left out: direct (it needs the folder of the trained baselines)." in bare.notes()
    found = BlindRows(rows, baselines)
    assert list(found.rows) == ["ours", "fcn", "direct", "own"]
    assert found.left_out["patch"] == "no patch/patch.safetensors among the trained baselines"
    assert found.parameters["fcn"] == 1234
    assert found.parameters["direct"] == parameter_count(DirectNet(DirectConfig(width=4, blocks=1)))
    assert found.parameters["own"] == found.parameters["ours"]
    with pytest.raises(ValueError, match="no row can be run: it needs"):
        BlindRows({"direct": rows["direct"]})
    direct_cnn.weights_path(tmp_path).parent.mkdir()
    direct_cnn.weights_path(tmp_path).write_bytes(b"no weights")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        BlindRows(rows, tmp_path)


# ---------------------------------------------------------------------------------------------------------- tables


def test_table4(data, baselines, tmp_path, quick_motion):
    out = tmp_path / "out"
    text = experiments.run("table4", data, out, config=config_file(tmp_path, ROWS), baselines=baselines)
    rows = read_csv(out / "table4.csv")
    blocks = table4.BLOCKS
    # Two photographs, moderate and severe and sharp, and a pair; fcn has one photograph, the truth is not known of all.
    assert len(rows) == 2 * 2 * (1 + 6) - 2 + 2 * 5 - 1 + (1 + 5)
    by = {(r["block"], r["photo"], r["row"]): r for r in rows}
    for (block, photo, name), row in by.items():
        before = 60.0 if block == blocks["sharp"] else float(by[block, photo, "blurred"]["PSNR (dB)"])
        gain = float(row["PSNR (dB)"]) - before
        assert float(row["gain (dB)"]) == pytest.approx(gain, abs=1e-6)
        assert float(row["worse"]) == (gain < -0.3)
        assert (row["seconds"] == "") == (name == "blurred")
        assert (row["motion MSE"] == "") == (block not in list(blocks.values())[:2] or name in ("blurred", "direct"))
    known = by[blocks["moderate"], "000", "known"]
    assert float(known["motion MSE"]) == 0.0
    assert float(known["gain (dB)"]) > 1.0
    # What came from the disk is what was blurred there: the motion of the pair is not known.
    pair = skimage.io.imread(data / "gopro-pairs" / "blur" / "07.png") / 255
    sharp = skimage.io.imread(data / "gopro-pairs" / "sharp" / "07.png") / 255
    assert float(by[blocks["pairs"], "pair 07", "blurred"]["SSIM"]) == pytest.approx(ssim(pair, sharp), abs=1e-4)
    assert (blocks["pairs"], "pair 07", "known") not in by

    summary = {(r["block"], r["row"], r["column"]): r for r in read_csv(out / "table4-summary.csv")}
    gains = [float(by[blocks["severe"], p, "ours"]["gain (dB)"]) for p in ("000", "001")]
    assert float(summary[blocks["severe"], "ours", "smallest gain (dB)"]["mean"]) == pytest.approx(min(gains), rel=1e-3)
    assert summary[blocks["severe"], "ours", "smallest gain (dB)"]["n"] == "2"
    lost = [float(r["worse"]) for r in rows if r["row"] == "ours"]
    share = summary["never worse", "ours", "share that loses more than 0.3 dB"]
    assert float(share["mean"]) == pytest.approx(np.mean(lost), rel=1e-3)
    assert share["n"] == "7"
    assert (blocks["moderate"], "known - ours", "PSNR (dB)") in summary

    assert {p.name for p in out.glob("*.png")} == {
        *(f"table4-strip-{kind}-000.png" for kind in ("moderate", "severe", "sharp")),
        "table4-strip-pairs-pair-07.png",
    }
    assert "| *the paper: fine-tuned* | *24.80* | *0.737* |" in text
    assert "| *the paper: Reblurring* | *22.39* | *0.646* |  |" in text
    assert "Left out: absent (no patch/patch.safetensors among the trained baselines)." in text
    assert "fcn: on the first 1 photograph only. All rows with moderate camera shake" in text
    assert text.count("fcn: on the first") == 3
    never = next(line for line in text[text.index("### Never worse") :].splitlines() if line.startswith("| ours"))
    assert never.endswith(f"| {np.mean(lost):.1%} |")
    assert str(data) not in text
    for group in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in group.splitlines()}) == 1, group
    # One motion for each picture and network, however many rows use it; before them the warm-up.
    assert len([1 for _, consolidation, _ in quick_motion if consolidation == "none"]) == 1 + 7


def test_table4_is_not_lost_when_killed(data, baselines, tmp_path, quick_motion, monkeypatch):
    def killed(self, image, truth=None, number=0):
        if number == 1:
            raise KeyboardInterrupt
        yield from run(self, image, truth, number)

    run = BlindRows.run
    monkeypatch.setattr(BlindRows, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        experiments.run("table4", data, tmp_path, config=config_file(tmp_path, ROWS))
    assert {r["photo"] for r in read_csv(tmp_path / "table4.csv")} == {"000"}


def test_quick_table4_and_reduced_pairs(data, tmp_path, quick_motion):
    config = config_file(tmp_path, ROWS + "side: 105\n")
    experiments.run("table4", data, tmp_path / "out", quick=True, config=config)
    assert {r["photo"] for r in read_csv(tmp_path / "out" / "table4.csv")} == {"000", "pair 07"}
    assert ((100, 105, 3), "picture", "weights") in quick_motion


def test_reduced():
    photo = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 256, (10, 16, 3), np.uint8), 4, 0), 4, 1)
    np.testing.assert_allclose(table4.reduced(photo, None), photo / np.float32(255))
    np.testing.assert_allclose(table4.reduced(photo, 64), photo / np.float32(255))
    small = table4.reduced(photo, 16)
    assert small.shape == (10, 16, 3)
    assert small.dtype == np.float32
    assert np.corrcoef(small.ravel(), photo[::4, ::4].ravel())[0, 1] > 0.95


def test_pairs_that_are_not_complete(tmp_path):
    for name in ("blur", "sharp"):
        (tmp_path / name).mkdir()
    skimage.io.imsave(tmp_path / "blur" / "00.png", np.zeros((8, 8, 3), np.uint8), check_contrast=False)
    with pytest.raises(FileNotFoundError, match="no photographs in"):
        table4.find_pairs(tmp_path)
    skimage.io.imsave(tmp_path / "sharp" / "01.png", np.zeros((8, 8, 3), np.uint8), check_contrast=False)
    with pytest.raises(FileNotFoundError, match=r"no sharp picture beside .*00\.png"):
        table4.find_pairs(tmp_path)


def test_table5(data, baselines, tmp_path, quick_motion):
    out = tmp_path / "out"
    rows = ROWS.replace("voc-test", "koehler")
    text = experiments.run("table5", data, out, config=config_file(tmp_path, rows), baselines=baselines)
    assert text.startswith("## Table 5, proxy")
    heads = next(line for line in text.splitlines() if line.startswith("| row | ")).split(" | ")
    assert all("proxy" in h for h in heads[1:6])
    found = {(r["photo"], r["row"]): r for r in read_csv(out / "table5.csv")}
    assert {photo for photo, _ in found} == {"1_1", "1_3"}
    assert ("1_3", "fcn") not in found
    assert ("1_1", "known") not in found
    # The second picture is the first one, shifted: to the proxy they are as good.
    first, second = (float(found[photo, "blurred"]["proxy PSNR (dB)"]) for photo in ("1_1", "1_3"))
    assert first == pytest.approx(second, abs=1e-6)
    assert [p.name for p in out.glob("*.png")] == ["table5-strip-1_1.png"]
    assert "| *the paper: fine-tuned* | *25.42* | *0.795* |" in text
    assert "| *the paper: Reblurring* | *26.33* |  |" in text


@pytest.mark.parametrize("shift", [(0, 0), (4, -6), (-6, 6)])
def test_alignment_finds_shift_and_factor(shift):
    """Oracle: every shift and its least squares, one after the other."""
    rng = np.random.default_rng(0)
    truth = rng.random((40, 45, 3))
    x = np.roll(truth, shift, (0, 1)) * 0.7 + rng.normal(0, 0.05, truth.shape)
    found = table5.align(x, truth, border=6)
    inner = truth[6:-6, 6:-6]
    errors = {}
    for dy in range(-6, 7):
        for dx in range(-6, 7):
            part = x[6 + dy : 34 + dy, 6 + dx : 39 + dx].ravel()
            factor = np.linalg.lstsq(part[:, None], inner.ravel(), rcond=None)[0][0]
            errors[dy, dx] = ((factor * part - inner.ravel()) ** 2).mean()
    assert found.shift == min(errors, key=errors.get) == shift
    np.testing.assert_array_equal(found.truth, inner)
    assert psnr(found.x, found.truth) == pytest.approx(-10 * np.log10(errors[shift]), abs=1e-6)


def test_alignment_of_nothing():
    black = np.zeros((30, 30, 3))
    assert table5.align(black, np.ones((30, 30, 3)), border=5).x.max() == 0.0
    with pytest.raises(ValueError, match="border 60"):
        table5.align(black, black)
    with pytest.raises(ValueError, match="cannot be compared"):
        table5.align(black, black[:-1], border=5)


def test_pictures_of_koehler(tmp_path):
    def add(name):
        skimage.io.imsave(tmp_path / name, np.zeros((8, 8, 3), np.uint8), check_contrast=False)

    add("other.png")
    with pytest.raises(FileNotFoundError, match="no pictures called blurry_SCENE_TRAJECTORY"):
        table5.find_pictures(tmp_path)
    for name in ("blurry_1_10.png", "blurry_2_1.png", "sharp_1.png"):
        add(name)
    with pytest.raises(FileNotFoundError, match="no sharp_2 beside"):
        table5.find_pictures(tmp_path)
    add("sharp_2.png")
    names = [(a.name, b.name) for a, b in table5.find_pictures(tmp_path)]
    assert names == [("blurry_1_10.png", "sharp_1.png"), ("blurry_2_1.png", "sharp_2.png")]


# -------------------------------------------------------------------------------------------------- contact sheet


def test_contact_sheet(data, baselines, tmp_path, quick_motion, capsys):
    config, sheet = config_file(tmp_path, ROWS), tmp_path / "sheet.png"
    places = [str(data / "voc-test"), str(data / "koehler" / "blurry_1_1.png")]
    options = ["-o", str(sheet), "--config", str(config), "--height", "100"]
    assert contact_sheet.main([*places, *options, "--side", "120", "--baselines", str(baselines)]) == 0
    assert capsys.readouterr().out == f"{sheet}\n"
    picture = skimage.io.imread(sheet)
    # Three lines of a hundred pixels with their captions: input, motion, and the three rows of the strips.
    assert picture.shape == (3 * 148 + 2 * 10, 5 * (160 + 6) - 6, 3)
    assert [shape for shape, _, _ in quick_motion] == [(112, 120, 3), (112, 120, 3), (114, 120, 3)]
    assert contact_sheet.main([*places, *options, "--row", "ours"]) == 0
    assert skimage.io.imread(sheet).shape[1] == 3 * (160 + 6) - 6


def test_contact_sheet_without_the_truth_has_no_figures(data, quick_motion):
    rows = BlindRows({"ours": BlindRow("irc-mm")})
    image = skimage.io.imread(data / "voc-test" / "000.png").astype(np.float32) / 255
    panels = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blind, "captioned", lambda images, captions, height: panels.append(captions) or images[0])
        blind.strip(image, dict(rows.run(image)))
        blind.strip(image, dict(rows.run(image)), truth=image)
    assert panels[0] == ["blurred\n", "motion\nto 7.0 px", "ours\n"]
    assert panels[1][0] == "blurred\n99.99 dB"
    assert panels[1][-1] == "truth\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png", "-o", "OUT"], "no such file or folder: none.png"),
        (["PHOTO", "-o", "none/s.png"], "no such folder: none"),
        (["PHOTO", "-o", "OUT", "--row", "their"], "no row 'their'; known are ours"),
        (["PHOTO", "-o", "OUT", "--side", "10"], "--side must be at least 64, got 10"),
        (["PHOTO", "-o", "OUT", "--config", "none.yaml"], "none.yaml"),
        (["PHOTO", "-o", "OUT", "--row", "DMCNN-like, direct"], "no row can be run: it needs the folder"),
    ],
)
def test_contact_sheet_refuses(data, tmp_path, monkeypatch, capsys, quick_motion, arguments, message):
    monkeypatch.chdir(tmp_path)
    names = {"PHOTO": str(data / "voc-test" / "000.png"), "OUT": str(tmp_path / "s.png")}
    given = [names.get(a, a) for a in arguments]
    if "--row" not in given and "--config" not in given:
        given += ["--row", "irc-mm, our motion"]
    assert contact_sheet.main(given) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "s.png").exists()


# -------------------------------------------------------------------------------------- report and configurations


def test_columns_of_the_smallest_and_of_what_is_the_same():
    rows = [{"m": "a", "x": v, "p": 2.5} for v in (3.0, -1.0, 2.0)]
    columns = ("x", Column("least", "x", take="smallest"), Column("size", "p", take="first"))
    report = Report("T", "Text.", "m", columns, rows)
    assert "| a | 1.33 ± 1.20 | -1.00 | 2.50 | 3 |" in report.markdown().splitlines()
    least = next(r for r in report.summary() if r["column"] == "least")
    assert least == {"block": "", "row": "a", "column": "least", "mean": "-1", "standard error": "", "n": 3}


@pytest.mark.parametrize(("name", "cls", "count"), [("table4", ShakenTable, 100), ("table5", BlindTable, 16)])
def test_configurations_of_the_repository(name, cls, count):
    config = load(cls, default_path(name))
    assert config.photos == count
    assert BlindRow("irc-net") == config.rows["ours"]
    for claim in (c for c in results.CLAIMS if c.name == name):
        assert set(claim.row.split(" - ")) <= set(config.rows)
        assert claim.block in (*table4.BLOCKS.values(), "never worse")
        columns = {c if isinstance(c, str) else c.name for c in table4.COLUMNS}
        assert claim.column in {*columns, "share that loses more than 0.3 dB"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{method: irc-mm}", "{method: fast}", "rows.ours.method: there is no 'fast'"),
        ("motion: raw", "motion: row", "rows.raw.motion: there is no 'row'; known are refined, raw"),
        ("motion: raw", "motions: raw", "unknown key rows.raw.motions"),
        ("[known, ours]", "[known, ourz]", "differences: there is no 'ourz'"),
        ("[known, ours]", "[known]", "differences must be pairs of rows"),
        ("strips: [ours,", "strips: [their,", "strips: there is no 'their'"),
        ("photos: 2", "photos: 0", "photos must be at least 1"),
        ("photos: 2", "photos: 2\nnoise: -1", "noise must not be negative"),
        ("photos: 2", "photos: 2\nside: 8", "side must be at least 64"),
        ('motion: "true"', "motion: true", "rows.known.motion must be str, got True"),
    ],
)
def test_bad_configurations(tmp_path, old, new, message):
    assert old in ROWS
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(ShakenTable, config_file(tmp_path, ROWS.replace(old, new, 1)))


def test_training_of_several_runs_is_added_up():
    from ircdeblur.experiments.table2 import _training

    first = {"seconds": 600.0, "crops": 1000}
    second = {"seconds": 1200.0, "crops": 500, "started from": first}
    assert _training(first) == "10 min, 1000 crops"
    assert _training(second) == "30 min in 2 runs, 1500 crops"
    # What was before a mean of several is not one run.
    assert _training({**second, "started from": {"mean of": [first, first]}}) == "20 min, 500 crops"
    assert _training({}) == ""
