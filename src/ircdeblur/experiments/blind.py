"""Rows of blind deblurring, run on one picture after the other; what Tables 4 and 5 and the contact sheet share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ircdeblur.arrays import Images
from ircdeblur.experiments import direct_cnn
from ircdeblur.experiments.config import DIRECT, BlindRow
from ircdeblur.experiments.motion_baselines import NETWORKS, load_baselines, weights_path
from ircdeblur.metrics import psnr
from ircdeblur.motion import to_polar
from ircdeblur.nets.belief import doubt_of, mixing_weight
from ircdeblur.nets.blind import MotionEstimate
from ircdeblur.nets.checkpoints import (
    IRC_NETS,
    MOTION_NETS,
    load_kernel_net,
    load_motion_net,
    motion_net_path,
    weights_folder,
)
from ircdeblur.nets.curved import KernelEstimate
from ircdeblur.nets.light import is_linear_light
from ircdeblur.nets.methods import irc_net
from ircdeblur.nets.noise import noise_of
from ircdeblur.nets.unrolled import UnrolledNet
from ircdeblur.nets.weights_file import parameter_count
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.plots import captioned, motion_colors
from ircdeblur.restore import (
    BLIND_PRIOR,
    SPECK,
    belief_in,
    estimate_motion,
    is_sure,
    kernel_in,
    kernel_of,
    resolve_device,
    tiles_for,
)
from ircdeblur.solvers.settings import DEFAULTS, deconvolve, unsaturated
from ircdeblur.srgb import linear_to_srgb, noise_in_linear_light, srgb_to_linear
from ircdeblur.tiles import blend

CONSOLIDATIONS = {"refined": "picture", "raw": "none"}
"""What `estimate_motion` is asked to make of Motion-Net's answers."""

LOSS = 0.3
"""Decibels from which on a picture counts as worse than before."""

SHORTEST_COLOR = 8.0
"""Length in pixels at which a motion has its full colour, at least."""


@dataclass(frozen=True)
class Found:
    """A motion and what it took.

    Attributes
    ----------
    motion : (H, W, 2) array
        Pixels; u right, v down.
    error : (H, W) array
        Expected error in pixels; 0 where a method states none.
    seconds : float
        What finding it took.
    linear_light : bool
        Whether the picture seems to have been blurred in linear light.
    kernel : KernelEstimate, optional
        That of a curved path, which is undone in place of the motion.
    """

    motion: np.ndarray
    error: np.ndarray
    seconds: float = 0.0
    linear_light: bool = False
    kernel: KernelEstimate | None = None


@dataclass(frozen=True)
class Outcome:
    """What a row has made of a picture.

    Attributes
    ----------
    x : (H, W, 3) array
        In [0, 1].
    found : Found or None
        The motion, for rows that have one.
    seconds : float
        Of motion and restoration.
    """

    x: np.ndarray
    found: Found | None
    seconds: float


Finder = Callable[[np.ndarray], Found]


class MissingWeights(FileNotFoundError):
    """A row's weights are not there."""


