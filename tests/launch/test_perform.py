"""Exit statuses and records of a job in this process."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from does import Does

from healthgym import stopping
from healthgym.errors import ConfigError, FencedError
from healthgym.launch import perform as module
from healthgym.launch import records
from healthgym.launch.perform import Outcome, export_ranks, perform


def fails(error: BaseException) -> Callable[[], Outcome]:
    def fail() -> Outcome:
        raise error

    return fail


def state(folder: Path) -> dict[str, Any]:
    [path] = folder.glob("state-*.json")
    said: dict[str, Any] = json.loads(path.read_text())
    return said


@pytest.fixture(autouse=True)
def _no_flag() -> None:
    stopping.clear()


@pytest.mark.parametrize(
    ("what", "status", "word"),
    [
        (lambda: Outcome(True, "done"), 0, "finished"),
        (lambda: Outcome(False, "saved"), 85, "interrupted"),
        (fails(FencedError("newer")), 86, "fenced"),
        (fails(ConfigError("bad key")), 1, "failed"),
        (fails(ZeroDivisionError("oh")), 1, "failed"),
        (fails(KeyboardInterrupt()), 130, "failed"),
    ],
)
def test_exit_status_and_record(tmp_path: Path, what: Callable[[], Outcome], status: int, word: str) -> None:
    assert perform(Does(what), tmp_path) == status
    assert state(tmp_path)["state"] == word


def test_users_errors_come_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    perform(Does(fails(ConfigError("the key x is wrong"))), None)
    assert capsys.readouterr().err == "error: the key x is wrong\n"
    perform(Does(fails(ZeroDivisionError("ours"))), None)
    assert "Traceback" in capsys.readouterr().err


def test_a_debugger_gets_the_exception() -> None:
    with pytest.raises(ConfigError):
        perform(Does(fails(ConfigError("x"))), None, plain_errors=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_signals_only_raise_the_flag(number: signal.Signals) -> None:
    def work() -> Outcome:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        return Outcome(stopping.requested() != number.name, "")

    before = signal.getsignal(number)
    assert perform(Does(work), None) == stopping.INTERRUPTED
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait() -> None:
    def work() -> Outcome:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return Outcome(True, "")

    assert perform(Does(work), None) == 130


def test_work_that_saves_nothing_ignores_warnings_and_dies_of_sigterm() -> None:
    def work() -> Outcome:
        os.kill(os.getpid(), signal.SIGUSR2)
        return Outcome(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "")

    assert perform(Does(work, saves=False), None) == 0


def test_an_orderly_end_forgives_crashes(tmp_path: Path) -> None:
    crashes = tmp_path / f"crashes-{records.job_number(os.environ)}"
    crashes.write_text("life 0\n")
    perform(Does(lambda: Outcome(False, "")), tmp_path)
    assert not crashes.exists()


def test_only_rank_0_asks_for_the_requeue_and_keeps_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "export_ranks", lambda environment: 1)
    assert perform(Does(lambda: Outcome(False, "")), tmp_path) == 0
    assert perform(Does(fails(ConfigError("x"))), tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_ranks_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    step = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "70001",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
        "HEALTHGYM_FIRST_NODE": "no-such-node.invalid",
    }
    assert export_ranks(step) == 3
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"]) == ("3", "4", "1")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("10.0.0.7", "30001")
    export_ranks(step | {"HEALTHGYM_FIRST_NODE": "localhost"})
    assert os.environ["MASTER_ADDR"] == "localhost"
    assert export_ranks({"RANK": "2"}) == 2
    assert export_ranks({}) == 0


@pytest.mark.parametrize(("seen", "shown"), [("all", None), ("", ""), ("2,3", "2,3")])
def test_gpus_hidden_by_the_local_executor_are_shown_again(
    monkeypatch: pytest.MonkeyPatch, seen: str, shown: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv(module.VISIBLE_GPUS, seen)
    module.show_gpus()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == shown
    assert module.VISIBLE_GPUS not in os.environ
