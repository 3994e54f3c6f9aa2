"""Who equals a training patient by chance: patients of few values may, and only they."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from healthgym.evaluation.build import compare
from healthgym.evaluation.result import Result, Verdict
from healthgym.evaluation.sections import privacy
from healthgym.evaluation.settings import load_report_config
from healthgym.evaluation.sources import source_of
from healthgym.evaluation.statistics.attacks.chance import coincidences, copied_by_group
from healthgym.evaluation.statistics.hashes import groups_of, hash_patients
from healthgym.evaluation.statistics.panel import Panel, join
from healthgym.schema import Schema

SCHEMA = Schema.model_validate(
    {
        "name": "visits",
        "variables": [
            {"name": "index", "kind": "real"},
            {"name": "dose", "kind": "real"},
            {"name": "dead", "kind": "binary", "static": True, "classes": {0: "no", 1: "yes"}},
        ],
    }
)
LEVELS, MOST_VISITS = 100, 8
CHANCE = 1 / (LEVELS * LEVELS * 2)  # that two patients of one visit are equal


def visits(num_patients: int, seed: int, lengths: NDArray[np.int64] | None = None) -> Panel:
    """Return patients whose values are drawn from `LEVELS` numbers, independently; a third have one visit."""
    rng = np.random.default_rng(seed)
    if lengths is None:
        lengths = np.where(rng.random(num_patients) < 1 / 3, 1, MOST_VISITS)
    reals = rng.integers(0, LEVELS, (num_patients, MOST_VISITS, 2)).astype(float)
    codes = np.repeat(rng.integers(0, 2, (num_patients, 1, 1)), MOST_VISITS, axis=1).astype(np.int16)
    present = np.arange(MOST_VISITS)[None, :] < lengths[:, None]
    reals[~present], codes[~present] = np.nan, -1
    return Panel(SCHEMA, reals, codes, lengths)


def judged(train: Panel, holdout: Panel | None, synthetic: Panel, key: str = "privacy.copies") -> Result:
    config = load_report_config(Path(__file__).parents[2] / "configs" / "report.yaml", ("num_splits=4",))
    sources = (source_of(side, "x") if side else None for side in (train, holdout, synthetic))
    comparison = compare(train.schema, config, *sources)  # type: ignore[arg-type]
    found = {result.key: result for result in privacy.section(comparison).results}
    return found[key]


@pytest.fixture(scope="module")
def train() -> Panel:
    return visits(600, 1)


@pytest.fixture(scope="module")
def holdout(train: Panel) -> Panel:
    """Return a holdout so small that nobody in it equals a training patient."""
    small = visits(40, 2)
    assert not np.isin(hash_patients(small), hash_patients(train)).any()
    return small


def with_copies(num_patients: int, copied: Panel) -> Panel:
    """Return some training patients among patients of seven visits, whom none of them equals."""
    others = num_patients - copied.num_patients
    return join([visits(others, 3, np.full(others, MOST_VISITS - 1)), copied])


def of_length(panel: Panel, length: int, count: int) -> Panel:
    return panel.take(np.flatnonzero(panel.lengths_N == length)[:count])


@pytest.mark.parametrize("unseen", [True, False])
def test_one_visit_may_be_repeated_by_chance(train: Panel, holdout: Panel, unseen: bool) -> None:
    found = judged(train, holdout if unseen else None, with_copies(500, of_length(train, 1, 1)))
    assert (found.value, found.verdict) == (1, Verdict.PASS)
    assert "no more than chance makes" in found.finding


def test_many_repeated_visits_are_no_chance(train: Panel, holdout: Panel) -> None:
    found = judged(train, holdout, with_copies(500, of_length(train, 1, 30)))
    assert (found.value, found.verdict) == (30, Verdict.FAIL)


def test_one_repeated_long_record_is_no_chance_in_a_cohort_of_any_size(train: Panel, holdout: Panel) -> None:
    """A cohort ten times as large as the holdout was allowed one copy, of whomever."""
    found = judged(train, holdout, with_copies(2000, of_length(train, MOST_VISITS, 1)))
    assert (found.value, found.verdict) == (1, Verdict.FAIL)


def test_the_rate_is_that_of_independent_variables() -> None:
    train, holdout = visits(3000, 4), visits(1000, 5)
    one_visit = int((train.lengths_N == 1).sum())
    expected = one_visit / 3 * CHANCE  # a third of outsiders have one visit
    for unseen in (holdout, None):
        assert coincidences(train, unseen).rate_G.sum() == pytest.approx(expected, rel=0.25)
    sampled = train.take(np.arange(0, 3000, 2))
    assert coincidences(sampled, None, 2.0).rate_G.sum() == pytest.approx(expected, rel=0.35)


def test_honest_cohorts_stay_below_the_limit(train: Panel, holdout: Panel) -> None:
    chance, hashes, groups = coincidences(train, holdout), hash_patients(train), groups_of(train)
    exceed = [
        bool(
            (copied_by_group(hash_patients(visits(1000, seed)), hashes, groups) > chance.at_most(1000)).any()
        )
        for seed in range(100, 160)
    ]
    assert sum(exceed) <= 3


def test_a_person_who_stands_in_the_table_twice_excuses_no_copy(train: Panel, holdout: Panel) -> None:
    long = of_length(train, MOST_VISITS, 2)
    other = Panel(
        SCHEMA, long.reals_NTR, np.where(long.codes_NTK < 0, -1, 1 - long.codes_NTK), long.lengths_N
    )
    for twice in (long, other):
        found = judged(join([train, twice]), holdout, with_copies(500, of_length(train, MOST_VISITS, 1)))
        assert found.verdict is Verdict.FAIL


def test_groups_count_what_is_recorded_anew() -> None:
    panel = visits(4, 0, np.array([1, 1, 8, 8]))
    carried = panel.reals_NTR.copy()
    carried[3] = carried[3, :1]
    assert groups_of(Panel(SCHEMA, carried, panel.codes_NTK, panel.lengths_N)).tolist() == [2, 2, 5, 2]


# --- near copies ---------------------------------------------------------------------------------------

DAYS = Schema.model_validate(
    {
        "name": "days",
        "variables": [
            {"name": "score", "kind": "real"},
            {"name": "dose", "kind": "real"},
            {"name": "age", "kind": "real", "static": True},
            {"name": "sex", "kind": "binary", "static": True, "classes": {0: "F", 1: "M"}},
            {"name": "pain", "kind": "binary", "classes": {0: "no", 1: "yes"}},
        ],
    }
)


def days(seed: int, num_patients: int = 150, fewest: int = 1) -> Panel:
    """Return patients of up to 8 timesteps: a score that wanders, doses, pain, and who they are."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(fewest, MOST_VISITS + 1, num_patients)
    shape = (num_patients, MOST_VISITS)
    score = (5 + 0.3 * rng.normal(size=shape).cumsum(1)).round(1)
    age = np.repeat(rng.normal(50, 10, (num_patients, 1)).round(0), MOST_VISITS, 1)
    reals = np.stack([score, rng.choice([0.0, 1.0, 2.0], shape), age], -1)
    sex = np.repeat(rng.integers(0, 2, (num_patients, 1)), MOST_VISITS, 1)
    codes = np.stack([sex, (rng.random(shape) < 0.3).astype(int)], -1).astype(np.int16)
    present = np.arange(MOST_VISITS) < lengths[:, None]
    reals[~present], codes[~present] = np.nan, -1
    return Panel(DAYS, reals, codes, lengths)


@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_patients_of_few_values_who_are_alike_are_no_near_copies(seed: int) -> None:
    train, other, fresh = days(seed), days(seed + 1), days(seed + 2)
    assert (groups_of(train) < 5).any()
    for unseen in (other, None):
        assert judged(train, unseen, fresh, "privacy.near_copies").verdict is Verdict.PASS


def test_copies_with_noise_of_longer_records_are_found_beside_short_ones() -> None:
    train, holdout, fresh = days(0), days(1), days(2, 145)
    copied = train.take(np.flatnonzero(groups_of(train) >= 5)[:5])
    copied.reals_NTR[..., 0] += 0.01
    found = judged(train, holdout, join([fresh, copied]), "privacy.near_copies")
    assert (found.value, found.verdict) == (5, Verdict.FAIL)


def test_near_copies_of_records_of_few_values_are_not_judged() -> None:
    def short(seed: int) -> Panel:
        panel = days(seed)
        return Panel(DAYS, panel.reals_NTR[:, :2], panel.codes_NTK[:, :2], np.minimum(panel.lengths_N, 2))

    found = judged(short(0), short(1), short(2), "privacy.near_copies")
    assert found.verdict is Verdict.NOT_JUDGED
    assert "No record has 16 values" in found.reason
