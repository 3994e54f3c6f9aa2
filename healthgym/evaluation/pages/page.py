"""The report as one self-contained page."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape

from healthgym.errors import listed
from healthgym.evaluation.pages.summary import findings, summarise
from healthgym.evaluation.result import Result, Section, Verdict, show
from healthgym.words import counted

_WORDS = {
    Verdict.PASS: ("✓", "Passes"),
    Verdict.CAUTION: ("!", "Caution"),
    Verdict.FAIL: ("✕", "Fails"),
    Verdict.NOT_JUDGED: ("?", "Not judged"),
    Verdict.SHOWN: ("·", "Shown"),
}
_PRIVACY = "privacy"
_SENTENCES = {
    Verdict.PASS: "Every metric that could be judged passes its threshold.",
    Verdict.CAUTION: "No metric fails, but some lie between passing and failing: read these before use.",
    Verdict.NOT_JUDGED: "Nothing fails, but at least one section could not be judged; the section says why.",
    Verdict.SHOWN: "Nothing was judged against a threshold.",
}

_GAUGE = 236.0
_WIDE = 400.0  # points; on paper a wider figure has numbers too small to read in a third of the page


def render(content: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """Return the report as HTML, plots inside."""
    verdict = Verdict(content["verdict"])
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            content=content,
            sections=sections,
            verdict=verdict,
            sentence=_sentence(verdict, sections),
            counts=[(each, _count(sections, each)) for each in Verdict],
            summary=summarise(sections, content.get("resembles_nobody", "")),
        )
    )


def _sentence(verdict: Verdict, sections: Sequence[Section]) -> str:
    """Say what the verdict on the whole means; of failing sections, which they are."""
    if verdict is not Verdict.FAIL:
        return _SENTENCES[verdict]
    failing = [each.title for each in sections if each.verdict is Verdict.FAIL and each.key != _PRIVACY]
    if not failing:
        return "Only the privacy section fails."
    return f"Do not rely on the cohort for what these sections are about, which fail: {listed(failing)}."


def gauge(result: Result) -> Markup:
    """Draw where the value lies: green passes, amber asks for caution, red fails; the tick is the noise
    floor."""
    if result.marks is None or result.value is None:
        return Markup()
    passes, fails = result.marks
    least = min(0.0, passes, fails, result.value)
    most = max(result.value, 1.3 * max(passes, fails, 0.0), 1e-9)
    if passes > fails or result.style == "percent":
        most = max(1.0, result.value) if most > 0.5 else most
    x = [_GAUGE * (limit - least) / (most - least) for limit in (passes, fails)]
    colours = ("#8cc7a4", "#f0c987", "#e59a94")
    zones = [(0.0, x[0], colours[0]), (x[0], x[1], colours[1]), (x[1], _GAUGE, colours[2])]
    if passes > fails:
        zones = [(0.0, x[1], colours[2]), (x[1], x[0], colours[1]), (x[0], _GAUGE, colours[0])]
    drawn = [
        f'<rect x="{start:.1f}" y="5" width="{max(end - start, 0):.1f}" height="6" fill="{colour}"/>'
        for start, end, colour in zones
    ]
    if result.floor is not None:
        x_floor = _GAUGE * min(max((result.floor - least) / (most - least), 0.0), 1.0)
        drawn.append(f'<rect x="{x_floor - 0.75:.1f}" y="2" width="1.5" height="12" fill="#5a6675"/>')
    x_value = _GAUGE * (result.value - least) / (most - least)
    drawn.append(f'<circle cx="{x_value:.1f}" cy="8" r="5" fill="#1d2530" stroke="#fff" stroke-width="1.5"/>')
    label = f"{show(result.value, result.style)}; {result.limit}"
    return Markup(
        f'<svg class="gauge" viewBox="-7 0 {_GAUGE + 14:.0f} 16" role="img" aria-label="{escape(label)}">'
        f"{''.join(drawn)}</svg>"
    )


def width(svg: str) -> float:
    """Return the width of an SVG in points; 0 where it does not say."""
    found = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+)', svg)
    return float(found[1]) if found else 0.0


def data_uri(svg: str) -> str:
    """Return an SVG as the source of an image, so that its names cannot clash with another's."""
    return "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()


def png_uri(path: Path) -> str:
    """Return a PNG file as the source of an image."""
    return "data:image/png;base64," + b64encode(path.read_bytes()).decode()


def environment() -> Environment:
    """Return the templates, and the filters that write numbers and plots into them."""
    made = Environment(
        loader=PackageLoader("healthgym.evaluation.pages", "."),
        autoescape=select_autoescape(["html", "j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "show": show,
        "counted": counted,
        "gauge": gauge,
        "findings": findings,
        "data_uri": data_uri,
        "has_sides": lambda rows: any(row.real is not None or row.synthetic is not None for row in rows),
        "are_wide": lambda drawn: any(width(figure.svg) > _WIDE for figure in drawn),
        "rows": lambda drawn: [list(row) for _, row in groupby(drawn, key=lambda figure: figure.group)],
        "png_uri": png_uri,
        "mark": lambda verdict: _WORDS[Verdict(verdict)][0],
        "word": lambda verdict: _WORDS[Verdict(verdict)][1],
        "css": lambda verdict: str(verdict).replace(" ", "-"),
    }
    return made


def _count(sections: Sequence[Section], verdict: Verdict) -> int:
    results: list[Result] = [result for section in sections for result in section.results]
    return sum(result.verdict is verdict for result in results)
