"""The paper's tables: their protocol on two small pictures, and their report."""

import csv
import importlib.util
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.io

from ircdeblur import experiments
from ircdeblur.experiments import compare, results, table2
from ircdeblur.experiments.config import ConfigError, Curves, MotionTable, UniformTable, default_path, load
from ircdeblur.experiments.curves import Curve, report_curves
from ircdeblur.experiments.report import Column, Report
from ircdeblur.experiments.synthetic import camera_case, uniform_case
from ircdeblur.experiments.table3 import rim_and_interior
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.metrics import psnr
from ircdeblur.motion import canonical
from ircdeblur.nets.methods import METHODS
from ircdeblur.plots import captioned, plot_quality
from ircdeblur.solvers.settings import DEFAULTS

ROOT = Path(__file__).parent.parent

UNIFORM = """
folder: voc-test
photos: 2
noise: 0.01
kernels: [kernel1, kernel3]
blocks:
  the paper's prior:
    settings: {color: null, isotropic: false, prior: 6}
    rows:
      fft: {method: fft}
      cg: {method: cg, settings: {iterations: 2, steps: 2}}
      irc: {method: irc, settings: {iterations: 2}, photos: 1}
    differences: [[irc, cg], [cg, fft]]
  the package's prior:
    rows:
      cg, converged: {method: cg, settings: {iterations: 3}}
curves:
  own:
    title: the package's prior
    reference: cg
    plain: cg
    photos: 1
    rows:
      cg: {method: cg, settings: {iterations: 4, steps: 3}}
      fft: {method: fft, settings: {iterations: 3}}
strips:
  one:
    photo: "001"
    kernel: kernel3
    crop: [80, 120, 60, 50]
    block: the paper's prior
    rows: [fft, cg]
quick: {photos: 1, kernels: [kernel3], curves: [own]}
"""

MOTION = """
folder: voc-test
photos: 2
noise: 0.01
rim: 10
blocks:
  the package's prior:
    rows:
      NU-CG, converged: {method: cg, settings: {iterations: 2, steps: 2}}
      NU-FFT (fft): {method: fft, settings: {iterations: 2}}
    differences: [["NU-CG, converged", NU-FFT (fft)]]
curves:
  own:
    title: the package's prior
    reference: NU-CG
    plain: NU-CG
    photos: 1
    rows:
      NU-CG: {method: cg, settings: {iterations: 3, steps: 2}}
strips:
  one: {photo: "000", crop: [0, 0, 40, 40], block: the package's prior, rows: ["NU-CG, converged"]}
quick: {photos: 1}
"""


def config_file(folder, text):
    """A configuration with this text."""
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def read_csv(path):
    """All rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """A data folder with two small photographs, eight kernels, a pair and a scene where the experiments look."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("gopro-pairs/blur", "gopro-pairs/sharp", "koehler"):
        (folder / name).mkdir(parents=True)
    for name in ("gopro-pairs/blur/000", "gopro-pairs/sharp/000", "koehler/blurry_1_1", "koehler/sharp_1"):
        photo = skimage.data.coffee()[100:240, 200:350]
        # What equals the truth has no PSNR.
        photo[::9] //= 2 if "blurry" in name else 1
        skimage.io.imsave(folder / f"{name}.png", photo)
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
    """As it is run by default: but for table 2 from the configurations of the repository, with every method."""
    text = experiments.run(name, small_data, tmp_path / "out", quick=True)
    assert (tmp_path / "out" / f"{name}.md").read_text() == text
    assert text.startswith(f"## Table {name[-1]}")
    assert "Machine:" in text
    rows = read_csv(tmp_path / "out" / f"{name}.csv")
    assert {row["photo"] for row in rows} == {"table4": {"000", "001", "pair 000"}, "table5": {"1_1"}}.get(
        name, {"000", "001"}
    )
    assert "nan" not in text.lower()


