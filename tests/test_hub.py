"""Checkpoint folders: round trips, the library's own conventions, what is refused; and nothing pickled is loaded."""

import builtins
import json
import pickle
from pathlib import Path

import pytest
import torch

from ircdeblur.app import cli
from ircdeblur.nets.checkpoints import load_irc_net, load_motion_net, save_irc_net, save_motion_net
from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig
from ircdeblur.nets.motion_net import MotionNet, MotionNetConfig
from ircdeblur.nets.shrinkage_net import ShrinkageConfig, ShrinkageIRCNet

SMALL = MotionNetConfig(stem=2, widths=(4, 4, 4), blocks=(1, 1, 1), pyramid=4, rates=(1,))


def nets():
    return [
        MotionNet(SMALL),
        IRCNet(IRCNetConfig(stages=1, width=4, blocks=(1, 2, 1), gain=True)),
        ShrinkageIRCNet(ShrinkageConfig(stages=2, filters=3, size=3)),
    ]


def assert_same(a, b):
    assert a.config == b.config
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(tensor, b.state_dict()[name], atol=0, rtol=0)


@pytest.mark.parametrize("number", range(3))
def test_round_trip(tmp_path, number):
    net = nets()[number]
    assert net.save_pretrained(tmp_path / "net") is None
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    again = type(net).from_pretrained(str(tmp_path / "net"))
    assert_same(net, again)
    assert not again.training_summary


def test_no_other_library_is_needed_for_folders(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "huggingface_hub":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", without)
    net = MotionNet(SMALL)
    net.save_pretrained(tmp_path)
    assert_same(net, MotionNet.from_pretrained(tmp_path))
    with pytest.raises(ImportError, match=r"no folder someone/net.*pip install 'ircdeblur\[hub\]'"):
        MotionNet.from_pretrained("someone/net")
    with pytest.raises(ImportError, match=r"upload.*pip install 'ircdeblur\[hub\]'"):
        net.push_to_hub("someone/net")


def test_folders_are_those_of_the_library(tmp_path):
    """huggingface_hub's own mixin reads ours, and we read its."""
    hub = pytest.importorskip("huggingface_hub")

    class Theirs(hub.PyTorchModelHubMixin, MotionNet):
        def __init__(self, config: MotionNetConfig):
            super().__init__(config)

    ours = MotionNet(SMALL)
    ours.save_pretrained(tmp_path / "ours")
    theirs = Theirs.from_pretrained(tmp_path / "ours")
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], atol=0, rtol=0)
    theirs = Theirs(SMALL)
    theirs.save_pretrained(tmp_path / "theirs")
    assert_same(theirs, MotionNet.from_pretrained(tmp_path / "theirs"))


def test_model_card_tells_of_the_training(tmp_path):
    summary = {"data": "7 pictures | of mine", "config": {"seed": 3}, "val_epe": 4.25}
    save_motion_net(MotionNet(SMALL), tmp_path / "net.safetensors", summary)
    net = load_motion_net(tmp_path / "net.safetensors")
    net.save_pretrained(tmp_path / "net")
    card = (tmp_path / "net" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ircdeblur\nlicense: mit\n")
    for line in (
        "| data | 7 pictures \\| of mine |",
        "| config.seed | 3 |",
        "| val_epe | 4.25 |",
        "| widths | [4, 4, 4] |",
    ):
        assert line in card.splitlines()
    assert "MotionNet.from_pretrained" in card
    assert MotionNet.from_pretrained(tmp_path / "net").training_summary == summary
    # One that somebody has edited stays.
    (tmp_path / "net" / "README.md").write_text("mine")
    net.save_pretrained(tmp_path / "net")
    assert (tmp_path / "net" / "README.md").read_text() == "mine"


def test_weights_of_a_folder_are_weights_for_every_command(tmp_path):
    net = MotionNet(SMALL)
    net.save_pretrained(tmp_path)
    assert_same(net, load_motion_net(tmp_path / "model.safetensors"))
    nets()[1].save_pretrained(tmp_path / "irc")
    assert isinstance(load_irc_net(tmp_path / "irc" / "model.safetensors")[0], IRCNet)


def test_from_the_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    net = MotionNet(SMALL)
    net.save_pretrained(tmp_path)
    asked = []

    def download(repo_id, filename, **kwargs):
        asked.append((repo_id, filename, kwargs["revision"]))
        return str(tmp_path / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert_same(net, MotionNet.from_pretrained("someone/net", revision="v1"))
    assert asked == [("someone/net", "config.json", "v1"), ("someone/net", "model.safetensors", "v1")]


def test_upload(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    seen = {}

    class Api:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            return type("Url", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, repo_id, folder_path, **kwargs):
            seen["files"] = sorted(path.name for path in Path(folder_path).iterdir())
            return f"https://example.org/{repo_id}"

    monkeypatch.setattr(hub, "HfApi", Api)
    url = MotionNet(SMALL).save_pretrained(tmp_path / "net", push_to_hub=True, token="t")
    assert url == "https://example.org/me/net"
    assert seen == {"token": "t", "files": ["README.md", "config.json", "model.safetensors"]}


def test_what_is_no_such_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        MotionNet.from_pretrained(tmp_path)
    nets()[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the weights of irc-net, not of motion-net"):
        MotionNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"nothing": 1}))
    with pytest.raises(ValueError, match="no usable configuration"):
        IRCNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"stages": 3, "width": 4, "blocks": [1, 2, 1], "gain": True}))
    with pytest.raises(ValueError, match="do not fit"):
        IRCNet.from_pretrained(tmp_path)


