"""A release's card shows titles unchanged, with any Markdown or HTML characters in them."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

import healthgym as hg
from healthgym.data.sequences import PreparedCohort
from healthgym.release.card import plain, remains
from healthgym.schema import Schema, Variable

MARKS = "\\`*_{}[]<>#|~$&!^"


@given(st.text(st.characters(codec="utf-8") | st.sampled_from(MARKS + "\n")))
def test_marks_are_escaped_and_nothing_is_lost(text: str) -> None:
    shown = plain(text)
    assert re.sub(r"\\(.)", r"\1", shown, flags=re.DOTALL) == " ".join(text.split())
    bare = re.sub(r"\\.", " ", shown, flags=re.DOTALL)
    assert not set(MARKS) & set(re.sub(r"(?<=[^\W_])_(?=[^\W_])", "", bare))
    assert "\n" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("art_hiv (v2), 10%", "art_hiv (v2), 10%"), ("a|b <i> $x$", r"a\|b \<i\> \$x\$")],
)
def test_plain_text_stays_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


RARE = Variable(name="rare", kind="real", missing="model", measured_flag="rare measured")
SCHEMA = Schema(name="rare", variables=(*tiny.SCHEMA.variables, RARE))


def prepared(folder: Path, least: int = 10, num_patients: int = 4) -> PreparedCohort:
    """Prepare a cohort of which so many patients have a value of 'rare'."""
    frame = tiny.table(40)
    frame["rare"] = np.where(frame["PatientID"] < num_patients, frame["x"] + 30, np.nan)
    return hg.prepare(frame, SCHEMA, folder / "p.h5", holdout=0, least_patients=least)


def disclosed(cohort: PreparedCohort, *without: str) -> list[str]:
    assert cohort.cells is not None
    cells = {name: value for name, value in cohort.cells.to_tree().items() if name not in without}
    checkpoint: Any = SimpleNamespace(cells=cells, schema=cohort.schema)
    return remains(checkpoint)


def test_a_variable_that_few_patients_have_is_named_at_preparation_and_on_the_card(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"fewer than 10 .*\(least_patients\) have a value of 'rare' \(4\): "
    ):
        cohort = prepared(tmp_path)
    pooled, few, *_ = disclosed(cohort)
    assert "each of several training patients (at least 10), " in pooled
    assert "FEWER TRAINING PATIENTS HAVE: 'rare' (4). Remove" in few


@pytest.mark.parametrize("least", [4, 12])
def test_the_card_tells_of_how_many_patients_a_piece_is(tmp_path: Path, least: int) -> None:
    cohort = prepared(tmp_path, least, num_patients=12)
    pooled, lengths, *_ = disclosed(cohort)
    assert ("(at least 4, BY --least-patients; 10 is usual)" if least == 4 else "(at least 12),") in pooled
    assert lengths.startswith("how many training patients have each length")


def test_the_card_of_a_system_of_version_0_1_0_does_not_know_it(tmp_path: Path) -> None:
    pooled, *_ = disclosed(prepared(tmp_path, num_patients=40), "least_patients")
    assert "(at least 10, unless it was prepared otherwise)" in pooled
