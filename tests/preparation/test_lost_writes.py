"""A disk that is full, permanently or for a moment, or that loses writes, never leads to wrong numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from full_disk import files_of_at_most
from tables import VARIABLES, small_schema, small_table

from healthgym.data import command
from healthgym.data.fitting.columns import ColumnFile
from healthgym.data.fitting.scratch import ScratchFile
from healthgym.data.prepare import SplitSettings, prepare
from healthgym.data.request import PrepareRequest
from healthgym.errors import StorageError
from healthgym.faults import sentence
from healthgym.files import atomic_path
from healthgym.storage import output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "small", "variables": VARIABLES}))
    small_table(2000, 4).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    "share", [0.0, 0.01, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0]
)
def test_prepare_on_a_full_disk_says_so_and_leaves_nothing(folder: Path, share: float) -> None:
    command.run(
        PrepareRequest(schema_path=folder / "s.yaml", table=folder / "t.csv", out=folder / "whole.h5")
    )
    size = int(share * (folder / "whole.h5").stat().st_size)
    out = folder / "new" / "p.h5"
    if share == 1:
        with files_of_at_most(size):
            command.run(PrepareRequest(schema_path=folder / "s.yaml", table=folder / "t.csv", out=out))
        assert out.read_bytes() == (folder / "whole.h5").read_bytes()
        return
    with (
        files_of_at_most(size),
        pytest.raises(StorageError, match=r"Cannot write .*p\.h5: the file would be larger"),
    ):
        command.run(PrepareRequest(schema_path=folder / "s.yaml", table=folder / "t.csv", out=out))
    assert not list(out.parent.iterdir())


def test_tables_on_a_full_disk(folder: Path) -> None:
    command.run(PrepareRequest(schema_path=folder / "s.yaml", table=folder / "t.csv", out=folder / "p.h5"))
    with (
        files_of_at_most((folder / "t.csv").stat().st_size // 2),
        pytest.raises(StorageError, match=r"Cannot write .*train\.csv: the file would be larger"),
    ):
        command.run(
            PrepareRequest(
                schema_path=folder / "s.yaml",
                table=folder / "t.csv",
                out=folder / "p.h5",
                tables=folder / "tables",
            )
        )
    assert [path.name for path in (folder / "tables").iterdir()] == []


@pytest.mark.parametrize("size", [0, 1 << 10, 1 << 14, 1 << 15])
def test_a_disk_that_is_full_for_a_moment_changes_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """There is no room while the columns are written, and room again when they are read."""
    append = ColumnFile.append

    def append_where_it_is_full(file: ColumnFile, values: np.ndarray[Any, Any]) -> None:
        with files_of_at_most(size):
            append(file, values)

    monkeypatch.setattr(ColumnFile, "append", append_where_it_is_full)
    with pytest.raises(OSError, match="File too large"):
        prepare(small_table(2000, 4), small_schema(), tmp_path / "p.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-8], r"has 792 bytes of 800"),
        (lambda content: content[:400], r"has 400 bytes of 800"),
        (lambda _: b"", r"has 0 bytes of 800"),
        (lambda content: content + bytes(8), r"has 808 bytes of 800"),
        (lambda content: content[:96] + bytes(8) + content[104:], r"has other bytes than were written"),
    ],
)
def test_a_scratch_file_that_lost_bytes_is_not_read(tmp_path: Path, damage: object, message: str) -> None:
    assert callable(damage)
    file = ScratchFile(tmp_path / "reals", np.float64)
    for part in np.split(np.arange(1.0, 101.0), [30, 31]):
        file.append(part)
    (tmp_path / "reals").write_bytes(damage((tmp_path / "reals").read_bytes()))
    for read in (lambda: file.take(np.array([5])), lambda: list(file.blocks(10))):
        with pytest.raises(StorageError, match=rf"scratch file .*reals {message}.*Free some space"):
            read()


def test_a_prepared_cohort_that_lost_a_write_is_not_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One write of HDF5's, of rows or of the file's structure, is answered as done and never gets there."""
    frame, split = small_table(200, 4), SplitSettings(0.3, 1)
    expected = prepare(frame, small_schema(), tmp_path / "whole.h5", split).fingerprint
    write, numbers = output.Output.write, iter(range(0))

    def lose(self: output.Output, content: memoryview) -> int:
        if next(numbers) != lost:
            return write(self, content)
        self.seek(len(content), 1)
        return len(content)

    monkeypatch.setattr(output.Output, "write", lose)
    refused = num_writes = 0
    lost = -1
    while lost < num_writes:
        numbers = iter(range(1000))
        try:
            found = prepare(frame, small_schema(), tmp_path / "p.h5", split).fingerprint
        except StorageError as error:
            refused += "Cannot write" in str(error) or "is damaged" in str(error)
            assert not (tmp_path / "p.h5").exists()
        else:
            assert found == expected, f"write {lost}"
        num_writes = max(num_writes, next(numbers))
        lost += 1
        (tmp_path / "p.h5").unlink(missing_ok=True)
    assert refused > 0.8 * num_writes, "but for writes of zeros, and of what is written again"


def test_a_write_without_room_names_the_file(tmp_path: Path) -> None:
    with (
        files_of_at_most(10),
        pytest.raises(OSError, match=r"report\.json") as caught,
        atomic_path(tmp_path / "report.json") as beside,
        beside.open("wb") as file,
    ):
        file.write(bytes(20))
    assert sentence(caught.value) == (
        f"Cannot write {tmp_path / 'report.json'}: the file would be larger than the limit. Raise the "
        f"limit (ulimit -f), or choose another path."
    )
