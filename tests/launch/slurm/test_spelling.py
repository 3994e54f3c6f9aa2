"""Paths and settings that a batch script would misread are refused before a job is queued."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthgym.errors import ConfigError, LaunchError
from healthgym.launch.slurm.resources import SlurmSettings
from healthgym.launch.slurm.sbatch import make_executor
from healthgym.launch.slurm.spelling import require_log_folder
from healthgym.strict import parse

names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0") | st.sampled_from("%jtA:,'\"\\# \n$`!*[]~=;&|<>"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))


def script(folder: Path, shown: Path = Path("/data"), **settings: Any) -> str:
    return make_executor(parse(SlurmSettings, settings, "s.yaml"), "healthgym-x", folder, [shown]).text(1)


def script_or_refusal(*args: Any, **settings: Any) -> tuple[str, str]:
    try:
        return script(*args, **settings), ""
    except LaunchError as error:
        return "", str(error)


def sbatch_options(text: str) -> dict[str, str]:
    """Read the lines that begin with #SBATCH as sbatch does.

    Quotes of both kinds group, a backslash escapes within them too, an unquoted # begins a comment.
    Source: sbatch(1), and Slurm's src/sbatch/opt.c.
    """
    options = {}
    for line in text.split("\n"):
        if line.startswith("#SBATCH "):
            word, quote, rest = "", "", list(line.removeprefix("#SBATCH "))
            while rest:
                sign = rest.pop(0)
                if sign == "\\":
                    word += rest.pop(0)
                elif quote:
                    quote, word = ("", word) if sign == quote else (quote, word + sign)
                elif sign in "'\"":
                    quote = sign
                elif sign in " \t#":
                    break
                else:
                    word += sign
            name, _, value = word.partition("=")
            options[name] = value
    return options


@given(names)
def test_the_log_is_where_submitit_looks_for_it_or_the_folder_is_refused(name: str) -> None:
    folder = Path("/scratch") / name / "submissions"
    text, refusal = script_or_refusal(folder)
    assert bool(refusal) == bool(re.search(r"[%\\\x00-\x1f\x7f]", name))
    if refusal:
        assert str(folder) in refusal or repr(str(folder)) in refusal
        return
    assert sbatch_options(text)["--output"] == f"{folder}/%j_0_log.out"
    assert sbatch_options(text)["--error"] == f"{folder}/%j_0_log.err"
    command = next(line for line in text.split("\n") if line.startswith("srun "))
    words = shlex.split(command)
    assert words[words.index("--output") + 1] == f"{folder}/%j_%t_log.out"
    assert words[-1] == str(folder)


@given(names, st.sampled_from(["apptainer", "charliecloud", "pyxis"]))
def test_a_container_gets_each_folder_in_one_piece_or_it_is_refused(name: str, kind: str) -> None:
    shown = Path("/projects") / name
    container = {"kind": kind, "image": "/i/h.sif"}
    text, refusal = script_or_refusal(Path("/scratch/run"), shown, container=container)
    if refusal:
        assert refusal.endswith(("Choose a path without it.", "Rename it."))
        return
    words = shlex.split(next(line for line in text.split("\n") if line.startswith("srun ")))
    bind = f"{shown}:{shown}"
    if kind == "pyxis":
        mounts = next(word for word in words if word.startswith("--container-mounts="))
        assert bind in mounts.partition("=")[2].split(",")
        assert not set(" \t").intersection(bind)
    else:
        assert bind in words
        assert bind.count(":") == 1


@pytest.mark.parametrize(
    ("kind", "name", "sign"),
    [
        ("apptainer", "2024-01-01T12:00:00", "a colon"),
        ("apptainer", "a,b", "a comma"),
        ("apptainer", 'the "first"', "a double quote"),
        ("charliecloud", "12:00", "a colon"),
        ("pyxis", "a,b", "a comma"),
        ("pyxis", "run a", "a space"),
    ],
)
def test_the_refusal_names_folder_and_character(kind: str, name: str, sign: str) -> None:
    with pytest.raises(LaunchError, match=f"has {sign} in its path, at which {kind} would split it") as found:
        script(Path("/scratch/r"), Path("/data") / name, container={"kind": kind, "image": "/i"})
    assert name in str(found.value)


def test_without_a_container_such_folders_are_fine() -> None:
    script(Path('/scratch/12:00, the "first"/submissions'))


@pytest.mark.parametrize("name", ["100%", "%j", "a\\b", "a\nb", "a\tb"])
def test_a_log_folder_that_slurm_would_not_find_is_refused(name: str) -> None:
    with pytest.raises(LaunchError, match=r"Choose a path without it|Rename it"):
        script(Path("/scratch") / name)


def test_here_only_what_submitit_replaces_is_refused() -> None:
    require_log_folder(Path("/scratch/100%/a"), on_slurm=False)
    with pytest.raises(LaunchError, match="has %t in its path"):
        require_log_folder(Path("/scratch/50%test/a"), on_slurm=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"constraint": "a\n#SBATCH --uid=0"},
        {"exclude": "n1\nn2"},
        {"nodelist": "n\\1"},
        {"extra": {"comment": "two\nlines"}},
        {"mail": {"to": "a\\b@site.example"}},
        {"container": {"kind": "pyxis", "image": "a\nb"}},
    ],
)
def test_settings_that_break_a_line_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be one line without a backslash"):
        script(Path("/scratch/r"), **settings)


@pytest.mark.parametrize("bind", ["/a,/b", "/a:/b:ro:x", "$HOME:/home", "relative"])
def test_a_bind_is_one_absolute_folder(bind: str) -> None:
    with pytest.raises(ConfigError, match="each entry is one folder"):
        script(Path("/r"), container={"kind": "apptainer", "image": "/i", "binds": [bind]})


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc",), exclude_characters="\\"), min_size=1))
def test_extra_options_arrive_as_they_are(value: str) -> None:
    assert sbatch_options(script(Path("/r"), extra={"comment": value}))["--comment"] == value
