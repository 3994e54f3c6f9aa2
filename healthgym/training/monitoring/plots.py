"""Loss curves of a run in one figure: a panel per loss, a line per stage.

The publications judge training by these curves: the critic's gap narrows, the generator's loss flattens.
"""

from pathlib import Path
from typing import Any

from healthgym.files import atomic_path
from healthgym.training.monitoring.metrics import read_metrics

_POSITIONS = {"step", "epoch", "length", "seconds", "sequences_per_second", "planned_steps"}
_FIGURES = {
    "validation_distance": "mean of all",
    "validation_ks": "values (KS)",
    "validation_classes": "classes",
    "validation_changes": "changes",
    "validation_correlations": "correlations",
}
_VALIDATION = {"validation_nats", "best_nats", "best_distance", "best_step", *_FIGURES}
_TITLES = {
    "autoencoder_loss": "Autoencoder loss",
    "critic_gap": "Critic gap: mean D(real) - mean D(fake)",
    "critic_loss": "Critic loss",
    "generator_loss": "Generator loss",
    "gradient_penalty": "Gradient penalty",
    "correlation_loss": "Correlation loss",
    "distance": "Distances between made and real patients",
    "nats": "Nats per timestep: training and validation",
}


def draw_losses(metrics_path: Path, plot_path: Path) -> bool:
    """Plot a run's losses against its epochs; return whether there were any."""
    records = read_metrics(metrics_path)
    if not records:
        return False
    # matplotlib is slow to import, and training does not need it.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    validated = any("validation_nats" in record for record in records)
    names = [name for name in records[-1] if name not in _POSITIONS | _VALIDATION]
    if validated:
        names = ["nats", *(name for name in names if name != "nats")]
    if any("validation_distance" in record for record in records):
        names.append("distance")
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.5 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    lengths = sorted({record["length"] for record in records})
    colours = matplotlib.colormaps["viridis"]
    for panel, name in zip(axes.flat, names, strict=False):
        panel.set_title(_TITLES.get(name, name.replace("_", " ").capitalize()), fontsize=10, loc="left")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        if validated and name == "nats":
            _draw_validation(panel, records)
            continue
        if name == "distance":
            _draw_figures(panel, records)
            continue
        for index, length in enumerate(lengths):
            points = _by_epoch(records, name, length)
            colour = colours(0.9 * index / max(len(lengths) - 1, 1))
            panel.plot(points.keys(), points.values(), lw=1.4, color=colour, label=f"{length}",
                       marker="." if len(points) < 3 else None)  # fmt: skip
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    for panel in axes.flat:
        panel.xaxis.get_major_locator().set_params(integer=True)  # there is no epoch 1.25
    for panel in axes[-1]:
        panel.set_xlabel("Epoch")
    if "distance" in names:
        axes.flat[names.index("distance")].set_xlabel("Step")
    if validated:
        axes.flat[0].set_xlabel("Step")
    else:
        axes.flat[0].legend(title="Stage length", fontsize=8, title_fontsize=8, ncols=2)
    with atomic_path(plot_path) as beside:
        figure.savefig(beside, format="png", dpi=130)
    return True


def _draw_validation(panel: Any, records: list[dict[str, Any]]) -> None:
    """Plot training and validation loss against the steps, and mark the chosen weights."""
    for name, label in (("nats", "training"), ("validation_nats", "validation")):
        points = {record["step"]: record[name] for record in records if record.get(name) is not None}
        panel.plot(
            points.keys(), points.values(), lw=1.4, label=label, marker="." if len(points) < 3 else None
        )
    last = [record for record in records if "best_nats" in record][-1]
    panel.plot([last["best_step"]], [last["best_nats"]], "o", color="black", label="chosen")
    panel.legend(fontsize=8)


def _draw_figures(panel: Any, records: list[dict[str, Any]]) -> None:
    """Draw the distances to real patients against the steps, and the checkpoint chosen."""
    for name, label in _FIGURES.items():
        points = {record["step"]: record[name] for record in records if record.get(name) is not None}
        if points:
            mean = name == "validation_distance"
            panel.plot(points.keys(), points.values(), lw=2 if mean else 1, label=label,
                       color="black" if mean else None, marker="." if len(points) < 3 else None)  # fmt: skip
    last = [record for record in records if "best_distance" in record][-1]
    panel.plot([last["best_step"]], [last["best_distance"]], "o", color="black", label="chosen")
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=7, ncols=2)


def _by_epoch(records: list[dict[str, Any]], name: str, length: int) -> dict[int, float]:
    """Return the mean of a loss in each epoch of one stage."""
    values: dict[int, list[float]] = {}
    for record in records:
        if record["length"] == length and record.get(name) is not None:
            values.setdefault(record["epoch"] + 1, []).append(record[name])
    return {epoch: sum(found) / len(found) for epoch, found in sorted(values.items())}
