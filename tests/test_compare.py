"""Several systems on one page, and what it says of the published story."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny

from healthgym.config import preset_of
from healthgym.errors import ConfigError
from healthgym.evaluation.compare import Groups, Judged, Trained, check_claims, compare_systems, to_json
from healthgym.evaluation.figure import Figure, Section
from healthgym.evaluation.report import Report
from healthgym.launch.compare import compare_runs
from healthgym.training.run import train

REPORT = Path(__file__).parent.parent / "configs" / "report.yaml"


def judged(
    system: str,
    kept: int | None = 4,
    ks: float | None = 0.1,
    thirds: tuple[float, float, float] | None = (3, 2, 1),
) -> Judged:
    """A system of which 4 real groups and one figure are known."""
    trained = Trained(
        name=f"run-{system}",
        system=system,
        parameters=10,
        steps=20,
        minutes=1.5,
        acceptance_rate=1.0,
        cohort=Path("nowhere"),
        loss_by_third={"loss": thirds} if thirds else {},
    )
    figure = Figure("marginals.ks", "KS", "A distance.", "nobody", value=ks)
    report = Report("title", {}, [Section("marginals", "Marginals", "", [figure])], {})
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
    ids=["none", "no figures", "alone", "no groups"],
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


def test_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    one = judged("v1").trained
    with pytest.raises(ConfigError, match="Two runs have the name 'run-v1'"):
        compare_systems([one, one], tmp_path, tmp_path, tmp_path, tmp_path)


@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_changed_settings_are_still_the_preset(tmp_path: Path, system: str) -> None:
    assert preset_of(tiny.config(tmp_path, system).system) == system


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    tiny.cohort(folder, num_patients=60)
    schema = folder / "tiny.yaml"
    schema.write_text(_schema_yaml())
    for system in ("v1", "v3"):
        settings: Mapping[str, Any] = {"epochs": 1, "log_every_steps": 2}
        assert train(folder / "runs" / system, tiny.config(folder, system, training=settings))
    compare_runs(
        [folder / "runs" / "v1", folder / "runs" / "v3"],
        schema,
        folder / "prepared.h5",
        folder / "out",
        REPORT,
        patients=40,
        overrides=("min_patients=20", "num_splits=1"),
        sampling=("system.sampler.kind=ddim", "system.sampler.num_steps=2"),
    )
    return folder / "out"


def _schema_yaml() -> str:
    """The tiny schema as people write it; JSON is YAML."""
    variables = [
        {"name": v.name, "kind": v.kind, "unit": v.unit, "static": v.static}
        | ({"classes": v.classes} if v.classes else {})
        for v in tiny.SCHEMA.variables
    ]
    text = json.dumps({"name": tiny.SCHEMA.name, "variables": variables})
    return re.sub(r'"(\d+)":', r"\1:", text)


@pytest.mark.slow
def test_page_shows_both_systems(page: Path) -> None:
    text = (page / "compare.html").read_text()
    for expected in (
        "v1",
        "v3",
        "reports/v1/report.html",
        "data:image/png;base64",
        "data:image/svg+xml;base64",
    ):
        assert expected in text
    assert "{{" not in text
    plans = [json.loads(path.read_text())["settings"] for path in sorted(page.glob("cohorts/*/plan.json"))]
    assert plans == [[], ["system.sampler.kind=ddim", "system.sampler.num_steps=2"]]
    assert (page / "reports" / "v3" / "report.html").is_file()
    content = json.loads((page / "compare.json").read_text())
    assert [each["steps"] > 0 for each in content["systems"]] == [True, True]
    assert all(each["parameters"] > 100 for each in content["systems"])
    (groups,) = content["systems"][0]["groups"]
    assert (groups["name"], groups["real"]) == ("sex", 2)
