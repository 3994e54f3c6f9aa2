"""The stages of a curriculum: patients that are truncated or left out are reported."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from fake_system import FakeSystem
from followed import schema, table
from torch import Tensor

from healthgym import seeds
from healthgym.config import CurriculumConfig, RunConfig
from healthgym.data.length_groups import draw_lengths, fit_groups, from_text, to_text
from healthgym.data.prepare import SplitSettings, prepare
from healthgym.data.sequences import PreparedCohort
from healthgym.data.stages import Usage, in_a_sentence, refuse_left_out, stages_of, usage_of
from healthgym.errors import ConfigError
from healthgym.schema.layout import FeatureLayout
from healthgym.strict import parse
from healthgym.synthesis.plan import SynthesisPlan
from healthgym.synthesis.shard import make_shard
from healthgym.synthesis.source import Source
from healthgym.training.run import train


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> PreparedCohort:
    path = tmp_path_factory.mktemp("followed") / "prepared.h5"
    return prepare(table(200), schema(), path, SplitSettings(holdout=0.0))


def settings(**changes: object) -> CurriculumConfig:
    return parse(CurriculumConfig, {"batch_size": 8, **changes}, "curriculum")


def usage(cohort: PreparedCohort, config: CurriculumConfig) -> Usage:
    return usage_of(stages_of(config, cohort.train.lengths_N), cohort.train, cohort.schema)


def test_auto_leaves_nobody_out(cohort: PreparedCohort) -> None:
    found = usage(cohort, settings())
    assert found.counts == (200, 0, 0)
    assert found.lines() == ["all 200 training patients are used at full length"]
    refuse_left_out(found, settings())


def test_who_is_left_out_is_told_with_their_classes(cohort: PreparedCohort) -> None:
    config = settings(lengths=[4, 6])
    found = usage(cohort, config)
    lengths_N, codes = cohort.train.lengths_N, cohort.train.first_codes()
    dead_N = codes[:, 1] == 1
    groups = [np.isin(lengths_N, (4, 6)), (lengths_N > 4) & (lengths_N != 6), lengths_N < 4]
    assert found.counts == tuple(int(group.sum()) for group in groups)
    np.testing.assert_allclose(found.classes["status"]["dead"], [dead_N[group].mean() for group in groups])
    assert found.classes["status"]["dead"][2] > 0.3 > found.classes["status"]["dead"][0]
    with pytest.raises(
        ConfigError, match=r"left out:\n.*\n.*(.*\n)*.*curriculum.lengths=auto.*accept_left_out=0"
    ):
        refuse_left_out(found, config)
    refuse_left_out(found, settings(lengths=[4, 6], accept_left_out=0.6))
    sentence = in_a_sentence(json.loads(found.to_json()))
    assert f"{found.counts[2]} left out" in sentence
    assert f"status dead: {found.classes['status']['dead'][0]:.0%} of those at full length" in sentence


def test_of_few_patients_nothing_is_told() -> None:
    shown = Usage((100, 3, 0), {"a": {"b": (0.5, None, None)}}).to_dict()
    assert shown["patients"] == {"full length": 100, "cut": "fewer than 10", "left out": 0}
    assert in_a_sentence(shown) == (
        "100 full length, fewer than 10 cut, 0 left out; a b: 50% of those at full length"
    )


def test_a_run_that_would_leave_the_sickest_out_does_not_start(
    cohort: PreparedCohort, tmp_path: Path
) -> None:
    prepare(table(200), schema(), tmp_path / "prepared.h5", SplitSettings(holdout=0.0))
    config: RunConfig = tiny.config(tmp_path, "v1", curriculum={"lengths": [4, 6], "accept_left_out": 0.02})
    stream = io.StringIO()
    with pytest.raises(ConfigError, match="would be left out"):
        train(tmp_path / "run", config, stream)
    accepted = tiny.config(
        tmp_path, "v1", curriculum={"lengths": [4, 6], "accept_left_out": 0.6}, training={"epochs": 1}
    )
    assert train(tmp_path / "run", accepted, stream)
    assert "left out" in stream.getvalue()
    assert "status dead:" in stream.getvalue()


# --- lengths given static classes ------------------------------------------------------------------


def test_length_follows_the_static_classes(cohort: PreparedCohort) -> None:
    lengths_N, codes_NS = cohort.train.lengths_N, cohort.train.first_codes()
    groups = fit_groups(codes_NS, ["arm", "status"], [2, 3], lengths_N, (2, 8))
    assert all(sum(group.lengths.values()) >= 10 for group in groups)
    assert sum(sum(group.lengths.values()) for group in groups) == len(lengths_N)
    assert from_text(to_text(groups)) == groups
    random = np.random.default_rng(0)
    means = []
    for status in (0, 1, 2):
        members = (lengths_N > 2) & (codes_NS[:, 1] == status)
        codes = {"arm": random.integers(0, 2, 20_000), "status": np.full(20_000, status)}
        drawn = draw_lengths(groups, 8, codes, random.random(20_000))
        assert 2 < drawn.min() <= drawn.max() <= 8
        assert drawn.mean() == pytest.approx(lengths_N[members].mean(), abs=0.5)
        means.append(drawn.mean())
    assert means[0] > means[1] + 1, "the dead have fewer visits"


def test_groups_hold_ten_patients_even_of_rare_classes() -> None:
    random = np.random.default_rng(0)
    codes_NS = np.stack([random.choice(4, 300, p=[0.9, 0.08, 0.02, 0]), random.integers(0, 2, 300)], 1)
    codes_NS = codes_NS.astype(np.uint8)
    lengths_N = 1 + codes_NS[:, 0] * 5 + random.integers(0, 3, 300)
    groups = fit_groups(codes_NS, ["a", "b"], [4, 2], lengths_N, [20])
    assert min(sum(group.lengths.values()) for group in groups) >= 10
    everybody = np.stack(np.meshgrid(np.arange(4), np.arange(2)), -1).reshape(-1, 2)
    codes = {"a": everybody[:, 0], "b": everybody[:, 1]}
    drawn = draw_lengths(groups, 20, codes, np.full(len(everybody), 0.5))
    assert (drawn < 20).all(), "each class belongs to a group, those that nobody has too"
    assert drawn[codes["a"] == 1].min() > drawn[codes["a"] == 0].max()


class Coin(FakeSystem):
    """Makes patients whose variables are all drawn evenly, statics constant."""

    def __init__(self, layout: FeatureLayout) -> None:
        self.layout, self.device = layout, torch.device("cpu")

    def sample_features(self, length: int, seed: int, first_patient: int, num_patients: int) -> Tensor:
        u = seeds.uniform_rows((1, self.layout.num_features), num_patients, first_patient, seed, "coin")
        return torch.from_numpy(u).expand(-1, length, -1)


def test_synthetic_deaths_by_length_are_the_real_ones(cohort: PreparedCohort) -> None:
    """Drawn apart from the patient, length would be the same whoever dies."""
    lengths_N, codes_NS = cohort.train.lengths_N, cohort.train.first_codes()
    stages = stages_of(settings(batch_size=60), lengths_N).lengths
    groups = fit_groups(codes_NS, ["arm", "status"], [2, 3], lengths_N, stages)
    known = dict(zip(*(each.tolist() for each in np.unique(lengths_N, return_counts=True)), strict=True))
    layout = cohort.schema.layout
    source = Source(
        "0" * 64, cohort.schema, cohort.transform, known, stages, lambda *_: Coin(layout),
        time=cohort.time, length_groups=groups,
    )  # fmt: skip
    plan = SynthesisPlan(checkpoint_sha256="0" * 64, num_patients=3000)
    made = make_shard(source, Coin(layout), plan, 0)
    again = make_shard(source, Coin(layout), plan.model_copy(update={"batch_size": 100}), 0)
    assert made is not None
    assert again is not None
    shard = made[0]
    np.testing.assert_array_equal(shard.lengths_N, again[0].lengths_N)
    first = np.cumsum(shard.lengths_N) - shard.lengths_N
    status = shard.columns["status"][first]
    last = stages[-1]
    long = shard.lengths_N > stages[-2]
    for code in range(3):
        ours = shard.lengths_N[long & (status == code)]
        theirs = lengths_N[(lengths_N > stages[-2]) & (codes_NS[:, 1] == code)]
        if len(theirs) >= 10:
            assert ours.mean() == pytest.approx(theirs.mean(), abs=0.35)
    assert shard.lengths_N.max() == last
    assert {name: found.timesteps for name, found in made[1].items()}.keys() == {"arm", "futime", "status"}
    fixed = make_shard(source, Coin(layout), plan.model_copy(update={"timesteps": 4}), 0)
    assert fixed is not None
    assert (fixed[0].lengths_N == 4).all()
