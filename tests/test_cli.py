"""The command line as a user meets it: what it prints, what it writes, what it leaves alone, how it exits."""

import io
import json
import os
import signal
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import ircdeblur
from ircdeblur import experiments, plots, restore, tiles
from ircdeblur.app import cli, imagefile
from ircdeblur.experiments.synthetic import SEVERITIES
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.motion import describe, from_polar, read_motion, to_polar, write_motion
from ircdeblur.nets import blind, checkpoints, methods
from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig
from ircdeblur.nets.kernel_net import KernelNet, KernelNetConfig
from ircdeblur.nets.methods import METHODS
from ircdeblur.nets.motion_net import LENGTH_UNIT, MotionNet, MotionNetConfig
from ircdeblur.nets.shrinkage_net import ShrinkageConfig, ShrinkageIRCNet
from ircdeblur.psf import read_psf

HEIGHT, WIDTH = 80, 96
COMMANDS = {
    *("deblur", "batch", "motion", "psf", "deconvolve", "blur", "compare", "dataset", "train", "reproduce", "serve"),
    *("export", "info"),
}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny pictures gain nothing by more, and on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call(capsys, monkeypatch) -> Call:
    """Run the command line in this process."""
    for name in ("IRCDEBLUR_DEBUG", "IRCDEBLUR_DATA"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        code = cli.main([str(a) for a in args])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def weights(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    """Weights of a tiny network that is sure of one motion: 9 pixels, horizontal."""
    net = MotionNet(MotionNetConfig(stem=2, widths=(4, 4, 4), blocks=(1, 1, 1), pyramid=4, rates=(1,)))
    torch.nn.init.zeros_(net.out.weight)
    net.out.bias.data = torch.tensor([9 / LENGTH_UNIT, 0.0, -4.0])
    folder = tmp_path_factory.mktemp("weights")
    checkpoints.save_motion_net(net, folder / checkpoints.MOTION_NET, {"steps": 7, "data": "none"})
    for method, small in (
        ("irc-net", IRCNet(IRCNetConfig(stages=1, width=4, blocks=(1, 1, 1)))),
        ("irc-net-shrinkage", ShrinkageIRCNet(ShrinkageConfig(stages=2, filters=2, size=3))),
    ):
        checkpoints.save_irc_net(small, folder / checkpoints.IRC_NETS[method], {"steps": 8})
    checkpoints.save_kernel_net(KernelNet(KernelNetConfig(widths=(4, 4), blocks=1)), folder / checkpoints.KERNEL_NET)
    monkeypatch.setattr(checkpoints, "weights_folder", lambda: folder)
    # The refinement would find that the random network's motion does not fit these pictures.
    monkeypatch.setattr(blind, "SMALLEST", 1_000_000)
    for cached in (restore._motion_net, restore._kernel_net, methods.irc_net):
        cached.cache_clear()
    yield folder
    for cached in (restore._motion_net, restore._kernel_net, methods.irc_net):
        cached.cache_clear()


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[60 : 60 + height, 180 : 180 + width])


@pytest.fixture
def sharp(tmp_path) -> Path:
    path = tmp_path / "sharp.png"
    Image.fromarray(picture()).save(path)
    return path


@pytest.fixture
def blurred(tmp_path, sharp, call) -> Path:
    """The picture after a horizontal motion of 9 pixels."""
    path = tmp_path / "blurred.png"
    assert call("blur", sharp, "-o", path, "--length", 9, "--angle", 0, "-q") == (0, "", "")
    return path


def load(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def gain(call: Call, sharp: Path, before: Path, after: Path) -> float:
    values = [json.loads(call("compare", path, sharp).out)["psnr"] for path in (before, after)]
    return values[1] - values[0]


def failed(outcome: Outcome, *words: object, code: int = 1) -> str:
    """Assert that a command failed with one error line that holds all words."""
    assert outcome.code == code, outcome
    lines = [line for line in outcome.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    assert "internal fault" not in lines[0]
    for word in words:
        assert str(word) in lines[0]
    return lines[0]


def files(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, hidden rests included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------------- help and usage


def in_new_process(code: str, *, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(Path(ircdeblur.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def test_help_imports_nothing_heavy():
    heavy = ("torch", "numpy", "scipy", "skimage", "pyvips", "matplotlib", "rich.console", "lightning")
    process = in_new_process(
        "import sys, runpy\n"
        "sys.argv[1:] = ['deblur', '--help']\n"
        "try: runpy.run_module('ircdeblur', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        f"print(code, [m for m in {heavy} if m in sys.modules])"
    )
    out, err = process.communicate(timeout=60)
    assert err == ""
    assert "Usage: ircdeblur deblur" in out
    assert out.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell):
    """Its script, and what that asks for at each press of the key: quickly, so without torch."""
    words = {
        "bash": {"COMP_WORDS": "ircdeblur de", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "ircdeblur de"},
        "fish": {"_TYPER_COMPLETE_ARGS": "ircdeblur de", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    code = (
        "import os, sys, runpy\n"
        "os.environ.update({})\n"
        "try: runpy.run_module('ircdeblur', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, [m for m in ('torch', 'numpy', 'pyvips') if m in sys.modules])"
    )
    for action, environment in (("source", {}), ("complete", words[shell])):
        variables = {"_IRCDEBLUR_COMPLETE": f"{action}_{shell}", **environment}
        out, err = in_new_process(code.format(repr(variables))).communicate(timeout=60)
        assert err == ""
        assert out.splitlines()[-1] == "0 []"
        if action == "source":
            assert f"_IRCDEBLUR_COMPLETE=complete_{shell}" in out
        else:
            assert "deblur" in out
            assert "deconvolve" in out
            assert "motion" not in out.replace("motion blur", "")


def test_completion_can_be_installed(call):
    outcome = call("--help")
    assert "--install-completion" in outcome.out
    assert "--show-completion" in outcome.out


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(call, command):
    outcome = call(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"Usage: ircdeblur {command}" in outcome.out
    assert ("--report " in outcome.out) == (command in ("deblur", "deconvolve"))


def test_no_arguments_print_help(call):
    outcome = call()
    assert outcome.code == 2
    listed = outcome.out[outcome.out.index("Commands:") :].splitlines()[1:]
    assert {line.split()[0] for line in listed if line} == COMMANDS


def test_version(call):
    assert call("--version") == (0, f"ircdeblur {ircdeblur.__version__}\n", "")


def test_lists_that_help_shows_are_those_of_the_package():
    assert tuple(m.value for m in cli.Method) == METHODS
    assert tuple(s.value for s in cli.Severity) == tuple(SEVERITIES)
    assert tuple(e.value for e in cli.Experiment) == (*experiments.EXPERIMENTS, "all")
    assert cli.MIN_TILE == tiles.MIN_TILE


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], ["no such command", "frobnicate"]),
        (["-q"], ["-q"]),
        (["deblur"], ["INPUT"]),
        (["deblur", "IN"], ["--output"]),
        (["deblur", "IN", "-o", "OUT", "--method", "irc-not"], ["irc-not", "fft-nopad"]),
        (["deblur", "IN", "-o", "OUT", "--noise", "much"], ["--noise", "much"]),
        (["deblur", "IN", "-o", "OUT", "--noise", "-0.1"], ["--noise", "-0.1"]),
        (["deblur", "IN", "-o", "OUT", "--noise", "nan"], ["--noise", "nan"]),
        (["deblur", "IN", "-o", "OUT", "--strength", "1.5"], ["--strength", "from 0 to 1"]),
        (["deblur", "IN", "-o", "OUT", "--strength", "nan"], ["--strength", "nan"]),
        (["deblur", "IN", "-o", "OUT", "--tile", "100"], ["--tile", "256"]),
        (["deblur", "IN", "-o", "OUT", "--tile", "big"], ["--tile", "big"]),
        (["deblur", "IN", "-o", "OUT", "--reports", "r.html"], ["--reports"]),
        (["deblur", "IN", "-o", "OUT", "--motion-out", "OUT"], ["--motion-out", "same file"]),
        (["deconvolve", "IN", "-o", "OUT"], ["--psf", "--motion", "--length"]),
        (["deconvolve", "IN", "-o", "OUT", "--length", "9"], ["--length and --angle go together"]),
        (["deconvolve", "IN", "-o", "OUT", "--angle", "9"], ["--length and --angle go together"]),
        (["deconvolve", "IN", "-o", "OUT", "--psf", "p.npy", "--motion", "m.npz"], ["got 2"]),
        (["deconvolve", "IN", "-o", "OUT", "--length", "nan", "--angle", "0"], ["--length", "nan"]),
        (["deconvolve", "IN", "-o", "OUT", "--length", "-3", "--angle", "0"], ["--length", "-3"]),
        (["deconvolve", "IN", "-o", "OUT", "--length", "9", "--angle", "inf"], ["--angle", "inf"]),
        (["deconvolve", "IN", "-o", "OUT", "--camera-shake"], ["--camera-shake"]),
        (["deconvolve", "IN", "-o", "OUT", "--length", "9", "--angle", "0", "--device", "moon"], ["moon"]),
        (["deconvolve", "IN", "-o", "OUT", "--length", "9", "--angle", "0", "--device", "hpu"], ["hpu"]),
        (["blur", "IN", "-o", "OUT"], ["--camera-shake"]),
        (["blur", "IN", "-o", "OUT", "--camera-shake", "--psf", "p.npy"], ["got 2"]),
        (["blur", "IN", "-o", "OUT", "--psf", "p.npy", "--max-length", "3"], ["--max-length"]),
        (["blur", "IN", "-o", "OUT", "--psf", "p.npy", "--severity", "severe"], ["--severity"]),
        (["blur", "IN", "-o", "OUT", "--camera-shake", "--severity", "mild"], ["mild", "moderate"]),
        (["blur", "IN", "-o", "OUT", "--camera-shake", "--severity", "severe", "--max-length", "3"], ["not both"]),
        (["blur", "IN", "-o", "OUT", "--psf", "p.npy", "--motion-out", "m.npz"], ["--motion-out"]),
        (["blur", "IN", "-o", "OUT", "--camera-shake", "--noise", "nan"], ["--noise"]),
        (["blur", "IN", "-o", "OUT", "--camera-shake", "--seed", "-1"], ["--seed"]),
        (["compare", "IN"], ["B"]),
        (["train", "irc-not", "--config", "c.yaml"], ["irc-not", "motion-net"]),
        (["train", "motion-net", "--config", "c.yaml"], ["--data", "IRCDEBLUR_DATA"]),
        (["reproduce", "table6", "-o", "OUT"], ["table6", "table5"]),
        (["export"], ["no format given"]),
    ],
    ids=lambda value: " ".join(value) if "-o" in value else None,
)
def test_wrong_usage(call, tmp_path, sharp, arguments, words):
    before = files(tmp_path)
    names = {"IN": sharp, "OUT": tmp_path / "out.png"}
    line = failed(call(*(names.get(a, a) for a in arguments)), *words, code=2)
    command = f" {arguments[0]}" if arguments[0] in COMMANDS else ""
    assert line.endswith(f"; see 'ircdeblur{command} --help'")
    assert files(tmp_path) == before


# -------------------------------------------------------------------------------------------- the happy paths


def impulse(path: Path) -> None:
    array = np.zeros((41, 51), np.uint16)
    array[20, 25] = 65535
    Image.fromarray(array).save(path)


def around_impulse(path: Path, kernel: np.ndarray) -> np.ndarray:
    """What stands where the kernel must have landed; all else must be 0."""
    found = load(path).astype(float) / 65535
    top, left = 20 - kernel.shape[0] // 2, 25 - kernel.shape[1] // 2
    window = found[top : top + kernel.shape[0], left : left + kernel.shape[1]]
    assert window.sum() == pytest.approx(found.sum(), abs=1e-3)
    return window


def test_blur_by_length_and_angle(call, tmp_path):
    impulse(tmp_path / "in.png")
    outcome = call("blur", tmp_path / "in.png", "-o", tmp_path / "out.png", "--length", 9, "--angle", 30)
    assert outcome == (0, f"{tmp_path / 'in.png'} -> {tmp_path / 'out.png'}\n", "")
    kernel = linear_motion_kernel(9, 30)
    assert np.abs(around_impulse(tmp_path / "out.png", kernel) - kernel).max() < 1e-4
    # Counter-clockwise: the line rises to the right.
    assert kernel[0, -1] > 0
    assert kernel[0, 0] == 0


def test_blur_by_psf_is_a_convolution(call, tmp_path):
    impulse(tmp_path / "in.png")
    psf = np.arange(15.0).reshape(3, 5)
    np.save(tmp_path / "psf.npy", psf)
    assert call("blur", tmp_path / "in.png", "-o", tmp_path / "out.png", "--psf", tmp_path / "psf.npy").code == 0
    assert np.abs(around_impulse(tmp_path / "out.png", psf) - psf / psf.sum()).max() < 1e-4


@pytest.mark.parametrize("suffix", [".npz", ".flo"])
def test_blur_by_a_motion_file(call, tmp_path, suffix):
    impulse(tmp_path / "in.png")
    motion = np.broadcast_to(from_polar(np.float32(9), np.float32(30)), (41, 51, 2))
    write_motion(tmp_path / f"m{suffix}", motion)
    out = tmp_path / "out.png"
    assert call("blur", tmp_path / "in.png", "-o", out, "--motion", tmp_path / f"m{suffix}").code == 0
    kernel = linear_motion_kernel(9, 30)
    assert np.abs(around_impulse(out, kernel) - kernel).max() < 1e-3


def test_blur_writes_the_motion_of_a_straight_line(call, tmp_path, sharp):
    out, motion = tmp_path / "o.png", tmp_path / "m.npz"
    assert call("blur", sharp, "-o", out, "--length", 7, "--angle", -60, "--motion-out", motion).code == 0
    length, angle = to_polar(read_motion(motion))
    assert length.shape == (HEIGHT, WIDTH)
    assert np.allclose(length, 7, atol=1e-5)
    assert np.allclose(angle, 120, atol=1e-4)


def test_camera_shake_and_noise_are_repeatable(call, tmp_path, sharp):
    def shake(name: str, seed: int, *more: object) -> np.ndarray:
        out, motion = tmp_path / f"{name}.png", tmp_path / f"{name}.npz"
        arguments = ("--camera-shake", "--seed", seed, "--motion-out", motion, *more)
        assert call("blur", sharp, "-o", out, *arguments).code == 0
        return load(out)

    first, again, other = shake("a", 1), shake("b", 1), shake("c", 2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    longest = {name: to_polar(read_motion(tmp_path / f"{name}.npz"))[0].max() for name in "ac"}
    assert longest == pytest.approx({"a": 15, "c": 15}, abs=1e-3)
    noisy, same = (shake(name, 1, "--max-length", 15, "--noise", 0.02) for name in "de")
    assert np.array_equal(noisy, same)
    inside = (first > 30) & (first < 225)
    assert (noisy.astype(float) - first)[inside].std() / 255 == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_camera_shake_says_what_it_did(call, tmp_path, sharp, severity):
    out, motion = tmp_path / "o.png", tmp_path / "m.npz"
    arguments = ("--camera-shake", "--severity", severity, "--seed", 4, "--motion-out", motion)
    outcome = call("blur", sharp, "-o", out, *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    field = read_motion(motion)
    assert to_polar(field)[0].max() == pytest.approx(SEVERITIES[severity], abs=1e-3)
    assert outcome.out == f"{sharp} -> {out}: {describe(field)}\n"
    # The motion that is written is the one that blurred.
    again = tmp_path / "again.png"
    assert call("blur", sharp, "-o", again, "--motion", motion).code == 0
    assert np.array_equal(load(again), load(out))


def test_camera_shakes_of_several_photographs_differ(call, tmp_path, sharp):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.png").write_bytes(sharp.read_bytes())
    out, motions = tmp_path / "out", tmp_path / "motions"
    arguments = ("--camera-shake", "--max-length", 9, "--seed", 1, "--motion-out", motions)
    outcome = call("blur", folder, "-o", out, *arguments)
    assert outcome.code == 0
    assert outcome.out.count("median length ") == 2
    first, second = (read_motion(motions / f"{name}.npz") for name in "ab")
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("method", METHODS)
def test_deconvolve_by_length_and_angle(call, tmp_path, sharp, blurred, method):
    out = tmp_path / "out.png"
    outcome = call("deconvolve", blurred, "-o", out, "--length", 9, "--angle", 0, "--method", method)
    assert (outcome.code, outcome.err) == (0, "")
    # Without padding a small picture is spoilt: that is what this method is there to show.
    assert (gain(call, sharp, blurred, out) > 2) == (method != "fft-nopad")


@pytest.mark.parametrize(("source", "method"), [("psf", "irc"), ("psf", "fft"), ("motion", "irc"), ("motion", "cg")])
def test_deconvolve_by_a_file(call, tmp_path, sharp, blurred, source, method):
    out, path = tmp_path / "out.png", tmp_path / {"psf": "k.png", "motion": "m.flo"}[source]
    if source == "psf":
        Image.fromarray((linear_motion_kernel(9, 0) * 1000).astype(np.uint8)).save(path)
    else:
        write_motion(path, np.broadcast_to(np.float32([9, 0]), (HEIGHT, WIDTH, 2)))
    arguments = (f"--{source}", path, "--method", method, "--noise", 0.002, "--tile", 256, "--linear-light")
    assert call("deconvolve", blurred, "-o", out, *arguments[:-1]).code == 0
    assert gain(call, sharp, blurred, out) > 2
    plain = load(out)
    assert call("deconvolve", blurred, "-o", out, "--overwrite", *arguments).code == 0
    assert not np.array_equal(load(out), plain)


def test_deblur(call, tmp_path, sharp, blurred, weights):
    out, motion = tmp_path / "out.png", tmp_path / "m.npz"
    outcome = call("deblur", blurred, "-o", out, "--motion-out", motion, "--noise", 0.002)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{blurred} -> {out}: median length 9.0 px")
    assert gain(call, sharp, blurred, out) > 1
    assert np.allclose(np.abs(read_motion(motion)), [9, 0], atol=0.1)


def test_deblur_with_no_strength_changes_nothing(call, tmp_path, blurred, weights):
    out = tmp_path / "out.png"
    assert call("deblur", blurred, "-o", out, "--strength", 0, "--quiet") == (0, "", "")
    assert np.array_equal(load(out), load(blurred))


@pytest.mark.parametrize("suffix", [".npz", ".flo", ".png"])
def test_motion(call, tmp_path, blurred, weights, suffix):
    out = tmp_path / f"m{suffix}"
    outcome = call("motion", blurred, "-o", out)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("median length 9.0 px")
    assert outcome.out.count("\n") == 1
    if suffix == ".png":
        assert load(out).shape[2] == 3
        assert max(load(out).shape) >= 800
    else:
        assert np.allclose(np.abs(read_motion(out)), [9, 0], atol=0.1)
    failed(call("motion", blurred, "-o", out), out, "--overwrite")


def test_motion_says_how_far_it_is_to_be_believed(call, blurred, weights):
    outcome = call("motion", blurred)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("median length 9.0 px (9.0 to 9.0), mean angle 0 degrees (spread 0), 100 % of")
    assert "confidence high (100 % of that is sure, expected error " in outcome.out
    found = json.loads(call("motion", blurred, "--json").out)
    assert {k: found[k] for k in ("width", "height", "moved", "sure", "confidence")} == {
        "width": WIDTH,
        "height": HEIGHT,
        "moved": 1.0,
        "sure": 1.0,
        "confidence": "high",
    }
    assert found["length"] == pytest.approx(9, abs=0.1)
    assert 0 < found["error"] < 4.5
    assert "kernel" not in found
    assert call("motion", blurred, "--json", "--quiet") == (0, "", "")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_kernel_of_a_pixel_is_a_psf_for_deconvolve(call, tmp_path, sharp, blurred, weights, suffix):
    path, out = tmp_path / f"k{suffix}", tmp_path / "out.png"
    outcome = call("motion", blurred, "--kernel-at", "90,7", "--kernel-out", path)
    assert (outcome.code, outcome.err) == (0, "")
    assert "; kernel at 90,7: length 9.0" in outcome.out
    assert outcome.out.count("\n") == 1
    psf = read_psf(path)
    assert np.allclose(psf[psf.shape[0] // 2], linear_motion_kernel(9, 0)[0], atol=0.01)
    found = json.loads(call("motion", blurred, "--kernel-at", "90,7", "--json").out)["kernel"]
    assert (found["x"], found["y"]) == (90, 7)
    assert np.allclose(psf, found["weights"], atol=1e-4)
    assert call("deconvolve", blurred, "-o", out, "--psf", path, "--noise", 0.002).code == 0
    assert gain(call, sharp, blurred, out) > 2


def test_motion_draws_kernels(call, tmp_path, blurred, weights):
    outputs = [tmp_path / name for name in ("m.npz", "grid.png", "k.npy")]
    arguments = ("motion", blurred, "-o", outputs[0], "--kernels", outputs[1], "--kernel-at", "0,0", "--kernel-out")
    assert call(*arguments, outputs[2], "-q") == (0, "", "")
    assert load(outputs[1]).shape == (1000, 1200, 3)
    assert all(path.is_file() for path in outputs)


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [
        (("--kernel-at", "5"), ["--kernel-at", "X,Y", "'5'"], 2),
        (("--kernel-at", "-1,3"), ["--kernel-at", "'-1,3'"], 2),
        (("--kernel-at", "1.5,3"), ["'1.5,3'"], 2),
        (("--kernel-out", "k.png"), ["--kernel-out needs --kernel-at"], 2),
        (("--kernel-at", "96,0"), ["96,0 is outside the photograph (96 x 80)", "X from 0 to 95"], 1),
        (("--kernel-at", "0,80"), ["0,80 is outside", "Y from 0 to 79"], 1),
        (("--kernel-at", "1,1", "--kernel-out", "k.mat"), ["unknown suffix '.mat'", ".npy"], 1),
        (("--kernels", "k.npy"), ["unknown suffix '.npy'", ".png"], 1),
        (("--kernels", "a.png", "-o", "./a.png"), ["--output and --kernels are the same file"], 2),
        (("--kernels", "no/a.png"), ["no such folder"], 1),
    ],
)
def test_kernel_options_are_checked_before_the_work(call, tmp_path, sharp, weights, monkeypatch, options, words, code):
    def never(*args, **options):
        raise AssertionError("the work was begun")

    monkeypatch.setattr(restore, "estimate_motion", never)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    failed(call("motion", sharp, *options), *words, code=code)
    assert files(tmp_path) == before


def test_compare(call, tmp_path, sharp, blurred):
    outcome = call("compare", blurred, sharp)
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert outcome.out.count("\n") == 1
    a, b = load(blurred), load(sharp)
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(b, a), abs=1e-3)
    whole = structural_similarity(a, b, channel_axis=2, gaussian_weights=True, use_sample_covariance=False)
    assert found["ssim"] == pytest.approx(whole, abs=1e-3)


def test_compare_equal_and_tiny_pictures(call, tmp_path, sharp):
    assert json.loads(call("compare", sharp, sharp).out) == {"psnr": None, "ssim": 1.0}
    for name, value in (("a", 0), ("b", 255)):
        Image.fromarray(np.full((1, 1), value, np.uint8)).save(tmp_path / f"{name}.png")
    outcome = call("compare", tmp_path / "a.png", tmp_path / "b.png")
    assert json.loads(outcome.out) == {"psnr": 0.0, "ssim": None}


def test_compare_different_sizes(call, tmp_path, sharp):
    Image.fromarray(picture(40, 50)).save(tmp_path / "small.png")
    failed(call("compare", sharp, tmp_path / "small.png"), "96 x 80", "50 x 40", sharp)
    Image.fromarray(picture()).convert("L").save(tmp_path / "grey.png")
    failed(call("compare", sharp, tmp_path / "grey.png"), "RGB", "grey")


def test_compare_motion(call, tmp_path):
    write_motion(tmp_path / "a.npz", np.float32([[[3, 4], [0, 0]]]))
    write_motion(tmp_path / "b.flo", np.float32([[[-3, -2], [0, 1]]]))
    outcome = call("compare", "--motion", tmp_path / "a.npz", tmp_path / "b.flo")
    assert json.loads(outcome.out) == {"motion_mse": 1.25, "end_point_error": 1.5}
    write_motion(tmp_path / "c.npz", np.zeros((3, 1, 2), np.float32))
    failed(call("compare", "--motion", tmp_path / "a.npz", tmp_path / "c.npz"), "2 x 1", "1 x 3")


def test_info(call, weights):
    outcome = call("info")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(call("info", "--json").out)
    assert found["versions"]["ircdeblur"] == ircdeblur.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["devices"][0]["name"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["weights"] == checkpoints.describe_weights()
    assert [network["file"] for network in found["weights"]] == sorted(path.name for path in weights.iterdir())
    for word in (ircdeblur.__version__, torch.__version__, *(n["sha256"] for n in found["weights"]), "steps"):
        assert word in outcome.out


def test_train(call, tmp_path, monkeypatch):
    made = {}

    def load_config(path):
        if "sneed" in path.read_text():
            raise ValueError(f"{path}: unknown\nsetting sneed")
        return path.read_text()

    def train_motion_net(
        config, data, out, max_time=None, resume=None, command="", progress=True, devices=1, nodes=1, weights=None
    ):
        made.update(locals())
        if config == "stop":
            raise SystemExit(1)
        return out / "motion-net.safetensors"

    # A stand-in: importing what the real one needs takes longer than all other tests here.
    stand_in = types.ModuleType("ircdeblur.training.motion_net")
    vars(stand_in).update(load_config=load_config, train_motion_net=train_motion_net)
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setenv("IRCDEBLUR_DATA", str(tmp_path))
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text("settings")
    arguments = ("train", "motion-net", "--config", config, "--out", run)
    outcome = call(*arguments, "--max-time", "00:00:05")
    assert outcome == (0, f"{run / 'motion-net.safetensors'}\n", "")
    command = f"ircdeblur train motion-net --config {config} --max-time 00:00:05"
    expected = {"config": "settings", "data": tmp_path, "out": run, "max_time": "00:00:05", "resume": None}
    assert made.items() >= {**expected, "command": command, "progress": False, "devices": 1, "nodes": 1}.items()
    assert call(*arguments, "--devices", 2, "--nodes", 3).code == 0
    assert (made["devices"], made["nodes"]) == (2, 3)
    assert made["command"].endswith("--devices 2 --nodes 3")

    start = tmp_path / "start.safetensors"
    start.touch()
    assert call(*arguments, "--weights", start).code == 0
    assert made["weights"] == start
    assert made["command"].endswith("--weights start.safetensors")
    failed(call(*arguments, "--weights", start, "--weights", start), "one file", code=2)
    failed(call(*arguments, "--max-time", "5 minutes"), "--max-time", code=2)
    failed(call(*arguments, "--resume", run / "no.ckpt"), "no such file", "no.ckpt")
    failed(call(*arguments, "--data", tmp_path / "nowhere"), "no such folder", "nowhere")
    config.write_text("sneed: 3")
    assert failed(call(*arguments), "sneed", config).count(str(config)) == 1
    config.write_text("stop")
    failed(call(*arguments), "interrupted", code=130)
    (run / "last.ckpt").touch()
    failed(call(*arguments), "holds a run already", run, "--resume")
    config.write_text("settings")
    assert call(*arguments, "--resume", run / "last.ckpt").code == 0
    assert made["resume"] == run / "last.ckpt"


def test_train_without_its_libraries(call, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ("train", "motion-net", "--config", "c.yaml", "--data", tmp_path)
    failed(call(*arguments), "lightning", 'pip install "ircdeblur[train]"')


def test_reproduce(call, tmp_path, monkeypatch):
    asked = []

    def pretend(name, data, out, quick=False, photos=None, config=None, baselines=None):
        asked.append((name, data, out, quick, config, baselines))
        (out / f"{name}.md").write_text("old")
        return "| a | b |"

    monkeypatch.setattr(experiments, "run", pretend)
    out = tmp_path / "new" / "tables"
    arguments = ("reproduce", "table1", "--data", tmp_path, "--quick", "-o", out)
    assert call(*arguments) == (0, "| a | b |\n", "")
    assert asked == [("table1", tmp_path, out, True, None, None)]
    failed(call(*arguments), "exists", out / "table1.md", "--overwrite")
    failed(call("reproduce", "all", "--data", tmp_path, "-o", out), out / "table1.md")
    assert len(asked) == 1
    assert call(*arguments, "--overwrite").code == 0


def test_reproduce_with_a_configuration(call, tmp_path):
    arguments = ("--data", tmp_path, "-o", tmp_path / "out", "--config", tmp_path / "c.yaml")
    failed(call("reproduce", "table2", *arguments), "table2", "table1", code=2)
    failed(call("reproduce", "table1", *arguments), "no such file", tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("photoz: 3\n")
    failed(call("reproduce", "table1", *arguments), "unknown key photoz", tmp_path / "c.yaml")


def test_reproduce_with_baselines(call, tmp_path, monkeypatch):
    arguments = ("--data", tmp_path, "-o", tmp_path / "out", "--baselines")
    failed(call("reproduce", "table1", *arguments, tmp_path), "--baselines is for table2, table4, table5", code=2)
    failed(call("reproduce", "table2", *arguments, tmp_path / "none"), "no such folder", tmp_path / "none")
    asked = []
    monkeypatch.setattr(experiments, "run", lambda *given: asked.append(given[-1]) or "")
    assert call("reproduce", "table2", *arguments, tmp_path).code == 0
    assert asked == [tmp_path]


# --------------------------------------------------------------------------------------------- several inputs


def deconvolve(*arguments: object) -> tuple[object, ...]:
    return ("deconvolve", *arguments, "--length", 9, "--angle", 0, "--method", "fft")


def test_several_inputs_go_on_after_a_bad_one(call, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for name in ("a.png", "c.png", "d.png"):
        Image.fromarray(picture(30, 40)).save(folder / name)
    (folder / "b.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no picture either")
    (out / "d_sharp.png").write_text("old")
    outcome = call(*deconvolve(folder, tmp_path / "missing.png", "-o", out))
    assert outcome.code == 1
    errors = outcome.err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)
    assert "missing.png" in errors[0]
    assert "d_sharp.png" in errors[1]
    assert "b.jpg" in errors[2]
    assert outcome.out.splitlines() == [f"{folder / n}.png -> {out / n}_sharp.png" for n in "ac"]
    assert sorted(files(out)) == ["a_sharp.png", "c_sharp.png", "d_sharp.png"]
    assert files(out)["d_sharp.png"] == b"old"


def test_pattern_suffix_and_motion_folder(call, tmp_path, weights):
    for name in ("a.png", "b.png", "c.jpg"):
        Image.fromarray(picture(24, 32)).save(tmp_path / name)
    out, motions = tmp_path / "out", tmp_path / "motions"
    arguments = ("deblur", tmp_path / "*.png", "-o", out, "--suffix", "-new", "--motion-out", motions)
    listed = call(*arguments, "--dry-run")
    assert listed.code == 0
    assert listed.out.splitlines()[0] == f"{tmp_path / 'a.png'} -> {out / 'a-new.png'} -> {motions / 'a.npz'}"
    assert not out.exists()
    assert not motions.exists()
    assert call(*arguments, "-q") == (0, "", "")
    assert sorted(files(out)) == ["a-new.png", "b-new.png"]
    assert sorted(files(motions)) == ["a.npz", "b.npz"]

    arguments = ("deblur", tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out2")
    failed(call(*arguments, "--motion-out", "m.npz"), "m.npz", "give a folder")
    failed(call("deblur", tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "o.png"), "folder")


def test_motions_of_two_inputs_would_be_one_file(call, tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.fromarray(picture(24, 32)).save(tmp_path / name)
    arguments = (tmp_path / "a.png", tmp_path / "a.jpg", "-o", tmp_path / "out", "--camera-shake")
    failed(call("blur", *arguments, "--motion-out", tmp_path / "m"), "a.npz", "rename")
    assert not (tmp_path / "out").exists()


def test_dry_run_reports_what_is_known_and_writes_nothing(call, tmp_path, sharp):
    out = tmp_path / "out.png"
    assert call(*deconvolve(sharp, "-o", out, "--dry-run")) == (0, f"{sharp} -> {out}\n", "")
    out.write_text("old")
    before = files(tmp_path)
    failed(call(*deconvolve(sharp, "-o", out, "--dry-run")), out, "--overwrite")
    failed(call(*deconvolve(tmp_path / "no.png", "-o", out, "--dry-run")), "no.png")
    assert files(tmp_path) == before


# -------------------------------------------------------------------------------------------------- bad inputs


def text(path: Path) -> None:
    path.write_text("This is no picture.")


def empty(path: Path) -> None:
    path.touch()


def cut_off(path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, "jpeg")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])


def not_a_number(path: Path) -> None:
    values = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    values[3, 4] = np.nan
    tifffile.imwrite(path, values)


def missing(path: Path) -> None:
    pass


KNOWN = ("--length", "9", "--angle", "0")
JOBS = {
    "deblur": ("deblur",),
    "motion": ("motion",),
    "deconvolve": ("deconvolve", *KNOWN),
    "blur": ("blur", *KNOWN),
}


@pytest.mark.parametrize("command", sorted(JOBS))
@pytest.mark.parametrize(
    ("make", "name", "word"),
    [
        (text, "photo.jpg", "not a PNG, JPEG, TIFF or WebP file"),
        (empty, "photo.png", "empty"),
        (cut_off, "photo.jpg", "cut-off"),
        (not_a_number, "photo.tif", "NaN"),
        (missing, "photo.png", "no such file"),
    ],
    ids=["text", "empty", "cut-off", "nan", "missing"],
)
def test_bad_pictures(call, tmp_path, weights, command, make, name, word):
    source, out = tmp_path / name, tmp_path / ("m.npz" if command == "motion" else "out.png")
    make(source)
    out.write_text("old")
    before = files(tmp_path)
    failed(call(*JOBS[command], source, "-o", out, "--overwrite"), word, source)
    assert files(tmp_path) == before


@pytest.mark.parametrize("command", sorted(JOBS))
def test_one_pixel(call, tmp_path, weights, command):
    source, out = tmp_path / "one.png", tmp_path / ("m.npz" if command == "motion" else "out.png")
    Image.fromarray(np.full((1, 1, 3), 120, np.uint8)).save(source)
    outcome = call(*JOBS[command], source, "-o", out)
    if command in ("deblur", "motion"):
        assert (outcome.code, outcome.err) == (0, "")
        assert read_motion(out).shape == (1, 1, 2) if command == "motion" else load(out).shape == (1, 1, 3)
    else:
        failed(outcome, "longer than the photograph (1 x 1)", source)
        assert not out.exists()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_tiny_pictures_and_a_kernel(call, tmp_path, size, method):
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(np.full((*size, 3), 120, np.uint8)).save(source)
    np.save(tmp_path / "psf.npy", np.ones((5, 5)))
    arguments = (source, "--psf", tmp_path / "psf.npy")
    assert call("blur", *arguments, "-o", tmp_path / "b.png").code == 0
    assert np.array_equal(load(tmp_path / "b.png"), load(source))
    outcome = call("deconvolve", *arguments, "-o", out, "--method", method)
    if method == "fft-nopad":
        failed(outcome, "larger than the image", source)
    else:
        assert (outcome.code, outcome.err) == (0, "")
        # A network has seen nothing so small.
        assert np.abs(load(out).astype(int) - 120).max() <= (2 if method in checkpoints.IRC_NETS else 1)


def test_unusual_pictures_keep_their_kind(call, tmp_path, weights):
    grey = tmp_path / "grey.tif"
    tifffile.imwrite(grey, picture(40, 48)[..., 0].astype(np.uint16) * 257)
    alpha = np.dstack((picture(40, 48), np.arange(40 * 48).reshape(40, 48).astype(np.uint8)))
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    Image.fromarray(picture(40, 48)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    arguments = (grey, tmp_path / "alpha.png", tmp_path / "cmyk.jpg", "-o", tmp_path / "out")
    for command in ("deblur", "blur"):
        outcome = call(*JOBS[command], *arguments, "--suffix", "", "--overwrite")
        assert outcome.code == 0, outcome
        (note,) = outcome.err.splitlines()
        assert note.startswith(f"note: {tmp_path / 'cmyk.jpg'}: CMYK was converted")
        out = tifffile.imread(tmp_path / "out" / "grey.tif")
        assert (out.dtype, out.shape) == (np.uint16, (40, 48))
        assert np.unique(out).size > 256
        assert np.array_equal(load(tmp_path / "out" / "alpha.png")[..., 3], alpha[..., 3])
        assert Image.open(tmp_path / "out" / "cmyk.jpg").mode == "RGB"
    assert call(*JOBS["blur"], *arguments, "--overwrite", "-q") == (0, "", "")


@pytest.mark.parametrize("command", ["deconvolve", "blur"])
@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((3, 3)), "sums to 0"),
        (np.full((3, 3), np.nan), "NaN"),
        (-np.eye(3), "negative"),
        (np.ones((3, 3, 3)), "two-dimensional"),
        (np.array(["a"]), "psf"),
        (None, "no such file"),
    ],
    ids=["sum 0", "nan", "negative", "3-D", "text", "missing"],
)
def test_bad_kernels(call, tmp_path, sharp, command, array, word):
    psf, out = tmp_path / "psf.npy", tmp_path / "out.png"
    if array is not None:
        np.save(psf, array)
    line = failed(call(command, sharp, "-o", out, "--psf", psf), word, psf)
    assert line.count(str(psf)) == 1
    assert not out.exists()


def test_even_kernel_is_padded_and_that_is_said(call, tmp_path, sharp):
    np.save(tmp_path / "psf.npy", np.ones((2, 4)))
    arguments = ("blur", sharp, "-o", tmp_path / "out.png", "--psf", tmp_path / "psf.npy", "--overwrite")
    outcome = call(*arguments)
    assert outcome.code == 0
    assert outcome.err == f"note: {tmp_path / 'psf.npy'}: psf of 2 x 4 padded to odd sides, 3 x 5\n"
    assert call(*arguments, "--quiet") == (0, "", "")


def test_motions_beyond_the_bank_are_undone_too(call, tmp_path, sharp):
    """The bank ends at 35 px; its spectra only guide the solvers, which use the very blur."""
    path = tmp_path / "m.npz"
    write_motion(path, np.broadcast_to(np.float32([0, 40]), (HEIGHT, WIDTH, 2)))
    arguments = ("deconvolve", sharp, "-o", tmp_path / "out.png", "--motion", path, "--overwrite")
    for method in ("irc-mm", "irc", "cg"):
        assert call(*arguments, "--method", method)[::2] == (0, "")


def test_warnings_of_the_package_are_notes_and_others_are_dropped(call, tmp_path, sharp, monkeypatch):
    def warn(image, *args, **options):
        for number, module in enumerate(("restore.py", "restore.py", "../torch/nn.py")):
            place = os.path.normpath(Path(restore.__file__).parent / module)
            warnings.warn_explicit(f"warning\n{number // 2}", UserWarning, place, 1)
        return image

    monkeypatch.setattr(restore, "blur", warn)
    arguments = (*JOBS["blur"], sharp, "-o", tmp_path / "out.png", "--overwrite")
    assert call(*arguments).err == f"note: {sharp}: warning 0\n"
    assert call(*arguments, "-q") == (0, "", "")


@pytest.mark.parametrize("command", ["deconvolve", "blur"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("other size", ["96 x 81", "96 x 80"]),
        ("nan", ["NaN"]),
        ("text", ["not a readable .npz file"]),
        ("array", ["'motion'"]),
        ("too long", ["longer than the photograph", "500"]),
        ("missing", ["no such file"]),
    ],
)
def test_bad_motion_files(call, tmp_path, sharp, command, kind, words):
    path, out = tmp_path / "m.npz", tmp_path / "out.png"
    field = np.zeros((HEIGHT + (kind == "other size"), WIDTH, 2), np.float32)
    field[1, 1, 0] = {"nan": np.nan, "too long": 500}.get(kind, 0)
    if kind == "text":
        path.write_text("no motion")
    elif kind != "missing":
        np.savez(path, **{"array" if kind == "array" else "motion": field})
    failed(call(command, sharp, "-o", out, "--motion", path), *words, sharp if kind == "too long" else path)
    assert not out.exists()


# ------------------------------------------------------------------------------------------------- bad outputs


@pytest.mark.parametrize("command", sorted(JOBS))
def test_outputs_are_checked_before_the_work(call, tmp_path, sharp, weights, monkeypatch, command):
    def never(*args, **options):
        raise AssertionError("the work was begun")

    for name in ("deblur", "deconvolve", "blur", "estimate_motion"):
        monkeypatch.setattr(restore, name, never)
    out = tmp_path / ("m.npz" if command == "motion" else "out.png")
    out.write_text("old")
    before = files(tmp_path)
    failed(call(*JOBS[command], sharp, "-o", out), "exists", out, "--overwrite")
    failed(call(*JOBS[command], sharp, "-o", tmp_path / "no" / out.name), "no such folder", tmp_path / "no")
    failed(call(*JOBS[command], sharp, "-o", tmp_path / "out.bmp"), "unknown suffix '.bmp'", "out.bmp")
    if command in ("deblur", "blur"):
        arguments = (*JOBS[command], sharp, "-o", tmp_path / "new.png", "--motion-out")
        failed(call(*arguments, out.with_suffix(".txt")), "unknown suffix '.txt'")
        failed(call(*arguments, sharp, "--overwrite"), "replace an input", sharp)
    if command != "motion":
        failed(call(*JOBS[command], sharp, "-o", sharp, "--overwrite"), "replace an input", sharp)
    assert files(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """Mount a file system in memory, if this user may do that."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("cannot mount a small disk here")
        mounted.append(folder)
        return folder

    yield mount
    for disk in mounted:
        subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(call, sharp, small_disk):
    disk = small_disk("size=8k")
    (disk / "out.png").write_text("old")
    for arguments in (("out.png", "--overwrite"), ("new.png",)):
        failed(call(*JOBS["blur"], sharp, "-o", disk / arguments[0], *arguments[1:]), "disk is full", disk)
        assert files(disk) == {"out.png": b"old"}


def test_full_disk_of_the_motion(call, tmp_path, sharp, small_disk):
    disk = small_disk("size=16k")
    arguments = (sharp, "-o", tmp_path / "out.png", "--camera-shake", "--motion-out")
    for name in ("m.npz", "m.flo", "m.png"):
        failed(call("blur", *arguments, disk / name, "--overwrite"), "disk is full", disk / name)
        assert files(disk) == {}
    assert load(tmp_path / "out.png").shape == (HEIGHT, WIDTH, 3)


def test_unwritable_folder(call, tmp_path, sharp, small_disk):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        # For this user permission bits do not count.
        folder = small_disk("ro,size=16k")
    failed(call(*JOBS["blur"], sharp, "-o", folder / "out.png"), "cannot write", folder)
    failed(call(*JOBS["blur"], sharp, "-o", f"{folder}/new/"), "cannot make the folder", folder / "new")
    assert files(folder) == {}


def test_kill_in_the_middle_of_writing(tmp_path, sharp, call):
    out = tmp_path / "out" / "photo.png"
    out.parent.mkdir()
    out.write_text("old")
    # The killing comes at the worst moment: all is written, nothing is named.
    arguments = [*JOBS["blur"], str(sharp), "-o", str(out), "--overwrite"]
    process = in_new_process(
        "import time\n"
        "from ircdeblur.app import cli, imagefile\n"
        "def wait(*args):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "imagefile._finish = wait\n"
        f"cli.main({arguments})"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert out.read_text() == "old"
    # The rest of the killed run is no obstacle, and is no picture for a run on the folder.
    assert len(files(out.parent)) == 2
    assert call(*arguments).code == 0
    assert imagefile.expand_inputs([out.parent]).paths == [out]


# --------------------------------------------------------------------------------------- interruptions, faults


def test_ctrl_c(call, tmp_path, sharp, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    out = tmp_path / "out.png"
    out.write_text("old")
    before = files(tmp_path)
    monkeypatch.setattr(restore, "blur", interrupted)
    failed(call(*JOBS["blur"], sharp, "-o", out, "--overwrite"), "interrupted", code=130)
    monkeypatch.undo()
    monkeypatch.setattr(imagefile, "_finish", interrupted)
    failed(call(*JOBS["blur"], sharp, "-o", out, "--overwrite"), "interrupted", code=130)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.\nError code 12"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee documentation"),
    ],
)
def test_out_of_memory(call, tmp_path, sharp, monkeypatch, error):
    def greedy(*args, **options):
        raise error

    monkeypatch.setattr(restore, "blur", greedy)
    failed(call(*JOBS["blur"], sharp, "-o", tmp_path / "out.png"), "not enough memory", sharp, "--tile")


def test_a_fault_of_ours_is_one_line_too(call, tmp_path, sharp, monkeypatch):
    def fault(*args, **options):
        raise RuntimeError("first\nsecond \x1b[31m")

    monkeypatch.setattr(restore, "blur", fault)
    arguments = (*JOBS["blur"], sharp, "-o", tmp_path / "out.png")
    outcome = call(*arguments)
    line = (
        f"error: internal fault, RuntimeError (first second \\x1b[31m): {sharp}; set IRCDEBLUR_DEBUG=1 and report it\n"
    )
    assert outcome == (1, "", line)
    for traced in (
        call("--debug", *arguments),
        monkeypatch.setenv("IRCDEBLUR_DEBUG", "1") or call(*arguments),
    ):
        assert traced.code == 1
        assert "Traceback" in traced.err
        assert traced.err.endswith(line)


def test_missing_weights_are_said_once(call, tmp_path, sharp, weights):
    (weights / checkpoints.MOTION_NET).unlink()
    Image.fromarray(picture()).save(tmp_path / "other.png")
    failed(call("deblur", sharp, tmp_path / "other.png", "-o", tmp_path / "out"), "weights", weights)
    failed(call("motion", sharp, "-o", tmp_path / "m.npz"), "weights", weights)
    deconvolve = ("deconvolve", sharp, "-o", tmp_path / "x.png", "--length", 9, "--angle", 0)
    failed(call(*deconvolve, "--irc-net", tmp_path / "none"), "weights", "--irc-net")
    (tmp_path / "text").write_text("no")
    failed(call(*deconvolve, "--irc-net", tmp_path / "text"), "not usable weights", "train irc-net")
    failed(call(*deconvolve, "--method", "irc", "--irc-net", tmp_path / "text"), "--irc-net", code=2)
    (weights / checkpoints.IRC_NETS["irc-net"]).unlink()
    failed(call(*deconvolve), "weights", weights)
    assert call(*deconvolve, "--method", "irc").code == 0


def test_a_reader_that_went_away_is_no_error(call, tmp_path, sharp, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main([*JOBS["blur"], str(sharp), "-o", str(tmp_path / "out.png")]) == 0
    assert (tmp_path / "out.png").exists()


def test_names_that_the_terminal_cannot_show(call, tmp_path, monkeypatch):
    source = tmp_path / os.fsdecode(b"\xc3\xa9 \xff\n.png")
    Image.fromarray(picture(24, 32)).save(source)
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert cli.main([*JOBS["blur"], str(source), "-o", str(tmp_path / "out.png")]) == 0
    printed = narrow.buffer.getvalue().decode("ascii")
    assert printed.count("\n") == 1
    assert "\\xe9 \\udcff" in printed


# ---------------------------------------------------------------------------------------------------- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_for_terminals(call, tmp_path, sharp, monkeypatch):
    arguments = [*JOBS["blur"], str(sharp), "-o", str(tmp_path / "out.png"), "--overwrite"]
    monkeypatch.setenv("TERM", "xterm")
    for quiet, shown in ((False, True), (True, False)):
        terminal, pipe = Terminal(), io.StringIO()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.main([*arguments, *(["--quiet"] if quiet else [])]) == 0
        assert ("\x1b[" in terminal.getvalue()) == shown
        assert (sharp.name in terminal.getvalue()) == shown
        # A result for a pipe does not go to the terminal with the bar.
        assert pipe.getvalue() == ("" if quiet else f"{sharp} -> {tmp_path / 'out.png'}\n")


# ------------------------------------------------------------------------------------------- drawings of motion


def test_motion_colors():
    right, left, down, diagonal, still = (
        plots.motion_colors(np.float32([[vector]]), 10)[0, 0]
        for vector in ((10, 0), (-10, 0), (0, 10), (10, -10), (0, 0))
    )
    assert np.array_equal(right, [1, 0, 0])
    assert np.array_equal(right, left)
    assert np.allclose(down, [0, 1, 1])
    assert np.allclose(diagonal, [0.5, 1, 0], atol=1e-6)
    assert np.array_equal(still, [1, 1, 1])
    assert np.allclose(plots.motion_colors(np.float32([[[5, 0]]]), 10), [1, 0.5, 0.5])
    assert np.array_equal(plots.motion_colors(np.float32([[[5, 0]]])), [[[1, 0, 0]]])
    with pytest.raises(ValueError, match="max_length"):
        plots.motion_colors(np.zeros((1, 1, 2)), -1)


def test_draw_motion_shows_photo_motion_and_legend():
    motion = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    motion[: HEIGHT // 2, :, 1] = 8
    drawing = plots.draw_motion(picture() / 255, motion).astype(int)
    assert drawing.shape == (667, 1000, 3)
    assert drawing.min() >= 0
    moved, still = drawing[:320, :800].mean((0, 1)), drawing[345:, :800].mean((0, 1))
    # Vertical motion is turquoise; where nothing moved the photograph is grey.
    assert min(moved[1:]) > moved[0] + 30
    assert np.ptp(still) < 1
    legend = drawing[30:170, 830:970]
    assert legend[70, 135, 0] > 200 > legend[70, 125, 1] - 100
    assert np.array_equal(drawing[-1, -1], [255, 255, 255])


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (40, 2, 1), (3000, 20, 3)])
def test_draw_motion_of_any_size(shape):
    drawing = plots.draw_motion(np.full(shape, 0.5), np.full((*shape[:2], 2), 3.0))
    assert drawing.dtype == np.uint8
    assert 800 <= drawing.shape[0 if shape[0] > shape[1] else 1] <= 2200


def test_draw_motion_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="same size"):
        plots.draw_motion(np.zeros((4, 5)), np.zeros((5, 4, 2)))
    with pytest.raises(ValueError, match="image must have shape"):
        plots.draw_motion(np.zeros((4, 5, 2)), np.zeros((4, 5, 2)))


def test_consolidations_are_those_of_the_package():
    assert tuple(c.value for c in cli.Consolidation) == blind.CONSOLIDATIONS


def test_motion_by_other_weights_and_raw(call, tmp_path, blurred, weights):
    own = tmp_path / "own.safetensors"
    own.write_bytes((weights / checkpoints.MOTION_NET).read_bytes())
    outcome = call("motion", blurred, "--motion-net", own, "--consolidation", "none", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    missing = call("motion", blurred, "--motion-net", "base")
    assert missing.code == 1
    assert missing.err.startswith("error: the weights are missing: ")
    assert "--motion-net" in missing.err
    own.write_text("no weights")
    broken = call("deblur", blurred, "-o", tmp_path / "x.png", "--motion-net", own)
    assert broken.code == 1
    assert broken.err.startswith("error: not usable weights")


def test_another_seed_than_the_configuration_has():
    config = Path(__file__).parents[1] / "configs" / "irc-net-blind.yaml"
    trained = [cli._trainer(cli.Network.irc_net, config, [], settings).args[0] for settings in ({}, {"seed": 5})]
    assert [c.seed for c in trained] == [8, 5]
    assert trained[0].pairs == trained[1].pairs
