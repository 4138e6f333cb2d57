"""Batches that are made by processes beside the one that learns from them.

They are forks, which Linux and macOS have, and hand their tensors over in shared memory: 16 crops of 224 px take some
30 MB there, and each process may be `AHEAD` batches ahead. Containers often have less: Docker needs ``--shm-size``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

AHEAD = 8
"""Batches that each process may be ahead."""


class _Parts(IterableDataset):
    """In each process the batches of its part."""

    def __init__(self, make: Callable[[int], Iterable[Any]]):
        super().__init__()
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        return iter(self.make(info.id))


def made_beside(make: Callable[[int], Iterable[Any]], workers: int) -> Iterator[Any]:
    """Yield what several processes make, a batch of each in turn, so that the order is the same every time.

    The processes are forks: they share photographs in memory with this one, and must make their batches on the CPU,
    where each has one thread.

    Parameters
    ----------
    make : callable
        Returns the batches of a process, of tensors, from its number, 0 ... `workers` - 1.
    workers : int
        Number of processes.
    """
    yield from DataLoader(
        _Parts(make), batch_size=None, num_workers=workers, prefetch_factor=AHEAD, multiprocessing_context="fork"
    )
