"""Known faults of a synthetic cohort: what `benchmarks/power.py` does to honest patients, one at a time.

Every fault is a function of (honest cohort, what surrounds it, random generator) and works on any schema
with real variables: variables are chosen by what they are (real, static, flag), or by how closely they go
with others. A cohort holds one array of shape (N patients, T timesteps) per variable, NaN where absent.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from healthgym.evaluation.statistics.panel import Panel
from healthgym.schema import Schema

Floats = NDArray[np.float64]
Rng = np.random.Generator
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Cohort:
    """Patients by variable: values of reals, class indices of the others, NaN where absent."""

    schema: Schema
    values: dict[str, Floats]
    lengths: Rows

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of(cls, panel: Panel) -> "Cohort":
        codes = np.where(panel.codes_NTK < 0, np.nan, panel.codes_NTK.astype(float))
        both = np.concatenate([panel.reals_NTR, codes], axis=2)
        return cls(
            panel.schema,
            {name: both[:, :, i] for i, name in enumerate(panel.schema.names())},
            panel.lengths_N,
        )

    def panel(self) -> Panel:
        reals = [self.values[v.name].astype(np.float32).astype(float) for v in self.schema.reals]
        codes = [self.values[v.name] for v in self.schema.categoricals]
        whole = np.where(np.isnan(np.stack(codes, 2)), -1, np.stack(codes, 2)).astype(np.int16)
        return Panel(self.schema, np.stack(reals, 2), whole, self.lengths)

    def take(self, rows: Rows) -> "Cohort":
        return Cohort(self.schema, {n: x[rows] for n, x in self.values.items()}, self.lengths[rows])

    def with_(self, **values: Floats) -> "Cohort":
        return replace(self, values=self.values | values)

    def insert(self, rows: Rows, other: "Cohort") -> "Cohort":
        """Return the cohort with the patients of `rows` replaced by others."""
        values = {name: x.copy() for name, x in self.values.items()}
        lengths = self.lengths.copy()
        lengths[rows] = other.lengths
        for name, x in values.items():
            x[rows] = other.values[name]
        return Cohort(self.schema, values, lengths)

    def courses(self, name: str, rows: Rows) -> Floats:
        """Return others' courses of a variable, cut to or drawn out to each patient's own length."""
        steps = np.minimum(np.arange(self.values[name].shape[1])[None, :], self.lengths[rows, None] - 1)
        taken = np.take_along_axis(self.values[name][rows], steps, axis=1)
        return np.where(self.present, taken, np.nan)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        return np.arange(next(iter(self.values.values())).shape[1])[None, :] < self.lengths[:, None]


@dataclass(frozen=True)
class Around:
    """What a fault may draw on: training patients, other honest patients, and what the variables are."""

    train: Cohort
    pool: Cohort

    @property
    def schema(self) -> Schema:
        return self.train.schema

    @cached_property
    def reals(self) -> list[str]:
        return [v.name for v in self.schema.reals if not v.static]

    @cached_property
    def flags(self) -> list[str]:
        names = list(self.schema.names())
        return sorted({v.measured_flag for v in self.schema.encoded if v.measured_flag} & set(names)) or [
            name for name in names if name.endswith("(M)")
        ]

    @cached_property
    def classes(self) -> list[str]:
        return [v.name for v in self.schema.categoricals if not v.static and v.name not in self.flags]

    @cached_property
    def statics(self) -> list[str]:
        return [v.name for v in self.schema.categoricals if v.static]

    @cached_property
    def dynamic(self) -> list[str]:
        return self.reals + self.classes + self.flags

    @cached_property
    def grid(self) -> dict[str, Floats]:
        values = [np.concatenate([c.values[v].ravel() for c in (self.train, self.pool)]) for v in self.reals]
        return {v: np.unique(x[np.isfinite(x)]) for v, x in zip(self.reals, values, strict=True)}

    @cached_property
    def deviation(self) -> dict[str, float]:
        return {v: float(np.nanstd(self.train.values[v])) or 1.0 for v in self.reals}

    @cached_property
    def by_ties(self) -> list[str]:
        """Reals, first those whose changes go most closely with another's."""
        changes = np.stack([np.diff(self.train.values[v], axis=1).ravel() for v in self.reals])
        known = np.isfinite(changes).all(axis=0)
        r = np.abs(np.nan_to_num(np.corrcoef(changes[:, known]))) if len(self.reals) > 1 else np.eye(1)
        np.fill_diagonal(r, 0)
        return [self.reals[i] for i in np.argsort(-r.max(axis=1), kind="stable")]

    @cached_property
    def skewed(self) -> str:
        """The real variable of the longest upper tail."""
        tails = {v: np.nanquantile(self.train.values[v], [0.5, 0.9, 0.999]) for v in self.reals}
        return max(
            self.reals, key=lambda v: (tails[v][2] - tails[v][0]) / max(tails[v][1] - tails[v][0], 1e-9)
        )

    def snap(self, name: str, values: Floats) -> Floats:
        """Return values moved to the nearest recorded one."""
        grid = self.grid[name]
        after = np.clip(np.searchsorted(grid, values), 1, len(grid) - 1)
        nearer = values - grid[after - 1] < grid[after] - values
        snapped = np.where(nearer, grid[after - 1], grid[after])
        return np.asarray(np.where(np.isnan(values), np.nan, snapped))

    def patient_means(self, cohort: Cohort, name: str) -> Floats:
        return np.asarray(np.nanmean(np.where(cohort.present, cohort.values[name], np.nan), axis=1))

    @cached_property
    def strongest_effect(self) -> tuple[str, str]:
        """The static and the real variable that go together most, by ranks of patients' means."""

        def strength(pair: tuple[str, str]) -> float:
            static, real = pair
            ranks = np.argsort(np.argsort(self.patient_means(self.train, real)))
            return abs(float(np.corrcoef(ranks, self.train.values[static][:, 0])[0, 1]))

        return max(((s, r) for s in self.statics for r in self.reals), key=strength)


