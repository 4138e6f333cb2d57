"""Photographs on a Ray cluster: the engine ``ray`` of ``ircdeblur batch``.

Ray Data sends the photographs' names to a pool of actors, each of which loads the networks once. The actors read and
write the files themselves, in folders that all machines see; what comes back are the lines of the manifest. An actor
that dies is started again by Ray, and gets the photograph that it was at once more; `ircdeblur.app.batch.FileJob` sees
to it that a photograph which kills its worker each time is given up.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ircdeblur.app.batch import FileJob, Record, Work
from ircdeblur.app.imagefile import ImageFileError

__all__ = ["RayEngine"]

BLOCKS = 10_000
"""Most parts that Ray Data is given the photographs in; up to this many, each is a part of its own. What an actor had
done of a part when it died is done again."""

OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory for a local Ray: names and lines of the manifest need no more."""


class _Worker:
    """What an actor holds."""

    def __init__(self, file_job: FileJob):
        # An error here would have the actor started again for ever.
        self._file_job, self._fault = file_job, ""
        try:
            file_job.check()
        except ImageFileError as error:
            self._fault = json.dumps(error.args)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._fault:
            return {"fault": self._fault, "record": ""}
        record = self._file_job(Work(*json.loads(row["work"])))
        return {"fault": "", "record": json.dumps({**record, "worker": f"{platform.node()}:{os.getpid()}"})}


class RayEngine:
    """Does the work on a Ray cluster.

    Parameters
    ----------
    address : str or None
        Of a cluster that runs; None starts Ray on this machine, and ends it afterwards.
    workers : int or None
        Number of actors; by default one for each GPU, or if there are none, for each machine.

    Raises
    ------
    ImageFileError
        If Ray is not installed.
    """

    def __init__(self, address: str | None = None, workers: int | None = None):
        from importlib.util import find_spec

        if any(find_spec(name) is None for name in ("ray", "pyarrow")):
            raise ImageFileError("Ray is not installed", "ray[data]", 'pip install "ircdeblur[cluster]"')
        self.address, self.workers = address, workers

    def __call__(self, works: list[Work], file_job: FileJob) -> Iterator[Record]:
        """Yield the lines of the manifest as they come.

        Raises
        ------
        ImageFileError
            If the cluster cannot be reached, is lost, or has other weights or devices than it should.
        """
        if not works:
            return
        # Nothing is reported to anyone, and what Ray has to say about its actors is not for the user's terminal.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        import ray

        own = not ray.is_initialized()
        try:
            if own:
                self._connect()
            yield from self._run(works, file_job)
        except (ray.exceptions.RayError, ConnectionError) as error:
            what = f"the Ray cluster failed ({str(error).strip().splitlines()[0]})"
            raise ImageFileError(
                what, self.address or "local", "see to the cluster, then go on with --resume"
            ) from error
        finally:
            if own:
                ray.shutdown()

    def _connect(self) -> None:
        import ray

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if self.address is None:
            options |= {"num_cpus": max(os.cpu_count() or 1, self.workers or 1), "include_dashboard": False}
            options["object_store_memory"] = OBJECT_STORE
        try:
            self._knock()
            with _silent():
                ray.init(address=self.address or "local", **options)
        except (OSError, RuntimeError, ValueError) as error:
            if self.address is None:
                raise
            what = f"no Ray cluster answers ({str(error).strip().partition(chr(10))[0]})"
            raise ImageFileError(what, self.address, "check --address, or start one with: ray start --head") from error

    def _knock(self) -> None:
        """Raise `OSError` if nobody listens at the address: Ray itself would try for minutes."""
        host, _, port = (self.address or "").rpartition("://")[2].rpartition(":")
        if host and port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()

    def _run(self, works: list[Work], file_job: FileJob) -> Iterator[Record]:
        from ray import data

        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # A part that is lost for good must not end the run: its photographs are reported below.
        context.max_errored_blocks = -1
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)

        count, cores, gpus = self._share(len(works), file_job.job.device)
        # Ray Data's own type for it knows of functions only.
        actor: Any = _Worker
        names = [{"work": json.dumps(work)} for work in works]
        answers = data.from_items(names, override_num_blocks=min(len(works), BLOCKS)).map(
            actor,
            fn_constructor_args=(file_job,),
            # More in flight would wait behind a large photograph while another actor has nothing to do.
            compute=data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2),
            num_cpus=cores,
            num_gpus=gpus,
        )
        missing = {work.output: work for work in works}
        for row in answers.iter_rows():
            if row["fault"]:
                raise ImageFileError(*json.loads(row["fault"]))
            record: Record = json.loads(row["record"])
            missing.pop(record["output"], None)
            yield record
        for work in missing.values():
            yield file_job.record(work, f"the cluster gave no answer: {work.source}; try it again with --resume")

    def _share(self, works: int, device: str) -> tuple[int, int, float | None]:
        """Return the number of actors, and the cores and the GPUs (None if there are none) that each of them takes."""
        import ray

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = 0 if device == "cpu" else int(sum(machine.get("GPU", 0) for machine in machines))
        count = min(self.workers or gpus or len(machines), works)
        if gpus:
            return count, 1, min(1.0, gpus / count)
        # The actors are spread over the machines evenly; the smallest one must have the cores for those that it gets.
        cores = min((machine["CPU"] for machine in machines if machine.get("CPU", 0) >= 1), default=1)
        return count, max(1, int(cores // -(-count // len(machines)))), None


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what is written to stderr in the block, by libraries in C++ too."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
