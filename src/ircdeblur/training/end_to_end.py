"""Fine-tuning of Motion-Net and IRC-Net together, by what the sharp picture should be (section 4.3 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from ircdeblur.data.camera import camera_shake
from ircdeblur.data.photos import PhotosInMemory, list_photos, load_photo
from ircdeblur.data.synthesis import Pairs, PairSettings
from ircdeblur.metrics import motion_mse
from ircdeblur.nets.checkpoints import load_irc_net, load_motion_net, motion_net_path, save_irc_net, save_motion_net
from ircdeblur.nets.irc_net import IRCNet
from ircdeblur.nets.joint import JointNet
from ircdeblur.nets.weights_file import network_of, training_summary
from ircdeblur.operators import MotionBlur
from ircdeblur.solvers.settings import estimate_noise
from ircdeblur.training.config import RunConfig, check_schedule, read_config
from ircdeblur.training.irc_net import LOSSES, distance
from ircdeblur.training.loop import run, steps_of
from ircdeblur.training.motion_net import SEVERITIES, motion_loss, training_pairs


@dataclass(frozen=True)
class EndToEndConfig(RunConfig):
    """One fine-tuning; what a YAML file under ``configs/`` holds beside what `RunConfig` says.

    Attributes
    ----------
    loss : {"absolute", "rms"}
        See `ircdeblur.training.irc_net.distance`.
    earlier : float
        Weight in the loss of each stage's estimate but the last one's.
    motion : float
        Weight in the loss of Motion-Net's own loss, which keeps its answers motions.
    motion_pace : float
        Factor of Motion-Net's learning rate: with few crops in a step its answers soon become worse.
    train_irc_net : bool
        Whether IRC-Net is trained too, or Motion-Net alone.
    datasets : tuple of str
        Data sets (see `ircdeblur.data.dataset`) below the data folder, of averaged frames for instance.
    dataset_share : float
        Share of the batches that come from them, in [0, 1].
    pairs : PairSettings
        The synthetic pairs.
    """

    train_time: str = "00:20:00"
    learning_rate: float = 2e-5
    validate_every: int = 50
    validation_pictures: int = 6
    loss: str = "absolute"
    earlier: float = 0.05
    motion: float = 0.05
    motion_pace: float = 1.0
    train_irc_net: bool = True
    datasets: tuple[str, ...] = ()
    dataset_share: float = 0.0
    pairs: PairSettings = field(default_factory=PairSettings)


def load_config(path: str | Path) -> EndToEndConfig:
    """Read an `EndToEndConfig` from YAML; a key that it does not know raises `ValueError`."""
    config = read_config(path, EndToEndConfig, {"pairs": PairSettings})
    check_schedule(config, path)
    if not 0 <= config.dataset_share <= 1 or (config.dataset_share > 0 and not config.datasets):
        raise ValueError(f"{path}: dataset_share must be in [0, 1] and needs datasets, got {config.dataset_share}")
    if config.loss not in LOSSES:
        raise ValueError(f"{path}: loss must be one of {', '.join(LOSSES)}, got {config.loss!r}")
    return config


def noise_of_each(images: torch.Tensor) -> torch.Tensor:
    """Return the estimated noise (B,) of images (B, C, H, W), as a photograph's is estimated."""
    return torch.tensor([estimate_noise(image[None]) for image in images], device=images.device)


def joint_loss(
    earlier: float, motion: float, difference: str = "absolute"
) -> Callable[[JointNet, Pairs], torch.Tensor]:
    """Return the loss of the joined networks on a batch."""

    def loss(net: JointNet, batch: Pairs) -> torch.Tensor:
        frames = net.estimates(batch.blurred, noise_of_each(batch.blurred))
        return distance(frames, batch.sharp, earlier, difference) + motion * motion_loss(net.motion_net, batch)

    return loss


