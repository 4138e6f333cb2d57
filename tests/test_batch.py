"""`ircdeblur batch`: what it makes of folders and lists, and that kills, bad files and dying workers lose nothing."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import ircdeblur
from ircdeblur.app import batch, cli, cluster
from ircdeblur.app.imagefile import ImageFileError
from ircdeblur.motion import read_motion, summarize

CHEAP = ("--method", "wiener", "--consolidation", "none", "--noise", "0.01", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five photographs in two folders, and a bad one."""
    folder = tmp_path / "photos"
    for name in ("b.png", "a.jpg", "trip/c.png", "trip/a.png", "trip/day 2/d.tif"):
        write(folder / name, seed=len(name))
    (folder / "bad.png").write_text("no picture")
    (folder / "notes.txt").write_text("not a picture's name")
    write(folder / ".hidden" / "x.png")
    return folder


DONE = ["a_sharp.jpg", "b_sharp.png", "trip/a_sharp.png", "trip/c_sharp.png", "trip/day 2/d_sharp.tif"]


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    top, left = np.random.default_rng(seed).integers(60, 200, 2)
    Image.fromarray(data.astronaut()[top : top + 40, left : left + 48]).save(path)
    return path


def call(capsys, *args: object) -> tuple[int, list[str], list[str]]:
    capsys.readouterr()
    code = cli.main(["batch", *map(str, args)])
    out, err = capsys.readouterr()
    assert "internal fault" not in err
    return code, out.splitlines(), err.splitlines()


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def written(out: Path) -> list[str]:
    """All files of a folder but the manifest, the settings and the lock."""
    own = {"manifest.jsonl", "batch.json", ".ircdeblur-batch/lock"}
    return sorted({path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} - own)


# ------------------------------------------------------------------------------------------------------ results


def test_folder(photos, tmp_path, capsys):
    out, motions = tmp_path / "out", tmp_path / "motions"
    code, said, errors = call(capsys, photos, out, *CHEAP, "--motion-out", motions)
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith("error: not a PNG")
    assert "bad.png" in errors[0]
    assert said[-1] == f"{out}: 5 done, 1 failed"
    assert written(out) == DONE
    names = ["a_sharp.jpg", "b_sharp.png", "bad_sharp.png", *DONE[2:]]
    assert [line["output"] for line in lines(out)] == names

    for line in lines(out):
        assert line["input"].startswith(str(photos))
        assert line["seconds"] >= 0
        if line["error"]:
            assert line["motion"] is line["size"] is None
            continue
        photo = np.asarray(Image.open(line["input"]))
        assert line["size"] == [48, 40]
        field = read_motion(Path(line["motion_file"]))
        _, error = ircdeblur.estimate_motion(photo, consolidation="none", device="cpu", return_error=True)
        expected = summarize(field, error)._asdict()
        assert expected.pop("confidence") == line["motion"].pop("confidence")
        assert line["motion"] == {k: v and pytest.approx(v, abs=1e-3) for k, v in expected.items()}
        if not line["output"].endswith("jpg"):
            sharp = ircdeblur.deblur(photo, method="wiener", consolidation="none", noise=0.01, device="cpu")
            assert np.abs(np.asarray(Image.open(out / line["output"])).astype(int) - sharp).max() <= 1
    assert sorted(p.relative_to(motions).as_posix() for p in motions.rglob("*.npz"))[:2] == ["a.jpg.npz", "b.png.npz"]


