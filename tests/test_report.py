"""The page of --report: what is on it, that it needs nothing else, and that a file name cannot become markup."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage import data

import ircdeblur
from ircdeblur.app import cli, report
from ircdeblur.app.imagefile import ImageFileError, read_photo
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.nets.checkpoints import MOTION_NET, motion_net_path

VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """Elements of a page with their attributes, its text by the element, and whether all elements are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if text.strip():
            self.texts.append((self.open[-1], text))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self) -> dict[str, str]:
        """The tables: the cell beside each head."""
        return {
            text: after[1]
            for (tag, text), after in zip(self.texts, self.texts[1:], strict=False)
            if (tag, after[0]) == ("th", "td")
        }

    def pictures(self) -> list[np.ndarray]:
        sources = [str(attributes["src"]) for attributes in self.named("img")]
        assert all(s.startswith("data:image/webp;base64,") for s in sources)
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2])))) for s in sources]


def read(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def save(path: Path, image: np.ndarray, **options: object) -> Path:
    Image.fromarray(image).save(path, **options)
    return path


def sections(*entries: report.Entry, **options: object) -> report.ReportPage:
    page = report.ReportPage("deblur", {"method": "irc-net"}, [], len(entries), noise=0.01, **options)
    for entry in entries:
        page.add(entry)
    return page


def field(shape: tuple[int, ...], u: float = 9.0) -> np.ndarray:
    return np.broadcast_to(np.array([u, 0], dtype=np.float32), (*shape[:2], 2)).copy()


@pytest.fixture
def blurred(tmp_path) -> Path:
    image = ircdeblur.blur(data.astronaut()[60:188, 180:308], psf=linear_motion_kernel(9, 0), noise=0.01, seed=0)
    return save(tmp_path / "blurred.png", image)


def test_report_of_deblur(tmp_path, blurred, capsys):
    out, path = tmp_path / "sharp.png", tmp_path / "report.html"
    arguments = ["deblur", str(blurred), "-o", str(out), "--report", str(path), "--strength", "0.5"]
    assert cli.main(arguments) == 0
    assert f"report: {path}" in capsys.readouterr().out
    page = read(path)
    values = page.values()
    assert values["picture"] == "128 x 128, RGB, 8 bit"
    assert values["result"] == "sharp.png"
    assert values["strength"] == "0.5"
    assert values["noise"] == "auto", "the settings come last"
    assert (values["linear light"], values["blurred in"]) == ("auto", "pixel values")
    assert values["ircdeblur"] == ircdeblur.__version__
    assert values[MOTION_NET] == f"sha256 {hashlib.sha256(motion_net_path('small').read_bytes()).hexdigest()}"
    found = re.match(r"([\d.]+) px in the median", values["motion length"])
    assert found is not None
    assert float(found[1]) == pytest.approx(9, abs=1)
    noise = next(
        re.match(r"([\d.]+) % of the range, estimated", text) for tag, text in page.texts if "estimated" in text
    )
    assert noise is not None
    assert float(noise[1]) == pytest.approx(1, abs=0.3)
    before, after, *drawings = page.pictures()
    for shown, file in ((before, blurred), (after, out)):
        true = np.asarray(Image.open(file)).astype(float)
        assert np.sqrt(np.mean((shown - true) ** 2)) < 6, "a preview is the picture, but for its compression"
    assert len(drawings) == 2
    assert str(tmp_path) not in path.read_text(), "files are named without their folders"
    told = tmp_path / "told.html"
    assert cli.main([*arguments[:3], str(tmp_path / "b.png"), "--report", str(told), "--linear-light", "-q"]) == 0
    values = read(told).values()
    assert values["linear light"] == "yes"
    assert "blurred in" not in values


def test_report_of_deconvolve_shows_the_kernel(tmp_path, blurred):
    path = tmp_path / "r.html"
    arguments = ["deconvolve", str(blurred), "-o", str(tmp_path / "s.png"), "--length", "9", "--angle", "0"]
    assert cli.main([*arguments, "--method", "irc", "--noise", "0.02", "--report", str(path), "-q"]) == 0
    page = read(path)
    assert page.values()["kernel"] == "9 x 1, given"
    assert page.values()["blur"] == "length 9 px, angle 0 degrees"
    assert ("td", "2.00 % of the range, given") in page.texts
    assert ("p", "No network was used.") in page.texts
    kernel = page.pictures()[2]
    assert kernel.shape == (44, 9 * 44, 3)
    assert (kernel > 240).all(), "all nine weights are equal"


def test_bad_photographs_are_on_the_page_and_good_ones_too(tmp_path, blurred):
    (tmp_path / "a-bad.png").write_bytes(b"rubbish")
    path = tmp_path / "r.html"
    arguments = ["deconvolve", str(blurred), str(tmp_path / "a-bad.png"), "-o", str(tmp_path / "out"), "-q"]
    assert cli.main([*arguments, "--length", "9", "--angle", "0", "--method", "wiener", "--report", str(path)]) == 1
    page = read(path)
    assert [text for tag, text in page.texts if tag == "a"] == ["blurred.png", "a-bad.png"]
    assert len(page.named("section")) == 2 + 3
    assert any(tag == "p" and text.startswith("not a PNG") for tag, text in page.texts)
    assert str(tmp_path) not in path.read_text()


def test_nothing_comes_from_elsewhere_and_nothing_else_may_run(tmp_path, blurred):
    photo = read_photo(blurred)
    page = sections(report.Entry(photo, Path("o.png"), photo.pixels, 1.0, field(photo.pixels.shape)))
    page.write(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert not re.search(r"(?i)https?://|url\(|@import|<link|<iframe|<object", text)
    parsed = read(tmp_path / "r.html")
    for _, attributes in parsed.elements:
        for name in ("src", "href", "action", "poster", "data", "srcset"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    policy = next(a["content"] for a in parsed.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (source,) = [text for name, text in parsed.texts if name == tag]
        # The hash is that of the text between the tags, to the letter.
        assert f"<{tag}>{source}</{tag}>" in text
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'" in str(policy)


@pytest.mark.parametrize("name", ["<script>alert(1)<&\"'>.png", "a\nb.png", "\udcff.png", "</h2><img src=x onerror=y>"])
def test_a_file_name_is_text(tmp_path, blurred, name):
    photo = read_photo(blurred)
    photo.path = Path(name)
    page = sections(report.Entry(photo, Path(name), photo.pixels, 1.0))
    page.fail(Path(name), f"cannot read: {name}")
    page.write(tmp_path / "r.html")
    parsed = read(tmp_path / "r.html")
    assert len(parsed.named("script")) == 1
    assert len(parsed.named("img")) == 2
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in Path(name).name)
    assert [text for tag, text in parsed.texts if tag == "h2"][:2] == [shown, shown]


def test_the_page_is_refused_before_the_work(tmp_path, blurred, capsys):
    path = tmp_path / "r.html"
    path.write_text("mine")
    arguments = ["deconvolve", str(blurred), "-o", str(tmp_path / "s.png"), "--length", "9", "--angle", "0", "-q"]
    arguments += ["--method", "wiener"]
    for place, words in (
        (path, "exists already"),
        (tmp_path / "r.txt", ".html"),
        (tmp_path / "no" / "r.html", "folder"),
    ):
        assert cli.main([*arguments, "--report", str(place)]) == 1
        assert words in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert not (tmp_path / "s.png").exists()
    assert cli.main([*arguments, "--report", str(path), "--dry-run"]) == 1
    assert cli.main([*arguments, "--report", str(path), "--overwrite"]) == 0
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_page_is_whole_or_not_there(tmp_path, blurred, monkeypatch):
    photo = read_photo(blurred)
    page = sections(report.Entry(photo, Path("o.png"), photo.pixels, 1.0))
    monkeypatch.setattr(Path, "write_text", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(ImageFileError, match="disk is full"):
        page.write(tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_large_photographs_are_reduced_and_show_a_detail(tmp_path):
    rng = np.random.default_rng(0)
    image = np.full((1500, 1800, 3), 128, dtype=np.uint8)
    image[900:1200, 1000:1400] = rng.integers(0, 256, (300, 400, 3))
    photo = read_photo(save(tmp_path / "large.png", image))
    sections(report.Entry(photo, Path("o.png"), photo.pixels, 1.0, field(image.shape, 0))).write(tmp_path / "r.html")
    parsed = read(tmp_path / "r.html")
    before, after, detail, _ = parsed.pictures()
    assert before.shape == after.shape == (1000, 1200, 3)
    assert detail.shape == (360, 540, 3)
    assert detail.std() > 20, "the detail is where the texture is"
    assert any("No motion was found" in text for _, text in parsed.texts)


def test_pages_of_many_photographs_stay_small():
    assert report._preview_side(1) == report._preview_side(report.FULL_SIZED) == report.LONGEST_SIDE
    for count in (50, 100, 300):
        area = count * report._preview_side(count) ** 2
        assert area <= 1.01 * report.FULL_SIZED * report.LONGEST_SIDE**2
    assert report._preview_side(10_000) == report.SHORTEST_SIDE


@pytest.mark.parametrize(("dtype", "shape"), [(np.uint8, (64, 80)), (np.uint16, (64, 80)), (np.float32, (64, 80))])
def test_grey_and_deep_pictures(tmp_path, dtype, shape):
    ramp = np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    scale = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    photo = read_photo(save(tmp_path / "ramp.tif", (ramp * scale).astype(dtype)))
    sharp = np.where(ramp > 0.5, 1.5, -0.5).astype(np.float32)
    sections(report.Entry(photo, Path("o.tif"), sharp, 1.0)).write(tmp_path / "r.html")
    before, after = (picture[..., 1].astype(float) / 255 for picture in read(tmp_path / "r.html").pictures())
    assert np.abs(before - ramp).mean() < 0.02
    assert np.abs(after - (ramp > 0.5)).mean() < 0.05, "values beyond the range are cut, not wrapped"


def test_colour_profiles_are_applied_to_previews(tmp_path):
    """Red and blue change places in a picture whose profile says that its first primary is blue."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    image = np.full((32, 32, 3), (200, 120, 40), dtype=np.uint8)
    for profile, shown in ((srgb, image), (swapped, image[..., ::-1]), (b"no profile", image)):
        photo = read_photo(save(tmp_path / "p.png", image))
        photo.metadata["icc-profile-data"] = profile
        sections(report.Entry(photo, Path("o.png"), photo.pixels, 1.0)).write(tmp_path / "r.html", overwrite=True)
        assert np.abs(read(tmp_path / "r.html").pictures()[0].astype(int) - shown).max() < 12
