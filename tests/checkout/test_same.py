"""The program that compares two commits finds every difference and ignores times."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def outputs(
    folder: Path, loss: float = 1.0, shard: bytes = b"patients", metric: float = 0.5, nats: float = 2.0
) -> dict[str, Any]:
    """Write the files that a commit's programs would write, and return the results that are compared."""
    import same

    seconds = len(folder.name)
    for system, losses in (("v2", {"loss": loss}), ("ar", {"nats": nats})):
        for path in (f"run-{system}", f"cohort-{system}/shards"):
            (folder / path).mkdir(parents=True)
        (folder / f"cohort-{system}/shards/shard-00000.h5").write_bytes(shard)
        record = json.dumps({"step": 2, **losses, "seconds": seconds})
        (folder / f"run-{system}/metrics.jsonl").write_text(record + "\n")
    (folder / "prepared.h5").write_bytes(b"prepared")
    (folder / "report").mkdir()
    section = {"key": "joint", "figures": [{"key": "joint.pearson", "value": metric}]}
    (folder / "report/report.json").write_text(
        json.dumps({"facts": {"made": seconds}, "sections": [section]})
    )
    return same.results(folder)


def test_equal_results_do_not_differ_by_their_times(tmp_path: Path) -> None:
    import same

    assert same.differences(outputs(tmp_path / "a"), outputs(tmp_path / "longer")) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"loss": 1.0000001}, ["v2, step 2, loss: 1.0 -> 1.0000001"]),
        ({"nats": 2.0000001}, ["ar, step 2, nats: 2.0 -> 2.0000001"]),
        ({"shard": b"patient!"}, ["v2, shard-00000.h5: ", "ar, shard-00000.h5: "]),
        ({"metric": 0.25}, ["report, joint, figures.joint.pearson.value: 0.5 -> 0.25"]),
    ],
)
def test_every_difference_is_named(tmp_path: Path, change: dict[str, Any], named: list[str]) -> None:
    import same

    lines = same.differences(outputs(tmp_path / "a"), outputs(tmp_path / "b", **change))
    assert len(lines) == len(named)
    assert all(line.startswith(start) for line, start in zip(lines, named, strict=True))


def test_what_is_on_one_side_only_differs() -> None:
    import same

    assert same.differences({"a": 1}, {"b": 2}) == ["a: 1 -> (absent)", "b: (absent) -> 2"]
