"""The page that compares several systems, and its statements about the published claims."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from healthgym import stopping
from healthgym.comparing.runs import compare_runs
from healthgym.config import preset_of
from healthgym.data.prepare import prepare
from healthgym.errors import ConfigError, HealthgymError, StorageError
from healthgym.evaluation.comparing.claims import Groups, Judged, Trained, check_claims
from healthgym.evaluation.comparing.page import best_of, duration, render_comparison
from healthgym.evaluation.comparing.systems import compare_systems, to_json
from healthgym.evaluation.report import Report
from healthgym.evaluation.result import Noise, Result, Section
from healthgym.release.release import release
from healthgym.release.trained import find_trained
from healthgym.storage.checkpoint import load_checkpoint
from healthgym.synthesis.source import trained_system
from healthgym.training.run import train

REPORT = Path(__file__).parents[3] / "configs" / "report.yaml"
FULL = {"lengths": [6]}


def judged(
    system: str,
    kept: int | None = 4,
    ks: float | None = 0.1,
    thirds: tuple[float, float, float] | None = (3, 2, 1),
) -> Judged:
    """A system of which 4 real groups and one metric are known."""
    trained = Trained(
        name=f"run-{system}",
        system=system,
        parameters=10,
        steps=20,
        seconds=90.0,
        computed_on="CPU, 1 thread",
        acceptance_rate=1.0,
        cohort=Path("nowhere"),
        loss_by_third={"loss": thirds} if thirds else {},
    )
    result = Result("marginals.ks", "KS", "A distance.", "nobody", value=ks)
    report = Report("title", {}, [Section("marginals", "Marginals", "", [result])], {})
    groups = [] if kept is None else [Groups("sex x age", 4, kept)]
    return Judged(trained, report, groups)


def verdicts(*systems: Judged) -> dict[str, bool | None]:
    """Return what is found of each claim, by its first words."""
    return {" ".join(claim.text.split()[:2]): claim.holds for claim in check_claims(systems)}


def test_the_published_story_shows() -> None:
    story = (judged("v1", 2), judged("v2", 4), judged("v2.5", 3), judged("v3", 4, ks=0.05))
    expected = ["v1 collapses:", "v2 recovers", "v2.5 recovers", "v3 learns", "v3 is"]
    assert verdicts(*story) == dict.fromkeys(expected, True)


def test_another_story_does_not() -> None:
    story = (judged("v1", 4), judged("v2", 4), judged("v2.5", 3), judged("v3", ks=0.2, thirds=(1, 1, 1)))
    assert set(verdicts(*story).values()) == {False}


@pytest.mark.parametrize(
    "systems",
    [
        [],
        [judged("v3", ks=None, thirds=None)],
        [judged("v3", thirds=None)],
        [judged("v1", None), judged("v2", None)],
    ],
    ids=["none", "no metrics", "alone", "no groups"],
)
def test_what_cannot_be_said_is_not_said(systems: list[Judged]) -> None:
    assert set(verdicts(*systems).values()) == {None}


def test_claims_say_what_was_found() -> None:
    found = [claim.found for claim in check_claims([judged("v1", 1), judged("v2", 4)])]
    assert found[:2] == ["v1 keeps 1 of 4 groups", "v2 keeps 4 of 4 groups, v1 keeps 1 of 4 groups"]
    assert found[2:4] == ["no run of v2.5 was given", "no run of v3 was given"]


def test_json_holds_every_system() -> None:
    content = to_json([judged("v1", 2), judged("v3", ks=None)])
    assert [each["system"] for each in content["systems"]] == ["v1", "v3"]
    assert content["systems"][0]["groups"] == [{"name": "sex x age", "real": 4, "synthetic": 2}]
    assert content["systems"][1]["figures"] == {"marginals.ks": None}
    json.dumps(content, allow_nan=False)


def test_a_result_that_one_system_lacks_has_a_cell_all_the_same() -> None:
    one, other = judged("v1"), judged("ar")
    result = Result("marginals.own", "Of one kind", "Only v1 has it.", "nobody", value=0.5)
    one.report.sections[0].results.append(result)
    for each in (one, other):
        each.report.facts.update({"synthetic": "4 patients", "training data": "9 patients"})
    for pair in ([one, other], [other, one]):
        text = render_comparison(pair, "title")
        cells = re.findall(r"<td>Of one kind</td>(.*?)</tr>", text, re.DOTALL)[0]
        assert len(re.findall("<td", cells)) == 1 + 2, "the noise floor, then both systems"


def test_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    one = judged("v1").trained
    with pytest.raises(ConfigError, match="Two runs have the name 'run-v1'"):
        compare_systems([one, one], tmp_path, tmp_path, tmp_path, tmp_path)


@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_changed_settings_are_still_the_preset(tmp_path: Path, system: str) -> None:
    assert preset_of(tiny.config(tmp_path, system).system) == system


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared cohort, its schema, and short runs of v1 and v3 on it."""
    folder = tmp_path_factory.mktemp("compare")
    tiny.cohort(folder, num_patients=60)
    (folder / "tiny.yaml").write_text(_schema_yaml())
    amounts: dict[str, Any] = {
        "training": {"epochs": 1, "log_every_steps": 2},
        "curriculum": {"lengths": [6]},
    }
    for system in ("v1", "v3"):
        assert train(folder / system, tiny.config(folder, system, **amounts), io.StringIO())
    return folder