def test_table1(small_data, tmp_path):
    config, out = config_file(tmp_path, UNIFORM), tmp_path / "out"
    text = experiments.run("table1", small_data, out, config=config)
    names = {path.name for path in out.iterdir()}
    assert names == {
        *(f"table1{end}" for end in (".csv", "-summary.csv", ".md")),
        *("table1-curves-own.csv", "table1-curves-own.png", "table1-strip-one.png"),
    }
    rows = read_csv(out / "table1.csv")
    # Two photographs and two kernels, three methods and the input; the other block one method and the input; irc has
    # one photograph only.
    assert len(rows) == 4 * (4 + 2) - 2
    paper = [r for r in rows if r["block"] == "the paper's prior"]
    summary = {(r["block"], r["row"], r["column"]): r for r in read_csv(out / "table1-summary.csv")}

    def figures(name, kernel=None):
        return {
            (r["photo"], r["kernel"]): float(r["PSNR (dB)"])
            for r in paper
            if r["method"] == name and kernel in (None, r["kernel"])
        }

    cg, irc = figures("cg"), figures("irc")
    mean = summary["the paper's prior", "cg", "PSNR (dB)"]
    assert float(mean["mean"]) == pytest.approx(np.mean(list(cg.values())), rel=1e-4)
    assert float(mean["standard error"]) == pytest.approx(np.std(list(cg.values()), ddof=1) / 2, rel=1e-2)
    one = summary["the paper's prior", "cg", "ker 3"]
    assert float(one["mean"]) == pytest.approx(np.mean(list(figures("cg", "kernel3").values())), rel=1e-4)
    # The difference is taken on the pictures that both have seen.
    difference = summary["the paper's prior", "irc - cg", "PSNR (dB)"]
    assert difference["n"] == "2"
    assert float(difference["mean"]) == pytest.approx(np.mean([irc[k] - cg[k] for k in irc]), abs=1e-3)
    cells = next(line for line in text.splitlines() if line.startswith("| *the paper: IRC*")).split(" | ")
    assert cells[1:] == ["*25.91*", "*25.99*", "*25.65*", "*6*", "*2.6*", "*8.6*", " |"]
    assert "measured **on other data**" in text
    assert "irc: on the first 1 photograph only" in text
    assert "![PSNR against seconds, the package's prior](table1-curves-own.png)" in text
    assert "| cg, converged | cg | " in text[text.index("### Settings") :]
    curves = read_csv(out / "table1-curves-own.csv")
    assert [r["iteration"] for r in curves if r["method"] == "cg"] == ["1", "2", "3", "4"]
    seconds = [float(r["seconds"]) for r in curves if r["method"] == "cg"]
    assert seconds == sorted(seconds)
    assert skimage.io.imread(out / "table1-strip-one.png").ndim == 3
    assert str(small_data) not in text
    # No row of a table is longer or shorter than its heading.
    for group in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in group.splitlines()}) == 1, group


def test_quick_and_number_of_photographs(small_data, tmp_path):
    config = config_file(tmp_path, UNIFORM)
    text = experiments.run("table1", small_data, tmp_path / "quick", quick=True, config=config)
    rows = read_csv(tmp_path / "quick" / "table1.csv")
    assert {(r["photo"], r["kernel"]) for r in rows} == {("000", "kernel3")}
    assert "ker 1" not in text
    experiments.run("table1", small_data, tmp_path / "one", photos=1, config=config)
    full = read_csv(tmp_path / "one" / "table1.csv")
    assert {(r["photo"], r["kernel"]) for r in full} == {("000", "kernel1"), ("000", "kernel3")}
    # A picture is the same in every version of the table.
    same = next(r for r in full if r["method"] == "blurred" and r["kernel"] == "kernel3")
    assert same["PSNR (dB)"] == rows[0]["PSNR (dB)"]


def test_table3(small_data, tmp_path):
    out = tmp_path / "out"
    text = experiments.run("table3", small_data, out, config=config_file(tmp_path, MOTION))
    assert (out / "table3-strip-one.png").is_file()
    assert (out / "table3-curves-own.png").is_file()
    assert "| *the paper: NU-CG* | *26.77* | *0.864* |" in text
    assert "NU-CG, converged − NU-FFT (fft)" in text
    for row in read_csv(out / "table3.csv"):
        assert float(row["interior - rim (dB)"]) == pytest.approx(float(row["interior (dB)"]) - float(row["rim (dB)"]))
        if row["method"] != "blurred":
            parts = float(row["set-up (s)"]) + float(row["iterations (s)"])
            assert parts == pytest.approx(float(row["seconds"]))


