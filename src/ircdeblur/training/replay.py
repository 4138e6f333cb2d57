"""Batches for IRC-Net that are seen several times: the solver's part of them takes longer than learning from them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from ircdeblur.data.known_blur import KnownBlur
from ircdeblur.nets.irc_net import ORIENTATIONS, IRCNet, Seen, State, crop_rim, orient
from ircdeblur.nets.shrinkage_net import ShrinkageIRCNet
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.epll import epll


class Prepared(NamedTuple):
    """A batch for the prior of one stage, with a rim around the crops.

    Attributes
    ----------
    blurred, target : (B, 3, H', W') and (B, 3, H, W) tensors
        The blurred crops with their rim, and what the proposals are compared with.
    seen : tuple of Seen
        What the priors of the stages are shown, up to the one that is trained.
    """

    blurred: torch.Tensor
    target: torch.Tensor
    seen: tuple[Seen, ...]

    def oriented(self, transpose: bool, upside_down: bool, mirror: bool) -> Prepared:
        """Return the batch transposed, then turned upside down, then mirrored."""
        turn = transpose, upside_down, mirror
        return Prepared(
            orient(self.blurred, *turn), orient(self.target, *turn), tuple(seen.oriented(*turn) for seen in self.seen)
        )

    def cut(self, size: int, rng: np.random.Generator) -> Prepared:
        """Return a square of that many pixels of each crop, at a random place, with a rim of `RIM` around it."""
        rims = [(a - b) // 2 for a, b in zip(self.blurred.shape[-2:], self.target.shape[-2:], strict=True)]
        outer = size + 2 * RIM
        ranges = [n - outer + 1 for n in self.blurred.shape[-2:]]
        places = [(int(rng.integers(ranges[0])), int(rng.integers(ranges[1]))) for _ in self.target]

        def taken(t: torch.Tensor, side: int, down: int = 0, right: int = 0) -> torch.Tensor:
            crops = zip(t.expand(len(places), -1, -1, -1), places, strict=True)
            return torch.stack(
                [crop[:, y + down : y + down + side, x + right : x + right + side] for crop, (y, x) in crops]
            )

        def around(t: torch.Tensor) -> torch.Tensor:
            return taken(t, outer)

        # Where the rim of the crops is narrower, the outermost pixels of their frames are rims too.
        target = taken(self.target, size, RIM - rims[0], RIM - rims[1])
        seen = tuple(s.mapped(around)._replace(unit=s.unit.expand(len(places), -1, -1, -1)) for s in self.seen)
        return Prepared(around(self.blurred), target, seen)

    @classmethod
    def joined(cls, parts: Sequence[Prepared]) -> Prepared:
        """Return squares that were cut from several batches as one batch."""
        seen = []
        for stage in zip(*(part.seen for part in parts), strict=True):
            residuals = zip(*(s.residuals for s in stage), strict=True)
            data, rows, columns = (torch.cat(r) for r in residuals)
            x, maps, unit = (torch.cat([getattr(s, name) for s in stage]) for name in ("x", "maps", "unit"))
            seen.append(Seen(x, (data, rows, columns), maps, unit))
        blurred, target = (torch.cat([getattr(part, name) for part in parts]) for name in ("blurred", "target"))
        return cls(blurred, target, tuple(seen))


RIM = 4
"""Pixels that are kept around a crop, as far as the estimate reaches there: its frame is what counts."""


class Started(NamedTuple):
    """A batch for `ShrinkageIRCNet`.

    Attributes
    ----------
    pair : KnownBlur
        The crops.
    blur : UniformBlur or MotionBlur
        Their blur, as it is believed to be.
    initial : (B, 3, H', W') tensor
        What the first stage starts from; see `ShrinkageIRCNet.initial`.
    """

    pair: KnownBlur
    blur: UniformBlur | MotionBlur
    initial: torch.Tensor

    @property
    def blurred(self) -> torch.Tensor:
        """The blurred crops."""
        return self.pair.blurred


KEPT = 96
"""Batches in memory."""


def replayed(prepared: Iterable[Any], times: int, rng: np.random.Generator, kept: int = KEPT) -> Iterator[Any]:
    """Yield prepared batches in random order, each several times: they take longer to make than to learn from.

    Parameters
    ----------
    prepared : iterable
        Endless.
    times : int
        How often a batch is seen, on average.
    rng : numpy.random.Generator
        Of their order.
    kept : int
        Number of batches in memory.
    """
    source = iter(prepared)
    # Without others beside it the first one would be seen far more often.
    memory = list(itertools.islice(source, kept // 4))
    for number in itertools.count(1):
        yield memory[int(rng.integers(len(memory)))]
        if number % times == 0:
            if len(memory) == kept:
                memory.pop(int(rng.integers(kept)))
            memory.append(next(source))


class StartedReplay:
    """Batches for `ShrinkageIRCNet`, each seen several times.

    Parameters
    ----------
    net : ShrinkageIRCNet
        Makes the starts.
    pairs : iterable of KnownBlur
        Endless.
    times : int
        How often a batch is seen, on average.
    seed : int
        Of their order.
    kept : int
        Number of batches in memory.
    """

    def __init__(self, net: ShrinkageIRCNet, pairs: Iterable[KnownBlur], times: int, seed: int, kept: int = KEPT):
        self.net, self.pairs, self.times, self.seed, self.kept = net, pairs, times, seed, kept

    def __iter__(self) -> Iterator[Started]:
        yield from replayed(map(self.started, self.pairs), self.times, np.random.default_rng(self.seed), self.kept)

    def started(self, pair: KnownBlur) -> Started:
        """Return a batch with its start."""
        blur = pair.blur()
        return Started(pair, blur, self.net.initial(pair.blurred, blur, pair.noise, pair.error, pair.mask))


class Teacher:
    """A better estimate than the network's own, for it to learn from beside the truth.

    What no estimate can know is most of the difference from the truth, and most of what moves the weights from step to
    step; of a better estimate's difference it is not a part. That estimate is the network's as it was at the start, in
    all eight orientations. Where the motion is exact and there is some noise, it is moved as far towards the one of
    `epll`, whose errors are others, as brings it nearest to the truth, up to 0.6 of the way.

    Parameters
    ----------
    net : IRCNet
        Copied.

    References
    ----------
    T. Furlanello, Z. C. Lipton, M. Tschannen, L. Itti, A. Anandkumar, "Born again neural networks", ICML 2018.
    """

    MOST = 0.6
    """Of the way to the estimate of `epll`."""

    LEAST_NOISE = 0.006
    """Of the crops that are shown to `epll`; with less noise it has seldom anything to add."""

    STEPS = 12
    """Most steps of conjugate gradients in each iteration of `epll`."""

    def __init__(self, net: IRCNet):
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.net.orientations = ORIENTATIONS

    @torch.no_grad()
    def __call__(self, state: State, pair: KnownBlur) -> torch.Tensor:
        """Return the estimate, (B, 3, H, W), of pairs that the network has started with; the state stays as it is."""
        state = replace(state, features=[])
        for j in range(self.net.config.stages):
            if j > 0:
                self.net.update(state, j)
            v = self.net.propose(state, j)
        own = state.layer.domain.crop(v)
        for i in () if pair.error is not None else (pair.noise >= self.LEAST_NOISE).nonzero()[:, 0].tolist():
            one = pair.only(i)
            way = epll(one.blurred, one.blur(), float(one.noise), mask=one.mask, steps=self.STEPS)[0] - own[i]
            share = (way * (pair.sharp[i] - own[i])).sum() / way.square().sum().clamp(min=1e-12)
            own[i] += share.clamp(0, self.MOST) * way
        return own


class Preparation:
    """What makes pairs into batches for the prior of one stage.

    Parameters
    ----------
    net : IRCNet
        Makes what the priors are shown.
    stage : int
        Of the prior, from 0 on.
    taught : float
        Share of the estimate of a `Teacher`, made of the network as it is when the first pairs come, in what the
        proposals are compared with.
    rim : int
        Most pixels that are kept around the crops; `Prepared.cut` needs `RIM`.
    """

    def __init__(self, net: IRCNet, stage: int, taught: float = 0.0, rim: int = RIM):
        self.net, self.stage, self.taught, self.rim = net, stage, taught, rim
        self.teacher: Teacher | None = None

    @torch.no_grad()
    def __call__(self, pair: KnownBlur) -> Prepared:
        """Return a batch as the priors see it."""
        state = self.net.start(pair.blurred, pair.blur(), pair.noise, pair.error, pair.mask)
        target = pair.sharp
        if self.taught > 0:
            # Not before: by now the network is on its device, and its checkpoint has been read.
            self.teacher = self.teacher or Teacher(self.net)
            target = target.lerp(self.teacher(state, pair), self.taught)
        seen = [state.seen]
        for j in range(self.stage):
            self.net.propose(state, j)
            self.net.update(state, j + 1)
            seen.append(state.seen)
        rim = [m - min(m, self.rim) for m in state.layer.domain.margin]
        blurred = crop_rim(state.layer.extend(pair.blurred), *rim)
        return Prepared(blurred.clone(), target, tuple(s.cropped(*rim).copied() for s in seen))


class Replay:
    """Batches for the prior of one stage, each seen several times, in random order and orientation.

    Parameters
    ----------
    prepared : iterable of Prepared
        Endless; see `Preparation`.
    times : int
        How often a batch is seen, on average.
    seed : int
        Of order and orientation.
    view : int
        Side in pixels of the squares that are cut from the crops; 0 for the whole crops.
    joined : int
        Number of prepared batches, each turned in its own way, whose squares make one batch; 1 if there are no squares.
    kept : int
        Number of prepared batches in memory.
    """

    def __init__(
        self,
        prepared: Iterable[Prepared],
        times: int,
        seed: int,
        view: int = 0,
        joined: int = 1,
        kept: int = KEPT,
    ):
        self.prepared, self.times, self.seed, self.view = prepared, times, seed, view
        self.joined, self.kept = joined, kept

    def __iter__(self) -> Iterator[Prepared]:
        parts = self._parts(np.random.default_rng(self.seed))
        for first in parts:
            yield Prepared.joined([first, *itertools.islice(parts, self.joined - 1)]) if self.joined > 1 else first

    def _parts(self, rng: np.random.Generator) -> Iterator[Prepared]:
        for batch in replayed(self.prepared, self.times, rng, self.kept):
            batch = batch.cut(self.view, rng) if self.view else batch
            yield batch.oriented(*(bool(turned) for turned in rng.integers(2, size=3)))
