"""Folders of photographs: the work of ``ircdeblur batch``, which goes on where a killed run ended.

`plan_batch` says what becomes of every photograph of a folder or a list, `Batch` keeps the folder of the outputs, and
`run_batch` does what is left to do, in this process or on a Ray cluster (`ircdeblur.app.cluster`). Both engines call
the same function on a file, a `FileJob`; only the process that was started by the user writes the manifest.

What a kill, even by SIGKILL, or a loss of power may leave behind, and why nothing is lost:

- An output gets its name when its data are on the disk (`ircdeblur.app.imagefile.atomic_write`), and its line of the
  manifest is written, and flushed to the disk, after that. A line is thus never ahead of its file. Flushing takes
  milliseconds, a photograph tenths of a second or more.
- A last line that is cut off is dropped when the run is resumed, and its file is made again. A file without a line,
  made by a run that was killed before it wrote the line, is made again and replaced.
- Hidden temporary files are removed on resumption.
- A process may die of the photograph itself, for want of memory for instance. What is begun is therefore marked, and
  what was begun `ATTEMPTS` times and never ended is reported as failed instead of being tried again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ircdeblur.app.imagefile import (
    TEMP_PREFIX,
    ImageFileError,
    atomic_write,
    make_folder,
    output_name,
    pictures,
)
from ircdeblur.app.job import Deblurring, Progress, Task, error_text, process_file

__all__ = [
    "ATTEMPTS",
    "MANIFEST",
    "SETTINGS",
    "Batch",
    "FileJob",
    "Plan",
    "Record",
    "Work",
    "file_job",
    "fingerprint",
    "left_of",
    "plan_batch",
    "read_manifest",
    "run_batch",
    "settings_of",
]

MANIFEST = "manifest.jsonl"
"""One line of JSON per file that is done or has failed, in the folder of the outputs."""

SETTINGS = "batch.json"
"""Settings and versions, in the folder of the outputs."""

ATTEMPTS = 3
"""How often a photograph is begun by processes that die of it."""

_STATE = ".ircdeblur-batch"

Record = dict[str, Any]
"""A line of the manifest: input, output, seconds, size, motion, error, settings and, where there are any, motion_file,
notes and worker."""

Follow = Callable[[int, Path], Progress]


class Work(NamedTuple):
    """One photograph.

    Attributes
    ----------
    source : str
        The absolute path of the file.
    output : str
        Where its result goes, relative to the folder of the outputs.
    """

    source: str
    output: str


class Plan(NamedTuple):
    """What there is to do.

    Attributes
    ----------
    works : list of Work
        The photographs, in order, each once.
    problems : list of ImageFileError
        Folders that could not be looked into.
    """

    works: list[Work]
    problems: list[ImageFileError]


class Messages(Protocol):
    """Where messages go: `ircdeblur.app.cli.Report`."""

    @property
    def failed(self) -> bool:
        """Whether there was an error."""
        ...

    def say(self, text: str) -> None:
        """Print a result."""
        ...

    def notes(self, texts: Sequence[str], path: Path) -> None:
        """Print what the user should know about a file."""
        ...

    def fail(self, text: str) -> None:
        """Print an error."""
        ...


# ----------------------------------------------------------------------------------------------------- the plan


def plan_batch(source: Path, out: Path, suffix: str = "_sharp") -> Plan:
    """Say where the result of every photograph goes; nothing is made or changed.

    Parameters
    ----------
    source : Path
        A folder: the picture files in it and in the folders within, by their suffix; hidden ones, linked folders and
        the folder of the outputs are left out. Or a list: a text file with one path on each line, or with one JSON
        object with the key ``"input"``. A path in a list is relative to the folder of the list.
    out : Path
        Folder of the outputs. They keep the sub-folders that the inputs have below the folder, or below the list; an
        input elsewhere keeps all its folders.
    suffix : str
        Put between name and extension.

    Returns
    -------
    Plan
        Folder by folder, each sorted by name; or in the order of the list.

    Raises
    ------
    ImageFileError
        If there is no such folder or list, the list is damaged, two inputs would have the same output, or an output
        would replace an input.
    """
    problems: list[ImageFileError] = []
    root = Path(os.path.realpath(source if source.is_dir() else source.parent))
    target = Path(os.path.realpath(out))
    if source.is_dir():
        if target == root:
            raise ImageFileError("the folder of the inputs", out, "choose another folder for the outputs")
        files: Iterable[Path] = _walk(root, target, problems)
    else:
        files = _listed(source, root)
    works: list[Work] = []
    taken: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        below = file.relative_to(root if file.is_relative_to(root) else file.anchor)
        output = (below.parent / output_name(file, suffix)).as_posix()
        if output in taken:
            what = f"the output of both {taken[output]} and {file}"
            raise ImageFileError(what, out / output, "rename one or process them one by one")
        taken[output] = file
        works.append(Work(str(file), output))
    inputs = {work.source for work in works}
    for work in works:
        if str(target / work.output) in inputs:
            raise ImageFileError(
                "the output would replace an input", out / work.output, "choose another folder or --suffix"
            )
    if not works and not problems:
        what = "no picture file in the folder" if source.is_dir() else "the list is empty"
        raise ImageFileError(what, source, "check the name")
    return Plan(works, problems)


def _walk(root: Path, out: Path, problems: list[ImageFileError]) -> Iterator[Path]:
    """Yield the pictures below a folder, those of a folder before those of the folders in it."""

    def failed(error: OSError) -> None:
        what = f"cannot read the folder ({error.strerror})"
        problems.append(ImageFileError(what, error.filename, "check its rights"))

    for folder, folders, names in os.walk(root, onerror=failed):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and here / name != out)
        yield from pictures(here / name for name in names)


def _listed(path: Path, root: Path) -> Iterator[Path]:
    """Yield the files that a list names, as absolute paths."""
    try:
        with path.open("rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        raise ImageFileError("no such file or folder", path, "give a folder, or a list of files") from None
    except OSError as error:
        raise ImageFileError(f"cannot read ({error.strerror})", path, "check the file and its rights") from error
    if b"\0" in data:
        raise ImageFileError("neither a folder nor a list of files", path, "to deblur one picture: ircdeblur deblur")
    # Not by str.splitlines, which also splits at characters that a file name may hold.
    lines = [os.fsdecode(line.rstrip(b"\r")) for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    objects = next((line for line in lines if line.strip()), "").lstrip().startswith("{")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = line
        if objects:
            try:
                name = json.loads(line)["input"]
            except (ValueError, KeyError, TypeError):
                name = ""
            if not isinstance(name, str) or not name:
                what = f"line {number} is no JSON object with the key 'input'"
                raise ImageFileError(what, path, "correct it")
        yield Path(os.path.abspath(root / name))


def left_of(plan: Plan, out: Path) -> list[Work]:
    """Return what a resumed run would do in a folder, which is not looked at more closely than its manifest."""
    manifest = out / MANIFEST
    records = read_manifest(manifest) if manifest.is_file() else []
    done = {record["output"] for record in records if record["error"] is None and (out / record["output"]).is_file()}
    return [work for work in plan.works if work.output not in done]


# ------------------------------------------------------------------------------------------------- the settings


def settings_of(job: Deblurring, suffix: str, motion_out: Path | None) -> dict[str, Any]:
    """Return all that the outputs follow from, of values that JSON has; weights by their SHA-256.

    The device is left out: it changes roundings only; and whether the motion of every pixel is computed.
    """
    from ircdeblur.nets.checkpoints import IRC_NETS, irc_net_path, kernel_net_path, motion_net_path

    values = asdict(job)
    del values["device"], values["whole_motion"]
    values["noise"] = "auto" if job.noise is None else job.noise
    values["motion_net"] = _sha256(motion_net_path(job.motion_net))
    values["irc_net"] = _sha256(irc_net_path(job.irc_net or job.method)) if job.method in IRC_NETS else None
    values["kernel_net"] = _sha256(kernel_net_path(job.kernel_net)) if job.path == "any" else None
    values["suffix"] = suffix
    values["motion_out"] = None if motion_out is None else os.path.realpath(motion_out)
    return values


def file_job(job: Deblurring, out: Path, motion_out: Path | None, suffix: str) -> tuple[FileJob, dict[str, Any]]:
    """Return what is to be done with each photograph, and the settings as JSON knows them."""
    settings = settings_of(job, suffix, motion_out)
    # A worker may run in another folder.
    weights, corrector = (None if p is None else Path(os.path.abspath(p)) for p in (job.irc_net, job.kernel_net))
    net = os.path.abspath(job.motion_net) if os.path.isfile(job.motion_net) else job.motion_net
    job = replace(job, irc_net=weights, motion_net=net, kernel_net=corrector)
    motions = None if motion_out is None else Path(os.path.abspath(motion_out))
    return FileJob(job, Path(os.path.abspath(out)), motions, fingerprint(settings), suffix), settings


def fingerprint(settings: dict[str, Any]) -> str:
    """Return twelve hexadecimal digits that differ for different settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------- one photograph


