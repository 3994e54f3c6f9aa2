"""Drawings of a report: small SVGs that read well on paper, on a phone and to colour-blind eyes."""

import io
import re
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from scipy import stats

from healthgym.evaluation.result import Figure

Array = NDArray[Any]

REAL, SYNTHETIC, HOLDOUT = "#1f4e79", "#d9730d", "#7a7a7a"
_STYLE = {
    "svg.fonttype": "none",
    # Names, labels and units are text: a dollar in them begins no formula, whatever a matplotlibrc says.
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}
_KDE_POINTS = 4000
_MOST_TIMES = 2.5
_TITLE, _LONG_TITLE, _UNIT = 60, 90, 40
_ONE_LINE = 40
# XML has no place for these, not even escaped.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def density(
    name: str,
    title: str,
    unit: str,
    real: Array,
    synthetic: Array,
    ends: tuple[float, float] | None = None,
) -> Figure:
    """Draw two overlaid kernel densities; on a logarithmic axis where the real values are skewed.

    A spike (many values that are one) would flatten all else: the axis ends at two and a half times the
    height of the lower curve.
    """
    skewed = bool(real.size > 2 and real.min() > 0 and stats.skew(real) > 2)
    axis = np.log10 if skewed else np.asarray
    low, high = np.quantile(axis(real), [0.001, 0.999])
    if ends and ends[0] < ends[1] and (ends[0] > 0 or not skewed):
        low, high = (float(axis(np.array(end))) for end in ends)
    ours = low, high
    made = axis(synthetic[synthetic > 0] if skewed else synthetic)
    if made.size:  # the axis holds both
        own = np.quantile(made, [0.01, 0.99])
        low, high = min(low, own[0]), max(high, own[1])
    margin = 0.05 * (high - low) or 1.0
    # Where no value is negative, no curve is.
    positive = not skewed and min(real.min(initial=0.0), synthetic.min(initial=0.0)) >= 0
    grid = np.linspace(max(low - margin, 0.0) if positive else low - margin, high + margin, 200)
    with _Canvas(3.2, 2.1) as (canvas, axes):
        for values, colour, label in ((real, REAL, "real"), (synthetic, SYNTHETIC, "synthetic")):
            shown = axis(values[values > 0] if skewed else values)
            curve = _kernel_density(shown, grid)
            if positive:  # what lies beyond zero is reflected (Silverman 1986, section 2.10)
                curve = curve + _kernel_density(shown, -grid)
            if values is real:  # beyond its ends lie single patients
                room = max(0.05 * (ours[1] - ours[0]), 0.4 * margin)
                curve = np.where((grid >= ours[0] - room) & (grid <= ours[1] + room), curve, np.nan)
            axes.plot(10**grid if skewed else grid, curve, color=colour, label=label)
            axes.fill_between(10**grid if skewed else grid, curve, color=colour, alpha=0.12, linewidth=0)
        if skewed:
            _logarithmic(axes, "x")
        axes.set(title=_lines(title), xlabel=shorten(unit, _UNIT), yticks=[])
        axes.set_ylim(0, _height([line.get_ydata() for line in axes.get_lines()]))
        _legend(canvas)
        return Figure(name, _svg(canvas, name), f"{title}: density of real and synthetic values")


def _lines(title: str) -> str:
    """Return a title on two lines where it would not fit on one."""
    title = shorten(title, _TITLE)
    return title if len(title) <= _ONE_LINE else "\n".join(textwrap.wrap(title, _ONE_LINE))


def _height(curves: Sequence[Array]) -> float:
    """Return the height of the axis: that of the curves, but a spike of one does not hide the other."""
    tops = sorted(float(np.nanmax(curve, initial=0.0)) for curve in curves)
    return 1.05 * min(tops[-1], _MOST_TIMES * max(tops[0], 1e-12))


def bars(name: str, title: str, labels: Sequence[str], real: Array, synthetic: Array) -> Figure:
    """Draw the share of each class, real beside synthetic."""
    positions = np.arange(len(labels))
    with _Canvas(3.2, max(1.5, 0.55 + 0.3 * len(labels))) as (canvas, axes):
        axes.barh(positions - 0.2, 100 * real, height=0.38, color=REAL, label="real")
        axes.barh(positions + 0.2, 100 * synthetic, height=0.38, color=SYNTHETIC, label="synthetic")
        axes.set_yticks(positions, [shorten(label) for label in labels])
        axes.invert_yaxis()
        axes.set(title=_lines(title), xlabel="%")
        _legend(canvas)
        return Figure(name, _svg(canvas, name), f"{title}: share of each class")