Fault = Callable[[Cohort, Around, Rng], Cohort]


@dataclass(frozen=True)
class Corruption:
    """A fault with its name and kind."""

    kind: str
    name: str
    fault: Fault

    def apply(self, honest: Cohort, around: Around) -> Cohort:
        return self.fault(honest, around, np.random.default_rng(zlib.crc32(self.name.encode())))


def permute(names: Sequence[str], c: Cohort, a: Around, r: Rng, rows: Rows | None = None) -> Cohort:
    """Give some variables, together, the courses of other patients."""
    where = np.arange(len(c)) if rows is None else rows
    order = np.arange(len(c))
    order[where] = where[r.permutation(len(where))]
    return c.with_(**{name: c.courses(name, order) for name in names})


def independent(c: Cohort, a: Around, r: Rng) -> Cohort:
    for name in c.values:
        c = permute([name], c, a, r)
    return c


def junk(share: float, c: Cohort, a: Around, r: Rng) -> Cohort:
    """Some patients are nonsense: every value drawn at random from its column."""
    rows = r.choice(len(c), max(1, round(share * len(c))), replace=False)
    values = {name: x.copy() for name, x in c.values.items()}
    for name, x in values.items():
        known = c.values[name][np.isfinite(c.values[name])]
        shape = (len(rows), 1) if name in a.statics else (len(rows), x.shape[1])
        x[rows] = np.where(c.present[rows], r.choice(known, shape), np.nan)
    return replace(c, values=values)


