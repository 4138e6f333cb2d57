"""Files of weights: the mean of several, and the command that writes what is shipped."""

import json

import pytest
import torch
from safetensors import safe_open

from ircdeblur.app.cli import main
from ircdeblur.nets.checkpoints import load_irc_net, save_irc_net, save_motion_net
from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig
from ircdeblur.nets.motion_net import MotionNet, MotionNetConfig
from ircdeblur.nets.weights_file import average_weights, training_summary

TINY = IRCNetConfig(stages=1, width=4, blocks=(1, 1, 1))


@pytest.fixture
def files(tmp_path):
    """Two networks of one kind, one that is wider, and a Motion-Net."""
    nets = {"a": TINY, "b": TINY, "wide": IRCNetConfig(stages=1, width=8, blocks=(1, 1, 1))}
    for seed, (name, config) in enumerate(nets.items()):
        torch.manual_seed(seed)
        save_irc_net(IRCNet(config), tmp_path / f"{name}.safetensors", {"made by": name})
    small = MotionNetConfig(stem=4, widths=(8, 8, 8), blocks=(1, 1, 2), pyramid=8, rates=(1, 2))
    save_motion_net(MotionNet(small), tmp_path / "motion.safetensors")
    (tmp_path / "photo.safetensors").write_bytes(b"no tensors")
    return tmp_path


def tensors(path):
    return dict(load_irc_net(path)[0].state_dict())


@pytest.mark.parametrize(
    ("shares", "of_a", "of_b"), [(None, 0.5, 0.5), ([0.2, 0.8], 0.2, 0.8), ([1.5, -0.5], 1.5, -0.5)]
)
def test_mean(files, shares, of_a, of_b):
    out = files / "out.safetensors"
    average_weights([files / "a.safetensors", files / "b.safetensors"], out, shares)
    a, b, mean = tensors(files / "a.safetensors"), tensors(files / "b.safetensors"), tensors(out)
    assert mean.keys() == a.keys()
    for name, value in mean.items():
        # Two roundings of float32.
        torch.testing.assert_close(value, of_a * a[name] + of_b * b[name], rtol=1e-6, atol=1e-7)
    assert training_summary(out) == {
        "mean of": [{"share": of_a, "made by": "a"}, {"share": of_b, "made by": "b"}],
    }


def test_one_file_is_copied_and_may_be_replaced(files):
    path = files / "a.safetensors"
    before = tensors(path)
    average_weights([path], path)
    assert all(torch.equal(value, before[name]) for name, value in tensors(path).items())
    assert training_summary(path) == {"made by": "a"}


def test_command(files, capsys):
    out = files / "out.safetensors"
    arguments = ["export", "weights", str(files / "a.safetensors"), str(files / "b.safetensors"), "-o", str(out)]
    assert main([*arguments, "--share", "0.25", "--share", "0.75"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with safe_open(str(out), framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
        assert json.loads(file.metadata()["config"])["width"] == 4
    a, b = tensors(files / "a.safetensors"), tensors(files / "b.safetensors")
    for name, value in tensors(out).items():
        # float16 has 11 binary digits.
        torch.testing.assert_close(value, 0.25 * a[name] + 0.75 * b[name], rtol=2**-11, atol=1e-7)
    # Others than their owner can read them, as the user's umask has it.
    assert out.stat().st_mode & 0o444 == (files / "photo.safetensors").stat().st_mode & 0o444
    assert main([*arguments, "--full"]) == 1
    assert "exists" in capsys.readouterr().err
    assert main([*arguments, "--full", "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert all(torch.equal(v, 0.5 * a[name] + 0.5 * b[name]) for name, v in tensors(out).items())


@pytest.mark.parametrize(
    ("names", "options", "words", "code"),
    [
        (["a", "wide"], [], "another network than that of", 1),
        (["a", "motion"], [], "another network than that of", 1),
        (["a", "photo"], [], "not a readable safetensors file", 1),
        (["a", "none"], [], "the weights are missing", 1),
        (["a", "b"], ["--share", "1"], "each of the 2 files", 2),
        (["a", "b"], ["--share", "1", "--share", "0.1"], "must sum to 1", 2),
        (["a"], ["--overwrite", "-o", "{tmp}/a.safetensors"], "would replace an input", 1),
        (["a"], ["-o", "{tmp}/a.pt"], "unknown suffix", 1),
    ],
)
def test_wrong_usage(files, capsys, names, options, words, code):
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    inputs = [str(files / f"{name}.safetensors") for name in names]
    options = ["-o", str(files / "out.safetensors"), *(option.format(tmp=files) for option in options)]
    assert main(["export", "weights", *inputs, *options]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


def test_shares_are_checked(files):
    with pytest.raises(ValueError, match="as many as the files"):
        average_weights([files / "a.safetensors"], files / "out.safetensors", [0.5])
