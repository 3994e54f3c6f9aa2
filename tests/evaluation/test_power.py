"""A short version of the power study: what the report must see, and what it must let pass."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import power
from corruptions import Around, Cohort, corruptions

from healthgym.evaluation.settings import load_report_config
from healthgym.schema import load_schema

ROOT = Path(__file__).resolve().parents[2]
# Of the simulated cohort: a fault, and the sections one of which must fail or ask for caution.
SEEN = {
    "permuted: CD4": ("joint", "dynamics"),
    "backwards: VL": ("dynamics",),
    "VL deviation -40%": ("marginals",),
    "exact copies 0.5%": ("privacy",),
}


@pytest.fixture(scope="module")
def bench() -> power.Bench:
    schema = load_schema(ROOT / "configs" / "schemas" / "art_hiv.yaml")
    config = load_report_config(ROOT / "configs" / "report.yaml", ("num_splits=4",))
    return power.Bench(power.read_panel(schema, None, 250), config, 0, 250)


def test_every_fault_of_a_schema_can_be_made(bench: power.Bench) -> None:
    around = Around(Cohort.of(bench.train), Cohort.of(bench.holdout))
    honest = Cohort.of(bench.honest)
    names = []
    for corruption in corruptions(around):
        spoiled = corruption.apply(honest, around).panel()
        assert spoiled.num_patients == bench.honest.num_patients, corruption.name
        same = np.array_equal(spoiled.reals_NTR, bench.honest.reals_NTR, equal_nan=True)
        assert not (same and np.array_equal(spoiled.codes_NTK, bench.honest.codes_NTK)), corruption.name
        again = corruption.apply(honest, around).panel()
        np.testing.assert_array_equal(spoiled.reals_NTR, again.reals_NTR)
        names.append(corruption.name)
    assert len(names) == len(set(names)) > 60
    assert set(SEEN) <= set(names)


@pytest.mark.nightly
def test_known_faults_are_seen_and_honest_patients_pass(bench: power.Bench) -> None:
    found = {name: bench.judge(cohort)["sections"] for _, name, cohort in power.faults(bench, set(SEEN))}
    assert set(found.pop("honest").values()) <= {"pass", "not judged"}
    unseen = {
        name: verdicts
        for name, verdicts in found.items()
        if not any(verdicts[key] in ("caution", "fail") for key in SEEN[name])
    }
    assert not unseen