def within(static: str, names: Sequence[str], together: bool, c: Cohort, a: Around, r: Rng) -> Cohort:
    """Permute variables within one class of a static variable: about a third of the patients."""
    classes = c.values[static][:, 0]
    shares = {k: (classes == k).mean() for k in np.unique(classes)}
    rows = np.flatnonzero(classes == min(shares, key=lambda k: abs(shares[k] - 0.3)))
    for group in [names] if together else [[name] for name in names]:
        c = permute(group, c, a, r, rows)
    return c


def effect(times: float, c: Cohort, a: Around, r: Rng) -> Cohort:
    """Remove (1) or reverse (2) the strongest effect of a static on a real variable."""
    static, real = a.strongest_effect
    skewed = a.grid[real][0] >= 0 and real == a.skewed
    shift = 0.1 * a.deviation[real]
    bent = c.with_(**{real: np.log(c.values[real] + shift)}) if skewed else c
    means, classes = a.patient_means(bent, real), c.values[static][:, 0]
    fitted = np.array([means[classes == k].mean() for k in classes]) - means.mean()
    moved = bent.values[real] - times * fitted[:, None]
    return c.with_(**{real: a.snap(real, np.exp(moved) - shift if skewed else moved)})


def backwards(name: str, c: Cohort, a: Around, r: Rng) -> Cohort:
    steps = np.where(c.present, c.lengths[:, None] - 1 - np.arange(c.present.shape[1])[None, :], 0)
    return c.with_(**{name: np.where(c.present, np.take_along_axis(c.values[name], steps, 1), np.nan)})


def late(names: Sequence[str], steps: int, c: Cohort, a: Around, r: Rng) -> Cohort:
    before = np.maximum(np.arange(c.present.shape[1]) - steps, 0)
    return c.with_(**{n: np.where(c.present, c.values[n][:, before], np.nan) for n in names})


def reorder(names: Sequence[str], c: Cohort, a: Around, r: Rng) -> Cohort:
    """Shuffle timesteps within patients, the same order for all the variables."""
    order = np.argsort(np.where(c.present, r.random(c.present.shape), 2.0), axis=1)
    return c.with_(**{name: np.take_along_axis(c.values[name], order, 1) for name in names})


def flip(share: float, c: Cohort, a: Around, r: Rng) -> Cohort:
    flipped = {}
    for name in a.classes:
        k = len(a.schema[name].classes)
        other = (c.values[name] + r.integers(1, k, c.present.shape)) % k
        flipped[name] = np.where(r.random(c.present.shape) < share, other, c.values[name])
    return c.with_(**flipped)


def break_runs(names: Sequence[str], c: Cohort, a: Around, r: Rng) -> Cohort:
    """Values that were carried forward differ a little at every timestep."""
    noise = {n: 1e-3 * a.deviation[n] * r.uniform(-1, 1, c.present.shape) for n in names}
    return c.with_(**{n: c.values[n] + noise[n] for n in names})


def unround(names: Sequence[str], c: Cohort, a: Around, r: Rng) -> Cohort:
    """Runs stay, but what is repeated was never rounded."""
    moved = {}
    for n in names:
        x = c.values[n]
        run = np.cumsum(np.concatenate([np.ones((len(c), 1), bool), np.diff(x, axis=1) != 0], 1).ravel()) - 1
        step = float(np.median(np.diff(a.grid[n])))
        moved[n] = x + step * r.uniform(-0.5, 0.5, run[-1] + 1)[run].reshape(x.shape)
    return c.with_(**moved)


def coarse(name: str, c: Cohort, a: Around, r: Rng) -> Cohort:
    step = 5 * float(np.median(np.diff(a.grid[name])))
    return c.with_(**{name: np.round(c.values[name] / step) * step})


def shrink(name: str, share: float, c: Cohort, a: Around, r: Rng) -> Cohort:
    mean = np.nanmean(c.values[name])
    return c.with_(**{name: a.snap(name, mean + (1 - share) * (c.values[name] - mean))})


def move(name: str, deviations: float, c: Cohort, a: Around, r: Rng) -> Cohort:
    return c.with_(**{name: a.snap(name, c.values[name] + deviations * a.deviation[name])})