def compared(runs: Path, *given: Path, **changes: Any) -> list[Judged]:
    """Compare with few patients and a short report."""
    usual: dict[str, Any] = {"schema": runs / "tiny.yaml", "real": runs / "prepared.h5", "config": REPORT}
    usual |= {"out": runs / "out", "patients": 40, "overrides": ("min_patients=20", "num_splits=3")}
    return compare_runs(given, **usual | changes)


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    """The page of both runs and of a release of one, alone in a folder."""
    release(runs / "v1", runs / "given" / "v1.h5", REPORT)
    sampling = ("system.sampler.kind=ddim", "system.sampler.num_steps=2")
    compared(runs, runs / "v1", runs / "v3", runs / "given", sampling=sampling)
    return runs / "out"


def _schema_yaml() -> str:
    return _as_yaml({"name": tiny.SCHEMA.name, "variables": _variables()})


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": v.name, "kind": v.kind, "unit": v.unit, "static": v.static}
        | ({"classes": v.classes} if v.classes else {})
        for v in tiny.SCHEMA.variables
    ]


def _as_yaml(content: dict[str, Any]) -> str:
    """Write a schema as people do; JSON is YAML, but for codes in quotes."""
    return re.sub(r'"(\d+)":', r"\1:", json.dumps(content))


@pytest.mark.slow
def test_page_shows_all_systems(page: Path) -> None:
    text = (page / "compare.html").read_text()
    for expected in (
        "A cohort of 40 patients was made of each",
        "v1, a release",
        "given: a release carries no record of its training",
        "Training time, wall clock",
        "Trained parameters",
        "Active sex combinations",
        "CPU, 1 thread",
        "reports/v1/report.html",
        "data:image/png;base64",
        "data:image/svg+xml;base64",
    ):
        assert expected in text, expected
    assert "{{" not in text
    cells = re.findall(r"<td>Distribution of values</td>(.*?)</tr>", text)[0]
    assert len(re.findall("<td", cells)) == 1 + 3, "the noise floor, then every system"
    plans = {path.parent.name[:2]: json.loads(path.read_text()) for path in page.glob("cohorts/*/_plan.json")}
    assert plans["v1"]["settings"] == []
    assert plans["v3"]["settings"] == ["system.sampler.kind=ddim", "system.sampler.num_steps=2"]
    assert (page / "reports" / "v3" / "report.html").is_file()
    v1, v3, released = json.loads((page / "compare.json").read_text())["systems"]
    assert (v1["released"], v3["released"], released["released"]) == (False, False, True)
    for name in ("system", "parameters", "steps", "seconds", "computed_on", "figures"):
        assert v1[name] == released[name], f"{name}: without latent memory a release samples the same"
    assert v1["steps"] == v3["steps"] > 0 < v1["seconds"]
    (groups,) = v1["groups"]
    assert (groups["name"], groups["real"]) == ("sex", 2)


@pytest.mark.parametrize(
    "system", ["v3", *(pytest.param(s, marks=pytest.mark.slow) for s in ("v1", "v2", "v2.5"))]
)
def test_parameters_are_those_that_optimisers_move(tmp_path: Path, system: str) -> None:
    tiny.cohort(tmp_path)
    settings = tiny.config(tmp_path, system, training={"epochs": 1}, curriculum=FULL)
    assert train(tmp_path / "run", settings, io.StringIO())
    checkpoint = load_checkpoint(tmp_path / "run")
    moved = [
        np.size(parameter["exp_avg"])
        for optimiser in checkpoint.state["optimisers"].values()
        for parameter in optimiser.values()
    ]
    assert trained_system(checkpoint, "cpu").num_parameters() == sum(moved)