class BlindPictures:
    """Whole validation pictures with camera shake and noise 1 %, whose motion has to be found."""

    def __init__(self, folder: Path, count: int = 6, seed: int = 77):
        self.items: list[tuple[str, torch.Tensor, torch.Tensor, np.ndarray]] = []
        paths = list_photos(folder)
        margin = 18
        for i in range(count):
            severity = list(SEVERITIES)[i % 2]
            photo = torch.from_numpy(load_photo(paths[-1 - i % len(paths)])).permute(2, 0, 1)[None].float() / 255
            rng = np.random.default_rng([seed, i])
            shape = (photo.shape[-2] - 2 * margin, photo.shape[-1] - 2 * margin)
            motion = camera_shake(shape, SEVERITIES[severity] * rng.uniform(0.5, 1.0), rng)
            blurred = MotionBlur(torch.from_numpy(motion).float(), margin=(margin, margin)).A(photo)
            blurred = blurred + torch.from_numpy(rng.normal(0, 0.01, blurred.shape)).float()
            self.items.append((severity, photo[..., margin:-margin, margin:-margin], blurred, motion))

    @torch.no_grad()
    def evaluate(self, net: JointNet, device: torch.device) -> dict[str, float]:
        """Return the mean gain over the blurred pictures in dB, and the motion MSE, of each severity."""
        found: dict[str, list[float]] = {}
        for severity, sharp, blurred, motion in self.items:
            y = blurred.to(device)
            x = net(y, noise_of_each(y)).cpu().clamp(0, 1)
            before, after = (float((t - sharp).square().mean()) for t in (blurred.clamp(0, 1), x))
            found.setdefault(f"{severity}_gain", []).append(10 * float(np.log10(before / after)))
            found.setdefault(f"{severity}_mse", []).append(motion_mse(net.motion(y)[0][0].cpu().numpy(), motion))
        return {name: float(np.mean(values)) for name, values in found.items()}


def save_joint(net: JointNet, path: Path, summary: dict[str, Any]) -> None:
    """Write IRC-Net to a path and Motion-Net beside it, as ``motion-net.safetensors``."""
    save_motion_net(net.motion_net, path.with_name("motion-net.safetensors"), summary)
    save_irc_net(net.irc_net, path, summary)


def train_end_to_end(
    config: EndToEndConfig,
    data: Path,
    out: Path,
    max_time: str | None = None,
    resume: Path | None = None,
    weights: tuple[Path, ...] = (),
    command: str = "",
    progress: bool = True,
    devices: int = 1,
    nodes: int = 1,
) -> Path:
    """Fine-tune both networks together.

    Parameters
    ----------
    config : EndToEndConfig
        The run.
    data : path
        Folder that holds the folders of photographs.
    out : path
        Folder of the run; it gets ``irc-net.safetensors`` and ``motion-net.safetensors``.
    weights : tuple of path
        A Motion-Net's, an IRC-Net's, or both, in place of the package's.
    max_time, resume, command, progress, devices, nodes
        See `ircdeblur.training.loop.run`.

    Returns
    -------
    weights : path
        IRC-Net's safetensors file.
    """
    lightning.seed_everything(config.seed, verbose=False)
    start = {network_of(path) == "motion-net": path for path in weights}
    motion_net, (irc_net, before) = load_motion_net(start.get(True)), load_irc_net(start.get(False, "irc-net"))
    net = JointNet(motion_net, irc_net, config.motion_pace).train()
    irc_net.requires_grad_(config.train_irc_net)
    photos = PhotosInMemory(list_photos([data / folder for folder in config.folders]), scales=(1.0, 0.7))
    seed = config.seed + steps_of(resume)

    def source(apart: int, device: torch.device) -> Iterable[Pairs]:
        return training_pairs(photos, config, data, seed + apart, device)

    summary = {
        "data": f"{len(photos)} pictures of {', '.join(config.folders)}",
        "command": command,
        "started from": {"motion-net": training_summary(start.get(True, motion_net_path())), "irc-net": before},
        "config": asdict(config),
    }
    name = "irc-net" if isinstance(irc_net, IRCNet) else "irc-net-shrinkage"
    return run(
        net,
        joint_loss(config.earlier, config.motion, config.loss),
        save_joint,
        config,
        source,
        BlindPictures(data / config.validation, config.validation_pictures),
        out / f"{name}.safetensors",
        summary,
        max_time,
        resume,
        progress,
        devices,
        nodes,
    )
