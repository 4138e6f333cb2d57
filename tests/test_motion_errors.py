"""The measurement of where the error of the motion sits."""

import csv

import numpy as np
import pytest
import skimage.data
import skimage.io

from ircdeblur.data.camera import camera_shake
from ircdeblur.experiments import motion_errors
from ircdeblur.experiments.motion_errors import CHANGES, Change, Places, blurred, grouped, shares
from ircdeblur.metrics import motion_mse
from ircdeblur.plots import plot_groups


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with two small validation photographs."""
    folder = tmp_path_factory.mktemp("errors") / "val"
    folder.mkdir()
    skimage.io.imsave(folder / "000.png", skimage.data.astronaut()[40:200, 150:340])
    skimage.io.imsave(folder / "001.png", skimage.data.coffee()[100:260, 200:390])
    return folder.parent


def test_shares_part_bias_from_scatter():
    truth = camera_shake((40, 60), 20.0, seed=1)
    longer = shares(1.25 * truth, truth)
    assert longer["MSE"] == pytest.approx(motion_mse(1.25 * truth, truth), rel=1e-5)
    assert longer["scale"] == pytest.approx(0.8, rel=1e-5)
    assert longer["scaled"] == pytest.approx(0, abs=1e-4)
    assert longer["turned"] == pytest.approx(longer["MSE"], rel=1e-4)
    cos, sin = np.cos(0.3), np.sin(0.3)
    turned = shares(truth @ np.array([[cos, -sin], [sin, cos]]), truth)
    assert turned["turned"] == pytest.approx(0, abs=1e-4)
    assert turned["MSE"] == pytest.approx(np.square(truth).sum(-1).mean() * (1 - cos), rel=1e-4)
    # The sign of a motion is no error; where nothing is found nothing can be scaled.
    assert shares(-truth, truth)["MSE"] == pytest.approx(0, abs=1e-6)
    none = shares(0 * truth, truth)
    assert none["scaled"] == none["MSE"] == pytest.approx(np.square(truth).sum(-1).mean() / 2, rel=1e-5)


def test_groups_of_pixels():
    lengths = np.array([1.0, 2.0, 5.0, 30.0, 30.0])
    places = Places({"length": lengths}, {"a": np.array([1.0, 3.0, 4.0, 0.0, 2.0])})
    labels, share, errors = grouped(places, "length")
    assert labels == ["0 to 3", "3 to 6", "25 to 36"]
    np.testing.assert_allclose(share, [0.4, 0.2, 0.4])
    np.testing.assert_allclose(errors["a"], [2**0.5, 2, 1])


def test_what_is_changed(folder):
    paths = sorted((folder / "val").iterdir())
    pictures = {title: blurred(paths[0], paths[1], "severe", change) for title, change in CHANGES.items()}
    plain, motion, texture = pictures["as they are"]
    assert plain.shape == (*texture.shape, 3) == (160, 190, 3)
    assert plain.dtype == motion.dtype == np.float32
    assert 17.5 <= np.hypot(*np.moveaxis(motion, -1, 0)).max() <= 35.01
    for title, (image, field, _) in pictures.items():
        change = CHANGES[title]
        # One thing at a time: the camera's motion is the same.
        assert (field == motion).all() == (change.field == "camera")
        assert (np.abs(image - plain).max() > 1e-3) == (title != "as they are")
    clean = blurred(paths[0], paths[1], "severe", Change(noise=0.0))[0]
    noisy = blurred(paths[0], paths[1], "severe", Change(noise=0.04))[0]
    inner = (clean > 0.2) & (clean < 0.8)
    assert (noisy - clean)[inner].std() == pytest.approx(0.04, rel=0.05)
    # An object covers a tenth of the frame, and what it covers moves as it does.
    alone = (pictures["something moves by itself"][1] != motion).any(-1)
    assert 0.05 < alone.mean() < 0.2
    assert len(np.unique(pictures["something moves by itself"][1][alone], axis=0)) == 1


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    few = {title: CHANGES[title] for title in ("as they are", "noise 2 %")}
    monkeypatch.setattr(motion_errors, "CHANGES", few)
    assert motion_errors.main(["--data", str(folder), "--out", str(tmp_path / "out"), "--count", "2"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"motion-errors.{end}" for end in ("md", "csv", "png")}
    with (tmp_path / "out" / "motion-errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Both severities as they are, one changed; three estimates of each.
    assert len(rows) == 3 * (2 * 2 + 2)
    text = (tmp_path / "out" / "motion-errors.md").read_text()
    assert "| as they are | " in text
    assert "| noise 2 % | " in text
    refined = [
        float(r["MSE"]) for r in rows if r["estimate"] == "refined on the picture" and r["change"] == "noise 2 %"
    ]
    line = next(line for line in text.splitlines() if line.startswith("| noise 2 %"))
    assert f"| {np.median(refined):.2f} |" in line
    assert "done" in capsys.readouterr().err
    assert motion_errors.main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "error:" in capsys.readouterr().err


def test_drawing_of_groups():
    values = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 0.5])}
    three = plot_groups({str(i): (["x", "y"], values) for i in range(3)}, "px")
    one = plot_groups({"only": (["x", "y"], values)}, "px")
    assert three.dtype == np.uint8
    assert three.shape == (680, 1200, 3)
    assert one.shape == (340, 600, 3)
    # The fourth panel is empty.
    assert (three[360:, 640:] == 255).all()