def test_list(photos, tmp_path, capsys):
    far = write(tmp_path / "far" / "e.png")
    names = ["trip/c.png", "", str(far), "b.png", "trip/../b.png", "gone.png"]
    plain, objects = photos / "list.txt", photos / "list.jsonl"
    plain.write_text("\n".join(names) + "\r\n")
    objects.write_text("".join(json.dumps({"input": name, "more": 1}) + "\n" for name in names if name))
    expected = ["trip/c_sharp.png", f"{str(far.parent)[1:]}/e_sharp.png", "b_sharp.png", "gone_sharp.png"]
    for source in (plain, objects):
        plan = batch.plan_batch(source, tmp_path / "out")
        assert [work.output for work in plan.works] == expected
    code, _, errors = call(capsys, plain, tmp_path / "out", *CHEAP)
    assert code == 1
    assert len(errors) == 1
    assert "no such file" in errors[0]
    assert [line["output"] for line in lines(tmp_path / "out")] == expected

    objects.write_text('{"input": "b.png"}\n{"inputs": "a.jpg"}\n')
    with pytest.raises(ImageFileError, match="line 2"):
        batch.plan_batch(objects, tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "out", "suffix", "message"),
    [
        ("photos", "photos", "_sharp", "folder of the inputs"),
        ("photos/list", "out", "_sharp", "output of both"),
        ("photos/own", "photos", "", "would replace an input"),
        ("photos/b.png", "out", "", "neither a folder nor a list"),
        ("photos/trip", "out", "/x", "slash"),
        ("nowhere", "out", "", "no such file or folder"),
        ("photos/empty", "out", "", "list is empty"),
    ],
)
def test_plan_refuses_what_would_lose_a_file(source, out, suffix, message, photos, tmp_path):
    (photos / "list").write_text("same.dat\nsame.png\n")
    (photos / "own").write_text("b.png\n")
    (photos / "empty").touch()
    with pytest.raises(ImageFileError, match=message):
        batch.plan_batch(tmp_path / source, tmp_path / out, suffix)


def test_outputs_within_the_inputs_are_no_inputs(photos, capsys):
    out = photos / "trip" / "sharp"
    assert call(capsys, photos, out, *CHEAP, "-q")[0] == 1
    assert call(capsys, photos, out, *CHEAP, "--resume")[1][-1] == f"{out}: 0 done, 1 failed, 5 done before"


# ------------------------------------------------------------------------------------------------------- resuming