class BlindRows:
    """The rows of a table whose weights are there.

    Parameters
    ----------
    rows : dict
        `BlindRow` by name.
    baselines : path, optional
        Folder of what `ircdeblur.experiments.motion_baselines` and `ircdeblur.experiments.direct_cnn` have trained,
        and of other weights that rows name.

    Attributes
    ----------
    rows : dict
        Those that can be run.
    left_out : dict
        Why the others cannot, by name.
    parameters : dict
        Numbers of trainable values in the networks of a row, by name.

    Raises
    ------
    ValueError
        If a file of weights is not what it should be, or no row is left.
    """

    def __init__(self, rows: Mapping[str, BlindRow], baselines: Path | None = None):
        self.rows: dict[str, BlindRow] = {}
        self.left_out: dict[str, str] = {}
        self.parameters: dict[str, int] = {}
        self._baselines = baselines
        self._finders: dict[tuple[str, str], tuple[Finder, int]] = {}
        self._nets: dict[tuple[str, Path], UnrolledNet] = {}
        self._direct: direct_cnn.DirectNet | None = None
        for name, row in rows.items():
            try:
                self.parameters[name] = self._load(row)
            except MissingWeights as error:
                self.left_out[name] = str(error)
            else:
                self.rows[name] = row
        if not self.rows:
            raise ValueError(f"no row can be run: {'; '.join(self.left_out.values())}")

    def run(self, image: np.ndarray, truth: np.ndarray | None = None, number: int = 0) -> Iterator[tuple[str, Outcome]]:
        """Run the rows on a picture.

        A motion that several rows use is found once; its seconds count for each of them.

        Parameters
        ----------
        image : (H, W, 3) array
            In [0, 1].
        truth : (H, W, 2) array, optional
            The true motion; without it the rows that ask for it are passed over.
        number : int
            Of the picture among those of its kind, from 0 on; rows for fewer pictures are passed over.
        """
        image = np.ascontiguousarray(image, np.float32)
        motions: dict[tuple[str, str], Found] = {}
        for name, row in self.rows.items():
            if row.photos is not None and number >= row.photos:
                continue
            if row.method == DIRECT:
                assert self._direct is not None
                began = time.perf_counter()
                x = self._direct.restore(image)
                yield name, Outcome(x, None, time.perf_counter() - began)
                continue
            if row.motion == "true" and truth is None:
                continue
            key = _key(row)
            if key not in motions:
                motions[key] = (
                    Found(truth, np.zeros(truth.shape[:2], np.float32))
                    if truth is not None and row.motion == "true"
                    else self._finders[key][0](image)
                )
            began = time.perf_counter()
            net = self._nets[row.method, self._irc_net(row)] if row.method in IRC_NETS else None
            x = undo(image, motions[key], row.method, net, known=row.motion == "true")
            yield name, Outcome(x, motions[key], motions[key].seconds + time.perf_counter() - began)

    def warm_up(self, image: np.ndarray, side: int = 128) -> None:
        """Run each row on a crop of a picture, so that what a process loads once is in no measurement."""
        crop = image[:side, :side]
        for _ in self.run(crop, np.full((*crop.shape[:2], 2), 3.0, np.float32)):
            pass

    def notes(self) -> list[str]:
        """Return what is to be said below a table."""
        return [f"Left out: {name} ({why})." for name, why in self.left_out.items()]

    def _load(self, row: BlindRow) -> int:
        """Load what a row needs and return its number of parameters."""
        if row.method == DIRECT:
            if self._direct is None:
                self._direct = direct_cnn.load(self._trained(direct_cnn.weights_path))[0].to(resolve_device())
            return parameter_count(self._direct)
        count = 0
        if row.method in IRC_NETS:
            key = row.method, self._irc_net(row)
            if key not in self._nets:
                self._nets[key] = irc_net(resolve_device(), *key)
            count = parameter_count(self._nets[key])
        if row.motion == "true":
            return count
        if _key(row) not in self._finders:
            self._finders[_key(row)] = self._finder(row)
        return count + self._finders[_key(row)][1]

    def _finder(self, row: BlindRow) -> tuple[Finder, int]:
        """Return what finds a row's motion, and its number of parameters."""
        if row.motion in NETWORKS:
            self._trained(lambda folder: weights_path(folder, row.motion))
            baseline = load_baselines(self._baselines)[NETWORKS[row.motion][0]]

            def by_baseline(image: np.ndarray) -> Found:
                began = time.perf_counter()
                motion = baseline(image)
                return Found(motion, np.zeros(motion.shape[:2], np.float32), time.perf_counter() - began)

            return by_baseline, int(baseline.summary.get("parameters", 0))
        path = motion_net_path(row.motion_net) if row.motion_net in MOTION_NETS else self._below(row.motion_net)
        if not path.is_file():
            raise MissingWeights(f"the package has no {path.name}")

        def by_motion_net(image: np.ndarray) -> Found:
            began = time.perf_counter()
            consolidation = CONSOLIDATIONS[row.motion]
            motion, error = estimate_motion(image, consolidation=consolidation, motion_net=path, return_error=True)
            if consolidation != "picture":
                # Only where the picture has decided on the motion does it tell of its light, or of a kernel.
                return Found(motion, error, time.perf_counter() - began)
            field = MotionEstimate(torch.from_numpy(motion), torch.from_numpy(error), 0.0)
            kernel = None
            if not is_sure(field, error.shape):
                kernel = kernel_of(Images(image, torch.device("cpu"), -1), 0, field)
            if kernel is not None:
                return Found(motion, error, time.perf_counter() - began, kernel.linear_light, kernel)
            linear_light = is_linear_light(torch.from_numpy(image).permute(2, 0, 1)[None], field.motion)
            return Found(motion, error, time.perf_counter() - began, linear_light)

        nets = [load_motion_net(path)] + [load_kernel_net()] * (CONSOLIDATIONS[row.motion] == "picture")
        return by_motion_net, sum(map(parameter_count, nets))

    def _irc_net(self, row: BlindRow) -> Path:
        """Return the file of a row's IRC-Net."""
        if row.irc_net is not None:
            return self._below(row.irc_net)
        path = weights_folder() / IRC_NETS[row.method]
        if not path.is_file():
            raise MissingWeights(f"the package has no {path.name}")
        return path

    def _below(self, name: str) -> Path:
        """Return a file below the folder of the baselines."""
        return self._trained(lambda folder: folder / name)

    def _trained(self, place: Callable[[Path], Path]) -> Path:
        """Return a file that lies at some place below the folder of the baselines."""
        if self._baselines is None:
            raise MissingWeights("it needs the folder of the trained baselines")
        path = place(self._baselines)
        if not path.is_file():
            raise MissingWeights(f"no {path.relative_to(self._baselines)} among the trained baselines")
        return path


def _key(row: BlindRow) -> tuple[str, str]:
    """Return what rows have in common that use the same motion."""
    return row.motion, row.motion_net if row.motion in CONSOLIDATIONS else ""


