"""The report and the comparison on paper: what a browser prints as PDF."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from healthgym.evaluation.comparing.claims import Judged, Trained
from healthgym.evaluation.comparing.page import render_comparison
from healthgym.evaluation.pages.figures import density, heat_map
from healthgym.evaluation.pages.page import render, width
from healthgym.evaluation.report import Report
from healthgym.evaluation.result import Result, Row, Section, Verdict

TITLES = ("Variables together", "Movement over time", "Mode collapse")
NAMES = [f"variable {place}" for place in range(60)]


def sections() -> list[Section]:
    """Sections whose details hold more values than a page has lines, and figures."""
    rows = [Row(name, 0.001 * (100 + k), real=0.5, synthetic=0.25) for k, name in enumerate(NAMES)]
    large = Result(
        "joint.lost", "Relations lost", "What it is.", "nobody", 0.5, verdict=Verdict.FAIL, rows=rows
    )
    small = replace(large, key="joint.small", title="Small", rows=rows[:5], value=0.4)
    names = [f"a variable {place}" for place in range(16)]
    plots = [
        heat_map("r", "Pearson: real", np.eye(16), names, names, 1.0, triangular=True, group="r"),
        *(density(f"d{k}", f"density {k}", "mmHg", np.arange(9.0), np.arange(9.0)) for k in range(5)),
    ]
    return [Section(title, title, "What it asks.", [large, small] * 2, plots) for title in TITLES]


def report() -> str:
    return render(Report("Title", {"schema": "toy"}, sections(), {}).to_json(), sections())


def comparison(num_systems: int = 2) -> str:
    trained = [
        Trained(f"a-rather-long-name-of-a-run-{k}", "v2", 10, 20, 90.0, "CPU, 1 thread", 1.0, Path("nowhere"))
        for k in range(num_systems)
    ]
    made = Report("Title", {"synthetic": "9, x", "training data": "9, x", "holdout": ""}, sections(), {})
    return render_comparison([Judged(each, made, []) for each in trained], "Title")


def print_rules(page: str) -> str:
    return page.split("@media print {")[1].split("</style>")[0]


def test_every_value_is_on_the_page() -> None:
    page = report()
    assert all(page.count(f"<td>{name}</td>") == 2 * len(TITLES) for name in NAMES[5:])


@pytest.mark.parametrize("page", [report, comparison])
def test_print_keeps_headings_with_what_follows_and_opens_details(page) -> None:  # type: ignore[no-untyped-def]
    rules = print_rules(page())
    kept = re.findall(r"([^{}]+)\{[^{}]*break-after: avoid", rules)
    assert {"h2", "h3", "summary"} <= {name.strip() for names in kept for name in names.split(",")}
    assert re.search(r"details::details-content \{[^}]*content-visibility: visible", rules)


def test_wide_results_get_half_of_a_printed_page() -> None:
    page = report()
    assert page.count('class="pictures wide"') == len(TITLES)
    assert page.count('class="pictures"') == len(TITLES)
    assert width(sections()[0].figures[0].svg) > 400 > width(sections()[0].figures[1].svg) > 0


def test_the_comparison_says_of_each_system_whether_it_may_be_released() -> None:
    page = comparison()
    for name in ("a-run-0", "a-run-1"):
        assert re.search(rf"{name}\.</b> <span[^>]*>Release: undecided\.", page)


@pytest.mark.browser
@pytest.mark.parametrize(("page", "held"), [(report, 2), (comparison, 0)])
def test_the_browser_prints_every_value_and_no_heading_alone(page, held: int, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pages = printed(page(), tmp_path)
    text = " ".join("\n".join(pages).split())
    for name in NAMES if held else ():
        assert len(re.findall(rf"{name} [\d.]+ 0.5 0.25", text)) >= held * len(TITLES), name
    assert text.count("density 4") >= len(TITLES)
    for lines in (each.strip().splitlines() for each in pages):
        assert lines[-1].strip() not in (*TITLES, "Relations lost", "Small", "Every metric", "Side by side")
        assert not lines[-1].strip().startswith(("▸", "▾", "▼", "▶"))


@pytest.mark.browser
@pytest.mark.parametrize("page", [report, comparison, lambda: comparison(6)])
def test_nothing_printed_is_cut_off_or_shrunk_to_fit(page, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A browser shrinks what is too wide for its paper, so the heading has the size that the style says."""
    printed(page(), tmp_path)
    boxes = run("pdftotext", "-bbox", tmp_path / "page.pdf", "-")
    paper = float(re.findall(r'<page width="([\d.]+)"', boxes)[0])
    words = re.findall(r'yMin="([\d.]+)" xMax="([\d.]+)" yMax="([\d.]+)"', boxes)
    assert len(words) > 200
    assert max(float(right) for _, right, _ in words) < paper
    assert max(float(bottom) - float(top) for top, _, bottom in words) > 1.7 * 8.5


def printed(page: str, folder: Path) -> list[str]:
    """Return the text of each page of the PDF that the browser makes of a page."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    found = [name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)]
    assert found, "no browser: expected chromium, chromium-browser or google-chrome on the PATH"
    run(
        found[0], "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
        f"--user-data-dir={folder / 'browser'}", f"--print-to-pdf={folder / 'page.pdf'}",
        (folder / "page.html").as_uri(),
    )  # fmt: skip
    text = run("pdftotext", "-layout", folder / "page.pdf", "-")
    return [each for each in text.split("\f") if each.strip()]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout
