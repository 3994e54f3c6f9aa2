"""One plot for each way in which cost grows: time on the left, memory on the right."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from healthgym.files import atomic_path

Row = dict[str, Any]
COLOURS = {"v1": "#999999", "v2": "#0072b2", "v2.5": "#d55e00", "v3": "#009e73"}
STYLES = {"v1": ":", "v2": "-", "v2.5": "--", "v3": "-."}


def draw(found: dict[str, Any], folder: Path) -> Iterable[Path]:
    """Draw what `scaling.py` has measured; yield the plots' paths."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "healthgym"
    for name, (axis, panels) in _plots(found).items():
        yield _plot(folder / f"{name}.svg", axis, panels, found["machine"])


# What a panel draws: lines by name, each with points (x, y).
Lines = dict[str, list[tuple[float, float]]]


def _plots(found: dict[str, Any]) -> dict[str, tuple[str, list[tuple[str, Lines]]]]:
    def both(section: str, x: str) -> list[tuple[str, Lines]]:
        return [
            ("Seconds of a training step", _by_system(found[section], x, lambda row: row["seconds"])),
            ("Megabytes at its peak", _by_system(found[section], x, lambda row: row["megabytes"])),
        ]

    prepare, opened = found["patients"]["prepare"], found["patients"]["open"]
    shards = [row for row in found["shards"] if row["patients_per_shard"] == 1024]
    sizes = sorted(
        (row for row in found["shards"] if row["shards"] == 1), key=lambda r: r["patients_per_shard"]
    )
    return {
        "length": ("Timesteps (batch 32, 22 features)", both("length", "length")),
        "features": ("Features (batch 32, 60 timesteps)", both("features", "features")),
        "batch": ("Patients of a batch (60 timesteps, 22 features)", both("batch", "batch")),
        "patients": (
            "Patients",
            [
                ("Seconds", {
                    "prepare": _points(prepare, "patients", "seconds"),
                    "open for training": _points(opened, "patients", "seconds"),
                }),
                ("Megabytes", {
                    "prepare": _points(prepare, "patients", "megabytes"),
                    "open for training": _points(opened, "patients", "megabytes"),
                }),
            ],
        ),
        "shards": (
            "Shards of 1,024 patients, or patients of one shard",
            [
                ("Seconds, in one process", {
                    "more shards": _points(shards, "shards", "seconds"),
                    "a larger shard": _points(sizes, "patients_per_shard", "seconds"),
                }),
                ("Megabytes", {
                    "more shards": _points(shards, "shards", "megabytes"),
                    "a larger shard": _points(sizes, "patients_per_shard", "megabytes"),
                }),
            ],
        ),
        "processes": (
            "Timesteps",
            [
                ("Seconds of a step in each process (v2, batch 256)", {
                    "one process": _ranks(found, "alone"),
                    "two processes": _ranks(found, "shared"),
                }),
                ("Milliseconds of attention's quadratic part (batch 32)", {
                    "one block of v2.5": [
                        (row["length"], 1e3 * row["quadratic"]) for row in found["attention"]
                    ],
                }),
            ],
        ),
    }  # fmt: skip


def _plot(path: Path, axis: str, panels: list[tuple[str, Lines]], machine: dict[str, Any]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for panel, (title, lines) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for number, (name, points) in enumerate(lines.items()):
            colour = COLOURS.get(name, (list(COLOURS.values())[1:] * 2)[number])
            panel.plot(
                *zip(*points, strict=True), STYLES.get(name, "-"), color=colour, marker="o", ms=4, label=name
            )
        panel.set(xscale="log", yscale="log", xlabel=axis)
        _plain_numbers(panel, lines)
        panel.set_title(title, fontsize=10, loc="left")
        panel.grid(alpha=0.25, which="major")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False)
    about = f"measured on {machine['device']}, one thread, processor seconds, torch {machine['torch']}"
    figure.supxlabel(about, fontsize=7, color="#666666")
    with atomic_path(path) as beside:
        figure.savefig(beside, format="svg", metadata={"Date": None})
    return path


def _plain_numbers(panel: Any, lines: Lines) -> None:
    """Label the measured points on x, and 1, 2, 5, 10 ... on y; y spans a decade at least."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    points_x, values = zip(*(point for points in lines.values() for point in points), strict=True)
    low, high = min(values), max(values)
    margin = max(1.3, (10 * low / high) ** 0.5)
    panel.set_ylim(low / margin, high * margin)
    locators = (FixedLocator(sorted(set(points_x))), LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,)))
    for side, locator in zip((panel.xaxis, panel.yaxis), locators, strict=True):
        side.set(major_locator=locator, minor_locator=NullLocator())
        side.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e4 else f"{value:,.0f}")
        )
        side.set_tick_params(labelsize=8)
    if len(set(points_x)) > 5:
        panel.tick_params(axis="x", rotation=45)


def _by_system(rows: list[Row], x: str, y: Callable[[Row], float]) -> Lines:
    lines: Lines = {}
    for row in rows:
        lines.setdefault(row["system"], []).append((row[x], y(row)))
    return lines


def _points(rows: list[Row], x: str, y: str) -> list[tuple[float, float]]:
    return [(row[x], row[y]) for row in rows]


def _ranks(found: dict[str, Any], side: str) -> list[tuple[float, float]]:
    return [(row["length"], row[side]["processor_seconds"]) for row in found["ranks"]["rows"]]
