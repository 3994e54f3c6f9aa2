"""Conditions as users give them: alternatives, contradictions, and what patients cannot be chosen by."""

from pathlib import Path

import pytest

from healthgym.errors import ConfigError, HealthgymError
from healthgym.schema import Schema, Variable
from healthgym.schema.timing import FollowUp
from healthgym.storage.checkpoint import list_checkpoints
from healthgym.synthesis.cohort import SynthesisRequest, rehearse, synthesize
from healthgym.synthesis.conditions import read_conditions
from healthgym.synthesis.source import open_source

SCHEMA = Schema(
    name="conditions",
    timestep_unit="hour",
    variables=(
        Variable(name="x", kind="real"),
        Variable(name="sex", kind="binary", classes={0: "Male", 1: "Female"}, static=True),
        Variable(name="age", kind="real", static=True),
        Variable(name="status", kind="binary", classes={0: "censored", 1: "dead"}, static=True),
        Variable(name="end", kind="real", static=True),
    ),
    follow_up=FollowUp(time="end", event="status", unit="hour"),
)


def test_several_ranges_of_a_variable_are_alternatives() -> None:
    where = ("age=30..40", "age=60", "timesteps=3..5", "timesteps=8")
    conditions = read_conditions(where, "", SCHEMA)
    assert conditions.reals == {1: ((30.0, 40.0), (60.0, 60.0))}
    assert conditions.timesteps == ((3, 5), (8, 8))


def test_a_range_without_a_whole_number_of_timesteps_is_refused() -> None:
    assert read_conditions(("timesteps=2.5..4.5",), "", SCHEMA).timesteps == ((3, 4),)
    with pytest.raises(
        ConfigError, match=r"--where timesteps=2\.2\.\.2\.8: expected a whole number of timest"
    ):
        read_conditions(("timesteps=2.2..2.8",), "", SCHEMA)
    with pytest.raises(ConfigError, match=r"--where timesteps=1\.\.1e999: expected a number or a range"):
        read_conditions(("timesteps=1..1e999",), "", SCHEMA)


def test_patients_cannot_be_chosen_by_their_time_of_follow_up() -> None:
    with pytest.raises(
        ConfigError, match=r"^--where end: the time of follow-up is known only after .* select"
    ):
        read_conditions(("end=100..200",), "", SCHEMA)
    with pytest.raises(ConfigError, match=r"by what is static: 'sex', 'age', 'status', and by 'timesteps'"):
        read_conditions(("x=1",), "", SCHEMA)


@pytest.mark.parametrize(
    ("system", "may"),
    [
        ("ar", "system.temperature may be set"),
        ("v3", "system.guardrail.kind, .*, system.start may be set"),
        ("v1", "this system has no settings of sampling"),
    ],
)
def test_settings_that_may_be_set_are_those_of_the_system(trained: Path, system: str, may: str) -> None:
    source = open_source(list_checkpoints(trained / system / "checkpoints")[0])
    with pytest.raises(ConfigError, match=rf"- training.seed: 5 -> 6\nLeave these out; {may}.") as raised:
        source.build("cpu", ("training.seed=6",))
    assert ("guardrail" in str(raised.value)) == (system == "v3")


@pytest.mark.parametrize(
    ("system", "timesteps", "where", "message"),
    [
        ("ar", 3, ("timesteps=4..5", "timesteps=2"), r"--timesteps 3 contradicts .*=4\.\.5 or 2: no patient"),
        ("ar", 50, (), r"at most 6 timesteps; 50 are asked for"),
        ("v2.5", 50, (), r"num_positions"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_before_it_is_begun(
    trained: Path, tmp_path: Path, system: str, timesteps: int, where: tuple[str, ...], message: str
) -> None:
    request = SynthesisRequest(
        run_dir=trained / system, out=tmp_path / "out", patients=5, timesteps=timesteps, where=where
    )
    for check in (rehearse, synthesize):
        with pytest.raises(HealthgymError, match=message):
            check(request)
    assert not (tmp_path / "out").exists()
