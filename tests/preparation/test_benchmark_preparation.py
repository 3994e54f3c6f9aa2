"""The benchmark of preparation: each variant makes the same cohort, on which training runs."""

import sys
from pathlib import Path

import numpy as np
import pytest

from healthgym.data.sequences import PreparedCohort

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_every_way_prepares_the_same_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import preparation

    monkeypatch.setattr(preparation, "BATCH", 4)
    monkeypatch.setattr(preparation, "LENGTH", 2)
    cohorts = []
    for form in ("csv", "parquet", None):
        table = tmp_path / f"t.{form}" if form else None
        if table:
            preparation.write_table(table, 20)
        row = preparation.prepare(table, 20, tmp_path / f"{form}.h5")
        assert row["patients"] == 20
        assert row["peak_megabytes"] > 10
        cohorts.append(PreparedCohort.open(tmp_path / f"{form}.h5"))
    assert len({cohort.fingerprint for cohort in cohorts}) == 1
    memory = preparation.in_memory(cohorts[0].train, 5)
    for one, other in zip(
        memory.gather(np.arange(5), 60), cohorts[0].train.gather(np.arange(5), 60), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    found = preparation.train(tmp_path / "csv.h5", 1, 1)
    assert set(found["steps_per_second"]) == {"registry", "in memory"}
    sys.modules.pop("preparation")