def heat_map(
    name: str,
    title: str,
    matrix: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    limit: float | None = None,
    triangular: bool = False,
    as_percent: bool = False,
    labels: tuple[str, str] = ("", ""),
    group: str = "",
) -> Figure:
    """Draw a matrix with its numbers; from -limit to limit in two colours, or from 0 in one."""
    shown = np.ma.masked_invalid(matrix)
    if triangular:
        shown = np.ma.masked_where(np.triu(np.ones(matrix.shape, dtype=bool)), shown)
        shown, rows, columns = shown[1:, :-1], rows[1:], columns[:-1]
    signed = limit is not None
    top = limit if limit is not None else float(np.nanmax(matrix, initial=0.0)) or 1.0
    size = 0.36 if signed else 0.55
    shown_title = shorten(title, _LONG_TITLE)
    width = max(1.2 + size * len(columns), 0.3 + 0.075 * len(shown_title))
    with _Canvas(width, 1.0 + max(0.28, 0.8 * size) * len(rows)) as (canvas, axes):
        axes.pcolormesh(
            shown, cmap="RdBu_r" if signed else "Blues", vmin=-top if signed else 0, vmax=top,
            edgecolors="white", linewidth=0.5, rasterized=False,
        )  # fmt: skip
        for (row, column), value in np.ma.ndenumerate(shown):  # type: ignore[no-untyped-call]
            text = f"{100 * value:.1f}" if as_percent else _short(value)
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7.5,
                color="white" if abs(value) > 0.6 * top else "#222222",
            )  # fmt: skip
        axes.set_xticks(np.arange(len(columns)) + 0.5, [shorten(c) for c in columns], rotation=50, ha="right")
        axes.set_yticks(np.arange(len(rows)) + 0.5, [shorten(row) for row in rows])
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        axes.set(ylabel=shorten(labels[0], _UNIT), xlabel=shorten(labels[1], _UNIT))
        canvas.suptitle(shown_title, x=0.02, ha="left", fontsize=10)
        return Figure(name, _svg(canvas, name), title, group)


def _short(number: float) -> str:
    """Write a number between -1 and 1 with two decimals, no leading zero and no negative zero."""
    return f"{round(number, 2) + 0.0:.2f}".replace("0.", ".", 1)


def shorten(text: str, length: int = 18) -> str:
    """Cut a label that would not fit."""
    return text if len(text) <= length else text[: length - 1] + "…"


class _Canvas:
    """Yield a canvas with one pair of axes in the report's style."""

    def __init__(self, width: float, height: float) -> None:
        self._style = matplotlib.rc_context(_STYLE)
        self._size = (width, height)

    def __enter__(self) -> tuple[Drawing, Any]:
        self._style.__enter__()
        canvas = Drawing(figsize=self._size, layout="constrained")
        return canvas, canvas.add_subplot()

    def __exit__(self, *problem: Any) -> None:
        self._style.__exit__(*problem)


def _legend(canvas: Drawing) -> None:
    """Put the legend below the axes, where it hides nothing."""
    canvas.legend(loc="outside lower right", ncols=2, fontsize=7, handlelength=1.2, columnspacing=1.0)


def _logarithmic(axes: Any, which: str) -> None:
    """Make an axis logarithmic, with few plain numbers on it."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    subs = (1.0,) if np.log10(high / low) > 2 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.7g}"))
    axis.set_minor_formatter(NullFormatter())


def _svg(canvas: Drawing, name: str) -> str:
    """Return the drawing as SVG text, the same for the same numbers."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The SVG holds text, which a browser draws with a font of its own that has the letter.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = _NOT_IN_XML.sub("\ufffd", stream.getvalue())
    return text[text.index("<svg") :]


def _kernel_density(values: Array, grid: Array) -> Array:
    """Return a Gaussian kernel density, or a bump where all values are one."""
    if len(values) > _KDE_POINTS:
        values = values[np.linspace(0, len(values) - 1, _KDE_POINTS).astype(int)]
    if len(values) < 2 or np.ptp(values) < 1e-12:
        centre = values[0] if len(values) else grid[0]
        width = abs(grid[-1] - grid[0]) / 100
        return np.asarray(stats.norm.pdf(grid, centre, width))
    return np.asarray(stats.gaussian_kde(values)(grid))


