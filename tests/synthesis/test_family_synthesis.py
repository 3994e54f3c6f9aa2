"""Every system's cohort: the same bytes in any order, from a checkpoint alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from fake_system import FakeSystem, open_fake, write_fake
from torch import Tensor

from healthgym import stopping
from healthgym.config import RunConfig
from healthgym.errors import ConfigError
from healthgym.evaluation.sources import open_synthetic
from healthgym.storage.checkpoint import load_checkpoint
from healthgym.storage.shards import Manifest, open_cohort
from healthgym.synthesis.cohort import SynthesisRequest, synthesize
from healthgym.synthesis.source import Source
from healthgym.training.run import train


def _make(run: Path, out: Path, *tasks: str) -> Manifest:
    for task in tasks:
        stopping.clear()
        outcome = synthesize(
            SynthesisRequest(
                run_dir=run, out=out, patients=25, patients_per_shard=10, batch_size=4, workers=1, task=task
            )
        )
    assert outcome.state == "complete"
    return open_cohort(out).manifest


@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_shards_have_the_same_bytes_in_any_order(trained: Path, tmp_path: Path, system: str) -> None:
    straight = _make(trained / system, tmp_path / "straight", "0/1")
    apart = _make(trained / system, tmp_path / "apart", "2/3", "0/3", "1/3")
    assert [shard.sha256 for shard in straight.shards] == [shard.sha256 for shard in apart.shards]
    assert len({shard.sha256 for shard in straight.shards}) == 3
    assert straight.acceptance_rate == apart.acceptance_rate == 1


def test_how_v3_samples_may_change_between_starts_and_how_it_learns_may_not(tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    assert train(tmp_path / "run", tiny.config(tmp_path, "v3", training={"epochs": 1}))
    values = tiny.config(tmp_path, "v3", training={"epochs": 2}).model_dump()
    values["system"] |= {"sampler": {"kind": "dpmpp", "num_steps": 2}, "guardrail": {"kind": "clamp"}}
    assert train(tmp_path / "run", RunConfig.model_validate(values))
    assert load_checkpoint(tmp_path / "run").config.system == RunConfig.model_validate(values).system
    values["system"]["gradient_clip"] = 2.0
    with pytest.raises(ConfigError, match=r"system\.gradient_clip: 1\.0 -> 2\.0"):
        train(tmp_path / "run", RunConfig.model_validate(values))


def test_a_trained_system_may_sample_by_other_settings(tmp_path: Path) -> None:
    tiny.cohort(tmp_path)
    assert train(tmp_path / "run", tiny.config(tmp_path, "v3", training={"epochs": 1}))

    def make(name: str, *settings: str) -> Manifest:
        request = {"run_dir": tmp_path / "run", "out": tmp_path / name, "patients": 5, "workers": 1}
        synthesize(SynthesisRequest.model_validate(request | {"settings": settings}))
        return open_cohort(tmp_path / name).manifest

    ancestral, fast = make("a"), make("b", "system.sampler.kind=dpmpp", "system.sampler.num_steps=3")
    assert ancestral.shards[0].sha256 != fast.shards[0].sha256
    assert list(fast.plan["settings"]) == ["system.sampler.kind=dpmpp", "system.sampler.num_steps=3"]
    for wrong, expected in [
        ("system.denoiser.depth=2", r"not settings of its training:\n  - system\.denoiser\.depth: 1 -> 2"),
        ("training.seed=9", r"not settings of its training:\n  - training\.seed: 5 -> 9"),
        ("system.sampler.num_steps=2", r"num_steps: unknown key"),
    ]:
        with pytest.raises(ConfigError, match=expected):
            make("c", wrong)
        assert not (tmp_path / "c").exists()


class _Choosy(FakeSystem):
    """Drops two candidates for each patient it keeps."""

    def sample_features(self, length: int, seed: int, first_patient: int, num_patients: int) -> Tensor:
        self.num_candidates += 3 * num_patients
        return super().sample_features(length, seed, first_patient, num_patients)


def _open_choosy(path: Path) -> Source:
    return replace(open_fake(path), build=lambda device, settings: _Choosy())


def test_acceptance_rate_is_in_the_manifest(tmp_path: Path) -> None:
    checkpoint = write_fake(tmp_path / "fake.json", lengths={"4": 2, "9": 3}, stages=[10])
    request = SynthesisRequest(
        checkpoint=checkpoint, out=tmp_path / "out", patients=25, patients_per_shard=10, workers=1
    )
    assert synthesize(request, _open_choosy).state == "complete"
    assert open_cohort(tmp_path / "out").manifest.acceptance_rate == pytest.approx(1 / 3)


def test_a_report_says_who_was_asked_for(trained: Path, tmp_path: Path) -> None:
    stopping.clear()
    where = ("timesteps=1..99",)
    request = {"run_dir": trained / "ar", "out": tmp_path / "some", "patients": 6, "workers": 1}
    static = next(v for v in tiny.SCHEMA.variables if v.static and v.kind != "real")
    shares = f"{static.name}={static.labels[0]}:0.5,{static.labels[1]}:0.5"
    synthesize(SynthesisRequest.model_validate(request | {"where": where, "shares": shares}))
    facts = open_synthetic(tmp_path / "some", tiny.SCHEMA).facts
    assert facts["only patients with"] == where[0]
    assert facts["shares asked for"] == shares
