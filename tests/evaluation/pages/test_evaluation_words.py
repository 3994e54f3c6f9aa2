"""Names, units and labels of users are plain text in plots and pages, never mathematics or markup."""

import re
from html import unescape
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healthgym.evaluation.pages import figures
from healthgym.evaluation.pages.figures import shorten
from healthgym.evaluation.pages.page import render
from healthgym.evaluation.report import Report, file_names
from healthgym.evaluation.result import Figure, Section

ODD = (
    "$",
    "$$",
    "$x_",
    r"$\left(",
    r"\frac{1}{2}",
    "a_b^c",
    "<b>&amp;</b>",
    "%s {0} {{x}}",
    "_x",
    "中文",
    "\x01",
)
words = st.sampled_from(ODD) | st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = np.linspace(1.0, 2.0, 30)


def texts(figure: Figure) -> set[str]:
    """Return the words of a drawing as a reader of XML has them."""
    root = ElementTree.fromstring(figure.svg)
    return {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}


def drawn(text: str) -> str:
    """Return a word as it stands in a drawing: of one line, without what XML cannot hold."""
    return figures._NOT_IN_XML.sub("�", text).strip()


def one_line(*parts: str) -> bool:
    return not any(re.search(r"[\r\n\x85\u2028\u2029]|\s\s", part) for part in parts)


@settings(max_examples=25, deadline=None)
@given(words, words)
def test_densities_show_names_and_units_as_they_are(name: str, unit: str) -> None:
    found = texts(figures.density("x", name, unit, VALUES, VALUES))
    if one_line(name, unit):
        assert {drawn(name), drawn(unit)} - {""} <= found


@settings(max_examples=15, deadline=None)
@given(words, words)
def test_ribbons_show_names_and_units_as_they_are(name: str, unit: str) -> None:
    lines = np.stack([VALUES - 1, VALUES, VALUES + 1])
    found = texts(figures.ribbons("x", name, "month", unit, lines, lines))
    if one_line(name, unit):
        assert {drawn(f"{name}: median, 10–90%"), drawn(unit)} - {""} <= found


@settings(max_examples=15, deadline=None)
@given(words, st.lists(words, min_size=2, max_size=3))
def test_bars_and_heat_maps_show_labels_as_they_are(name: str, labels: list[str]) -> None:
    shares = np.full(len(labels), 1 / len(labels))
    matrix = np.outer(shares, shares)
    for figure in (
        figures.bars("x", name, labels, shares, shares),
        figures.heat_map("x", name, matrix, labels, labels),
    ):
        if one_line(name, *labels):
            assert {drawn(name), *(drawn(shorten(label)) for label in labels)} - {""} <= texts(figure)


def test_the_settings_of_a_user_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = figures.bars("x", "$CD4$", ["a", "b"], np.array([0.5, 0.5]), np.array([0.4, 0.6]))
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    monkeypatch.setitem(matplotlib.rcParams, "axes.formatter.use_mathtext", True)
    assert figures.bars("x", "$CD4$", ["a", "b"], np.array([0.5, 0.5]), np.array([0.4, 0.6])) == plain


@given(st.lists(words | st.text(max_size=400), max_size=12))
def test_every_plot_has_a_file_of_its_own(names: list[str]) -> None:
    found = file_names([f"marginal-{name}" for name in names])
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]{1,90}", name) for name in found)


def test_a_name_that_looks_like_a_numbered_one_keeps_its_file() -> None:
    assert file_names(["a", "a-2", "a!", "a?"]) == ["a", "a-2", "a-3", "a-4"]


@settings(max_examples=25, deadline=None)
@given(words, words, words)
def test_pages_show_words_as_they_are(title: str, fact: str, note: str) -> None:
    section = Section("joint", "Joint", "What", notes=[note])
    report = Report(title, {"schema": fact}, [section], {})
    page = render(report.to_json(), [section])
    shown = unescape(re.sub(r"<[^>]*>", "\0", page))
    for word in (title, fact, note):
        if not re.search(r"[\0\r]", word) and word == unescape(word):  # else this crude reading errs
            assert word in shown.split("\0")