def result(value: float | None, floor: float | None = None) -> Result:
    noise = None if floor is None else Noise(floor, floor)
    return Result("joint.x", "X", "A metric.", "nobody", value=value, noise=noise)


@pytest.mark.parametrize(
    ("values", "floor", "limit", "best"),
    [
        ((0.3, 0.2, None), None, "at_most", {1}),
        ((0.3, 0.2, 0.2), None, "at_least", {0}),
        ((0.3, 0.2, 0.01), 0.25, "at_most", {1, 2}),
        ((0.1, 0.2, 0.01), 0.25, "at_most", set()),
        ((0.3, 0.2, 0.9), 0.25, "at_least", {0, 2}),
        ((0.3, 0.3, None), None, "at_most", set()),
    ],
    ids=["least", "most", "below the floor", "all below", "above the floor", "equal"],
)
def test_the_best_is_no_better_than_real_patients(
    values: tuple[float | None, ...], floor: float | None, limit: str, best: set[int]
) -> None:
    cells = [result(value, floor) for value in values]
    assert best_of(cells, {"joint": {"x": {limit: 1.0}}}) == best
    assert best_of(cells, {}) == frozenset()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0123, "0.0123 s"), (42, "42.0 s"), (738, "12.3 min"), (9000, "2.5 h")]
)
def test_times_are_written_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_what_cannot_be_compared_is_an_error(runs: Path, tmp_path: Path) -> None:
    v1, out = runs / "v1", tmp_path / "out"

    def refused(kind: type[HealthgymError], match: str, *given: Path, **changes: Any) -> None:
        with pytest.raises(kind, match=match):
            compared(runs, *given, out=out, **changes)
        assert not out.exists(), "cohorts were made for nothing"

    (tmp_path / "empty").mkdir()
    refused(
        StorageError, "empty contains no complete checkpoint and no release. Give", v1, tmp_path / "empty"
    )
    refused(StorageError, "absent does not exist: check the path", v1, tmp_path / "absent")
    refused(ConfigError, "v1 is given twice. Give each run once", v1, runs / "v3", runs / "v3" / ".." / "v1")
    shutil.copytree(v1, tmp_path / "v1")
    refused(ConfigError, "Two runs have the name 'v1', which names their reports", v1, tmp_path / "v1")
    refused(StorageError, "--real .*: there is no such file", v1, real=tmp_path / "absent.csv")
    refused(ConfigError, "patients", v1, patients=0)
    for name in ("a.h5", "b.h5"):
        release(v1, tmp_path / "two" / name, REPORT)
    refused(ConfigError, r"two holds several releases: a\.h5, b\.h5\. Give the file of one", tmp_path / "two")


def test_runs_of_two_schemas_are_refused(runs: Path, tmp_path: Path) -> None:
    changed = tiny.SCHEMA.model_copy(update={"name": "other"})
    prepare(tiny.table(), changed, tmp_path / "prepared.h5")
    settings = tiny.config(tmp_path, "v1", training={"epochs": 1}, curriculum=FULL)
    assert train(tmp_path / "w", settings, io.StringIO())
    with pytest.raises(
        ConfigError, match=r"v1 was trained on the schema 'tiny' and .*w on 'other'\. Compare"
    ):
        compared(runs, runs / "v1", tmp_path / "w")
    fewer = [each for each in _variables() if each["name"] != "y"]
    (tmp_path / "fewer.yaml").write_text(_as_yaml({"name": "tiny", "variables": fewer}))
    with pytest.raises(ConfigError, match="'tiny', which has other variables than --schema"):
        compared(runs, runs / "v1", schema=tmp_path / "fewer.yaml")


def test_a_release_is_found_where_it_lies(runs: Path, tmp_path: Path) -> None:
    release(runs / "v1", tmp_path / "given" / "r.h5", REPORT)
    shutil.copy(runs / "prepared.h5", tmp_path / "given" / "p.h5")
    for path in (tmp_path / "given", tmp_path / "given" / "r.h5"):
        file, found = find_trained(path)
        assert file == tmp_path / "given" / "r.h5"
        assert found.released
    file, found = find_trained(runs / "v1")
    assert found.sha256 == find_trained(runs / "v1" / "checkpoints")[1].sha256 == find_trained(file)[1].sha256
    assert not found.released


def test_a_stop_while_patients_are_made_is_resumed(runs: Path, tmp_path: Path) -> None:
    stopping.request("SIGTERM")
    try:
        with pytest.raises(KeyboardInterrupt):
            compared(runs, runs / "v1", out=tmp_path / "out")
    finally:
        stopping.clear()
    assert not (tmp_path / "out" / "compare.html").exists()