def test_table2_pictures_of_the_first_photographs(small_data, tmp_path, monkeypatch):
    def still(image, return_error=False, **options):
        motion, error = np.zeros((*image.shape[:2], 2)), np.ones(image.shape[:2])
        return (motion, error) if return_error else motion

    monkeypatch.setattr(table2, "PICTURED", 1)
    monkeypatch.setattr(table2, "estimate_motion", still)
    text = experiments.run("table2", small_data, tmp_path, quick=True)
    names = [f"table2-motions-{severity}-000.png" for severity in ("moderate", "severe")]
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == names
    assert all(f"`{name}`" in text for name in names)
    # Six panels of 240 by 220 pixels, their captions, and the wheel; below them the one of the baseline.
    picture = skimage.io.imread(tmp_path / names[0])
    assert picture.shape[0] == 520
    truth, estimate = picture[110, 360], picture[110, -500]
    assert np.ptp(truth) > 20
    assert (estimate == 255).all()


def test_rim_and_interior():
    truth = np.zeros((10, 12, 3))
    x = np.full_like(truth, 0.1)
    x[2:-2, 2:-2] = 0.01
    figures = rim_and_interior(x, truth, 2)
    assert figures == pytest.approx({"rim (dB)": 20.0, "interior (dB)": 40.0, "interior - rim (dB)": 20.0})


def test_set_up_is_what_comes_before_the_iterations(small_data, monkeypatch):
    """Against a clock and a solver that count: set-up 5, iterations of 2, a pause of 100 in each for the PSNR."""
    clock = iter([0.0, 7.0, 107.0, 109.0, 209.0, 211.0, 311.0, 312.0])
    monkeypatch.setattr(compare.time, "perf_counter", lambda: next(clock))

    class Done:
        def __init__(self, x):
            self.x = x

    def solver(y, blur, noise, method, settings, callback):
        for i in range(3):
            callback(i, y)
        return Done(y)

    monkeypatch.setattr(compare, "deconvolve", solver)
    case = uniform_case(small_data / "voc-test" / "000.png", linear_motion_kernel(5, 0).astype(np.float32), 0)
    truth = compare.to_array(case.sharp)
    timed = compare.restore(case, lambda: None, "cg", DEFAULTS["cg"], 0.01, truth)
    assert [p.seconds for p in timed.points] == [7.0, 9.0, 11.0]
    assert (timed.setup, timed.seconds) == (5.0, 12.0)
    assert timed.times() == {"set-up (s)": 5.0, "iterations (s)": 7.0, "seconds": 12.0}


def test_time_to_the_goal(tmp_path):
    seconds = np.array([[1.0, 2.0, 3.0, 4.0]] * 2)
    quality = np.array([[20.0, 24.0, 29.0, 30.0], [20.0, 24.0, 29.94, 30.0]])
    curves = Curves(rows={}, title="one model", reference="slow", plain="slow", gap=0.05)
    measured = {
        "slow": Curve(seconds * 10, quality, np.array([5.0, 5.0])),
        "fast": Curve(seconds, quality + 0.02, np.array([0.5, 0.5])),
        "never": Curve(seconds, quality - 1, np.zeros(2)),
    }
    assert measured["slow"].reaches(29.4) == 2
    part, summary = report_curves("c", curves, measured, tmp_path)
    assert "The goal, 29.95 dB, is 0.05 dB below slow" in part
    line = next(line for line in part.splitlines() if line.startswith("| fast"))
    # Fourth iteration: 4 of 40 seconds; without set-up 3.5 of 35.
    assert line.split(" | ")[3] == "4"
    assert line.endswith("| 0.10 | 0.10 |")
    assert "| never | 29.00 ± 0.00 | 29.00 ± 0.00 | not reached |" in part
    share = {r["row"]: float(r["mean"]) for r in summary if r["column"].startswith("share")}
    assert share == {"slow": 1.0, "fast": pytest.approx(0.1), "never": math.inf}
    assert len(read_csv(tmp_path / "c.csv")) == 12


