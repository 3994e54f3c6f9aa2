"""Errors of the file system: each has its message, transient ones are retried, none is called damage."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from healthgym import faults
from healthgym.errors import CohortError, StorageError, UnreadableError
from healthgym.files import read_text, write_text
from healthgym.storage import tree
from healthgym.storage.checkpoint import newest_checkpoint
from healthgym.storage.shards import ShardRecord, read_receipt, receipt_path
from healthgym.storage.tree import read_tree, verify_seal, write_tree


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    write_tree(tmp_path / "x.h5", {"a": np.arange(3)}, "thing", 1)
    return tmp_path / "x.h5"


def failing(call: Callable[..., Any], error: Exception, times: int) -> Callable[..., Any]:
    """Return `call`, which raises an error the first few times."""
    left = [times]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return call(*args, **kwargs)

    return wrapped


def test_every_cause_is_a_sentence_with_a_remedy() -> None:
    errors = [OSError(number, os.strerror(number)) for number in errno.errorcode]
    known = [error for error in errors if faults.cause_of(error)]
    assert len(known) > 25
    for error in known:
        said = faults.sentence(error, "/data/x.h5", "write")
        assert said is not None
        assert said.startswith("Cannot write /data/x.h5: ")
        assert said.endswith(".")
        assert ".." not in said
        assert said.count(". ") == 1


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError("Unable to synchronously open file (unable to lock file, errno = 37)"), errno.ENOLCK),
        (RuntimeError("Can't decrement id ref count (unable to close file, errno = 28, ...)"), errno.ENOSPC),
        (OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"), errno.ENOSPC),
        (OSError(errno.EIO, "Input/output error"), errno.EIO),
    ],
)
def test_numbers_inside_the_texts_of_hdf5_and_arrow_are_found(error: Exception, number: int) -> None:
    assert faults.cause_of(error) is faults.cause_of(OSError(number, "")) is not None


@pytest.mark.parametrize(
    "error", [ValueError("bad header"), OSError("file signature not found"), KeyError(5)]
)
def test_what_is_no_refusal_of_the_system_is_none(error: Exception) -> None:
    assert faults.cause_of(error) is None


@pytest.fixture
def held(sealed: Path) -> Iterator[Path]:
    """A file that another program has locked."""
    with sealed.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield sealed


def test_our_files_are_read_without_locks(held: Path) -> None:
    with pytest.raises(OSError, match="lock"):
        h5py.File(held, "r", locking=True)
    assert read_tree(held, "thing", (1,))["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT])
def test_a_passing_error_of_reading_is_tried_again(
    sealed: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = failing(tree.sha256_of, OSError(number, os.strerror(number)), times=3)
    monkeypatch.setattr(tree, "sha256_of", wrapped)
    verify_seal(sealed)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"note: reading {sealed}: ")
    assert said[1].endswith("it works again")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOLCK, errno.ESTALE])
def test_what_the_system_refuses_is_not_called_damaged(
    sealed: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = failing(tree.sha256_of, OSError(number, os.strerror(number)), times=10**6)
    monkeypatch.setattr(tree, "sha256_of", wrapped)
    with pytest.raises(UnreadableError, match=f"Cannot read {sealed}: ") as found:
        verify_seal(sealed)
    assert "damaged" not in str(found.value)


def test_a_passing_error_of_writing_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = failing(os.fsync, OSError(errno.EIO, "Input/output error"), times=2)
    monkeypatch.setattr(os, "fsync", wrapped)
    write_text(tmp_path / "x.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
    assert read_text(tmp_path / "x.txt") == "whole"


def test_a_full_disk_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = failing(os.fsync, OSError(errno.ENOSPC, "No space left on device"), times=1)
    monkeypatch.setattr(os, "fsync", wrapped)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "x.txt", "whole")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.fsync

    def only_files(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        whole(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    write_text(tmp_path / "x.txt", "whole")
    assert read_text(tmp_path / "x.txt") == "whole"


def test_an_unreadable_checkpoint_is_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that went on from an older one would set a sound checkpoint aside as damaged."""
    write_tree(tmp_path / "step-000000002.h5", {}, "checkpoint", 1)
    monkeypatch.setattr(
        tree, "sha256_of", failing(tree.sha256_of, PermissionError(errno.EACCES, "Permission denied"), 10**6)
    )
    with pytest.raises(UnreadableError, match=r"step-000000002\.h5: permission is denied"):
        newest_checkpoint(tmp_path)


def test_an_unreadable_shard_is_neither_missing_nor_altered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "shard-00000.h5").write_bytes(b"12345")
    record = ShardRecord(file="shards/shard-00000.h5", bytes=5, sha256="0" * 64, patients=1, rows=1)
    assert not record.agrees_with(tmp_path)
    monkeypatch.setattr(Path, "open", failing(Path.open, OSError(errno.EIO, "Input/output error"), 10**6))
    with pytest.raises(UnreadableError, match="input/output error"):
        record.agrees_with(tmp_path)


def test_an_unreadable_receipt_is_not_an_absent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_receipt(tmp_path, 0, "plan", 1) is None
    receipt_path(tmp_path, 0).parent.mkdir()
    receipt_path(tmp_path, 0).write_text("{}")
    assert read_receipt(tmp_path, 0, "plan", 1) is None
    monkeypatch.setattr(Path, "read_text", failing(Path.read_text, PermissionError(13, "no"), 10**6))
    with pytest.raises(UnreadableError, match="permission is denied"):
        read_receipt(tmp_path, 0, "plan", 1)


def test_an_absent_file_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no such file") as found:
        verify_seal(tmp_path / "none.h5")
    assert not isinstance(found.value, UnreadableError)


def test_refused_names_the_path_and_keeps_the_kind(tmp_path: Path) -> None:
    with (
        pytest.raises(CohortError, match=f"Cannot write {tmp_path}: no space is left there. Free some space"),
        faults.refused(tmp_path, "write", CohortError),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