# ------------------------------------------------------------------------------------------------------- pickles


class Trap:
    """What, if it were unpickled, would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(params=["pickle", "torch"])
def pickled(request, tmp_path):
    """Files with the right names that are pickles; a test fails if one was loaded."""
    trap = tmp_path / "trapped"
    path = tmp_path / "weights.safetensors"
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(Trap(trap)))
    else:
        torch.save({"global_step": Trap(trap)}, path)
    yield path
    assert not trap.exists(), "it was unpickled"


def test_networks_are_never_unpickled(pickled, tmp_path):
    for load in (load_motion_net, load_irc_net):
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            load(pickled)
    MotionNet(SMALL).save_pretrained(tmp_path / "net")
    pickled.rename(tmp_path / "net" / "model.safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        MotionNet.from_pretrained(tmp_path / "net")


def one_line(capsys, *arguments):
    capsys.readouterr()
    code = cli.main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture
def photo(tmp_path):
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.new("RGB", (180, 170), (90, 80, 70)).save(path)
    return path


@pytest.mark.parametrize("option", ["--motion-net", "--irc-net"])
def test_commands_refuse_pickled_weights(pickled, tmp_path, photo, capsys, option):
    error = one_line(capsys, "deblur", photo, "-o", tmp_path / "out.png", option, pickled)
    assert "not usable weights (not a readable safetensors file)" in error
    assert str(pickled) in error


def training_arguments(tmp_path, photo):
    tmp_path.mkdir(exist_ok=True)
    config = tmp_path / "run.yaml"
    config.write_text((Path(__file__).parents[1] / "configs" / "irc-net-first.yaml").read_text())
    data = tmp_path / "data"
    for folder in ("train", "train-more", "val"):
        (data / folder).mkdir(parents=True)
        (data / folder / "photo.png").write_bytes(photo.read_bytes())
    return ["train", "irc-net", "--config", config, "--data", data, "-o", tmp_path / "run"]


def test_training_refuses_pickled_weights(pickled, tmp_path, photo, capsys):
    pytest.importorskip("lightning")
    error = one_line(capsys, *training_arguments(tmp_path, photo), "--weights", pickled)
    assert "not a readable safetensors file" in error


def test_training_refuses_a_checkpoint_that_is_code(pickled, tmp_path, photo, capsys):
    pytest.importorskip("lightning")
    for name in ("last.ckpt", "last.safetensors"):
        path = tmp_path / name
        path.write_bytes(pickled.read_bytes())
        error = one_line(capsys, *training_arguments(tmp_path / name.replace(".", "-"), photo), "--resume", path)
        assert f"not a checkpoint of a training run: {path}; give the last.ckpt of one" in error


def test_training_goes_on_from_plain_checkpoints_only(tmp_path):
    pytest.importorskip("lightning")
    from ircdeblur.training.loop import steps_of

    path = tmp_path / "last.ckpt"
    torch.save({"global_step": 12, "state_dict": {"a": torch.zeros(2)}}, path)
    assert steps_of(path) == 12
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="not a checkpoint of a training run"):
        steps_of(path)


def test_weights_without_a_configuration(tmp_path):
    from safetensors.torch import save_file

    for metadata in (
        {"network": "irc-net"},
        {"network": "irc-net", "config": "{"},
        {"network": "irc-net", "config": "[]"},
    ):
        save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors", metadata=metadata)
        with pytest.raises(ValueError, match="no usable configuration"):
            load_irc_net(tmp_path / "x.safetensors")
    save_irc_net(nets()[1], tmp_path / "x.safetensors")
    assert load_irc_net(tmp_path / "x.safetensors")[1] == {}
