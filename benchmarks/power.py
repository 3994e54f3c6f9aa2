"""What the report sees: known faults of honest cohorts, and false alarms over honest draws.

    python benchmarks/power.py --schema SCHEMA --table TABLE --out DIR [--patients 1300] [--draws 20]

The patients of a table (by default simulated ones on antiretroviral therapy) are split in three at random:
training data, holdout, and the honest cohort that is spoiled, one fault at a time (`corruptions.py`).
Results are `faults.jsonl` and `honest.jsonl` (one line per cohort: the verdict of each section and of each
metric that does not pass), `power.md` (fault x section) and `false_alarms.md`. What stands in the first two
is not computed again.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from corruptions import Around, Cohort, corruptions
from tqdm import tqdm

from healthgym.data.simulation.simulate import simulate_art_hiv
from healthgym.data.tables.table import check_table, read_table
from healthgym.evaluation.build import compare
from healthgym.evaluation.report import SECTIONS, make_report
from healthgym.evaluation.settings import ReportConfig, load_report_config
from healthgym.evaluation.sources import source_of
from healthgym.evaluation.statistics.anchors import Anchors
from healthgym.evaluation.statistics.panel import Panel, panel_from_frame
from healthgym.schema import Schema, load_schema
from healthgym.seeds import permutation

ROOT = Path(__file__).resolve().parent.parent
SIZES = (60, 150, 300, 1300)
_MARKS = {"pass": "·", "caution": "C", "fail": "F", "not judged": "?", "shown": "·"}
_SHORT = {
    "privacy": "P", "validity": "V", "marginals": "M", "joint": "J", "dynamics": "D", "follow_up": "L",
    "collapse": "C", "discriminability": "R", "utility": "U",
}  # fmt: skip


class Bench:
    """Real patients split in three, and reports on cohorts against the first two thirds.

    Args:
        panel: real patients.
        config: of the reports.
        seed: of the split.
        most: patients of each third, at most.
    """

    def __init__(self, panel: Panel, config: ReportConfig, seed: int = 0, most: int = 1300) -> None:
        third = min(panel.num_patients // 3, most)
        order = permutation(panel.num_patients, seed, "thirds")
        parts = [panel.take(np.sort(order[k * third : (k + 1) * third])) for k in range(3)]
        self.train, self.holdout, self.honest = parts
        self.schema, self.config = panel.schema, config
        self._anchors: dict[int, Anchors] = {}

    def judge(self, cohort: Panel) -> dict[str, Any]:
        """Return the verdicts of a report, without its drawings."""
        began = time.perf_counter()
        sources = (source_of(p, name) for p, name in ((self.train, "train"), (self.holdout, "holdout")))
        comparison = compare(
            self.schema, self.config, *sources, source_of(cohort, "cohort"),
            self._anchors.get(cohort.num_patients), drawn=False,
        )  # fmt: skip
        self._anchors[cohort.num_patients] = comparison.anchors
        report = make_report(comparison, {})
        results = [result for section in report.sections for result in section.results]
        return {
            "sections": {section.key: str(section.verdict) for section in report.sections},
            "not passed": {f.key: [str(f.verdict), f.value] for f in results if f.verdict != "pass"},
            "figures": {f.key: f.value for f in results},
            "found": {f.key: f.finding for f in results if f.verdict in ("caution", "fail")},
            "seconds": round(time.perf_counter() - began, 1),
        }


def faults(bench: Bench, names: set[str] | None = None) -> Iterator[tuple[str, str, Panel]]:
    """Yield kind, name and patients of every spoiled cohort; of the honest one first."""
    base = Cohort.of(bench.honest)
    around = Around(Cohort.of(bench.train), Cohort.of(bench.holdout))
    yield "honest", "honest", bench.honest
    for corruption in corruptions(around):
        if names is None or corruption.name in names:
            yield corruption.kind, corruption.name, corruption.apply(base, around).panel()


def honest_draws(
    panel: Panel, config: ReportConfig, size: int, draws: Iterable[int], most: int
) -> Iterator[dict[str, Any]]:
    """Yield the verdicts on honest cohorts of one size.

    There is a new split in three after every ten, or after each where few patients are left to choose from.
    """
    per_split = 10 if 2 * size <= min(panel.num_patients // 3, most) else 1
    for split, numbers in groupby(draws, lambda draw: draw // per_split):
        bench = Bench(panel, config, 100 + split, most)
        yield from _draws_of(bench, size, numbers)


def _draws_of(bench: Bench, size: int, draws: Iterable[int]) -> Iterator[dict[str, Any]]:
    for draw in draws:
        rows = permutation(bench.honest.num_patients, draw, "honest", size)[:size]
        yield bench.judge(bench.honest.take(np.sort(rows))) | {"size": size, "draw": draw}


def table_of_faults(lines: list[dict[str, Any]]) -> str:
    """Return the table fault x section as Markdown."""
    head = " ".join(_SHORT[key] for key in SECTIONS)
    text = [f"| fault | {head} | first of all |", "| --- | --- | --- |"]
    for line in lines:
        marks = " ".join(_MARKS[line["sections"][key]] for key in SECTIONS if key in line["sections"])
        found = sorted(line["found"].items(), key=lambda item: line["not passed"][item[0]][0] != "fail")
        said = "; ".join(f"{key}: {words}"[:110] for key, words in found[:2])
        text.append(f"| {line['name']} | `{marks}` | {said} |")
    return "\n".join(text) + "\n"


def table_of_alarms(lines: list[dict[str, Any]]) -> str:
    """Return how often honest cohorts of each size raise an alarm, as Markdown."""
    text = ["| patients | cohorts | with a caution | failing | metrics |", "| --- | --- | --- | --- | --- |"]
    for size in sorted({line["size"] for line in lines}):
        here = [line for line in lines if line["size"] == size]
        cautious = [line for line in here if "caution" in line["sections"].values()]
        failing = [line for line in here if "fail" in line["sections"].values()]
        results = sorted({key for line in cautious + failing for key in line["found"]})
        text.append(f"| {size} | {len(here)} | {len(cautious)} | {len(failing)} | {', '.join(results)} |")
    return "\n".join(text) + "\n"


def read_panel(schema: Schema, table: Path | None, patients: int) -> Panel:
    """Return real patients, or simulated ones where no table is given."""
    frame = read_table(table, schema) if table else simulate_art_hiv(3 * patients, 7)
    return panel_from_frame(
        check_table(frame, schema, str(table or "simulated"), sort=True), schema, str(table)
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schema", type=Path, default=ROOT / "configs" / "schemas" / "art_hiv.yaml")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=1300, help="of each third, at most")
    parser.add_argument("--draws", type=int, default=20, help="honest cohorts of each size")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--only", choices=("faults", "honest"))
    parser.add_argument("--names", nargs="*", help="these faults only")
    given = parser.parse_args()
    schema, config = load_schema(given.schema), load_report_config(ROOT / "configs" / "report.yaml")
    panel = read_panel(schema, given.table, given.patients)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "faults.jsonl"
    if given.only != "honest":
        done = {line["name"] for line in _lines(path)}
        bench = Bench(panel, config, 0, given.patients)
        for kind, name, cohort in tqdm(
            faults(bench, set(given.names) if given.names else None), disable=None
        ):
            if name not in done:
                with path.open("a") as file:
                    file.write(json.dumps({"kind": kind, "name": name} | bench.judge(cohort)) + "\n")
        (given.out / "power.md").write_text(table_of_faults(_lines(path)))
    path = given.out / "honest.jsonl"
    if given.only != "faults":
        done_draws = {(line["size"], line["draw"]) for line in _lines(path)}
        for size in given.sizes:
            missing = [draw for draw in range(given.draws) if (size, draw) not in done_draws]
            for line in honest_draws(panel, config, size, missing, given.patients):
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        (given.out / "false_alarms.md").write_text(table_of_alarms(_lines(path)))


if __name__ == "__main__":
    main()
