"""Errors of the Python functions name their arguments, not options of the command line."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import tiny

import healthgym as hg
from healthgym.api.wording import in_python, python_errors
from healthgym.errors import DivergenceError, HealthgymError


@pytest.fixture
def table() -> pd.DataFrame:
    return tiny.table(num_patients=60)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: hg.describe(f, patient="nix"), r"no column 'nix', which `patient` names"),
        (lambda f: hg.describe(f[["x"]]), r"Name it: `patient`\."),
        (lambda f: hg.prepare(f, hg.describe(f), holdout=1), r"^`holdout` 1: give the share"),
        (lambda f: hg.prepare("nix.csv", hg.describe(f)), r"^`table` nix\.csv: there is no such file"),
        (lambda _: hg.train("nix.h5"), r"prepare it first with hg\.prepare, or give its path by `data`\."),
        (lambda _: hg.sample("nix", 5), r"check `run`, or train it first with hg\.train\."),
        (lambda _: hg.sample("nix", 0), r"- n: must be greater than 0 \(given: 0\)"),
        (lambda _: hg.sample("nix", 5, checkpoint=cast(Any, "first")), r"^checkpoint 'first': expected"),
        (lambda f: hg.evaluate("nix.h5", f), r"give its path by `real`\."),
    ],
)  # fmt: skip
def test_arguments_are_named(
    call: Callable[[pd.DataFrame], Any],
    message: str,
    table: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(hg.HealthgymError, match=message) as raised:
        call(table)
    assert "--" not in str(raised.value)
    assert "healthgym " not in str(raised.value)


def test_other_words_are_kept() -> None:
    """Options that the function does not have, values and keys of settings are not translated."""
    message = "Give --workers 2 or --device cpu; the key run-dir--out and --out/x stay.\n  - seed: must be 0"
    assert in_python(message, {"workers": "workers", "out": "out"}) == message.replace(
        "--workers", "`workers`"
    )


def test_an_error_keeps_its_type_and_attributes() -> None:
    @python_errors(run_dir="run")
    def diverge() -> None:
        raise DivergenceError("Choose another --run-dir.", since=7)

    with pytest.raises(DivergenceError, match=r"^Choose another `run`\.$") as raised:
        diverge()
    assert raised.value.since == 7


def test_too_few_patients_to_learn_from_end_in_a_sentence(tmp_path: Path) -> None:
    schema = {
        "name": "few",
        "keys": {"patient": "id", "timestep": "t"},
        "variables": [{"name": "x", "kind": "real"}],
    }
    for number, said in (
        (1, "1 training patient: too few to set some"),
        (5, "There is nothing to learn: each"),
    ):
        table = pd.DataFrame({"id": range(number), "t": 0, "x": [n + 0.5 for n in range(number)]})
        table = pd.concat([table, table.assign(t=1, x=table["x"] + 0.25)])
        with warnings.catch_warnings(action="ignore"):
            cohort = hg.prepare(table, schema, tmp_path / f"{number}.h5", holdout=0, sort=True)
        with pytest.raises(HealthgymError, match=said):
            hg.train(cohort, "ar", tmp_path / f"run-{number}", settings={"training.epochs": 1})
