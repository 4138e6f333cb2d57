"""Drawings of motions and kernels, read back pixel by pixel."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ircdeblur import plots
from ircdeblur.motion import from_polar, to_polar

ROOT = Path(__file__).parents[1]

BLACK = np.zeros((100, 100), np.float32)


def field(length, angle, shape=(100, 100)):
    """A motion that is the same everywhere."""
    return np.broadcast_to(from_polar(np.float32(length), np.float32(angle)), (*shape, 2)).copy()


@pytest.fixture
def written(monkeypatch):
    """The texts that are written on sheets."""
    texts = []
    write = plots._Sheet.text

    def record(self, x, y, text, **options):
        texts.append(text)
        write(self, x, y, text, **options)

    monkeypatch.setattr(plots._Sheet, "text", record)
    return texts


def white_boxes(drawing):
    """Height and width of the white shapes of the photograph's part of a drawing, largest first."""
    from skimage.measure import label, regionprops

    boxes = [r.bbox for r in regionprops(label((drawing[:, : drawing.shape[1] - 200] > 200).all(-1)))]
    return sorted(((b[2] - b[0], b[3] - b[1]) for b in boxes), key=lambda s: -s[0] * s[1])


@pytest.mark.parametrize(("angle", "ratio"), [(0, 0.0), (90, np.inf), (45, 1.0)])
def test_arrows_point_along_the_motion(angle, ratio):
    boxes = white_boxes(plots.draw_motion(BLACK, field(20, angle)))
    assert len(boxes) == 14**2
    high, wide = np.median(boxes, axis=0)
    if ratio == 1:
        assert high == pytest.approx(wide, abs=2)
    else:
        assert (high > 3 * wide) == (ratio > 1)
        # As long as the rim of the wheel: it fills its cell but for a seam and the black outline.
        assert 0.94 * 800 / 14 - 7 < max(high, wide) < 0.94 * 800 / 14


def test_arrows_rise_to_the_right_between_0_and_90_degrees():
    drawing = plots.draw_motion(np.zeros((40, 40)), field(20, 45, (40, 40)))[:, :800]
    cell = (drawing[:57, :57] > 200).all(-1)
    rows, columns = np.nonzero(cell)
    assert np.corrcoef(rows, columns)[0, 1] < -0.8


def test_arrows_are_as_long_as_the_motions():
    motion = field(20, 0)
    motion[50:] = field(10, 0)[50:]
    widths = [wide for _, wide in white_boxes(plots.draw_motion(BLACK, motion))]
    assert len(widths) == 14**2
    # The difference is half of a whole arrow; the outline takes the same from both.
    assert np.median(widths[:98]) - np.median(widths[98:]) == pytest.approx(0.47 * 800 / 14, abs=2)


def test_nothing_is_drawn_where_nothing_moved_or_nothing_is_known():
    photo = np.full((100, 100), 0.4, np.float32)
    motion, error = field(12, 0), np.full((100, 100), 1.0, np.float32)
    motion[:50] = field(1.5, 0)[:50]
    error[:, 50:] = 12.0
    drawing = plots.draw_motion(photo, motion, error)[:, :800]
    unknown = drawing[420:, 420:]
    assert np.abs(unknown.astype(int) - 102).max() <= 1
    # Little motion leaves little colour and no arrow.
    assert (drawing[:380, :380] > 200).all(-1).sum() == 0
    assert np.ptp(drawing[:380, :380].mean((0, 1))) < 15
    assert np.ptp(drawing[420:, :380].mean((0, 1))) > 50
    without = plots.draw_motion(photo, motion)[:, :800]
    np.testing.assert_array_equal(without[420:, :380], drawing[420:, :380])
    assert np.ptp(without[420:, 420:].mean((0, 1))) > 50


def test_half_known_motions_are_half_faded():
    photo = np.full((100, 100), 0.4, np.float32)
    known, half, unknown = (
        plots.draw_motion(photo, field(2.5, 0), np.full((100, 100), 2.5 * share, np.float32))[2, 2].astype(int)
        for share in (0.1, 0.55, 0.9)
    )
    np.testing.assert_allclose(half, (known + unknown) / 2, atol=1)
    assert known[0] > known[1] + 10


def test_the_scale_is_written(written):
    motion = field(11.5, 30)
    # One long vector in a thousand is not what the scale is made for.
    motion[0, :10] = field(35, 30)[0, :10]
    plots.draw_motion(BLACK, motion)
    assert written[0] == "ring 6 px\nrim 12 px or more"
    assert "2 px" in written[1]
    assert "uncertain" not in written[1]
    plots.draw_motion(BLACK, motion, np.ones((100, 100)))
    assert "uncertain" in written[3]


def test_errors_of_another_size_are_refused():
    for draw in (plots.draw_motion, plots.draw_kernels):
        with pytest.raises(ValueError, match="error must have the motion's size"):
            draw(BLACK, field(9, 0), np.ones((99, 100)))
        with pytest.raises(ValueError, match="same size"):
            draw(BLACK, field(9, 0, (99, 100)))


