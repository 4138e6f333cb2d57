"""Training in two processes: the same weights in both, and those of one process that sees both batches at once."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ircdeblur
from ircdeblur.nets.weights_file import training_summary

pytest.importorskip("lightning", reason="needs the extra train")

SCRIPT = '''
import os, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from torch import nn
from ircdeblur.nets.weights_file import save_weights
from ircdeblur.training import loop

devices, joined, out = int(sys.argv[1]), sys.argv[2] == "joined", Path(sys.argv[3])
rank = int(os.environ.get("LOCAL_RANK", "0"))


class Clock:
    """The clock of the second process is three times as fast: it must not matter."""
    now = 0.0
    def __call__(self):
        self.now += 3.0 if rank else 1.0
        return self.now


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 3)
        self.unused = nn.Linear(3, 3)
    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def draw(apart, step):
    # The pairs of the second process are nothing like those of the first one.
    generator = torch.Generator().manual_seed(step + apart)
    blurred = torch.rand(3, 1, 12, 12, generator=generator)
    return blurred, (blurred[..., 2:-2, 2:-2] * (3 if apart == 0 else -1))


def source(apart, device):
    (out / f"seed-{rank}").write_text(str(apart))
    for step in range(1000):
        parts = [draw(a, step) for a in ((0, loop.SEEDS_APART) if joined else (apart,))]
        yield SimpleNamespace(blurred=torch.cat([p[0] for p in parts]), sharp=torch.cat([p[1] for p in parts]))


class Pictures:
    def evaluate(self, net, device):
        (out / f"validated-{rank}").touch()
        return {"size": float(sum(p.abs().sum() for p in net.parameters()))}


def loss(net, batch):
    return (net(batch.blurred) - batch.sharp).square().mean()


def save(net, path, summary):
    save_weights(net, "test", {}, path, summary)


loop.time = SimpleNamespace(monotonic=Clock())
schedule = SimpleNamespace(seed=0, train_time="00:00:12", optimizer="adamw", learning_rate=1.0, weight_decay=0.0,
                           average=0.9, precision="32-true", validate_every=5)
torch.manual_seed(rank)  # The first process's weights count.
net = Net()
loop.run(net, loss, save, schedule, source, Pictures(), out / "net.safetensors", {}, progress=False, devices=devices)
torch.save(net.state_dict(), out / f"rank-{rank}.pt")
'''


def train(folder: Path, devices: int, how: str) -> dict[str, torch.Tensor]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join(filter(None, [str(Path(ircdeblur.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), str(devices), how, str(folder)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=240)
    return torch.load(folder / "rank-0.pt", weights_only=True)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.slow
def test_two_processes_are_one_with_both_batches(tmp_path):
    two = train(tmp_path / "two", 2, "own")
    other = torch.load(tmp_path / "two" / "rank-1.pt", weights_only=True)
    assert all(torch.equal(two[name], other[name]) for name in two)
    joined = train(tmp_path / "joined", 1, "joined")
    alone = train(tmp_path / "alone", 1, "own")
    assert distance(alone, joined) > 1e-2
    assert distance(two, joined) < 0.01 * distance(alone, joined)

    # Own pairs for each; one of them validates and writes.
    assert [(tmp_path / "two" / f"seed-{rank}").read_text() for rank in (0, 1)] == ["0", str(10**9)]
    assert (tmp_path / "two" / "validated-0").exists()
    assert not (tmp_path / "two" / "validated-1").exists()
    logs = {}
    for name in ("two", "joined"):
        with (tmp_path / name / "log.csv").open() as file:
            logs[name] = list(csv.DictReader(file))
    assert [row["step"] for row in logs["two"]] == [row["step"] for row in logs["joined"]]
    assert [row["crops"] for row in logs["two"]] == [row["crops"] for row in logs["joined"]]
    assert [row["seconds"] for row in logs["two"]] == [row["seconds"] for row in logs["joined"]]
    assert float(logs["two"][-1]["val_size"]) == pytest.approx(float(logs["joined"][-1]["val_size"]), abs=1e-3)
    assert training_summary(tmp_path / "two" / "net.safetensors")["processes"] == 2
    assert (tmp_path / "two" / "last.ckpt").exists()
