"""Training of IRC-Net on crops whose blur is known (section 4.2 of the paper)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from ircdeblur.data.camera import camera_shake
from ircdeblur.data.known_blur import KnownBlur, KnownBlurPairs, KnownBlurSettings
from ircdeblur.data.mixed import MixedPairs
from ircdeblur.data.photos import PhotosInMemory, list_photos, load_photo
from ircdeblur.data.synthesis import PairSettings, Photos, SyntheticPairs
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.nets.checkpoints import load_irc_net, load_motion_net, save_irc_net
from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig, crop_rim
from ircdeblur.nets.shrinkage_net import ShrinkageConfig, ShrinkageIRCNet
from ircdeblur.nets.unrolled import UnrolledNet
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.settings import deconvolve
from ircdeblur.training.blind_pairs import BlindPairs
from ircdeblur.training.config import RunConfig, check_schedule, read_config
from ircdeblur.training.loop import Loss, Save, run, steps_of
from ircdeblur.training.replay import KEPT, RIM, Preparation, Prepared, Replay, Started, StartedReplay
from ircdeblur.training.workers import made_beside

NETWORKS = {"cnn": IRCNetConfig, "shrinkage": ShrinkageConfig}
"""The two networks by their priors."""


@dataclass(frozen=True)
class IRCTrainingConfig(RunConfig):
    """One training run; what a YAML file under ``configs/`` holds beside what `RunConfig` says.

    Attributes
    ----------
    prior : {"cnn", "shrinkage"}
        Which network.
    validation_pictures : int
        Number of them, of three kinds; see `KnownPictures`.
    start : int, optional
        Iterations of the solver that the first stage starts from, if other ones than the network has.
    earlier : float
        Weight in the loss of each stage's estimate but the last one's.
    replay : int
        0 makes every batch anew. With a larger number batches are prepared once and seen so many times, on average; of
        the convolutional network the prior of one stage is then trained alone, unless `together`.
    stage : int
        That stage, from 0 on. From the first one's weights all others start, unless the run starts from a file.
    together : bool
        Whether the priors of the stages before that one are trained with it: their estimates count as `earlier` says,
        and the gradient reaches them through their features. What the x-updates make of them stays as it was prepared.
    taught : float
        Share of the estimate of `ircdeblur.training.replay.Teacher` in what replayed batches are compared with; the
        rest is the truth.
    view : int
        Side in pixels of the squares that are cut at random places from a replayed batch, anew each time it is seen; 0
        for the whole crops. Large crops take less time to prepare, for their size, and have less of borders.
    joined : int
        Number of prepared batches whose squares a step sees together.
    kept : int
        Number of prepared batches in memory, among which it chooses; 150 MB each for 16 crops of 224 px with what
        two stages see.
    workers : int
        Processes that make the pairs on the CPU, beside each that learns from them, on a GPU for instance; 0 makes them
        where they are learned from. See `ircdeblur.training.workers` for what they need.
    loss : {"absolute", "rms"}
        See `distance`.
    blind : float
        Share of the batches whose motion is found as `ircdeblur.deblur` finds it, by the package's Motion-Net and on
        the crops' spectra (see `ircdeblur.training.blind_pairs.BlindPairs`): it takes the place of the wrong ones of
        `pairs`, as if `wrong` were 1.
    photographed : float
        Share of these that are made as those for Motion-Net are: things that move before a background, uneven speeds,
        bent paths, shot noise, JPEG.
    pairs : KnownBlurSettings
        The pairs.
    camera_pairs : PairSettings
        Those made as for Motion-Net. Crops and their number are those of `pairs`.
    cnn : IRCNetConfig
        Size of the network with the convolutional prior.
    shrinkage : ShrinkageConfig
        Size of the paper's network.
    """

    prior: str = "cnn"
    validation_pictures: int = 9
    start: int | None = None
    earlier: float = 0.1
    replay: int = 0
    stage: int = 0
    together: bool = False
    taught: float = 0.0
    view: int = 0
    joined: int = 1
    kept: int = KEPT
    workers: int = 0
    loss: str = "absolute"
    blind: float = 0.0
    photographed: float = 0.0
    pairs: KnownBlurSettings = field(default_factory=KnownBlurSettings)
    camera_pairs: PairSettings = field(default_factory=PairSettings)
    cnn: IRCNetConfig = field(default_factory=IRCNetConfig)
    shrinkage: ShrinkageConfig = field(default_factory=ShrinkageConfig)

    def build(self) -> UnrolledNet:
        """Return the network with its initial weights."""
        return IRCNet(self.cnn) if self.prior == "cnn" else ShrinkageIRCNet(self.shrinkage)


def load_config(path: str | Path) -> IRCTrainingConfig:
    """Read an `IRCTrainingConfig` from YAML; a key that it does not know raises `ValueError`."""
    nested = {"pairs": KnownBlurSettings, "camera_pairs": PairSettings, **NETWORKS}
    config = read_config(path, IRCTrainingConfig, nested)
    check_schedule(config, path)
    if config.prior not in NETWORKS:
        raise ValueError(f"{path}: prior must be one of {', '.join(NETWORKS)}, got {config.prior!r}")
    if (config.together or config.taught or config.view) and (config.prior != "cnn" or config.replay < 1):
        raise ValueError(f"{path}: together, taught and view need prior: cnn and a replay of at least 1")
    # Around a crop that a small kernel has blurred there may be no rim: that of its squares must lie within it.
    if config.view and not 0 < config.view <= config.pairs.crop - 2 * RIM:
        raise ValueError(
            f"{path}: view must be 0 or in 1 ... {config.pairs.crop - 2 * RIM}, the crop less {2 * RIM} px, "
            f"got {config.view}"
        )
    if config.joined < 1 or (config.joined > 1 and not config.view):
        raise ValueError(f"{path}: joined must be 1 or more, and 1 without a view, got {config.joined}")
    if config.kept < 4 or config.workers < 0:
        raise ValueError(f"{path}: kept must be at least 4 and workers at least 0, got {config.kept}, {config.workers}")
    if config.start is not None and config.start < 0:
        raise ValueError(f"{path}: start must be 0 or more, got {config.start}")
    if config.loss not in LOSSES:
        raise ValueError(f"{path}: loss must be one of {', '.join(LOSSES)}, got {config.loss!r}")
    for name in ("taught", "blind", "photographed"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{path}: {name} must be in [0, 1], got {getattr(config, name)}")
    return config


def _absolute(x: torch.Tensor, sharp: torch.Tensor) -> torch.Tensor:
    return ((x - sharp) ** 2 + ROUNDED**2).sqrt().mean()


def _rms(x: torch.Tensor, sharp: torch.Tensor) -> torch.Tensor:
    return (((x - sharp) ** 2).flatten(1).mean(1) + ROUNDED**2).sqrt().mean()


LOSSES = {"absolute": _absolute, "rms": _rms}
"""Differences of images by their names; see `distance`."""


def distance(frames: list[torch.Tensor], sharp: torch.Tensor, earlier: float, loss: str = "absolute") -> torch.Tensor:
    """Return the difference of each stage's estimate from the truth, in percent.

    Either the mean absolute difference, rounded off at zero, or the root of the mean squared difference of each crop,
    averaged over the crops. The mean logarithm of the squared error, which is what a mean PSNR asks for, was tried: it
    learned far more slowly, as crops without detail weigh most in it.

    Parameters
    ----------
    frames : list of (B, C, H, W) tensors
        Estimate of each stage.
    sharp : (B, C, H, W) tensor
        The truth.
    earlier : float
        Weight of each estimate but the last.
    loss : {"absolute", "rms"}
        Which difference.
    """
    errors = [100 * LOSSES[loss](x, sharp) for x in frames]
    return errors[-1] + earlier * sum(errors[:-1], errors[-1].new_zeros(()))


ROUNDED = 1e-3
"""Differences below this count by their square."""


def stage_loss(
    stage: int, together: bool = False, earlier: float = 0.0, kind: str = "absolute"
) -> Callable[[IRCNet, Prepared], torch.Tensor]:
    """Return the loss of the proposal of one stage's prior, or of those up to it together; see `distance`."""

    def loss(net: IRCNet, batch: Prepared) -> torch.Tensor:
        frames = []
        with torch.set_grad_enabled(together or stage == 0):
            features = net.observed(batch.blurred, batch.seen[0])
        for j, seen in enumerate(batch.seen):
            with torch.set_grad_enabled(together or j == stage):
                v, features = net.proposal(seen, features, j)
            rim = [(a - b) // 2 for a, b in zip(v.shape[-2:], batch.target.shape[-2:], strict=True)]
            frames.append(crop_rim(v, *rim))
        return distance(frames if together else frames[-1:], batch.target, earlier, kind)

    return loss


def deconvolution_loss(earlier: float, kind: str = "absolute") -> Callable[[UnrolledNet, KnownBlur], torch.Tensor]:
    """Return the loss of a network on a batch; see `distance`."""

    def loss(net: UnrolledNet, batch: KnownBlur) -> torch.Tensor:
        frames = net.estimates(batch.blurred, batch.blur(), batch.noise, batch.error, batch.mask)
        return distance(frames, batch.sharp, earlier, kind)

    return loss


def started_loss(earlier: float, kind: str = "absolute") -> Callable[[ShrinkageIRCNet, Started], torch.Tensor]:
    """Return the loss of the paper's network on a batch with a start; see `distance`."""

    def loss(net: ShrinkageIRCNet, batch: Started) -> torch.Tensor:
        pair = batch.pair
        frames = list(net.stages(pair.blurred, batch.blur, pair.noise, pair.error, pair.mask, batch.initial))
        return distance(frames, pair.sharp, earlier, kind)

    return loss


class KnownPictures:
    """Whole validation pictures with a known blur, and what the solver ``irc-mm`` makes of them.

    Camera shakes, moderate and severe, with noise 1 %, and a uniform motion with noise 0.4 %.

    Parameters
    ----------
    folder : path
        Of the photographs.
    count : int
        Number of pictures.
    stage : int
        The stage whose estimate counts.
    seed : int
        Of blur and noise.
    """

    def __init__(self, folder: Path, count: int = 9, stage: int = -1, seed: int = 99):
        self.stage = stage
        self.items: list[tuple[str, torch.Tensor, torch.Tensor, UniformBlur | MotionBlur, float, float]] = []
        paths = list_photos(folder)
        margin = 18
        for i, kind in enumerate(itertools.islice(itertools.cycle(("moderate", "severe", "uniform")), count)):
            photo = torch.from_numpy(load_photo(paths[-1 - i % len(paths)])).permute(2, 0, 1)[None].float() / 255
            rng = np.random.default_rng([seed, i])
            shape = (photo.shape[-2] - 2 * margin, photo.shape[-1] - 2 * margin)
            blur: UniformBlur | MotionBlur
            if kind == "uniform":
                psf = linear_motion_kernel(rng.uniform(8, 20), rng.uniform(0, 180))
                blur, noise = UniformBlur(torch.from_numpy(psf).float(), margin=(margin, margin)), 0.004
            else:
                length = {"moderate": 21.0, "severe": 35.0}[kind] * rng.uniform(0.5, 1.0)
                motion = torch.from_numpy(camera_shake(shape, length, rng)).float()
                blur, noise = MotionBlur(motion, margin=(margin, margin)), 0.01
            sharp = photo[..., margin:-margin, margin:-margin]
            blurred = blur.A(photo) + torch.from_numpy(rng.normal(0, noise, (1, 3, *shape))).float()
            x = deconvolve(blurred, blur, noise).x
            self.items.append((kind, sharp, blurred, blur, noise, self._psnr(x, sharp)))

    @staticmethod
    def _psnr(x: torch.Tensor, sharp: torch.Tensor) -> float:
        return float(-10 * (x.cpu().clamp(0, 1) - sharp).square().mean().log10())

    @torch.no_grad()
    def evaluate(self, net: UnrolledNet, device: torch.device) -> dict[str, float]:
        """Return the mean PSNR of each kind, and how much better it is than the solver's, in dB."""
        found: dict[str, list[float]] = {}
        for kind, sharp, blurred, blur, noise, solver in self.items:
            here = blur if device.type == "cpu" else _moved(blur, device)
            reached = self._psnr(net.estimates(blurred.to(device), here, noise)[self.stage], sharp)
            found.setdefault(kind, []).append(reached)
            found.setdefault(f"{kind}_gain", []).append(reached - solver)
        return {name: float(np.mean(values)) for name, values in found.items()}


def _moved(blur: UniformBlur | MotionBlur, device: torch.device) -> UniformBlur | MotionBlur:
    if isinstance(blur, UniformBlur):
        return UniformBlur(blur.psf.to(device), blur.boundary, blur.margin)
    return MotionBlur(blur.motion.to(device), blur.boundary, blur.interpolation, blur.margin)


def training_pairs(photos: Photos, config: IRCTrainingConfig, seed: int, device: torch.device) -> Iterable[KnownBlur]:
    """Return endless batches of the kinds that the configuration names."""
    pairs: Iterable[KnownBlur] = KnownBlurPairs(photos, config.pairs, seed, device)
    if config.blind <= 0:
        return pairs
    crops: Iterable[Any] = KnownBlurPairs(photos, replace(config.pairs, wrong=1.0), seed + 1, device)
    if config.photographed > 0:
        like = replace(config.camera_pairs, crop=config.pairs.crop, batch=config.pairs.batch)
        crops = MixedPairs(crops, SyntheticPairs(photos, like, seed + 2, device), config.photographed, seed + 3)
    blind = BlindPairs(crops, load_motion_net().to(device), config.pairs.batch, seed + 4)
    return MixedPairs(pairs, blind, config.blind, seed + 5)


def pairs_of(photos: Photos, config: IRCTrainingConfig, seed: int, device: torch.device) -> Iterable[KnownBlur]:
    """Return `training_pairs`, made by processes beside this one if there are to be any."""
    if config.workers == 0:
        return training_pairs(photos, config, seed, device)

    def part(number: int) -> Iterable[KnownBlur]:
        return training_pairs(photos, config, seed + number * WORKERS_APART, torch.device("cpu"))

    return (pair.copied(device) for pair in made_beside(part, config.workers))


WORKERS_APART = 10**6
"""Between the seeds of two processes that make pairs; see `ircdeblur.training.loop.SEEDS_APART`."""


def _save_first(net: IRCNet, path: Path, summary: dict[str, Any]) -> None:
    """Write a network of which the first prior was trained."""
    whole = copy.deepcopy(net)
    whole.copy_first_prior()
    save_irc_net(whole, path, summary)


def train_irc_net(
    config: IRCTrainingConfig,
    data: Path,
    out: Path,
    max_time: str | None = None,
    resume: Path | None = None,
    weights: Path | None = None,
    command: str = "",
    progress: bool = True,
    devices: int = 1,
    nodes: int = 1,
) -> Path:
    """Train an IRC-Net.

    Parameters
    ----------
    config : IRCTrainingConfig
        The run.
    data : path
        Folder that holds the folders of photographs.
    out : path
        Folder of the run.
    weights : path, optional
        What the run starts from, in place of initial weights; the network is then that of the file.
    max_time, resume, command, progress, devices, nodes
        See `ircdeblur.training.loop.run`.

    Returns
    -------
    weights : path
        The safetensors file.
    """
    lightning.seed_everything(config.seed, verbose=False)
    summary: dict[str, Any] = {}
    net = config.build()
    if weights is not None:
        net, before = load_irc_net(weights)
        net.train()
        summary["started from"] = before
    if config.start is not None:
        assert isinstance(net, (IRCNet, ShrinkageIRCNet))
        net.config = replace(net.config, start=config.start)  # type: ignore[type-var]
    photos = PhotosInMemory(list_photos([data / folder for folder in config.folders]), scales=(1.0, 0.7))
    seed = config.seed + steps_of(resume)
    alone = config.replay > 0 and isinstance(net, IRCNet)
    loss: Loss = deconvolution_loss(config.earlier, config.loss)
    save: Save = save_irc_net
    if config.replay > 0:
        if isinstance(net, IRCNet):
            loss = stage_loss(config.stage, config.together, config.earlier, config.loss)
        else:
            loss = started_loss(config.earlier, config.loss)
        if isinstance(net, IRCNet) and config.stage == 0 and weights is None:
            save = _save_first

    def source(apart: int, device: torch.device) -> Iterable[Any]:
        pairs = pairs_of(photos, config, seed + apart, device)
        if config.replay > 0 and isinstance(net, IRCNet):
            prepared = map(Preparation(net, config.stage, config.taught), pairs)
            return Replay(prepared, config.replay, seed + apart, config.view, config.joined, config.kept)
        if config.replay > 0 and isinstance(net, ShrinkageIRCNet):
            return StartedReplay(net, pairs, config.replay, seed + apart, config.kept)
        return pairs

    summary |= {
        "data": f"{len(photos)} pictures of {', '.join(config.folders)}",
        "command": command,
        "config": {k: v for k, v in asdict(config).items() if k not in NETWORKS},
    }
    name = "irc-net" if isinstance(net, IRCNet) else "irc-net-shrinkage"
    return run(
        net,
        loss,
        save,
        config,
        source,
        KnownPictures(data / config.validation, config.validation_pictures, config.stage if alone else -1),
        out / f"{name}.safetensors",
        summary,
        max_time,
        resume,
        progress,
        devices,
        nodes,
    )