def test_a_run_that_stops_early_stays_there():
    points = [compare.Point(1.0, 20.0), compare.Point(2.0, 25.0)]
    image = np.zeros((2, 2, 3))
    curve = Curve.of([compare.Timed(image, 2.0, 0.5, points), compare.Timed(image, 1.0, 0.5, points[:1])])
    np.testing.assert_array_equal(curve.quality, [[20.0, 25.0], [20.0, 20.0]])


# ----------------------------------------------------------------------------------------------- configurations


@pytest.mark.parametrize(("name", "cls"), [("table1", UniformTable), ("table3", MotionTable)])
def test_configurations_of_the_repository(name, cls):
    path = default_path(name)
    assert path == ROOT / "configs" / f"{name}.yaml"
    config = load(cls, path)
    assert config.photos == {"table1": 20, "table3": 60}[name]
    assert config.noise == 0.01
    # Eq. 16 has no other model than the paper's.
    for block in [b for label, b in config.blocks.items() if "paper" in label]:
        for row in block.rows:
            assert (block.resolved(row).color, block.resolved(row).isotropic) == (None, False)
    # One set of curves compares methods on one model.
    for curves in config.curves.values():
        models = {(s.prior, s.norm, s.color, s.isotropic) for s in map(curves.resolved, curves.rows)}
        assert len(models) == 1
    # The claims on the page of results name rows that are there.
    for claim in (c for c in results.CLAIMS if c.name == name):
        if claim.block in config.blocks:
            assert set(re.split(r" - (?=NU|cg|fft)", claim.row)) <= set(config.blocks[claim.block].rows)
        else:
            assert any(f"time to quality, {c.title}" == claim.block for c in config.curves.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("photos: 2\nnoise", "photos: 2\nphotoz: 2\nnoise", "unknown key photoz; known are folder, photos"),
        ("steps: 2", "stepz: 2", "blocks.the paper's prior.rows.cg.settings: there is no 'stepz'"),
        ("photos: 2\nnoise: 0.01", "photos: two\nnoise: 0.01", "photos must be int, got 'two'"),
        ("photos: 2\nnoise: 0.01", "photos: true\nnoise: 0.01", "photos must be int, got True"),
        ("photos: 2\nnoise: 0.01", "photos: 2", "noise is missing"),
        ("noise: 0.01", "noise: -1", "noise must not be negative"),
        ("iterations: 2, steps: 2", "iterations: 2.5", "rows.cg.settings.iterations must be int, got 2.5"),
        ("{method: fft}", "{method: fast}", "rows.fft.method: there is no 'fast'"),
        ("[irc, cg]", "[irc, cgg]", "differences: there is no 'cgg'"),
        ("[irc, cg]", "[irc]", "must be pairs"),
        ("settings: {iterations: 3}", "settings: {iterations: null}", "iterations must be int, got None"),
        ("kernels: [kernel3]", "kernels: [kernel9]", "quick.kernels: there is no 'kernel9'"),
        ("kernels: [kernel1, kernel3]", "kernels: kernel1", "kernels must be a list, got 'kernel1'"),
        ("plain: cg", "plain: bicg", "curves.own.plain: there is no 'bicg'"),
        ("[80, 120, 60, 50]", "[80, 120]", "crop must be top, left, height and width"),
        ("rows: [fft, cg]", "rows: [epll]", "strips.one.rows: there is no 'epll'"),
        ("      fft: {method: fft}\n", "      1: {method: fft}\n", "1 must be a name"),
        ("folder: voc-test", "folder: [", "not YAML"),
        ("quick: {photos: 1,", "quick: {photos: 0,", "photos must be at least 1"),
    ],
)
def test_bad_configurations(tmp_path, old, new, message):
    assert old in UNIFORM
    path = config_file(tmp_path, UNIFORM.replace(old, new, 1))
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load(UniformTable, path)
    assert str(error.value).startswith(f"{path}: ")