@torch.no_grad()
def undo(
    image: np.ndarray, found: Found, method: str, net: UnrolledNet | None = None, known: bool = False
) -> np.ndarray:
    """Undo a motion as `ircdeblur.deblur` does.

    Parameters
    ----------
    image : (H, W, 3) float32 array
        In [0, 1].
    found : Found
        Its motion.
    method : str
        A solver, where `net` is not given.
    net : UnrolledNet, optional
        An IRC-Net, on the first GPU if there is one.
    known : bool
        The motion is exact: the prior is that of a known blur, and the result is believed everywhere.

    Returns
    -------
    x : (H, W, 3) array
        Clipped to [0, 1].
    """
    device = resolve_device()
    length, error = torch.from_numpy(to_polar(found.motion)[0]), torch.from_numpy(found.error)
    everywhere = known or found.kernel is not None
    weight = np.ones(found.error.shape) if everywhere else mixing_weight(length, error).numpy()
    if float(weight.max()) <= 0.0:
        return image.clip(0, 1)
    y = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
    blur: UniformBlur | MotionBlur
    if found.kernel is not None:
        blur = UniformBlur(torch.from_numpy(found.kernel.psf).to(y), boundary="extended")
        noise = math.hypot(noise_of(y, found.kernel.psf), found.kernel.misfit)
    else:
        motion = torch.from_numpy(np.ascontiguousarray(found.motion, np.float32)).to(y)
        blur = MotionBlur(motion, boundary="extended")
        noise = noise_of(y, motion)
    linear_light = found.linear_light and not known
    if not everywhere:
        belief = belief_in(MotionEstimate(torch.from_numpy(found.motion), error, 0.0), found.error.shape)
        if belief.share < SPECK:
            return image.clip(0, 1)
        noise = math.hypot(noise, belief.noise)
    if linear_light:
        noise, y = noise * noise_in_linear_light(y), srgb_to_linear(y)
    mask = unsaturated(y)
    if mask is not None and not mask.any():
        return image.clip(0, 1)

    def restored(y: torch.Tensor, blur: UniformBlur | MotionBlur, mask: torch.Tensor | None) -> torch.Tensor:
        if net is None:
            settings = DEFAULTS[method]
            settings = settings if known else replace(settings, prior=settings.prior * BLIND_PRIOR)
            return deconvolve(y, blur, noise, method, settings, mask).x
        return net(y, blur, noise, None if everywhere else doubt_of(error[None].to(y)), mask)

    density = None if found.kernel is None else found.kernel.density
    if density is None:
        sharp = restored(y, blur, mask)
    else:
        shape = (y.shape[-2], y.shape[-1])
        side, overlap = tiles_for(density, shape)
        sharp = torch.empty_like(y)

        def window(rows: slice, columns: slice) -> torch.Tensor:
            part = y[..., rows, columns]
            psf = kernel_in(density, (rows, columns), shape, overlap)
            return restored(part, UniformBlur(torch.from_numpy(psf).to(part), boundary="extended"), unsaturated(part))

        def put(rows: slice, finished: torch.Tensor) -> None:
            sharp[..., rows, :] = finished

        blend(window, put, shape, side, overlap)
    sharp = linear_to_srgb(sharp.clamp(0, 1)) if linear_light else sharp
    change = sharp[0].permute(1, 2, 0).cpu().numpy() - image
    return (image + weight[..., None] * change).clip(0, 1).astype(np.float32)


def strip(
    image: np.ndarray,
    outcomes: Mapping[str, Outcome],
    truth: np.ndarray | None = None,
    title: str = "blurred",
    height: int = 320,
) -> np.ndarray:
    """Draw a picture, its motion, and what rows have made of it, as the paper's Figure 7.

    Parameters
    ----------
    image : (H, W, 3) array
        As it came, in [0, 1].
    outcomes : dict
        By name; the motion is that of the first that has one.
    truth : (H, W, 3) array, optional
        The sharp picture; it comes last, and the others are given their PSNR.
    title : str
        Of the first panel.
    height : int
        Of the panels in pixels.

    Returns
    -------
    strip : (h, w, 3) uint8 array
    """

    def caption(name: str, x: np.ndarray) -> str:
        return f"{name}\n" + ("" if truth is None else f"{min(psnr(x, truth), 99.99):.2f} dB")

    panels, captions = [image], [caption(title, image)]
    found = next((o.found for o in outcomes.values() if o.found is not None), None)
    if found is not None:
        longest = float(np.hypot(found.motion[..., 0], found.motion[..., 1]).max())
        panels.append(motion_colors(found.motion, max(longest, SHORTEST_COLOR)))
        captions.append(f"motion\nto {longest:.1f} px")
    for name, outcome in outcomes.items():
        panels.append(outcome.x)
        captions.append(caption(name, outcome.x))
    if truth is not None:
        panels.append(truth)
        captions.append("truth\n")
    return captioned(panels, captions, height)


def chosen(outcomes: Mapping[str, Outcome], names: Sequence[str]) -> dict[str, Outcome]:
    """Return the outcomes of some rows, in their order; those that are missing are passed over."""
    return {name: outcomes[name] for name in names if name in outcomes}
