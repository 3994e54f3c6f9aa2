"""Records of submissions: private, new for each submission, and of the newest start of a job."""

import os
import types
from pathlib import Path

import pytest

from healthgym import environment as scheduled
from healthgym.distributed import identity
from healthgym.errors import LaunchError
from healthgym.launch import records


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def users(monkeypatch: pytest.MonkeyPatch, group: str, members: list[str], primary: bool = True) -> None:
    """Let this user be ann, and each group have this name and these members, ann's primary one or not."""
    number = os.getgid() if primary else os.getgid() + 1
    ann = types.SimpleNamespace(pw_name="ann", pw_gid=number)
    monkeypatch.setattr(records.pwd, "getpwuid", lambda uid: ann)
    found = types.SimpleNamespace(gr_name=group, gr_mem=members)
    monkeypatch.setattr(records.grp, "getgrgid", lambda gid: found)


def test_a_submission_folder_is_new_and_private(home: Path) -> None:
    first, second = records.new_submission(home / "run"), records.new_submission(home / "run")
    assert first != second
    for folder in (first, first.parent, home / "run"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_beside_a_file(home: Path) -> None:
    folder = records.new_submission(home / "data" / "prepared.h5")
    assert folder.parent == home / "data" / "prepared.h5.submissions"


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_a_folder_that_others_write_to_is_refused(
    home: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    users(monkeypatch, "lab", [])
    (home / "run").mkdir()
    (home / "run").chmod(mode)
    with pytest.raises(LaunchError, match=r"can be written by other users \(mode .*chmod go-w"):
        records.new_submission(home / "run")


@pytest.mark.parametrize(
    ("name", "members", "primary", "private"),
    [
        ("ann", [], True, True),
        ("ann", ["ann"], True, True),
        ("ann", ["ann", "bob"], True, False),
        ("lab", [], True, False),
        ("ann", [], False, False),
    ],
)
def test_a_folder_that_the_user_s_private_group_writes_to_is_private(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, members: list[str], primary: bool, private: bool
) -> None:
    users(monkeypatch, name, members, primary)
    (home / "run").mkdir()
    (home / "run").chmod(0o770)
    if private:
        assert records.new_submission(home / "run").is_dir()
        return
    with pytest.raises(LaunchError, match=r"can be written by other users \(mode 770"):
        records.new_submission(home / "run")


def test_a_world_writable_folder_above_is_refused(home: Path) -> None:
    (home / "open" / "run").mkdir(parents=True)
    (home / "open").chmod(0o777)
    (home / "open" / "run").chmod(0o700)
    with pytest.raises(LaunchError, match="can be written by everybody"):
        records.new_submission(home / "open" / "run")


def test_no_permission(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(LaunchError, match=r"Cannot make a submission folder .* Permission denied"):
        records.new_submission(home / "run")


def test_no_place_to_write(home: Path) -> None:
    (home / "run").write_text("a file")
    with pytest.raises(LaunchError, match=r"Cannot make a submission folder .* Not a directory"):
        records.new_submission(home / "run")


def test_an_older_life_keeps_silent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def live(number: int) -> None:
        me = identity.Identity("slurm:c:7", number, "t", "host", 1)
        monkeypatch.setattr(identity, "mine", lambda: me)

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    live(1)
    records.write_state(home, "running")
    live(0)
    records.write_state(home, "finished", "by the old one")
    assert records.states(home)["7"]["state"] == "running"
    live(2)
    records.write_state(home, "running")
    assert records.states(home)["7"]["life"] == 2


@pytest.mark.parametrize(
    ("environment", "job", "life", "number"),
    [
        ({}, "", 0, "local-PID"),
        ({"SUBMITIT_LOCAL_JOB_ID": "31"}, "", 0, "local-31"),
        ({"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "c"}, "slurm:c:12", 0, "12"),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "3"}, "slurm::12", 3, "12"),
        (
            {"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"},
            "slurm::12_2",
            0,
            "12_2",
        ),
    ],
)
def test_numbers(environment: dict[str, str], job: str, life: int, number: str) -> None:
    assert (scheduled.job(environment), scheduled.life(environment)) == (job, life)
    assert records.job_number(environment) == number.replace("PID", str(os.getpid()))


def test_outlived() -> None:
    me = identity.Identity("slurm:c:7", 1, "mine", "host", 1)
    assert me.outlived_by({"job": "slurm:c:7", "life": 2})
    assert not me.outlived_by({"job": "slurm:c:7", "life": 1})
    assert not me.outlived_by({"job": "slurm:c:8", "life": 2})
    assert not identity.Identity("", 0, "mine", "host", 1).outlived_by({"job": "", "life": 2})


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x80"])
def test_a_torn_record_is_no_record(home: Path, text: str) -> None:
    path = home / "x.json"
    path.write_bytes(text.encode("latin-1"))
    assert records.read_json(path) == {}
