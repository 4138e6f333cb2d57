"""Data sets on disk: what ``ircdeblur dataset`` writes and refuses, and what the reader makes of it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from skimage import data

from ircdeblur.app import cli
from ircdeblur.app import dataset as writing
from ircdeblur.data.camera import camera_shake
from ircdeblur.data.dataset import DatasetPairs, read_info, read_manifest, read_trust, turn_pair
from ircdeblur.data.photos import ColorPhotos, LumaPhotos, list_photos
from ircdeblur.data.synthesis import KINDS
from ircdeblur.motion import align_sign, canonical, read_motion
from ircdeblur.operators import MotionBlur

needs_opencv = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call(capsys, monkeypatch):
    for name in ("IRCDEBLUR_DEBUG", "IRCDEBLUR_DATA"):
        monkeypatch.delenv(name, raising=False)

    def run(*args):
        capsys.readouterr()
        code = cli.main([str(a) for a in args])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photographs, one of them grey."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
    Image.fromarray(data.coffee()).save(folder / "coffee.jpg", quality=95)
    Image.fromarray(data.camera()[::2, ::2]).save(folder / "camera.png")
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Fifteen frames of a scene that moves by (1.2, -0.9) pixels a step, fine texture everywhere."""
    folder = tmp_path_factory.mktemp("film")
    grain = np.random.default_rng(0).normal(size=(170, 200, 3))
    scene = np.clip(128 + 200 * scipy.ndimage.gaussian_filter(grain, (1.3, 1.3, 0)), 0, 255)
    for k in range(15):
        frame = scipy.ndimage.shift(scene, (-0.9 * k, 1.2 * k, 0), order=3, mode="reflect")[20:150, 20:180]
        Image.fromarray(frame.round().clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def failed(outcome, *words: str, code: int = 1) -> None:
    assert outcome[0] == code
    lines = outcome[2].splitlines()
    assert lines[-1].startswith("error: ")
    for word in words:
        assert word in lines[-1]


SMALL = ("--count", 4, "--size", 64, "--max-length", 12)


# ------------------------------------------------------------------------------------------------------ turning


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_vectors_turn_with_the_picture(flip, quarters):
    """Oracle: blurring the turned picture by the turned motion is turning the blurred picture."""
    sharp = torch.from_numpy(data.astronaut()[100:170, 150:240]).permute(2, 0, 1).double() / 255
    motion = torch.from_numpy(camera_shake((70, 90), 11.0, seed=2)).double()
    blurred = MotionBlur(motion, boundary="replicate").A(sharp[None])[0]
    turned, vectors = turn_pair(torch.cat((sharp, blurred)), motion, flip, quarters)
    again = MotionBlur(vectors, boundary="replicate").A(turned[None, :3])[0]
    torch.testing.assert_close(again, turned[3:], atol=1e-9, rtol=0)
    torch.testing.assert_close(vectors, canonical(vectors))
    # The picture turned, and its vectors left as they were, would not do.
    if flip or quarters % 2:
        left = torch.rot90(motion.flip(1) if flip else motion, quarters, (0, 1))
        wrong = MotionBlur(left.contiguous(), boundary="replicate").A(turned[None, :3])[0]
        assert (wrong - turned[3:]).abs().max() > 0.05


# ---------------------------------------------------------------------------------------------------- synthetic


def test_synthetic(call, tmp_path, photos):
    out = tmp_path / "set"
    code, text, err = call("dataset", "synthetic", photos, "-o", out, "--count", 6, "--size", 64, "--max-length", 12)
    assert (code, err) == (0, "")
    assert text.startswith(f"{out}: 6 pairs, median length ")
    info, records = read_info(out), read_manifest(out)
    assert (info["complete"], info["count"], info["settings"]["seed"]) == (True, 6, 0)
    assert str(tmp_path) not in (out / "dataset.json").read_text() + (out / "manifest.jsonl").read_text()
    assert len(records) == 6
    for number, record in enumerate(records):
        name = f"{number:06d}"
        files = [record["blurred"], record["sharp"], record["motion"]]
        assert files == [f"blurred/{name}.png", f"sharp/{name}.png", f"motion/{name}.npz"]
        motion, trust = read_motion(out / record["motion"]), read_trust(out / record["motion"])
        assert pixels(out / record["blurred"]).shape == pixels(out / record["sharp"]).shape == (64, 64, 3)
        assert motion.shape == (64, 64, 2)
        np.testing.assert_array_equal(motion, canonical(motion))
        length = np.hypot(motion[..., 0], motion[..., 1])
        shown = length[trust] if trust.any() else length
        # float16 on the disk.
        assert record["max_length"] == pytest.approx(shown.max(), abs=0.01)
        assert record["max_length"] <= 12.01
        assert record["median_length"] == pytest.approx(np.median(shown), abs=0.01)
        assert record["trusted"] == pytest.approx(trust.mean(), abs=1e-4)
        assert record["trusted"] == (0 if record["kind"] == "defocus" else 1)
        assert record["kind"] in KINDS
        assert record["source"] in {"astronaut.png", "coffee.jpg", "camera.png"}
        assert record["jpeg"] is None or 70 <= record["jpeg"] <= 98


def test_synthetic_pairs_fit_together(call, tmp_path, photos):
    """The sharp picture, blurred by the motion file, is the blurred picture: nothing is turned or shifted."""
    out = tmp_path / "set"
    arguments = ("--kinds", "camera,uniform", "--max-noise", 0, "--seed", 3)
    assert call("dataset", "synthetic", photos, "-o", out, "--count", 8, "--size", 96, *arguments)[0] == 0
    better = []
    for record in read_manifest(out):
        assert record["kind"] in ("camera", "uniform")
        sharp, blurred = (pixels(out / record[kind])[20:-20, 20:-20] / 255.0 for kind in ("sharp", "blurred"))
        whole = torch.from_numpy(pixels(out / record["sharp"]) / 255.0).permute(2, 0, 1)[None].float()
        motion = torch.from_numpy(read_motion(out / record["motion"]))
        again = MotionBlur(motion, boundary="replicate").A(whole)[0].permute(1, 2, 0).numpy()[20:-20, 20:-20]
        better.append(np.abs(again - blurred).mean() / np.abs(sharp - blurred).mean())
    # Noise of light, JPEG, clipping and uneven motion are what is left.
    assert np.median(better) < 0.4


def test_the_same_seed_and_another(call, tmp_path, photos):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call("dataset", "synthetic", photos, "-o", tmp_path / name, *SMALL, "--seed", seed)[0] == 0
    first, same, other = (contents(tmp_path / name) for name in "abc")
    assert first == same
    assert first["blurred/000000.png"] != other["blurred/000000.png"]


def test_a_run_that_was_cut_off(call, tmp_path, photos, monkeypatch):
    """Interrupted in its third pair, then killed while a line was written: what goes on ends as if it had not been."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ("dataset", "synthetic", photos, "-o")
    assert call(*arguments, whole, *SMALL)[0] == 0
    write = writing._write_pair

    def interrupted(folder, files, pair):
        if files["blurred"].endswith("000002.png"):
            (folder / "blurred" / ".ircdeblur-tmp-0.png").write_bytes(b"half")
            raise KeyboardInterrupt
        return write(folder, files, pair)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_write_pair", interrupted)
        code, text, err = call(*arguments, out, *SMALL)
    assert (code, text) == (130, "")
    assert "go on with --resume" in err
    assert len(read_manifest(out)) == 2
    assert read_info(out)["complete"] is False
    with (out / "manifest.jsonl").open("a") as stream:
        stream.write('{"blurred": "blurred/0000')
    assert len(read_manifest(out)) == 2

    before = contents(out)
    failed(call(*arguments, out, *SMALL), "unfinished", "2 of 4", "--resume", "--overwrite")
    failed(call(*arguments, out, *SMALL, "--resume", "--seed", 1), "another seed")
    failed(call(*arguments, out, "--count", 4, "--size", 72, "--resume"), "another size and max_length")
    assert contents(out) == before
    code, text, err = call(*arguments, out, *SMALL, "--resume")
    assert (code, err) == (0, "")
    assert contents(out) == contents(whole)


def test_a_data_set_grows(call, tmp_path, photos):
    arguments = ("dataset", "synthetic", photos, "--size", 64)
    assert call(*arguments, "-o", tmp_path / "a", "--count", 2)[0] == 0
    assert call(*arguments, "-o", tmp_path / "a", "--count", 3, "--resume")[0] == 0
    assert call(*arguments, "-o", tmp_path / "b", "--count", 3)[0] == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    # Fewer than are there: nothing is taken away.
    assert call(*arguments, "-o", tmp_path / "a", "--count", 1, "--resume")[0] == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_is_there_is_kept(call, tmp_path, photos):
    out = tmp_path / "set"
    arguments = ("dataset", "synthetic", photos, "-o", out, "--size", 64)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        failed(call(*arguments, "--count", 2, *more), "not empty", "choose another")
    (out / "mine.txt").unlink()
    assert call(*arguments, "--count", 3)[0] == 0
    before = contents(out)
    failed(call(*arguments, "--count", 2), "3 pairs", "--overwrite")
    assert contents(out) == before
    (out / "blurred" / "mine.png").write_bytes(b"mine")
    assert call(*arguments, "--count", 2, "--overwrite", "--seed", 5)[0] == 0
    after = contents(out)
    assert after.pop("blurred/mine.png") == b"mine"
    assert len(after) == 2 + 2 * 3
    assert after["sharp/000000.png"] != before["sharp/000000.png"]


def test_unreadable_photographs_are_left_out(call, tmp_path, photos):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes((photos / "astronaut.png").read_bytes())
    for name in ("bad.jpg", "cut.png"):
        (folder / name).write_bytes((photos / "astronaut.png").read_bytes()[:3000])
    code, _, err = call("dataset", "synthetic", folder, "-o", tmp_path / "set", *SMALL)
    assert code == 0
    assert "note: " in err
    assert "left out: " in err
    assert {record["source"] for record in read_manifest(tmp_path / "set")} == {"good.png"}
    (folder / "good.png").unlink()
    failed(call("dataset", "synthetic", folder, "-o", tmp_path / "other", *SMALL), "cannot be read", "check the folder")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no kind of data set"]),
        (["synthetic", "PHOTOS"], ["--output"]),
        (["synthetic", "PHOTOS", "-o", "OUT", "--size", "100"], ["multiple of 8"]),
        (["synthetic", "PHOTOS", "-o", "OUT", "--count", "0"], ["--count"]),
        (["synthetic", "PHOTOS", "-o", "OUT", "--max-length", "nan"], ["--max-length"]),
        (["synthetic", "PHOTOS", "-o", "OUT", "--kinds", "camera,fog"], ["--kinds", "fog"]),
        (["synthetic", "PHOTOS", "-o", "OUT", "--resume", "--overwrite"], ["exclude"]),
        (["frames", "PHOTOS", "-o", "OUT", "--frames", "2"], ["--frames"]),
        (["frames", "PHOTOS", "-o", "OUT", "--frames", "9-7"], ["--frames"]),
        (["frames", "PHOTOS", "-o", "OUT", "--min-trusted", "2"], ["--min-trusted"]),
    ],
)
def test_wrong_usage(call, tmp_path, photos, arguments, words):
    names = {"PHOTOS": photos, "OUT": tmp_path / "out"}
    failed(call("dataset", *(names.get(a, a) for a in arguments)), *words, code=2)
    assert not (tmp_path / "out").exists()


def test_no_photographs(call, tmp_path):
    failed(call("dataset", "synthetic", tmp_path, "-o", tmp_path / "out"), "no photographs", str(tmp_path))


# ------------------------------------------------------------------------------------------------------- frames


@needs_opencv
def test_frames(call, tmp_path, film):
    out = tmp_path / "set"
    arguments = ("dataset", "frames", film, "--count", 3, "--size", 64, "--frames", "7-11", "--seed", 1)
    code, text, err = call(*arguments, "-o", out)
    assert (code, err) == (0, "")
    assert text.startswith(f"{out}: 3 pairs, ")
    for record in read_manifest(out):
        assert record["count"] in (7, 9, 11)
        first, last, middle = (int(Path(name).stem) for name in (*record["frames"], record["middle"]))
        assert (last - first + 1, last - middle) == (record["count"], record["count"] // 2)
        top, left = record["position"]
        here = np.s_[top : top + 64, left : left + 64]
        np.testing.assert_array_equal(pixels(out / record["sharp"]), pixels(film / record["middle"])[here])
        mean = np.mean([pixels(film / f"{k}.png")[here] for k in range(first, last + 1)], axis=0)
        assert np.abs(pixels(out / record["blurred"]) - mean).max() <= 0.51
        motion, trust = read_motion(out / record["motion"]), read_trust(out / record["motion"])
        true = np.broadcast_to(np.array([1.2, -0.9]) * record["count"], motion.shape)
        assert trust.mean() == pytest.approx(record["trusted"], abs=1e-4)
        assert trust.mean() > 0.5
        # 2 % of the length.
        assert np.median(np.linalg.norm(align_sign(motion, true) - true, axis=-1)[trust]) < 0.03 * record["count"]
    assert call(*arguments, "-o", tmp_path / "again")[0] == 0
    assert contents(out) == contents(tmp_path / "again")


@needs_opencv
def test_a_folder_of_films_and_noise(call, tmp_path, film):
    folder, out = tmp_path / "films", tmp_path / "set"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for path in film.iterdir():
            (folder / name / path.name).write_bytes(path.read_bytes())
    arguments = ("dataset", "frames", folder, "-o", out, "--count", 4, "--size", 64, "--frames", 5, "--noise", 0.05)
    assert call(*arguments)[0] == 0
    records = read_manifest(out)
    assert {record["source"] for record in records} == {"a", "b"}
    record = records[0]
    first, (top, left) = int(Path(record["frames"][0]).stem), record["position"]
    here = np.s_[top : top + 64, left : left + 64]
    mean = np.mean([pixels(film / f"{k}.png")[here] for k in range(first, first + 5)], axis=0)
    inside = (mean > 60) & (mean < 195)
    assert (pixels(out / record["blurred"]) - mean)[inside].std() / 255 == pytest.approx(0.05, rel=0.05)


@needs_opencv
def test_films_that_cannot_be_used(call, tmp_path, film):
    arguments = ("dataset", "frames", film, "-o", tmp_path / "set", "--count", 2)
    failed(call(*arguments, "--size", 256), "160 x 130", "--size")
    failed(call(*arguments, "--size", 64, "--frames", 21), "15 frames", "--frames")
    failed(call(*arguments, "--size", 64, "--min-length", 30), "no usable window", "too short")
    failed(call("dataset", "frames", tmp_path / "none", "-o", tmp_path / "x"), "no such folder or video")
    (tmp_path / "empty").mkdir()
    failed(call("dataset", "frames", tmp_path / "empty", "-o", tmp_path / "x"), "no frames and no videos")


def test_frames_without_opencv(call, tmp_path, film, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cv2" else find(name))
    failed(call("dataset", "frames", film, "-o", tmp_path / "set"), "not installed", "ircdeblur[train]")


# ------------------------------------------------------------------------------------------------------- reader


@pytest.fixture
def small_set(call, tmp_path, photos):
    out = tmp_path / "set"
    assert call("dataset", "synthetic", photos, "-o", out, "--count", 5, "--size", 64, "--max-length", 12)[0] == 0
    return out


def test_crops_are_those_on_the_disk(small_set):
    """Every crop, turned back in all eight ways, is found in one picture, its motion and trust at the same place."""
    records = read_manifest(small_set)
    weights = np.array([0.299, 0.587, 0.114])
    whole = [(pixels(small_set / r["blurred"]) @ weights).round() / 255 for r in records]
    motions = [read_motion(small_set / r["motion"]) for r in records]
    trusts = [read_trust(small_set / r["motion"]) for r in records]
    pairs = next(iter(DatasetPairs([small_set], crop=56, batch=12, seed=0)))
    assert pairs.blurred.shape == pairs.sharp.shape == (12, 1, 56, 56)
    assert pairs.motion.shape == (12, 56, 56, 2)
    assert pairs.known.shape == (12, 56, 56)
    used = set()
    for i in range(12):
        found = []
        for flip in (False, True):
            for quarters in range(4):
                # A flip, then a turn by some quarters: undone by turning back, then flipping.
                back = np.rot90(pairs.blurred[i, 0].numpy(), -quarters)
                back = back[:, ::-1] if flip else back
                for number, image in enumerate(whole):
                    for top in range(9):
                        for left in range(9):
                            # One grey level: rounding of the luminance.
                            if np.abs(image[top : top + 56, left : left + 56] - back).max() < 1.01 / 255:
                                found.append((number, top, left, flip, quarters))
        assert len(found) == 1
        number, top, left, flip, quarters = found[0]
        used.add((flip, quarters))
        here = np.s_[top : top + 56, left : left + 56]
        length = np.hypot(*np.moveaxis(pairs.motion[i].numpy(), -1, 0))
        expected = np.hypot(*np.moveaxis(motions[number][here], -1, 0))
        expected, trust = (np.rot90(m[:, ::-1] if flip else m, quarters) for m in (expected, trusts[number][here]))
        np.testing.assert_allclose(length, expected, atol=1e-3)
        np.testing.assert_array_equal(pairs.known[i].numpy(), np.where(trust > 0, 1.0, np.nan))
    assert len(used) > 3


def test_reader_is_repeatable_and_adds_noise(small_set):
    first, same, other, noisy = (
        next(iter(DatasetPairs([small_set], 48, 6, seed, noise)))
        for seed, noise in ((1, 0.0), (1, 0.0), (2, 0.0), (1, 0.05))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first.blurred, other.blurred)
    assert torch.equal(noisy.sharp[:1], first.sharp[:1])
    assert 0.001 < (noisy.blurred[0] - first.blurred[0]).std() < 0.06
    levels = noisy.blurred * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_reader_refuses(tmp_path, small_set):
    with pytest.raises(FileNotFoundError, match="not a data set"):
        DatasetPairs([tmp_path], 32, 2, 0)
    with pytest.raises(ValueError, match="smaller than the crop"):
        DatasetPairs([small_set], 65, 2, 0)
    lines = (small_set / "manifest.jsonl").read_text().splitlines(keepends=True)
    (small_set / "manifest.jsonl").write_text("".join([lines[0], "{broken\n", *lines[2:]]))
    with pytest.raises(ValueError, match="damaged, line 2"):
        DatasetPairs([small_set], 32, 2, 0)
    (small_set / "manifest.jsonl").write_text("")
    with pytest.raises(ValueError, match="no finished pair"):
        DatasetPairs([small_set], 32, 2, 0)
    (small_set / "dataset.json").write_text("[1")
    with pytest.raises(ValueError, match="damaged"):
        read_info(small_set)


# ------------------------------------------------------------------------------------------------------- photos


def test_color_photos_are_reduced_not_enlarged(photos):
    source = ColorPhotos(list_photos(photos), largest_side=300)
    rng = np.random.default_rng(0)
    taken = [source.take(120, rng) for _ in range(40)]
    assert {crop.path.name for crop in taken} == {"astronaut.png", "coffee.jpg", "camera.png"}
    sides = {name: {c.longer_side for c in taken if c.path.name == name} for name in ("astronaut.png", "camera.png")}
    assert sides["astronaut.png"] == {300, 225, 168}
    assert sides["camera.png"] == {256, 192, 143}
    assert all(crop.pixels.shape == (3, 120, 120) and crop.pixels.dtype == torch.uint8 for crop in taken)
    # A large crop takes a larger copy rather than a mirrored edge.
    assert {source.take(250, rng).longer_side for _ in range(20)} <= {300, 250, 256, 375}


def test_luma_and_color_crops_agree(photos):
    """The grey photograph, uncut: both sources show the same, and colour has three equal channels."""
    path = [photos / "camera.png"]
    color = ColorPhotos(path, scales=(1.0,)).take(256, np.random.default_rng(0)).pixels
    luma = LumaPhotos(path, scales=(1.0,)).images[0][0]
    assert torch.equal(color[0], color[1])
    turned = [torch.rot90(luma.flip(-1) if flip else luma, k) for flip in (False, True) for k in range(4)]
    assert sum(torch.equal(color[0], t) for t in turned) == 1


def test_manifest_is_plain_json(small_set):
    for line in (small_set / "manifest.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
