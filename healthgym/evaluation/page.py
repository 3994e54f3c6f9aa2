"""The report as one self-contained page."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from healthgym.evaluation.figure import Figure, Section, Verdict, show

_WORDS = {
    Verdict.PASS: ("✓", "Passes"),
    Verdict.CAUTION: ("!", "Caution"),
    Verdict.FAIL: ("✕", "Fails"),
    Verdict.NOT_JUDGED: ("?", "Not judged"),
    Verdict.SHOWN: ("·", "Shown"),
}
_SENTENCES = {
    Verdict.PASS: "Every figure that could be judged passes its threshold.",
    Verdict.CAUTION: "No figure fails, but some lie between passing and failing: read those before use.",
    Verdict.FAIL: "At least one figure fails: do not use this cohort for what that section is about.",
    Verdict.NOT_JUDGED: "Nothing could be judged.",
    Verdict.SHOWN: "Nothing was judged against a threshold.",
}


def render(content: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """Return the report as HTML, pictures inside."""
    verdict = Verdict(content["verdict"])
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            content=content,
            sections=sections,
            verdict=verdict,
            sentence=_SENTENCES[verdict],
            counts=[(each, _count(sections, each)) for each in Verdict],
            failing=[
                (section, figure)
                for wanted in (Verdict.FAIL, Verdict.CAUTION)
                for section in sections
                for figure in section.figures
                if figure.verdict is wanted
            ],
        )
    )


def data_uri(svg: str) -> str:
    """Return an SVG as the source of an image, so that its names cannot clash with another's."""
    return "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()


def png_uri(path: Path) -> str:
    """Return a PNG file as the source of an image."""
    return "data:image/png;base64," + b64encode(path.read_bytes()).decode()


def environment() -> Environment:
    """Return the templates, and the filters that write numbers and pictures into them."""
    made = Environment(
        loader=PackageLoader("healthgym.evaluation", "."),
        autoescape=select_autoescape(["html", "j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "show": show,
        "data_uri": data_uri,
        "png_uri": png_uri,
        "mark": lambda verdict: _WORDS[Verdict(verdict)][0],
        "word": lambda verdict: _WORDS[Verdict(verdict)][1],
        "css": lambda verdict: str(verdict).replace(" ", "-"),
    }
    return made


def _count(sections: Sequence[Section], verdict: Verdict) -> int:
    figures: list[Figure] = [figure for section in sections for figure in section.figures]
    return sum(figure.verdict is verdict for figure in figures)
