"""What a release tells of the lengths of training patients: nothing about fewer than ten of them."""

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from healthgym.data.fitting import fit_cells
from healthgym.data.length_groups import LengthGroup, common_lengths, from_text, reached, to_text
from healthgym.data.prepare import prepare
from healthgym.data.sequences import PreparedCohort
from healthgym.release.release import common_groups, release
from healthgym.schema.cells import VariableCells
from healthgym.storage.checkpoint import load_checkpoint
from healthgym.storage.shards import open_cohort
from healthgym.synthesis.source import trained_system
from healthgym.systems.base import Batch, SampleDraws
from healthgym.training import run as run_module
from healthgym.training.run import train

ROOT = Path(__file__).parents[2]


def shapes_and_counts(state: dict[str, Any]) -> Iterator[int]:
    """Yield the number of positions and all whole numbers of a system's state."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from shapes_and_counts(value)
        elif name == "positions":
            yield len(value)
        elif value.size == 1 and value.dtype.kind == "i":
            yield int(value.item())


def trained(folder: Path, system: str) -> PreparedCohort:
    """Train a system on patients of 6 timesteps and a few of 9."""
    long = tiny.table(4, 9, seed=1)
    long["PatientID"] += 1000
    cohort = prepare(pd.concat([tiny.table(60), long]), tiny.SCHEMA, folder / "prepared.h5")
    assert 0 < (cohort.train.lengths_N == 9).sum() < 10
    config = tiny.config(folder, system, training={"epochs": 1}, curriculum={"lengths": "auto"})
    assert train(folder / "run", config)
    return cohort


def made(out: Path, asked: list[str]) -> pd.DataFrame:
    spec = importlib.util.spec_from_file_location("synthesize", ROOT / "jobs" / "synthesize.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert program.main([*asked, "--out", str(out), "--patients", "40", "--workers", "1"]) == 0
    return open_cohort(out).read()


# v2.5 is v2 here but for a table of positions whose size is a setting (6 in the tests).
@pytest.mark.parametrize("system", [name for name in tiny.SYSTEMS if name != "v2.5"])
def test_the_few_longest_patients_are_not_told(tmp_path: Path, system: str) -> None:
    trained(tmp_path, system)
    release(tmp_path / "run", tmp_path / "r.h5", ROOT / "configs" / "report.yaml")
    source, released = load_checkpoint(tmp_path / "run"), load_checkpoint(tmp_path / "r.h5")
    assert source.statistics.stages.max() == (6 if system == "ar" else 9)
    assert released.statistics.lengths_2U[0].tolist() == [6]
    assert released.statistics.stages.tolist() == [6]
    groups = from_text(released.statistics.length_groups)
    assert {length for group in groups for length in (group.stage, *group.lengths)} <= {6}
    assert 9 not in set(shapes_and_counts(released.state))
    frame = made(tmp_path / "from-release", ["--checkpoint", str(tmp_path / "r.h5")])
    assert frame.groupby("PatientID").size().max() == 6
    if system == "ar":  # its cells of lengths had no 9 either
        assert made(tmp_path / "from-run", ["--run-dir", str(tmp_path / "run")]).equals(frame)


def numbers(tree: Mapping[str, Any]) -> Iterator[float]:
    """Yield all numbers of a tree, those of texts in JSON too, and the sizes of its arrays."""
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from numbers(value)
        elif isinstance(value, str):
            yield from map(float, re.findall(r"-?[0-9]+(?:\.[0-9]+)?", value))
        else:
            yield from np.ravel(value).tolist()
            yield from np.shape(value)


def test_a_checkpoint_of_ar_does_not_tell_how_long_the_few_longest_patients_are(tmp_path: Path) -> None:
    """They are trained on all the same: 4 of 64 patients have 83 timesteps, the others 6."""
    long = tiny.table(4, 83, seed=1)
    long["PatientID"] += 1000
    cohort = prepare(pd.concat([tiny.table(60), long]), tiny.SCHEMA, tmp_path / "prepared.h5")
    config = tiny.config(tmp_path, "ar", training={"epochs": 1}, curriculum={"lengths": "auto"})
    assert train(tmp_path / "run", config)
    found = load_checkpoint(tmp_path / "run")
    for tree in (vars(found.statistics), found.state, found.cells, found.trainer, found.meter):
        without_hash = {name: value for name, value in tree.items() if name != "data_fingerprint"}
        assert 83 not in set(numbers(without_hash))
    lengths_2U, counted = found.statistics.lengths_2U, cohort.train.num_patients
    assert lengths_2U.tolist() == [[6], [counted]]
    system = trained_system(found, "cpu")
    longest = np.flatnonzero(cohort.train.lengths_N == 83)
    batch = Batch(system.layout, *map(torch.from_numpy, cohort.train.gather(longest, 83, "cells")))
    assert system.nats_by_patient(batch).isfinite().all()


def test_ar_with_fewer_positions_is_the_same_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is one of earlier development versions, which has a position for each timestep."""
    monkeypatch.setattr(run_module, "longest_generated", lambda cohort: cohort.max_length)
    cohort = trained(tmp_path, "ar")
    release(tmp_path / "run", tmp_path / "r.h5", ROOT / "configs" / "report.yaml")
    systems = [trained_system(load_checkpoint(tmp_path / name), "cpu") for name in ("run", "r.h5")]
    assert [system.network.max_length for system in systems] == [9, 6]  # type: ignore[attr-defined]
    six = np.flatnonzero(cohort.train.lengths_N == 6)[:20]
    batch = Batch(systems[0].layout, *map(torch.from_numpy, cohort.train.gather(six, 6, "cells")))
    before, after = (system.nats_by_patient(batch) for system in systems)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_a_release_makes_the_patients_of_its_checkpoint(tmp_path: Path) -> None:
    """The mean of the long lengths is so near to the greatest that the cells once ended beyond it."""
    lengths = [3, 4, 5, 6] * 20 + [14] + [27, 29, 30] * 6 + [30] * 2
    longest = tiny.table(len(lengths), 30)
    frame = longest[longest["Timestep"] < np.array(lengths)[longest["PatientID"]]]
    cohort = prepare(frame, tiny.SCHEMA, tmp_path / "prepared.h5")
    assert cohort.cells is not None
    counts = cohort.train.lengths_N
    assert 0 < (counts == 30).sum() < 10
    end = int(cohort.cells.length.high_P[-1])
    assert (counts >= end).sum() >= 10 > (counts > end).sum()
    config = tiny.config(tmp_path, "ar", training={"epochs": 1}, curriculum={"lengths": "auto"})
    assert train(tmp_path / "run", config)
    release(tmp_path / "run", tmp_path / "r.h5", ROOT / "configs" / "report.yaml")
    systems = [trained_system(load_checkpoint(tmp_path / name), "cpu") for name in ("run", "r.h5")]
    before, after = (system.make(SampleDraws(0, 0, 600)) for system in systems)
    np.testing.assert_array_equal(after.lengths_B, before.lengths_B)
    assert before.lengths_B.max() == end == load_checkpoint(tmp_path / "r.h5").statistics.stages.max()
    inside = np.arange(before.reals_RTB.shape[1])[:, None] < before.lengths_B
    same = (before.reals_RTB == after.reals_RTB).all(0)[inside]
    assert same.mean() > 0.999  # sums of float32 in another order


