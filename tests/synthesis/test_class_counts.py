"""Groups that `--where` and `--shares` may ask for: those that at least ten training patients belong to."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from healthgym.data.class_counts import LENGTH, ClassCounts
from healthgym.data.prepare import prepare
from healthgym.data.stages import static_codes
from healthgym.errors import ConfigError
from healthgym.schema import Schema, Variable
from healthgym.storage.checkpoint import list_checkpoints
from healthgym.synthesis.cohort import SynthesisRequest, rehearse
from healthgym.synthesis.conditions import read_conditions, refuse_rare_groups
from healthgym.synthesis.source import open_source
from healthgym.training.run import train

SCHEMA = Schema(
    name="groups",
    variables=(
        Variable(name="x", kind="real"),
        Variable(name="drug", kind="categorical", classes={0: "A", 1: "B"}),
        Variable(name="sex", kind="binary", classes={0: "Male", 1: "Female"}, static=True),
        Variable(name="age", kind="categorical", classes={0: "young", 1: "old", 2: "very old"}, static=True),
    ),
)
# 10 men who are very old, 9 women; everybody else is young.
CODES_NS = np.array([[0, 2]] * 10 + [[1, 2]] * 9 + [[0, 0]] * 30 + [[1, 0]] * 30, np.uint8)
COUNTS = ClassCounts.of_patients(CODES_NS, ("sex", "age"))


def check(*where: str, shares: str = "") -> None:
    refuse_rare_groups(read_conditions(where, shares, SCHEMA), COUNTS, SCHEMA)


def test_as_many_patients_are_needed_as_the_cohort_was_prepared_with() -> None:
    conditions = read_conditions(("age=very old",), "", SCHEMA)
    refuse_rare_groups(conditions, COUNTS, SCHEMA, 19)
    with pytest.raises(ConfigError, match="fewer than 20 of the 79 training patients had age = very old"):
        refuse_rare_groups(conditions, COUNTS, SCHEMA, 20)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 3)), min_size=1),
    st.sets(st.integers(0, 2)),
    st.sets(st.integers(0, 3)),
)
def test_numbers_are_those_of_the_patients(
    patients: list[tuple[int, int, int]], second: set[int], third: set[int]
) -> None:
    counts = ClassCounts.of_patients(np.array(patients, np.uint8), ("a", "b", "c"))
    counts = ClassCounts.from_text(counts.to_text())
    assert counts.number_with({"b": second, "c": third}) == sum(
        b in second and c in third for _, b, c in patients
    )
    assert counts.number_with({}) == len(patients)


def test_no_static_variable() -> None:
    counts = ClassCounts.of_patients(np.zeros((7, 0), np.uint8), ())
    assert ClassCounts.from_text(counts.to_text()).number_with({}) == 7


def test_ten_patients_are_enough_and_nine_are_not() -> None:
    check("sex=Male", "age=very old")
    check("age=very old")
    with pytest.raises(
        ConfigError, match=r"fewer than 10 of the 79 training patients had sex = Female together with age"
    ):
        check("sex=Female", "age=very old")
    with pytest.raises(ConfigError, match="had age = old; synthetic patients would resemble individuals"):
        check("age=old")
    check("age=old", "age=young")


def test_without_conditions_a_small_cohort_is_no_group() -> None:
    few = ClassCounts.of_patients(np.zeros((7, 2), np.uint8), ("sex", "age"))
    assert refuse_rare_groups(read_conditions((), "", SCHEMA), few, SCHEMA)


def test_every_class_with_a_share_must_be_frequent() -> None:
    check(shares="sex=Male:0.1,Female:0.9")
    with pytest.raises(ConfigError, match="had age = very old together with sex = Female"):
        check("age=very old", shares="sex=Male:0.9,Female:0.1")
    check("age=very old", shares="sex=Male:1,Female:0")


def test_a_class_with_two_shares_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^--shares sex=.*: 'Female' has two shares; give one for each class"
    ):
        check(shares="sex=Female:0.3,Male:0.7,Female:0.3")


def test_a_run_knows_its_patients(tmp_path: Path) -> None:
    cohort = tiny.cohort(tmp_path)
    train(tmp_path / "run", tiny.config(tmp_path, "ar", training={"epochs": 1}))
    counts = open_source(list_checkpoints(tmp_path / "run" / "checkpoints")[-1]).class_counts
    codes_NS, names = static_codes(cohort.train, cohort.schema)
    assert counts is not None
    assert names == ["sex"]
    assert counts.number_with({"sex": {1}}) == (codes_NS[:, 0] == 1).sum() > 0


def people(path: Path) -> None:
    """Prepare women of 60 and more and men of up to 50; those of 30 to 39 have 2 timesteps, the others 3."""
    schema = Schema(
        name="people",
        variables=(
            Variable(name="x", kind="real"),
            Variable(name="sex", kind="binary", classes={0: "Male", 1: "Female"}, static=True),
            Variable(name="age", kind="real", static=True),
        ),
    )
    random = np.random.default_rng(0)
    sex = np.arange(240) % 2
    age = np.where(sex == 1, random.integers(60, 80, 240), random.integers(20, 51, 240))
    lengths = np.where((age >= 30) & (age < 40), 2, 3)
    table = pd.DataFrame({
        "PatientID": np.repeat(np.arange(240), lengths),
        "Timestep": np.concatenate([np.arange(length) for length in lengths]),
        "x": random.uniform(1, 9, lengths.sum()).round(1),
        "sex": np.repeat(sex, lengths),
        "age": np.repeat(age, lengths),
    })  # fmt: skip
    prepare(table, schema, path / "prepared.h5")


def test_groups_by_reals_and_lengths_are_counted_and_not_estimated(tmp_path: Path) -> None:
    """A system that was hardly trained makes women of any age and length."""
    people(tmp_path)
    train(tmp_path / "run", tiny.config(tmp_path, "ar", training={"epochs": 1}))

    def ask(*where: str, **more: object) -> None:
        values = {"run_dir": tmp_path / "run", "out": tmp_path / "out", "patients": 5, "where": where} | more
        rehearse(SynthesisRequest.model_validate(values))

    ask("sex=Female", "age=60..70")
    ask("sex=Male", "age=20..29", "age=40..50", timesteps=3)
    ask("sex=Male", timesteps=2)
    with pytest.raises(ConfigError, match=r"sex = Female together with age = 20\.\.50; synthetic patients"):
        ask("sex=Female", "age=20..50")
    with pytest.raises(ConfigError, match=r"sex = Female together with timesteps = 2; synthetic patients"):
        ask("sex=Female", timesteps=2)
    with pytest.raises(ConfigError, match=r"age = 20\.\.50 together with sex = Female; synthetic patients"):
        ask("age=20..50", shares="sex=Male:0.5,Female:0.5")
    with pytest.raises(ConfigError, match=r"'Male' has a share and is excluded by --where"):
        ask("sex=Female", shares="sex=Male:0.5,Female:0.5")
    counts = open_source(list_checkpoints(tmp_path / "run" / "checkpoints")[-1]).class_counts
    assert counts is not None
    assert counts.names == ("sex", "age", LENGTH)


def test_systems_without_conditions_count_classes_only(trained: Path) -> None:
    counts = open_source(list_checkpoints(trained / "v2" / "checkpoints")[-1]).class_counts
    assert counts is not None
    assert counts.names == ("sex",)
