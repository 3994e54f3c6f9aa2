"""Programs end with a one-sentence error after file system errors, and survive a closed or full output."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from healthgym.errors import ConfigError, StorageError
from healthgym.files import require_place
from healthgym.launch.programs import ended, require_utf8, steady_output

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def failing(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["job"])


def test_ctrl_c_is_a_sentence_with_a_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == (
        "stopped; no file is left half written. The same command starts again or resumes.\n"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("what and where"), "error: what and where\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: Cannot write a file: no space is left there. Free some space, or choose another path.\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/x"),
            "error: Cannot use /data/x: permission is denied. Ask its owner for the right (ls -l shows who "
            "has it).\n",
        ),
        (ConfigError(""), ""),
    ],
)
def test_errors_of_users_and_disks_are_sentences(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(failing(error)) == 1
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [ValueError("a mistake of ours"), KeyError("x"), OSError("no number")])
def test_our_own_mistakes_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        ended(failing(error))


def test_a_debugger_sees_every_exception() -> None:
    with pytest.raises(ConfigError):
        ended(failing(ConfigError("x")), debug=True)


def test_paths_that_are_not_utf8_are_refused() -> None:
    require_utf8(["données", "中文", "a b"])
    with pytest.raises(ConfigError, match=r"donn\\xe9es/p\.h5 is not valid UTF-8"):
        require_utf8(["plain", os.fsdecode(b"donn\xe9es/p.h5")])


@pytest.mark.parametrize("job", [*JOBS, "status"])
def test_every_program_refuses_such_a_path(job: str, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/donn\xe9es"
    os.mkdir(folder)  # noqa: PTH102 - a Path cannot be made of these bytes
    program = ["-m", "healthgym", "status"] if job == "status" else [str(ROOT / "jobs" / f"{job}.py")]
    wanted = {
        "audit_memory": ["--run-dir", "r", "--data", "d", "--out", "."],
        "compare": ["r", "--schema", "s", "--real", "r", "--out", "."],
        "evaluate": ["--schema", "s", "--real", "r", "--synthetic", "s", "--out", "."],
        "inspect_checkpoint": ["c.h5"],
        "pipeline": ["p.yaml"],
        "prepare": ["s.yaml", "--table", "t.csv", "--out", "p.h5"],
        "release": ["--run-dir", "r", "--out", "r.h5"],
        "status": ["."],
        "synthesize": ["--run-dir", "r", "--patients", "5", "--out", "."],
        "train": ["c.yaml", "--run-dir", "."],
    }[job]
    done = subprocess.run(
        [sys.executable, *program, *wanted], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: The path ")
    assert "is not valid UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_ends_nothing(tmp_path: Path) -> None:
    """More is printed than a pipe holds, and nothing reads it."""
    work = (
        "import sys; from healthgym.launch.programs import ended\n"
        "def work():\n"
        "    for _ in range(5000): print('x' * 80)\n"
        "    open(sys.argv[1], 'w').close(); return 7\n"
        "sys.exit(ended(work))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", work, str(tmp_path / "done")], stdout=writer, stderr=subprocess.PIPE,
        text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (7, "")
    assert (tmp_path / "done").exists()


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_under_the_log_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    with steady_output():
        print("lost", file=sys.stderr, flush=True)


def test_a_terminal_without_the_letter_shows_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with steady_output():
        print("Größe")
    assert raw.getvalue() == rb"Gr\xf6\xdfe" + b"\n"


# --- places --------------------------------------------------------------------------------------


def test_a_place_is_looked_at_and_nothing_is_left(tmp_path: Path) -> None:
    require_place(tmp_path / "new" / "report", folder=True)
    require_place(tmp_path / "new" / "p.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "folder", "message"),
    [
        ("file", True, r"file is a file; a folder is needed"),
        ("file/report", True, r"Cannot write .*file/report: a part of the path is a file"),
        (".", False, r"is a folder; give the name of a file in it"),
        ("x" * 300 + "/a", True, r"the name is longer than the file system allows"),
        ("/proc/report", True, r"Cannot write /proc/report: "),
    ],
)
def test_places_that_cannot_be_written_are_refused(
    tmp_path: Path, place: str, folder: bool, message: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=message):
        require_place(tmp_path / place, folder=folder)


def test_a_place_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(tmp_path)
    with pytest.raises(StorageError, match="no space is left there"):
        require_place(tmp_path, 2 * found.f_bavail * found.f_frsize, folder=True)

    def full(*_: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="your quota there is exceeded"):
        require_place(tmp_path, folder=True)