def cut_tails(share: float, c: Cohort, a: Around, r: Rng) -> Cohort:
    ends = {n: np.nanquantile(c.values[n], [share, 1 - share]) for n in a.reals}
    return c.with_(**{n: a.snap(n, np.clip(c.values[n], *ends[n])) for n in a.reals})


def smooth(name: str, c: Cohort, a: Around, r: Rng) -> Cohort:
    x = np.pad(c.values[name], ((0, 0), (1, 1)), "edge")
    mean = np.nanmean(np.stack([x[:, :-2], x[:, 1:-1], x[:, 2:]]), axis=0)
    return c.with_(**{name: np.where(c.present, a.snap(name, mean), np.nan)})


def delete(
    which: Callable[[Cohort, Around], NDArray[np.bool_]], share: float, c: Cohort, a: Around, r: Rng
) -> Cohort:
    """Replace a kind of patient by honest patients of other kinds."""
    rows = np.flatnonzero(which(c, a))
    rows = rows[r.random(len(rows)) < share]
    others = np.flatnonzero(~which(a.pool, a))
    return c.insert(rows, a.pool.take(r.choice(others, len(rows), replace=len(rows) > len(others))))


def small_cell(c: Cohort, a: Around) -> NDArray[np.bool_]:
    """The patients of the smallest crossing of two statics that 1.5% of training patients or more have."""
    one, other = a.statics[-2:] if len(a.statics) > 1 else a.statics * 2
    x, y = (a.train.values[s][:, 0] for s in (one, other))
    cells = {(i, j): ((x == i) & (y == j)).mean() for i in np.unique(x) for j in np.unique(y)}
    cell = min((k for k, share in cells.items() if share >= 0.015), key=lambda k: cells[k])
    return np.asarray((c.values[one][:, 0] == cell[0]) & (c.values[other][:, 0] == cell[1]))


def extreme(name: str, share: float, c: Cohort, a: Around) -> NDArray[np.bool_]:
    """The patients whose largest value exceeds that of all but a share of training patients."""
    limit = np.quantile(np.nanmax(a.train.values[name], axis=1), 1 - share)
    return np.asarray(np.nanmax(c.values[name], axis=1) > limit)


def one_class(share: float, c: Cohort, a: Around, r: Rng) -> Cohort:
    """Some patients are replaced by patients of the commonest class of the last static but one."""
    static = a.statics[-2] if len(a.statics) > 1 else a.statics[0]
    classes = a.train.values[static][:, 0]
    commonest = max(np.unique(classes), key=lambda k: (classes == k).sum())
    rows = np.flatnonzero(c.values[static][:, 0] != commonest)
    rows = rows[r.random(len(rows)) < share]
    ready = np.flatnonzero(a.pool.values[static][:, 0] == commonest)
    return c.insert(rows, a.pool.take(r.choice(ready, len(rows), replace=len(rows) > len(ready))))


def noisy(c: Cohort, deviations: float, a: Around, r: Rng, names: Sequence[str] | None = None) -> Cohort:
    names = a.reals if names is None else names
    noise = {n: deviations * a.deviation[n] * r.normal(size=c.present.shape) for n in names}
    return c.with_(**{n: a.snap(n, c.values[n] + noise[n]) for n in names})