@dataclass(frozen=True)
class FileJob:
    """What is done with each photograph, wherever it runs.

    Attributes
    ----------
    job : Deblurring
        What is computed.
    out : Path
        Absolute path of the folder of the outputs.
    motion_out : Path or None
        That of the motion fields.
    settings : str
        The fingerprint of the settings.
    suffix : str
        What the names of the outputs have before their extension.
    """

    job: Deblurring
    out: Path
    motion_out: Path | None
    settings: str
    suffix: str

    def check(self) -> None:
        """Refuse a machine that lacks the device, or whose weights are not those that the settings were made with.

        Raises
        ------
        ImageFileError
            If that is so.
        """
        from ircdeblur.restore import resolve_device

        try:
            resolve_device(self.job.device)
            if fingerprint(settings_of(self.job, self.suffix, self.motion_out)) != self.settings:
                raise ValueError("its weights differ from those that the run was started with")
        except (OSError, ValueError, ImportError) as error:
            advice = "give all machines the same version and weights, and --device cpu if not all have a GPU"
            raise ImageFileError(f"a worker cannot do the work ({error})", platform.node(), advice) from error

    def record(self, work: Work, error: str | None = None) -> Record:
        """Return the line of a photograph of which nothing else is known."""
        record: Record = {"input": work.source, "output": work.output, "seconds": None, "size": None, "motion": None}
        return {**record, "error": error, "settings": self.settings}

    def motion_file(self, work: Work) -> Path | None:
        """Return where the motion of a photograph goes: to its own sub-folder, as ``name.jpg.npz``."""
        if self.motion_out is None:
            return None
        return self.motion_out / Path(work.output).parent / f"{Path(work.source).name}.npz"

    def __call__(self, work: Work, progress: Progress = lambda done, total: None) -> Record:
        """Deblur a photograph, write what comes of it, and return its line of the manifest; no error is raised."""
        from ircdeblur.motion import summarize

        task = Task(Path(work.source), self.out / work.output, self.motion_file(work))
        record = self.record(work)
        notes: list[str] = []
        start = time.perf_counter()
        try:
            with self._attempt(task):
                for path in (task.output, task.motion):
                    if path is not None:
                        path.parent.mkdir(parents=True, exist_ok=True)
                result = process_file(
                    task, self.job, lambda texts, path: notes.extend(texts), progress=progress, overwrite=True
                )
            assert result.motion is not None
            height, width = result.pixels.shape[:2]
            motion = summarize(result.motion, result.error)._asdict()
            record["size"] = [width, height]
            record["motion"] = {k: round(v, 4) if isinstance(v, float) else v for k, v in motion.items()}
            if result.kernel is not None:
                record["kernel"] = result.text  # undone in place of that motion
            if task.motion is not None:
                record["motion_file"] = str(task.motion)
        except Exception as error:
            record["error"] = error_text(error, task.source)
        record["seconds"] = round(time.perf_counter() - start, 4)
        return {**record, "notes": notes} if notes else record

    @contextmanager
    def _attempt(self, task: Task) -> Iterator[None]:
        """Mark a photograph as begun while the block runs; refuse one that several processes did not survive."""
        mark = self.out / _STATE / f"begun-{hashlib.sha256(os.fsencode(task.output)).hexdigest()[:24]}"
        file = os.open(mark, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
        try:
            os.write(file, b".")
            attempts = os.fstat(file).st_size
        finally:
            os.close(file)
        try:
            if attempts > ATTEMPTS:
                raise ImageFileError(
                    f"{ATTEMPTS} processes ended while they worked on it, maybe for want of memory",
                    task.source,
                    "add --tile 256, make the picture smaller, or try it again with --resume",
                )
            yield
        finally:
            mark.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------ the folder of outputs


def read_manifest(path: Path) -> list[Record]:
    """Return the lines of a manifest; a last one that a killed run left unfinished is left out.

    Raises
    ------
    ImageFileError
        If there is no manifest, or another line is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ImageFileError(f"cannot read ({error.strerror})", path, "check the file and its rights") from error
    # What follows the last line break, usually nothing, is no whole line.
    lines.pop()
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not {"input", "output", "error", "settings"} <= record.keys():
                raise ValueError("no line of a manifest")
        except ValueError:
            # A loss of power can leave a last line of zeros.
            if number == len(lines):
                break
            raise ImageFileError(f"line {number} is damaged", path, "begin anew with --overwrite") from None
        records.append(record)
    return records


class Batch:
    """A folder of outputs with its manifest; a context that holds the lock on the folder.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    out : Path
        The folder; it is made.
    file_job : FileJob
        How.
    settings : dict
        What `settings_of` returned.
    resume : bool
        Go on with the batch that the folder holds, if it holds one. Files that failed are tried again.
    overwrite : bool
        Begin anew; existing outputs are replaced when their turn comes.

    Attributes
    ----------
    left : list of Work
        What is left to do.
    before : int
        Number of files of the plan that were done before.

    Raises
    ------
    ImageFileError
        On entering: if another run has the lock, the folder holds a batch and neither `resume` nor `overwrite`, was
        begun with other settings or other inputs, or holds files that would be replaced.
    """

    def __init__(
        self, plan: Plan, out: Path, file_job: FileJob, settings: dict[str, Any], resume: bool, overwrite: bool
    ):
        self.plan, self.out, self.file_job, self.settings = plan, out, file_job, settings
        self.resume, self.overwrite = resume, overwrite
        self.left: list[Work] = []
        self.before = 0
        self.locked = True
        self._lock = self._file = -1

    def __enter__(self) -> Batch:
        make_folder(self.out)
        if self.file_job.motion_out is not None:
            make_folder(self.file_job.motion_out)
        (self.out / _STATE).mkdir(exist_ok=True)
        self._lock = os.open(self.out / _STATE / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self.locked = _lock(self._lock, self.out)
            done = self._resumed() if self.resume and (self.out / MANIFEST).is_file() else self._begun()
            self.left = [work for work in self.plan.works if work.output not in done]
            self.before = len(self.plan.works) - len(self.left)
            self._file = os.open(self.out / MANIFEST, os.O_WRONLY | os.O_APPEND)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *reason: object) -> None:
        for file in (self._file, self._lock):
            if file >= 0:
                os.close(file)
        self._lock = self._file = -1

    def append(self, record: Record) -> None:
        """Write a line of the manifest; it is on the disk when this returns.

        Raises
        ------
        ImageFileError
            If it cannot be written. The manifest is then as it was.
        """
        before = os.fstat(self._file).st_size
        rest = memoryview(json.dumps(record).encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, before)
            raise ImageFileError(
                f"cannot write ({error.strerror})", self.out / MANIFEST, "free some space, then go on with --resume"
            ) from error

    def _begun(self) -> set[str]:
        """Begin a batch."""
        manifest = self.out / MANIFEST
        if not self.overwrite:
            if manifest.exists():
                what = f"the folder holds a batch already ({_counted(read_manifest(manifest))})"
                raise ImageFileError(what, self.out, "add --resume to go on, or --overwrite to begin anew")
            existing = [path for path in self._outputs() if os.path.lexists(path)]
            if existing:
                others = f" and {len(existing) - 1} other outputs exist" if existing[1:] else " exists"
                what = f"{existing[0].name}{others} already"
                raise ImageFileError(what, existing[0].parent, "choose another folder or add --overwrite")
        manifest.unlink(missing_ok=True)
        self._clear(begun=True)
        info = {"settings": self.settings, "fingerprint": self.file_job.settings, "versions": _versions()}
        with atomic_write(self.out / SETTINGS, overwrite=True) as temp:
            temp.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        self._rewrite([])
        return set()

    def _resumed(self) -> set[str]:
        """Go on with a batch; return the outputs that are there."""
        manifest = self.out / MANIFEST
        records = read_manifest(manifest)
        self._check_settings(records)
        sources = {work.output: work.source for work in self.plan.works}
        for record in records:
            if record["input"] != sources.get(record["output"], record["input"]):
                what = f"was made from another input, {record['input']}"
                raise ImageFileError(what, self.out / record["output"], "choose another folder for the outputs")
        done = [record for record in records if record["error"] is None and self._exists(record)]
        lines = "".join(json.dumps(record) + "\n" for record in done).encode()
        if lines != manifest.read_bytes():
            self._rewrite(done)
        self._clear(begun=False)
        return {record["output"] for record in done}

    def _exists(self, record: Record) -> bool:
        paths = [self.out / record["output"], *filter(None, [record.get("motion_file")])]
        return all(os.path.isfile(path) for path in paths)

    def _check_settings(self, records: list[Record]) -> None:
        try:
            found = json.loads((self.out / SETTINGS).read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError) as error:
            raise ImageFileError("missing or damaged", self.out / SETTINGS, "begin anew with --overwrite") from error
        other = sorted(name for name in {*found, *self.settings} if found.get(name) != self.settings.get(name))
        if other:
            pairs = [f"{name.replace('_', '-')} {found.get(name)}, not {self.settings.get(name)}" for name in other]
            what = f"the batch was begun with other settings ({'; '.join(pairs)})"
            raise ImageFileError(what, self.out, "give the same ones, or choose another folder")
        if any(record["settings"] != self.file_job.settings for record in records):
            what = "lines of another batch"
            raise ImageFileError(what, self.out / MANIFEST, "choose another folder, or begin anew with --overwrite")

    def _rewrite(self, records: list[Record]) -> None:
        with atomic_write(self.out / MANIFEST, overwrite=True) as temp:
            temp.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    def _outputs(self) -> Iterator[Path]:
        for work in self.plan.works:
            yield self.out / work.output
            if (motion := self.file_job.motion_file(work)) is not None:
                yield motion

    def _clear(self, begun: bool) -> None:
        """Remove the temporary files of killed runs, and the marks of what they had begun."""
        for folder in {path.parent for path in self._outputs()} | {self.out}:
            with suppress(OSError):
                for name in os.listdir(folder):
                    if name.startswith(TEMP_PREFIX):
                        (folder / name).unlink(missing_ok=True)
        if begun:
            for mark in (self.out / _STATE).glob("begun-*"):
                mark.unlink(missing_ok=True)


def _lock(file: int, out: Path) -> bool:
    """Lock a file until it is closed, or the process dies; return False on a file system without locks."""
    try:
        try:
            import fcntl
        except ImportError:
            import msvcrt  # Windows.

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        what = "another run is writing to this folder"
        raise ImageFileError(what, out, "wait until it has ended, or choose another folder") from error
    return True


def _counted(records: list[Record]) -> str:
    failed = sum(record["error"] is not None for record in records)
    return f"{len(records) - failed} done, {failed} failed"


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    import ircdeblur

    return {"ircdeblur": ircdeblur.__version__, "python": platform.python_version(), "torch": version("torch")}


# --------------------------------------------------------------------------------------------------- the whole


def run_batch(
    batch: Batch,
    engine: Callable[[list[Work], FileJob], Iterator[Record]] | None,
    messages: Messages,
    follow: Follow,
) -> None:
    """Do what is left of a batch; what fails is reported, and the others are done.

    Parameters
    ----------
    batch : Batch
        Entered.
    engine : callable or None
        Yields the lines of the manifest as they come; None is this process.
    messages : Messages
        Where the messages go.
    follow : callable
        Called with a number and the path of its photograph; returns what is called with the steps of it that are done.
    """
    if not batch.locked:
        messages.notes(["its file system has no locks; see that no other run writes to it"], batch.out)
    records = _here(batch.left, batch.file_job, follow) if engine is None else engine(batch.left, batch.file_job)
    done = failed = 0
    try:
        for record in records:
            batch.append(record)
            source, output = Path(record["input"]), batch.out / record["output"]
            messages.notes(record.get("notes", []), source)
            if record["error"] is None:
                done += 1
                messages.say(f"{source} -> {output} ({record['seconds']:.2f} s)")
            else:
                failed += 1
                messages.fail(record["error"])
            if engine is not None:
                follow(done + failed, source)
    except BaseException:
        messages.notes(["what is finished stays; go on with --resume"], batch.out)
        raise
    before = f", {batch.before} done before" if batch.before else ""
    messages.say(f"{batch.out}: {done} done, {failed} failed{before}")


def _here(works: list[Work], file_job: FileJob, follow: Follow) -> Iterator[Record]:
    """Do the work in this process."""
    for index, work in enumerate(works):
        yield file_job(work, follow(index, Path(work.source)))
