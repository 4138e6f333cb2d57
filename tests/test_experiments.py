"""The paper's tables: their protocol on two small pictures, and their report."""

import csv

import numpy as np
import pytest
import skimage.data
import skimage.io

from ircdeblur import experiments
from ircdeblur.experiments.report import Report
from ircdeblur.experiments.synthetic import camera_case, uniform_case
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.metrics import psnr


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """A data folder with two small photographs and eight kernels in the places where the experiments look."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "voc-test").mkdir()
    (folder / "levin").mkdir()
    skimage.io.imsave(folder / "voc-test" / "000.png", skimage.data.astronaut()[40:180, 150:300])
    skimage.io.imsave(folder / "voc-test" / "001.png", skimage.data.coffee()[100:240, 200:350])
    kernels = {f"kernel{i}": linear_motion_kernel(2 * i + 3, 20 * i) for i in range(1, 9)}
    np.savez(folder / "levin" / "kernels.npz", **kernels)
    return folder


@pytest.mark.parametrize("severity", ["moderate", "severe"])
def test_camera_case(small_data, severity):
    path = small_data / "voc-test" / "000.png"
    case = camera_case(path, severity, 0)
    assert case.sharp.shape == case.blurred.shape == (1, 3, 104, 114)
    assert case.motion.shape == (104, 114, 2)
    longest = np.hypot(case.motion[..., 0], case.motion[..., 1]).max()
    limit = {"moderate": 21.0, "severe": 35.0}[severity]
    assert limit / 2 <= longest <= limit
    np.testing.assert_array_equal(case.blurred, camera_case(path, severity, 0).blurred)
    assert not np.array_equal(case.motion, camera_case(path, severity, 1).motion)
    # The noise alone would be 40 dB: what is missing to that is blur.
    assert psnr(case.blurred[0].numpy().clip(0, 1), case.sharp[0].numpy()) < 35


def test_uniform_case_has_seen_beyond_its_frame(small_data):
    psf = linear_motion_kernel(9, 0).astype(np.float32)
    case = uniform_case(small_data / "voc-test" / "001.png", psf, seed=0, noise=0.0)
    photo = skimage.io.imread(small_data / "voc-test" / "001.png") / 255.0
    assert case.sharp.shape[-2:] == (140, 142)
    # The first pixel of the frame is the mean of the photograph's first nine.
    np.testing.assert_allclose(case.blurred[0, :, 0, 0], photo[0, :9].mean(0), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_table(small_data, tmp_path, name):
    text = experiments.run(name, small_data, tmp_path / "out", quick=True)
    assert (tmp_path / "out" / f"{name}.md").read_text() == text
    assert text.startswith(f"## Table {name[-1]}")
    assert "Machine:" in text
    with (tmp_path / "out" / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["photo"] for row in rows} == {"000", "001"}
    assert "nan" not in text.lower()


def test_unknown_experiment_and_missing_data(tmp_path):
    with pytest.raises(ValueError, match="table1"):
        experiments.run("table9", tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError):
        experiments.run("table2", tmp_path, tmp_path)


def test_report_means_and_errors():
    rows = [{"m": "a", "x": 1.0}, {"m": "a", "x": 3.0}, {"m": "b", "x": 0.25}]
    report = Report("T", "Text.", "m", ("x",), rows, ["Note."])
    lines = report.markdown().splitlines()
    # Standard deviation sqrt(2), over sqrt(2).
    assert "| a | 2.00 ± 1.00 | 2 |" in lines
    assert "| b | 0.250 | 1 |" in lines
    assert "- Note." in lines
    assert report.mean("x", m="a") == 2.0