def copies(share: float, noise: float, how: str, c: Cohort, a: Around, r: Rng) -> Cohort:
    """Some patients are training patients: exact, noisy, with two variables changed, moved, half of them."""
    count = max(1, round(share * len(c)))
    rows, source = r.choice(len(c), count, replace=False), r.choice(len(a.train), count, replace=False)
    if how == "outliers":
        z = np.stack(
            [
                np.nan_to_num((a.train.values[n] - np.nanmean(a.train.values[n])) / a.deviation[n])
                for n in a.reals
            ]
        )
        source = np.argsort(-(z**2).mean(axis=(0, 2)))[:count]
    made, own = a.train.take(source), c.take(rows)
    if noise:
        made = noisy(made, noise, a, r)
    if how == "two changed":
        made = made.with_(
            **{n: made_course(own, made, n) for n in r.choice(a.reals, min(2, len(a.reals) - 1), False)}
        )
    if how == "moved":
        made = late(a.dynamic, 1, made, a, r)
    if how == "first half":
        half = np.arange(made.present.shape[1])[None, :] < made.lengths[:, None] // 2
        made = made.with_(**{n: np.where(half, made.values[n], made_course(own, made, n)) for n in a.dynamic})
    return c.insert(rows, made)


def made_course(own: Cohort, made: Cohort, name: str) -> Floats:
    """Return a variable of `own`, cut to or drawn out to the lengths of `made`."""
    steps = np.minimum(np.arange(made.present.shape[1])[None, :], own.lengths[:, None] - 1)
    return np.where(made.present, np.take_along_axis(own.values[name], steps, 1), np.nan)


def prototypes(share: float, noise: float, of_training: bool, c: Cohort, a: Around, r: Rng) -> Cohort:
    """All patients are noisy doubles of a few: training patients, or honest outsiders."""
    source = a.train if of_training else a.pool
    base = r.choice(len(source), min(max(8, round(share * len(c))), len(source)), replace=False)
    return noisy(source.take(base[r.integers(0, len(base), len(c))]), noise, a, r)