def test_cells_that_end_beyond_the_longest_patient_as_in_version_0_1_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beyond(cells: VariableCells, *_: Any) -> VariableCells:
        return replace(cells, high_P=np.append(cells.high_P[:-1], 14.0))

    monkeypatch.setattr(fit_cells, "ended_where_reached", beyond)
    trained(tmp_path, "ar")
    release(tmp_path / "run", tmp_path / "r.h5", ROOT / "configs" / "report.yaml")
    assert load_checkpoint(tmp_path / "r.h5").statistics.stages.tolist() == [6]


def test_a_network_is_not_lengthened(tmp_path: Path) -> None:
    trained(tmp_path, "ar")
    system = trained_system(load_checkpoint(tmp_path / "run"), "cpu")
    with pytest.raises(ValueError, match="7 timesteps; this network is for 6"):
        system.released_state(7)


def test_so_many_patients_reach_a_length() -> None:
    lengths = np.array([[4, 19, 20, 21], [100, 4, 3, 3]])
    assert reached(lengths, 10) == 19
    assert reached(lengths, 3) == 21
    assert reached(np.array([[4, 5], [2, 3]]), 10) == 4


def test_rare_lengths_join_the_nearest() -> None:
    lengths = np.array([[2, 3, 7, 8, 20], [30, 1, 4, 50, 2]])
    assert common_lengths(lengths, 10).tolist() == [[2, 8], [31, 56]]
    assert common_lengths(np.array([[4, 5], [2, 3]]), 10).tolist() == [[5], [5]]


def test_a_last_stage_of_few_patients_joins_the_one_before() -> None:
    text = to_text(
        [
            LengthGroup(5, {"sex": (0,)}, {5: 40}),
            LengthGroup(9, {"sex": (0,)}, {8: 20, 9: 10}),
            LengthGroup(9, {"sex": (1,)}, {7: 12}),
            LengthGroup(30, {}, {29: 2, 30: 1}),
        ]
    )
    first, last = from_text(common_groups(text, 9, 10))
    assert (first.stage, first.lengths) == (5, {5: 40})
    assert (last.stage, last.classes, last.lengths) == (9, {}, {7: 12, 8: 20, 9: 13})
    kept = from_text(common_groups(text, 30, 10))
    assert [group.stage for group in kept] == [5, 9, 9, 30]