def test_no_configuration_at_all(tmp_path):
    with pytest.raises(ConfigError, match="must hold settings by name, got None"):
        load(UniformTable, config_file(tmp_path, ""))
    with pytest.raises(FileNotFoundError, match="table9"):
        default_path("table9")
    with pytest.raises(ValueError, match="table1, table3, table4, table5"):
        experiments.run("table2", tmp_path, tmp_path, config=tmp_path / "c.yaml")


# ------------------------------------------------------------------------------------------ drawings and the page


def test_drawings():
    curve = (np.array([0.1, 1.0]), np.array([0.05, 0.9]), np.array([25.0, 30.0]))
    assert plot_quality({"a": curve}, 29.9, "goal").shape == (500, 1200, 3)
    strip = captioned([np.zeros((40, 60, 3)), np.ones((40, 60, 3))], ["a\n1 dB", "b\n2 dB"], height=200)
    assert strip.shape == (248, 2 * 300 + 6, 3)
    # Pictures stand where they should: black left, white right, captions below.
    assert strip[100, 20].max() == 0
    assert strip[100, -20].min() == 255
    assert strip[210:, :300].min() < 128


def test_page_of_results(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    lines = [
        "block,row,column,mean,standard error,n",
        "the paper's prior,irc - fft,PSNR (dB),0.31,0.02,160",
        "the paper's prior,irc - cg,PSNR (dB),0.01,0.02,160",
        "\"time to quality, the package's prior\",irc,share of plain cg's seconds,inf,,1",
    ]
    (made / "table1-summary.csv").write_text("\n".join(lines))
    (made / "table1.md").write_text("## Table 1\n\n![c](table1-curves-own.png) [w](https://a.b)\n")
    for name in (
        "table1-curves-own.png",
        "table1-strip-one.png",
        "table1.csv",
        "motion-representations.md",
        "benchmarks.md",
        "motion-errors.md",
        "motion-errors.png",
        "motion-errors.csv",
    ):
        (made / name).write_text(f"# {name}\n")
    folder, output = tmp_path / "docs" / "results", tmp_path / "docs" / "results.md"
    results.main([str(folder), "-o", str(output), "--collect", str(made)])
    # Neither photographs nor thousands of measurements go into the repository.
    kept = {p.name for p in folder.iterdir()}
    assert kept == {
        "table1.md",
        "table1-summary.csv",
        "table1-curves-own.png",
        "motion-representations.md",
        "benchmarks.md",
        "motion-errors.md",
        "motion-errors.png",
    }
    text = output.read_text()
    assert "irc above fft (the paper: +0.49) | at least 0.49 dB | 0.31 ± 0.02 dB | 160 | **no** |" in text
    assert "irc beside cg (the paper: +0.06) | at least 0 dB | 0.01 ± 0.02 dB | 160 | yes |" in text
    assert "as a share of cg's | at most 0.2 | not reached | 1 | **no** |" in text
    assert "![c](results/table1-curves-own.png) [w](https://a.b)" in text
    assert text.endswith("# benchmarks.md\n")
    with pytest.raises(SystemExit):
        results.main([str(tmp_path / "none"), "-o", str(output)])


def test_the_committed_page_is_what_its_files_make():
    folder, output = ROOT / "docs" / "results", ROOT / "docs" / "results.md"
    if not output.is_file():
        pytest.skip("the tables have not been run for this version yet: there is no docs/results.md")
    assert output.read_text(encoding="utf-8") == results.page(folder, "results")


# --------------------------------------------------------------------------------------------------- benchmarks


@pytest.fixture(scope="module")
def bench():
    """The script of the benchmarks as a module."""
    spec = importlib.util.spec_from_file_location("bench_run", ROOT / "benchmarks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks for its own module.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bench_run", module)
        spec.loader.exec_module(module)
        yield module


def test_benchmark_in_a_process_of_its_own(bench):
    case = bench.Case("solver", "fft", "uniform", height=64, width=80, runs=2)
    figures = bench.run(case, 120)
    assert len(figures["seconds"]) == 2
    assert 0 <= figures["setup"] <= max(figures["seconds"])
    assert 0 <= figures["above"] < figures["peak"]
    assert "no-such" in bench.run(bench.replace(case, method="no-such"), 120)["failed"]
    assert bench.run(case, 0.01)["failed"] == "more than 0.01 s"


def test_benchmarks_plan_and_tables(bench, tmp_path):
    quick = list(bench.cases(True, 1, 1.0, str(tmp_path)))
    full = list(bench.cases(False, 3, 16.0, str(tmp_path)))
    assert {c.method for _, c in full if c.what == "solver"} == set(METHODS)
    assert {c.channels for _, c in full if c.what == "solver"} == {1, 3}
    sizes = sorted({c.megapixels for _, c in full if c.what == "growth"})
    assert sizes == pytest.approx([0.2, 1, 4, 16], rel=0.01)
    assert max(c.megapixels for _, c in quick) == pytest.approx(1, rel=0.01)
    figures = {"seconds": [2.0, 1.0, 4.0], "setup": 0.5, "peak": 900.0, "above": 300.0, "again": 0.0}
    done = [(h, c, {"failed": "out of memory"} if c.method == "irc" else figures) for h, c in full]
    text = bench.markdown(done, "a machine")
    assert "| cg | 2.000 (1.000 to 4.000) | 0.500 | 1.00 | 900 | 300 |" in text
    assert "| irc | failed: out of memory | | | | |" in text
    assert "| cg | 16.0 | 2.000 (1.000 to 4.000) | 0.12 | 0.01 | 900 | 300 |" in text
    assert "| read from the disk | 2.000 | 0.0000 | 900 |" in text
    assert text.endswith("- Machine: a machine\n")


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


def test_report_with_blocks_columns_and_differences():
    rows = [
        {"b": b, "m": m, "photo": p, "k": k, "PSNR (dB)": base + gain}
        for b, gain in (("one", 0.0), ("two", 1.0))
        for m, base in (("a", 20.0), ("c", 22.0))
        for p, k in ((0, "x"), (1, "y"))
    ]
    rows[0]["PSNR (dB)"] = 21.0
    columns = (Column("on x", "PSNR (dB)", {"k": "x"}), "PSNR (dB)")
    report = Report("T", "Text.", "m", columns, rows, block="b", picture=("photo", "k"))
    report.differences = {"one": [("c", "a")]}
    report.quoted = {"two": {"theirs": {"on x": "30"}}}
    lines = report.markdown().splitlines()
    assert "| a | 21.00 | 20.50 ± 0.50 | 2 |" in lines
    assert "| a | 21.00 | 21.00 ± 0.00 | 2 |" in lines
    assert "| *theirs* | *30* |  |  |" in lines
    assert "| c − a | +1.50 ± 0.50 | 2 |" in lines
    assert report.summary()[-1]["row"] == "c"
    np.testing.assert_array_equal(report.paired("PSNR (dB)", "c", "a", "one"), [1.0, 2.0])


def test_mean_over_flips_and_turns(monkeypatch):
    """Oracle: an estimator that answers rightly whatever way the picture is turned averages to the right answer."""
    rng = np.random.default_rng(0)
    image = rng.random((5, 7, 3))
    truth = canonical(rng.normal(size=(5, 7, 2)))
    known = {}
    for flip in (False, True):
        for quarters in range(4):
            seen = np.rot90(image[:, ::-1] if flip else image, quarters)
            field = truth[:, ::-1] * [-1, 1] if flip else truth
            for _ in range(quarters):
                # A turn to the left takes (u right, v down) to (v, -u).
                field = np.rot90(field)
                field = np.stack((field[..., 1], -field[..., 0]), -1)
            known[seen.tobytes()] = field
    monkeypatch.setattr(table2, "estimate_motion", lambda seen, **_: known[seen.tobytes()])
    np.testing.assert_allclose(table2.turned_average(image, "small"), truth, atol=1e-6)


def test_aligned_share():
    truth = np.zeros((2, 10, 2))
    truth[..., 0] = 8.0
    truth[0, :5] = [3.0, 0.0]
    motion = truth.copy()
    motion[0, 5] = [0.0, 8.0]
    motion[0, 6] = -motion[0, 6]
    error = np.ones((2, 10))
    error[1] = 5.0
    # Of the first row's five long vectors one is wrong; the second row is not confident.
    assert table2.aligned(motion, error, truth) == pytest.approx(0.8)