def twins(share: float, c: Cohort, a: Around, r: Rng) -> Cohort:
    """Some patients are noisy doubles of other patients of the cohort."""
    order = r.permutation(len(c))
    count = round(share * len(c))
    source = order[count + r.integers(0, max(1, count // 3), count)]
    return c.insert(order[:count], noisy(c.take(source), 0.3, a, r, a.reals[: max(1, len(a.reals) // 2)]))


def second_half(c: Cohort, a: Around, r: Rng) -> Cohort:
    """The second half of every course is another patient's of the same last static class."""
    order = np.arange(len(c))
    static = c.values[a.statics[-1]][:, 0] if a.statics else np.zeros(len(c))
    for k in np.unique(static):
        rows = np.flatnonzero(static == k)
        order[rows] = rows[r.permutation(len(rows))]
    first = np.arange(c.present.shape[1])[None, :] < c.lengths[:, None] // 2
    return c.with_(**{n: np.where(first, c.values[n], c.courses(n, order)) for n in a.dynamic})


def corruptions(a: Around) -> Iterator[Corruption]:
    """Yield every fault that makes sense for the schema."""
    tied, named = a.by_ties[0], Corruption
    other = next((v for v in a.reals if v != tied), tied)
    for p in (0.01, 0.05, 0.2):
        yield named("junk", f"junk {p:.0%}", partial(junk, p))
    for v in [*a.reals, *a.classes[:4], *a.statics]:
        yield named("permuted", f"permuted: {v}", partial(permute, [v]))
    for s in a.statics:
        yield named("subgroup", f"one {s}: {tied} permuted", partial(within, s, [tied], False))
        if a.classes:
            yield named(
                "subgroup", f"one {s}: {a.classes[-1]} permuted", partial(within, s, [a.classes[-1]], False)
            )
    if a.statics:
        yield named(
            "subgroup",
            f"one {a.statics[0]}: reals permuted together",
            partial(within, a.statics[0], a.reals[:4], True),
        )
        effect_of = "{} on {}".format(*a.strongest_effect)
        for times, word in ((1, "removed"), (2, "reversed"), (3, "reversed twice over")):
            yield named("effect", f"effect of {effect_of} {word}", partial(effect, times))
    for v in dict.fromkeys([other, tied, a.reals[-1], *a.classes[:1]]):
        yield named("time", f"backwards: {v}", partial(backwards, v))
    for v in dict.fromkeys([other, tied, *a.classes[-1:]]):
        for k in (1, 3, 6):
            yield named("time", f"{v} late by {k}", partial(late, [v], k))
    yield named("time", "timesteps shuffled: all", partial(reorder, a.dynamic))
    yield named("time", f"timesteps shuffled: {other}", partial(reorder, [other]))
    if a.classes:
        for p in (0.01, 0.03, 0.1):
            yield named("switching", f"{p:.0%} of classes flipped", partial(flip, p))
    yield named("runs", f"runs broken: {a.reals[-1]}", partial(break_runs, [a.reals[-1]]))
    yield named("smooth", f"smoothed: {other}", partial(smooth, other))
    yield named("grid", "rounding lost: all", partial(unround, a.reals))
    yield named("grid", f"rounding lost: {other}", partial(unround, [other]))
    yield named("grid", f"coarser: {tied}", partial(coarse, tied))
    for v in dict.fromkeys((tied, other)):
        for p in (0.1, 0.2, 0.4):
            yield named("spread", f"{v} deviation -{p:.0%}", partial(shrink, v, p))
            yield named("mean", f"{v} mean +{p / 1:.1f} SD", partial(move, v, p))
    for q in (0.01, 0.05):
        yield named("tails", f"tails cut at {q:.0%}", partial(cut_tails, q))
    if a.statics:
        yield named("left out", "smallest cell halved", partial(delete, small_cell, 0.5))
        yield named("left out", "smallest cell deleted", partial(delete, small_cell, 1.0))
        yield named("population", "one class only", partial(one_class, 1.0))
        yield named("population", "one class +20%", partial(one_class, 0.2))
    for v in dict.fromkeys((a.skewed, tied)):
        yield named("left out", f"highest {v} deleted", partial(delete, partial(extreme, v, 0.06), 1.0))
    for p in (0.001, 0.005, 0.02):
        yield named("copies", f"exact copies {p:.1%}", partial(copies, p, 0.0, ""))
    for p, z in ((0.1, 0.02), (0.02, 0.03), (0.02, 0.1), (0.1, 0.03), (0.1, 0.1), (0.02, 0.3), (0.1, 0.3)):
        yield named("copies", f"copies {p:.0%}, noise {z:.0%}", partial(copies, p, z, ""))
    if len(a.reals) > 2:
        for p in (0.005, 0.02, 0.1):
            yield named(
                "copies", f"copies {p:.1%}, two variables changed", partial(copies, p, 0.0, "two changed")
            )
    for z in (0.1, 0.3):
        yield named("copies", f"outliers 1%, noise {z:.0%}", partial(copies, 0.01, z, "outliers"))
    yield named("copies", "copies 0.5%, moved by one", partial(copies, 0.005, 0.0, "moved"))
    yield named("copies", "copies 2%, first half", partial(copies, 0.02, 0.0, "first half"))
    for share, z, of_training in (
        (0.15, 0.1, True),
        (0.15, 0.5, True),
        (0.15, 0.1, False),
        (0.5, 0.1, False),
    ):
        whose = "training" if of_training else "outsider"
        yield named(
            "collapse",
            f"{share:.0%} {whose} prototypes, noise {z:.0%}",
            partial(prototypes, share, z, of_training),
        )
    for p in (0.1, 0.3):
        yield named("collapse", f"{p:.0%} twins", partial(twins, p))
    if a.flags:
        yield named("flags", f"flag of others: {a.flags[0]}", partial(permute, [a.flags[0]]))
        yield named("flags", "flags of others: all", partial(permute, a.flags))
        yield named("flags", f"flag shuffled in time: {a.flags[-1]}", partial(reorder, [a.flags[-1]]))
    yield named("independent", "all columns independent", independent)
    if a.statics:
        yield named("swapped", "statics of others", partial(permute, a.statics))
    yield named("swapped", "second half of others", second_half)