def test_draw_kernels(written):
    """Every pixel of the kernel of length 5 at 30 degrees, as MATLAB gives it, in the first panel."""
    golden = np.array(
        [
            [0, 0, 0.0267949192, 0.1267949192, 0.1464101615],
            [0, 0.1, 0.2, 0.1, 0],
            [0.1464101615, 0.1267949192, 0.0267949192, 0, 0],
        ]
    )
    drawing = plots.draw_kernels(BLACK, field(5, 30))
    assert drawing.shape == (1200, 1200, 3)
    # Six by five places; the first is at x 8, y 10, twelve pixels each, and the panel 150 pixels wide around it.
    left, top = 102 - 75, 126 - 75
    squares = 24
    corner = top + (150 - 3 * squares) // 2, left + (150 - 5 * squares) // 2
    middle = squares // 2
    seen = drawing[corner[0] + middle :: squares, corner[1] + middle :: squares, 0][:3, :5] / 255
    np.testing.assert_allclose(seen, np.sqrt(golden / 0.2), atol=0.01)
    assert written[0] == "x 8, y 10\n5.0 px, 30°"
    assert len(written) == 30


def test_kernels_have_one_scale_and_uncertain_ones_are_marked(written):
    motion = field(21, 0)
    motion[:50] = 0
    error = np.full((100, 100), 0.8)
    error[:, 50:] = 30.0
    plots.draw_kernels(BLACK, motion, error)
    assert sum("no blur" in text for text in written) == 12
    assert sum("21.0 px, 0°" in text for text in written) == 18
    assert sum(text.endswith("uncertain") for text in written) == 15


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (40, 2, 1), (3000, 20, 3)])
@pytest.mark.parametrize("length", [0, 9, 400])
def test_draw_kernels_of_any_size(shape, length):
    drawing = plots.draw_kernels(np.full(shape, 0.5), field(length, 20, shape[:2]))
    assert drawing.dtype == np.uint8
    assert max(drawing.shape) == 1200
    assert min(drawing.shape[:2]) >= 190


def test_compare_motions(written):
    truth = field(20, 0, (110, 100))
    estimates = {"half": truth / 2, "a turn": field(20, 90, (110, 100))}
    drawing = plots.compare_motions(np.zeros((110, 100)), truth, estimates)
    assert drawing.shape == (260, 4 * 206 + 200, 3)
    colours = drawing[100, [100 + 206 * i for i in range(4)]] / 255
    # Red is horizontal, turquoise vertical; the scale is the truth's in every picture.
    np.testing.assert_allclose(colours, [[0, 0, 0], [1, 0, 0], [1, 0.5, 0.5], [0, 1, 1]], atol=0.01)
    assert written[:2] == ["blurred", "truth"]
    # ((10)² + 0) / 2 and (20² + 20²) / 2.
    assert written[2:4] == ["half\nMSE 50.00 px²", "a turn\nMSE 400.00 px²"]
    assert written[4] == "ring 10 px\nrim 20 px or more"


def test_compare_motions_in_rows_and_in_colour():
    photo = np.zeros((100, 100, 3))
    photo[..., 2] = 1.0
    truth = field(20, 0)
    drawing = plots.compare_motions(photo, truth, {str(i): truth for i in range(6)})
    assert drawing.shape == (520, 6 * 226 + 200, 3)
    np.testing.assert_array_equal(drawing[100, 100], [0, 0, 255])
    np.testing.assert_allclose(drawing[360, [100, 326]], [[255, 0, 0]] * 2, atol=1)
    assert (drawing[360, 560] == 255).all()
    with pytest.raises(ValueError, match="same size"):
        plots.compare_motions(photo, truth, {"a": truth[1:]})
    with pytest.raises(ValueError, match="at least 200"):
        plots.compare_motions(photo, truth, {}, height=100)


@pytest.fixture
def example():
    """The example that draws the pictures of docs/motion.md."""
    path = ROOT / "examples" / "motion_figure.py"
    spec = importlib.util.spec_from_file_location("motion_figure", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_makes_what_the_page_shows(example, tmp_path, monkeypatch, capsys):
    def estimate(image, consolidation="picture", return_error=False):
        motion = example.fast_field(*image.shape[:2])
        return (motion, np.ones(image.shape[:2])) if return_error else motion

    monkeypatch.setattr(example, "estimate_motion", estimate)
    monkeypatch.setattr(sys, "argv", ["motion_figure.py", "-o", str(tmp_path)])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("astronaut: median length 15.0 px (6.0 to 24.0), mean angle 90 degrees")
    assert lines[1].endswith("motion MSE 0.0 px^2")
    shown = re.findall(r"\(motion/(\S+\.png)\)", (ROOT / "docs" / "motion.md").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(shown)
    for name in shown:
        committed = ROOT / "docs" / "motion" / name
        assert Image.open(committed).size == Image.open(tmp_path / name).size
        assert committed.stat().st_size < 300_000


def test_the_field_of_the_example(example):
    length, angle = to_polar(example.fast_field(512, 512)[[0, 0, -1], [0, -1, 0]])
    np.testing.assert_allclose(length, [5, 5, 25], rtol=1e-5)
    np.testing.assert_allclose(angle, [20, 160, 20], rtol=1e-5)
