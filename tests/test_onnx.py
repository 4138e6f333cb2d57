"""The networks as ONNX graphs: the same answers as torch's at every size, the commands, and what is refused."""

import builtins
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ircdeblur
from ircdeblur import restore
from ircdeblur.app import cli
from ircdeblur.nets import checkpoints, methods, motion_net
from ircdeblur.nets import onnx as graphs
from ircdeblur.nets.checkpoints import save_irc_net, save_motion_net
from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig, Seen
from ircdeblur.nets.kernel_net import KernelNet, KernelNetConfig
from ircdeblur.nets.motion_net import LENGTH_UNIT, MotionNet, MotionNetConfig
from ircdeblur.nets.shrinkage_net import ShrinkageConfig, ShrinkageIRCNet
from ircdeblur.operators import MotionBlur, UniformBlur

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")

TINY = MotionNetConfig(stem=2, widths=(4, 4, 4), blocks=(1, 1, 2), pyramid=4, rates=(1, 2))
WIENER = ["--length", "5", "--angle", "0", "--method", "wiener"]
SIZES = [(64, 64), (75, 101), (8, 8), (1, 1), (33, 7)]


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_shifts(request, monkeypatch):
    """Motion-Nets that compare a picture with itself at few shifts: each of hundreds takes time to export."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(motion_net, "FULL_SHIFTS", motion_net.FULL_SHIFTS[::12])
        monkeypatch.setattr(motion_net, "HALF_SHIFTS", motion_net.HALF_SHIFTS[::40])


def irc_net(stages=2, width=6, blocks=(1, 2, 1), gain=False):
    """A network whose priors say something before any training."""
    torch.manual_seed(0)
    net = IRCNet(IRCNetConfig(start=2, stages=stages, width=width, blocks=blocks, gain=gain)).eval()
    net.fast = False
    with torch.no_grad():
        for prior in net.priors:
            prior.exit.weight.mul_(100)
        if net.gain is not None:
            net.gain.excess.normal_(std=0.05)
    return net


@pytest.fixture
def folder(tmp_path):
    """Graphs of a tiny Motion-Net and a tiny IRC-Net, and the networks."""
    path = tmp_path / "folder"
    path.mkdir()
    torch.manual_seed(0)
    motion, irc = MotionNet(TINY).eval(), irc_net()
    motion.fast = False
    torch.nn.init.normal_(motion.out.weight, std=0.2)
    graphs.export_motion_net(motion, path, "abc")
    graphs.export_irc_net(irc, path, "def")
    return path, motion, irc


@pytest.mark.slow
def test_the_networks_of_the_package(tmp_path):
    assert graphs.export_motion_net(checkpoints.load_motion_net(), tmp_path) <= 1e-3
    assert graphs.export_irc_net(checkpoints.load_irc_net("irc-net")[0], tmp_path) <= 1e-3
    image = rand(1, 3, 53, 90, seed=3)
    net = checkpoints.load_motion_net()
    net.fast = False
    with torch.no_grad():
        expected = net(image)
    for a, b in zip(expected, graphs.OnnxMotionNet(tmp_path / graphs.MOTION_NET)(image), strict=True):
        assert (a - b).abs().max() <= 1e-3


def test_motion_net_of_every_size(folder):
    path, net, _ = folder
    graph = graphs.OnnxMotionNet(path / graphs.MOTION_NET)
    for batch, channels, size in ((b, c, s) for b, c in ((1, 3), (2, 3), (1, 1)) for s in SIZES):
        image = rand(batch, channels, *size)
        with torch.no_grad():
            expected = net(image)
        assert expected[0].abs().max() > 0.5
        for a, b in zip(expected, graph(image), strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() <= graphs.TOLERANCE
    with pytest.raises(ValueError, match="1 or 3 channels"):
        graph(rand(1, 2, 16, 16))


def test_priors_of_every_size(folder):
    """Each graph on its own: not the solver around it."""
    path, _, net = folder
    found = graphs.OnnxIRCNet.load(path)
    cases = ((1, 3, 1), (2, 3, 2), (2, 1, 1))
    for (batch, channels, maps), size in ((case, size) for case in cases for size in SIZES):
        x, *residuals = (rand(batch, channels, *size, seed=s) for s in range(4))
        seen = Seen(x, tuple(residuals), rand(maps, net.MAPS, *size).expand(batch, -1, -1, -1), rand(1, 1, 1, 1) + 0.01)
        blurred = rand(batch, channels, *size, seed=9)
        with torch.no_grad():
            expected = net.observed(blurred, seen)
            features = found.observed(blurred, seen)
            torch.testing.assert_close(features, expected, atol=1e-3, rtol=0)
            for j in range(net.config.stages):
                torch.testing.assert_close(
                    found.proposal(seen, expected, j), net.proposal(seen, expected, j), atol=1e-3, rtol=1e-3
                )
        assert min(size) < 8 or (net.proposal(seen, expected, 0)[0] - x).abs().max() > 0.001


@pytest.mark.parametrize("kind", ["motion", "uniform"])
def test_deconvolution_with_a_trained_gain_and_another_size_of_network(tmp_path, kind):
    net = irc_net(stages=3, width=4, blocks=(2, 1, 2), gain=True)
    assert graphs.export_irc_net(net, tmp_path) <= 1e-3
    assert sum(path.suffix == ".onnx" for path in tmp_path.iterdir()) == 4
    found = graphs.OnnxIRCNet.load(tmp_path)
    y, noise = rand(2, 3, 41, 46), torch.tensor([0.01, 0.03])
    if kind == "motion":
        blur = MotionBlur(torch.tensor([6.0, -2.0]).expand(41, 46, 2).contiguous())
    else:
        blur = UniformBlur(torch.full((3, 5), 1 / 15))
    error, mask = rand(1, 41, 46), (rand(1, 1, 41, 46, seed=4) > 0.1).float()
    with torch.no_grad():
        stages = zip(net.stages(y, blur, noise, error, mask), found.stages(y, blur, noise, error, mask), strict=True)
        for expected, answer in stages:
            assert (expected - answer).abs().max() <= graphs.TOLERANCE


def test_graphs_are_plain_and_say_what_they_are(folder):
    path, motion, irc = folder
    files = sorted(path.glob("*.onnx"))
    assert [file.name for file in files] == [*sorted(graphs.irc_net_graphs(2)), "motion-net.onnx"]
    for file in files:
        model = onnx.load(str(file))
        onnx.checker.check_model(model, full_check=True)
        used = {node.op_type for node in model.graph.node}
        assert not used & {"DFT", "STFT", "If", "Loop", "Scan"}
        assert {node.domain for node in model.graph.node} == {""}
        assert not any(value.type.tensor_type.elem_type != 1 for value in model.graph.input)
        free = [{d.dim_param for d in v.type.tensor_type.shape.dim} - {""} for v in model.graph.input]
        assert {"batch", "height", "width"} in free
        facts = {p.key: p.value for p in model.metadata_props}
        net, digest = (motion, "abc") if "motion" in file.name else (irc, "def")
        assert facts["sha256"] == digest
        assert json.loads(facts["config"]) == json.loads(json.dumps(dataclasses.asdict(net.config)))
        assert facts["ircdeblur"] == ircdeblur.__version__


def test_export_leaves_the_network_alone():
    net = irc_net()
    net.fast = True
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match="only the IRC-Net with a convolutional prior"):
        graphs.export_irc_net(ShrinkageIRCNet(ShrinkageConfig(stages=1)), Path("nowhere"))
    plain = graphs._plain(net)
    plain.fast = False
    with torch.no_grad():
        plain.observe.weight.zero_()
    assert net.fast
    assert net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_graph_that_differs_is_refused(tmp_path, monkeypatch):
    """The check after the export sees a difference."""
    net = MotionNet(TINY)
    answer = graphs.OnnxMotionNet.__call__
    monkeypatch.setattr(graphs.OnnxMotionNet, "__call__", lambda self, x: tuple(t + 0.002 for t in answer(self, x)))
    with pytest.raises(ValueError, match=r"the graph of Motion-Net and torch differ by 2\.0e-03"):
        graphs.export_motion_net(net, tmp_path)


# ---------------------------------------------------------------------------------------- public functions, commands


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Weights of small networks as those of the package, and a cache of their own; the motion is 9 px, horizontal."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    place = tmp_path / "weights"
    place.mkdir()
    monkeypatch.setattr(checkpoints, "weights_folder", lambda: place)
    checkpoints.save_kernel_net(KernelNet(KernelNetConfig(widths=(4, 4), blocks=1)), place / checkpoints.KERNEL_NET)
    net = MotionNet(TINY)
    torch.nn.init.normal_(net.out.weight, std=0.01)
    net.out.bias.data = torch.tensor([9 / LENGTH_UNIT, 0.0, -4.0])
    save_motion_net(net, place / checkpoints.MOTION_NET)
    save_irc_net(irc_net(), place / "irc-net.safetensors")
    save_irc_net(ShrinkageIRCNet(ShrinkageConfig(stages=1)), place / "irc-net-shrinkage.safetensors")
    for cache in (restore._motion_net, restore._kernel_net, methods.irc_net):
        cache.cache_clear()
    real, real_motion = methods.load_irc_net, restore.load_motion_net

    def load(path):
        net, summary = real(path)
        net.fast = False
        return net, summary

    def load_motion(path):
        net = real_motion(path)
        net.fast = False
        return net

    monkeypatch.setattr(methods, "load_irc_net", load)
    monkeypatch.setattr(restore, "load_motion_net", load_motion)
    yield place
    for cache in (restore._motion_net, restore._kernel_net, methods.irc_net):
        cache.cache_clear()


@pytest.fixture
def picture():
    from skimage import data

    return data.astronaut()[60:140, 180:276]


def test_runtimes_agree(weights, tmp_path, picture):
    cached = tmp_path / "cache" / "ircdeblur" / "onnx"
    image = picture / 255.0
    expected, motion = ircdeblur.deblur(image, return_motion=True, consolidation="answers")
    found, moved = ircdeblur.deblur(image, return_motion=True, consolidation="answers", runtime="onnx")
    np.testing.assert_allclose(moved, motion, atol=1e-3)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(expected - image).max() > 0.02
    folders = {path.name: path.stat().st_mtime_ns for path in cached.iterdir()}
    assert len(folders) == 2
    # The second process, so to say, finds the graphs.
    for cache in (restore._motion_net, restore._kernel_net, methods.irc_net):
        cache.cache_clear()
    grey = image.mean(2)
    for method in ("irc-net", "irc-net-plus"):
        a, b = (ircdeblur.deconvolve(grey, np.ones((1, 7)), method=method, runtime=r) for r in ("torch", "onnx"))
        np.testing.assert_allclose(b, a, atol=1e-3)
    assert {path.name: path.stat().st_mtime_ns for path in cached.iterdir()} == folders
    a, b = (ircdeblur.estimate_motion(image, consolidation="none", runtime=r) for r in ("torch", "onnx"))
    np.testing.assert_allclose(b, a, atol=1e-3)
    # Other weights, other graphs.
    with torch.no_grad():
        net = checkpoints.load_motion_net()
        net.out.bias[0] *= 0.5
    save_motion_net(net, tmp_path / "other.safetensors")
    shorter = ircdeblur.estimate_motion(
        image, motion_net=tmp_path / "other.safetensors", consolidation="none", runtime="onnx"
    )
    assert abs(shorter[..., 0].mean() - 4.5) < 1
    assert len(list(cached.iterdir())) == 3


def test_a_cache_that_cannot_be_written(weights, tmp_path, picture, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(graphs, "export_irc_net", lambda *a: pytest.fail("not needed"))
    with pytest.warns(RuntimeWarning, match="cannot be kept in"):
        motion = ircdeblur.estimate_motion(picture, consolidation="none", runtime="onnx")
    np.testing.assert_allclose(motion, ircdeblur.estimate_motion(picture, consolidation="none"), atol=1e-3)


def call(capsys, *arguments):
    capsys.readouterr()
    code = cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_commands(weights, tmp_path, picture, capsys, monkeypatch):
    folder = tmp_path / "graphs"
    code, out, err = call(capsys, "export", "onnx", "-o", folder)
    assert code == 0, err
    assert [line.partition(";")[0] for line in out.splitlines()] == [
        f"{folder}: motion-net.onnx",
        f"{folder}: irc-net-observe.onnx, irc-net-stage-1.onnx, irc-net-stage-2.onnx, irc-net-x-updates.safetensors",
    ]
    assert all("differs from torch by at most" in line for line in out.splitlines())
    assert len(list(folder.iterdir())) == 5
    code, _, err = call(capsys, "export", "onnx", "-o", folder)
    assert (code, err.count("\n")) == (1, 1)
    assert "exists already" in err

    Image.fromarray(picture).save(tmp_path / "photo.png")
    results = {}
    for runtime in ("torch", folder):
        out_file = tmp_path / f"out-{Path(runtime).name}.png"
        arguments = ["deblur", tmp_path / "photo.png", "-o", out_file, "--runtime", runtime, "--quiet"]
        code, _, err = call(capsys, *arguments, "--consolidation", "answers")
        assert code == 0, err
        results[runtime] = np.asarray(Image.open(out_file)).astype(int)
        # From here on torch's networks must not be needed.
        monkeypatch.setattr(restore, "load_motion_net", lambda *a: pytest.fail("torch's network was loaded"))
        monkeypatch.setattr(methods, "load_irc_net", lambda *a: pytest.fail("torch's network was loaded"))
    assert np.abs(results["torch"] - results[folder]).max() <= 1
    assert np.abs(results["torch"] - picture).max() > 5

    code, out, err = call(capsys, "motion", tmp_path / "photo.png", "--runtime", folder, "--consolidation", "none")
    assert code == 0, err
    arguments = ["--length", 9, "--angle", 0, "--runtime", folder]
    code, _, err = call(capsys, "deconvolve", tmp_path / "photo.png", "-o", tmp_path / "d.png", *arguments)
    assert code == 0, err
    # Files that were damaged are named.
    (folder / "motion-net.onnx").write_bytes(b"not a graph")
    restore._motion_net.cache_clear()
    code, _, err = call(capsys, "deblur", tmp_path / "photo.png", "-o", tmp_path / "e.png", "--runtime", folder)
    assert (code, err.count("\n")) == (1, 1)
    assert f"not a readable ONNX graph: {folder / 'motion-net.onnx'}" in err


def test_one_file(weights, tmp_path, capsys):
    out_file = tmp_path / "net.onnx"
    code, out, err = call(capsys, "export", "onnx", "--network", "motion-net", "-o", out_file)
    assert code == 0, err
    assert out.startswith(f"{tmp_path}: net.onnx; ")
    assert graphs.OnnxMotionNet(out_file)(rand(1, 3, 9, 9))[0].shape == (1, 9, 9, 2)


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["export"], "no format given", 2),
        (["export", "onnx", "-o", "x.onnx"], "irc-net is several graphs", 2),
        (["export", "onnx", "--network", "motion-net", "-o", "x", "--irc-net", "y"], "--irc-net is not for", 2),
        (["export", "onnx", "-o", "{tmp}/x", "--irc-net", "{tmp}/no.safetensors"], "the weights are missing", 1),
        (["export", "onnx", "-o", "{tmp}/x", "--motion-net", "{tmp}/photo.png"], "not a readable safetensors file", 1),
        (["export", "onnx", "-o", "{tmp}/x", "--irc-net", "{shrinkage}"], "no ONNX graph", 1),
        (["deblur", "{tmp}/photo.png", "-o", "{tmp}/a.png", "--runtime", "tpu"], "torch or onnx or a folder", 2),
        (["deblur", "{tmp}/photo.png", "-o", "{tmp}/a.png", "--runtime", "{tmp}"], "no motion-net.onnx in", 2),
        (
            ["deblur", "{tmp}/photo.png", "-o", "{tmp}/a.png", "--runtime", "onnx", "--method", "irc-net-shrinkage"],
            "has no ONNX graph",
            2,
        ),
        (
            ["deconvolve", "{tmp}/photo.png", "-o", "{tmp}/a.png", *WIENER, "--runtime", "onnx"],
            "wiener has no network to compute",
            2,
        ),
        (
            ["deblur", "{tmp}/photo.png", "-o", "{tmp}/a.png", "--runtime", "{tmp}", "--irc-net", "{irc}"],
            "weights cannot be given with a folder",
            2,
        ),
    ],
)
def test_wrong_usage(weights, tmp_path, picture, capsys, arguments, words, code):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    places = {
        "tmp": tmp_path,
        "irc": weights / "irc-net.safetensors",
        "shrinkage": weights / "irc-net-shrinkage.safetensors",
    }
    found, _, err = call(capsys, *(a.format(**places) for a in arguments))
    assert found == code, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "a.png").exists()


def test_without_its_libraries(weights, tmp_path, picture, capsys, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] in ("onnx", "onnxruntime"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", without)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'ircdeblur\[onnx\]'"):
        ircdeblur.deblur(picture, runtime="onnx")
    Image.fromarray(picture).save(tmp_path / "photo.png")
    for arguments in (
        ["export", "onnx", "-o", tmp_path / "x"],
        ["motion", tmp_path / "photo.png", "--runtime", "onnx"],
    ):
        code, _, err = call(capsys, *arguments)
        assert (code, err.count("\n")) == (1, 1)
        assert 'pip install "ircdeblur[onnx]"' in err


def test_other_files_are_no_graphs_of_ours(folder, tmp_path):
    path, _, _ = folder
    with pytest.raises(ValueError, match="not the graph of a Motion-Net"):
        graphs.OnnxMotionNet(path / "irc-net-observe.onnx")
    model = onnx.load(str(path / "motion-net.onnx"))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(ValueError, match="not a graph that 'ircdeblur export onnx' wrote"):
        graphs.OnnxMotionNet(tmp_path / "other.onnx")