def ribbons(
    name: str,
    title: str,
    step: str,
    unit: str,
    real: Array,
    synthetic: Array,
    at_risk: Sequence[Array] = (),
) -> Figure:
    """Draw median and 10% to 90% over time, real and synthetic; each of shape (3, T).

    Below stands how many patients are still there, real and synthetic, where `at_risk` has it per timestep
    and they do not all stay.
    """
    skewed = bool(np.nanmin(real) > 0 and np.nanmax(real[2]) > 20 * np.nanmedian(real[1]))
    leaving = any(np.ptp(counts) for counts in at_risk)
    with _Canvas(3.2, 2.5 if leaving else 2.1) as (canvas, axes):
        for lines, colour, label in ((real, REAL, "real"), (synthetic, SYNTHETIC, "synthetic")):
            steps = np.arange(lines.shape[1])
            axes.fill_between(steps, lines[0], lines[2], color=colour, alpha=0.15, linewidth=0)
            axes.plot(steps, lines[1], color=colour, label=label)
        if skewed:
            _logarithmic(axes, "y")
        axes.set(
            title=_lines(f"{title}: median, 10–90%"),
            xlabel=shorten(step, _UNIT),
            ylabel=shorten(unit, _UNIT),
        )
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if leaving:
            longest = max(len(counts) for counts in at_risk)
            ticks = np.unique(np.linspace(0, longest - 1, 5).astype(int))
            counts = [np.pad(each, (0, longest - len(each)))[ticks] for each in at_risk]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            _numbers_at_risk(axes, ticks, (counts[0], counts[1]))
            axes.set_xlabel(f"{shorten(step, _UNIT)}; still there: real, synthetic", labelpad=26)
        _legend(canvas)
        return Figure(name, _svg(canvas, name), f"{title} over time: median and 10 to 90%")


def curves(name: str, title: str, label: str, x: Array, real: Array, synthetic: Array) -> Figure:
    """Draw one curve of each side."""
    with _Canvas(3.2, 1.9) as (canvas, axes):
        axes.plot(x, real, color=REAL, label="real")
        axes.plot(x, synthetic, color=SYNTHETIC, label="synthetic")
        axes.set(title=_lines(title), xlabel=shorten(label, _UNIT))
        axes.set_ylim(top=1.02)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(canvas)
        return Figure(name, _svg(canvas, name), title)


def survival(
    name: str,
    title: str,
    unit: str,
    times: Array,
    shares: tuple[Array, Array],
    band: tuple[Array, Array],
    ticks: Array,
    at_risk: tuple[Array, Array],
) -> Figure:
    """Draw real and synthetic Kaplan-Meier curves, the real one's 95% band, and numbers at risk below.

    Args:
        name, title, unit: of the drawing, and of time.
        times: where the curves are drawn.
        shares: real and synthetic.
        band: ends of the real curve's interval.
        ticks: times at which numbers at risk stand.
        at_risk: those, real and synthetic.
    """
    with _Canvas(3.2, 2.6) as (canvas, axes):
        axes.fill_between(times, *band, color=REAL, alpha=0.15, linewidth=0, step="post")
        for share, colour, label in zip(shares, (REAL, SYNTHETIC), ("real", "synthetic"), strict=True):
            axes.step(times, share, where="post", color=colour, label=label)
        axes.set(title=_lines(title), ylim=(0, 1.02))
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        _numbers_at_risk(axes, ticks, at_risk)
        axes.set_xlabel(f"{shorten(unit, _UNIT)}; at risk: real, synthetic", labelpad=26)
        _legend(canvas)
        return Figure(name, _svg(canvas, name), f"{title}: Kaplan-Meier, with the real curve's 95% band")


def _numbers_at_risk(axes: Any, ticks: Array, at_risk: tuple[Array, Array]) -> None:
    """Print how many patients are left under the axis, real above synthetic."""
    for line, (counts, colour) in enumerate(zip(at_risk, (REAL, SYNTHETIC), strict=True)):
        for tick, count in zip(ticks, counts, strict=True):
            axes.annotate(
                f"{int(count):,}", (tick, 0), (0, -22 - 9 * line), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="center", fontsize=7, color=colour, annotation_clip=False,
            )  # fmt: skip