def test_resume(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(capsys, photos, out, *CHEAP, "--dry-run")[1][0] == f"{photos / 'a.jpg'} -> {out / 'a_sharp.jpg'}"
    assert not out.exists()
    assert call(capsys, photos, out, *CHEAP, "-q", "--resume")[0] == 1
    before = {name: (out / name).stat().st_mtime_ns for name in DONE}

    code, _, errors = call(capsys, photos, out, *CHEAP)
    assert code == 1
    assert "5 done, 1 failed" in errors[0]
    assert "--resume" in errors[0]
    assert "--overwrite" in errors[0]
    code, _, errors = call(capsys, photos, out, "--method", "cg", *CHEAP[2:], "--strength", "0.5", "--resume")
    assert code == 1
    assert "method wiener, not cg" in errors[0]
    assert "strength 1.0, not 0.5" in errors[0]

    # A bad file that was put right, a new one, and an output that has gone.
    write(photos / "bad.png")
    write(photos / "new.png")
    (out / DONE[0]).unlink()
    todo = [line.split(" -> ")[0] for line in call(capsys, photos, out, *CHEAP, "--resume", "--dry-run")[1]]
    assert todo == [str(photos / name) for name in ("a.jpg", "bad.png", "new.png")]
    code, said, errors = call(capsys, photos, out, *CHEAP, "--resume")
    assert (code, errors) == (0, [])
    assert said[-1] == f"{out}: 3 done, 0 failed, 4 done before"
    after = {name: (out / name).stat().st_mtime_ns for name in DONE}
    assert [name for name in DONE if after[name] != before[name]] == DONE[:1]
    outputs = [line["output"] for line in lines(out)]
    assert sorted(outputs) == sorted([*DONE, "bad_sharp.png", "new_sharp.png"])

    # Another folder with files of the same names must not be taken for done.
    other = tmp_path / "other"
    write(other / "b.png")
    code, _, errors = call(capsys, other, out, *CHEAP, "--resume")
    assert code == 1
    assert "made from another input" in errors[0]
    assert call(capsys, other, out, *CHEAP, "--overwrite")[0] == 0
    assert [line["output"] for line in lines(out)] == ["b_sharp.png"]


def test_torn_line_and_rests_of_a_killed_run(photos, tmp_path, capsys):
    out = tmp_path / "out"
    call(capsys, photos, out, *CHEAP, "-q")
    manifest = out / "manifest.jsonl"
    whole = manifest.read_bytes()
    torn = whole[:-30]
    for text in (torn, whole[: whole.rindex(b"{")] + b"\0" * 100 + b"\n"):
        manifest.write_bytes(text)
        (out / "trip" / ".ircdeblur-tmp-0123.png").write_bytes(b"half")
        assert call(capsys, photos, out, *CHEAP, "--resume")[1][-1] == f"{out}: 1 done, 1 failed, 4 done before"
        assert sorted(line["output"] for line in lines(out)) == sorted([*DONE, "bad_sharp.png"])
        assert written(out) == DONE
    manifest.write_bytes(whole.replace(b'"input"', b'"inp', 1))
    assert "line 1 is damaged" in call(capsys, photos, out, *CHEAP, "--resume")[2][0]


def test_files_of_others_are_not_replaced(photos, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "trip").mkdir(parents=True)
    (out / "trip" / "c_sharp.png").write_text("precious")
    for option in ([], ["--resume"]):
        code, _, errors = call(capsys, photos, out, *CHEAP, *option)
        assert code == 1
        assert "c_sharp.png exists already" in errors[0]
        assert written(out) == ["trip/c_sharp.png"]
    assert call(capsys, photos, out, *CHEAP, "--overwrite", "-q")[0] == 1
    assert written(out) == DONE


def test_one_run_at_a_time(photos, tmp_path, capsys):
    out = tmp_path / "out"
    file_job, settings = batch.file_job(batch.Deblurring(method="wiener"), out, None, "_sharp")
    plan = batch.plan_batch(photos, out)
    with batch.Batch(plan, out, file_job, settings, False, False):
        for option in ("--resume", "--overwrite"):
            code, _, errors = call(capsys, photos, out, *CHEAP, option)
            assert code == 1
            assert "another run is writing" in errors[0]
        assert lines(out) == []
    with batch.Batch(plan, out, file_job, settings, True, False) as again:
        assert len(again.left) == 6


def test_full_disk_leaves_whole_lines(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    file_job, settings = batch.file_job(batch.Deblurring(method="wiener"), out, None, "_sharp")
    real = os.write

    def some(file, data):
        if len(data) < 50:
            raise OSError(28, "No space left on device")
        return real(file, data[:40])

    with batch.Batch(batch.plan_batch(photos, out), out, file_job, settings, False, False) as begun:
        begun.append(file_job.record(begun.left[0], "first"))
        monkeypatch.setattr(os, "write", some)
        with pytest.raises(ImageFileError, match="No space left"):
            begun.append(file_job.record(begun.left[1], "second"))
    assert [line["error"] for line in lines(out)] == ["first"]


@pytest.mark.parametrize("args", [["--workers", "2"], ["--address", "auto"], ["--resume", "--overwrite"]])
def test_usage(args, photos, tmp_path, capsys):
    code, _, errors = call(capsys, photos, tmp_path / "out", *args)
    assert code == 2
    assert args[0] in errors[0]


# ---------------------------------------------------------------------------------------------------------- kills


def start(code: str, *args: object) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [str(Path(ircdeblur.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=environment, stdout=subprocess.DEVNULL)


KILLED = """
import os, signal, sys
from ircdeblur.app import batch, cli, imagefile
when, count = sys.argv[1], int(sys.argv[2])
def kill(*args):
    global count
    count -= 1
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
if when == "writing":  # The data are half written.
    real = imagefile._encode
    def encode(temp, *args):
        real(temp, *args)
        os.truncate(temp, os.path.getsize(temp) // 2)
        kill()
        real(temp, *args)
    imagefile._encode = encode
elif when == "named":  # The output has its name, and no line.
    real = batch.Batch.append
    def append(self, record):
        kill()
        real(self, record)
    batch.Batch.append = append
elif when == "line":  # Half of the line is there.
    def append(self, record):
        global count
        line = batch.json.dumps(record).encode() + b"\\n"
        if count == 1:
            os.write(self._file, line[:50])
        kill()
        os.write(self._file, line)
    batch.Batch.append = append
sys.exit(cli.main(sys.argv[3:]))
"""


def test_killed_in_the_middle_of_a_write(photos, tmp_path, capsys):
    out = tmp_path / "out"
    for when, count, whole in (("writing", 2, 1), ("named", 1, 1), ("line", 2, 2)):
        process = start(KILLED, when, count, "batch", photos, out, *CHEAP, "--resume")
        assert process.wait(120) == -signal.SIGKILL
        good = [line for line in batch.read_manifest(out / "manifest.jsonl") if not line["error"]]
        assert len(good) >= whole
        for line in good:
            Image.open(out / line["output"]).load()
    finished = {line["output"]: (out / line["output"]).stat().st_mtime_ns for line in good}
    assert call(capsys, photos, out, *CHEAP, "--resume")[0] == 1
    assert sorted(line["output"] for line in lines(out)) == sorted([*DONE, "bad_sharp.png"])
    assert written(out) == DONE
    assert all((out / name).stat().st_mtime_ns == at for name, at in finished.items())


def test_photograph_that_kills_its_process_is_given_up(photos, tmp_path, capsys):
    out = tmp_path / "out"
    for _ in range(batch.ATTEMPTS):
        assert start(KILLED, "writing", 1, "batch", photos, out, *CHEAP, "--resume").wait(120) == -signal.SIGKILL
    code, said, errors = call(capsys, photos, out, *CHEAP, "--resume")
    assert code == 1
    assert said[-1] == f"{out}: 4 done, 2 failed"
    assert "3 processes ended" in errors[0]
    assert "a.jpg" in errors[0]
    assert call(capsys, photos, out, *CHEAP, "--resume")[1][-1] == f"{out}: 1 done, 1 failed, 4 done before"


# ------------------------------------------------------------------------------------------------------------ Ray


def test_ray_is_optional(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, errors = call(capsys, photos, tmp_path / "out", *CHEAP, "--engine", "ray")
    assert code == 1
    assert "ircdeblur[cluster]" in errors[0]
    assert not (tmp_path / "out").exists()


needs_ray = pytest.mark.skipif(
    find_spec("ray") is None or find_spec("pyarrow") is None, reason="needs Ray Data, the extra cluster"
)


@needs_ray
def test_no_cluster_answers(photos, tmp_path, capsys):
    begin = time.monotonic()
    code, _, errors = call(capsys, photos, tmp_path / "out", *CHEAP, "--engine", "ray", "--address", "127.0.0.1:9")
    assert code == 1
    assert "no Ray cluster answers" in errors[-1]
    assert time.monotonic() - begin < 60


@needs_ray
def test_worker_with_other_weights(photos, tmp_path):
    file_job, _ = batch.file_job(batch.Deblurring(method="wiener"), tmp_path / "out", None, "_sharp")
    file_job.check()
    answer = cluster._Worker(batch.replace(file_job, settings="0123456789ab"))({"work": "[]"})
    assert "weights differ" in str(ImageFileError(*json.loads(answer["fault"])))


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif("CI" in os.environ, reason="a Ray that loses its processes on a busy machine takes pytest with it")
def test_ray_and_a_killed_worker(tmp_path, capsys):
    """One worker is killed by a photograph each time, and once more by us: nothing else is lost."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(12):
        write(photos / f"{number:02d}.png", number)
    (photos / "bad.png").touch()
    fatal = str(photos / "03.png")

    class Fatal(batch.Deblurring):
        def __call__(self, photo, index, progress):
            if str(photo.path) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(photo, index, progress)

    job = Fatal(method="wiener", consolidation="none", noise=0.01, device="cpu")
    file_job, settings = batch.file_job(job, out, None, "_sharp")
    plan = batch.plan_batch(photos, out)
    killed = []

    class Follow:
        """Kills a worker after the third photograph, or as soon as there is one."""

        def __call__(self, number, path):
            if number >= 3 and not killed:
                worker = int(lines(out)[-1]["worker"].rpartition(":")[2])
                # It may just have met the fatal photograph; then the next one will do.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)
            return lambda done, total: None

    report = cli.Report(quiet=False, debug=False)
    with batch.Batch(plan, out, file_job, settings, False, False) as begun:
        batch.run_batch(begun, cluster.RayEngine(workers=2), report, Follow())
    errors = [line for line in lines(out) if line["error"]]
    assert killed
    assert sorted(line["output"] for line in lines(out)) == sorted(work.output for work in plan.works)
    assert sorted(line["output"] for line in errors) == ["03_sharp.png", "bad_sharp.png"]
    assert "3 processes ended" in max(errors, key=lambda line: len(line["error"]))["error"]
    assert len({line["worker"] for line in lines(out)}) >= 3
    assert written(out) == [f"{n:02d}_sharp.png" for n in range(12) if n != 3]
    assert report.failed
    # What Ray could not do is done here.
    assert call(capsys, photos, out, *CHEAP, "--resume")[1][-1] == f"{out}: 1 done, 1 failed, 11 done before"
