"""`healthgym COMMAND`: every command exists, and shipped files are found from any folder."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from healthgym import shipped
from healthgym.commands.main import COMMANDS, main
from healthgym.errors import ConfigError
from healthgym.launch.programs import ENDED

ROOT = Path(__file__).parents[2]


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-m", "healthgym", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"describe"}))
def test_every_command_says_how_it_is_used(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: healthgym {command} ")


def test_every_file_in_jobs_is_one_of_the_commands() -> None:
    names = {"audit_memory": "audit", "inspect_checkpoint": "inspect"}
    jobs = {names.get(path.stem, path.stem) for path in (ROOT / "jobs").glob("*.py")}
    assert jobs == set(COMMANDS) - {"describe", "status"}
    for path in (ROOT / "jobs").glob("*.py"):
        name = names.get(path.stem, path.stem)
        assert f"from healthgym.commands.{name} import main" in path.read_text()
        assert callable(import_module(f"healthgym.commands.{name}").main)


def test_without_a_command_the_list_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert "85  stopped and saved" in printed
    assert main(["--version"]) == 0
    assert main(["trian"]) == 2
    assert "no command 'trian' (did you mean 'train'?)" in capsys.readouterr().err


def test_ctrl_c_while_a_command_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("healthgym.commands.main.import_module", interrupted)
    assert main(["prepare"]) == ENDED
    assert capsys.readouterr().err.startswith("stopped; ")


def test_what_is_shipped_goes_by_name_and_files_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.settings(Path("ar")).read_text() == (ROOT / "configs" / "ar.yaml").read_text()
    assert shipped.settings(Path("v2.5")).name == "v2_5.yaml"
    assert shipped.schema(Path("art_hiv")).parent.name == "schemas"
    assert shipped.settings(Path("configs/ar.yaml")).is_file()  # as the README has it, from any folder
    assert shipped.settings(Path("mine/ar.yaml")) == Path("mine/ar.yaml")
    (tmp_path / "ar").mkdir()  # a run folder, say
    assert shipped.settings(Path("ar")).is_file()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ar.yaml").write_text("system: ar\n")
    assert shipped.settings(Path("configs/ar.yaml")) == Path("configs/ar.yaml")
    with pytest.raises(
        ConfigError, match=r"'art_hif' is not a file.*did you mean 'art_hiv'\?.*it ships art_hiv"
    ):
        shipped.schema(Path("art_hif"))


def test_a_preset_and_a_schema_are_found_from_any_folder(tmp_path: Path) -> None:
    words = ["--dataset", "simulated_art_hiv", "--max-patients", "40", "--out", "p.h5"]
    assert run("prepare", "art_hiv", *words, folder=tmp_path).returncode == 0
    said = run("train", "ar", "--data", "p.h5", "--dry-run", folder=tmp_path)
    assert (said.returncode, said.stdout) == (
        0,
        f"Would run train for {tmp_path}/runs/ar on this machine (here). Nothing was started.\n",
    )
