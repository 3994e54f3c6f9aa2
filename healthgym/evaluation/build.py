"""Bring real and synthetic patients on common ground: what a report judges."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from healthgym.errors import ConfigError, TableError, listed
from healthgym.evaluation.comparison import Comparison, Side
from healthgym.evaluation.sections.disclosure import can_be_counted, identifiers_of
from healthgym.evaluation.sections.use.effects import analyses_of
from healthgym.evaluation.settings import ReportConfig
from healthgym.evaluation.sources import Source, sample, side_of
from healthgym.evaluation.statistics.anchors import Anchors
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.scale import fit_scale
from healthgym.evaluation.statistics.sufficient import Combination
from healthgym.schema import Schema
from healthgym.words import counted

_SHARED = 0.01  # of the holdout's patients may equal a training patient


def refuse_few(name: str, number: int, least: int) -> None:
    """Raise a TableError if patients are too few for a report."""
    if number < least:
        raise TableError(
            f"{name} has {counted(number, 'patient')}; a report needs at least {least} (min_patients in the "
            f"report's settings). Give more patients."
        )


def _too_small(holdout: Source | None, config: ReportConfig) -> list[str]:
    """Return why a holdout is not used, if it is not."""
    if holdout is None or holdout.num_patients >= config.min_patients:
        return []
    return [
        f"The holdout has {holdout.num_patients} patients, fewer than the {config.min_patients} that a "
        f"report needs (min_patients in its settings), and is left out."
    ]


def compare(
    schema: Schema,
    config: ReportConfig,
    train: Source,
    holdout: Source | None,
    synthetic: Source,
    anchors: Anchors | None = None,
    drawn: bool = True,
) -> Comparison:
    """Bring the three sets on common ground: one scale, one length, samples of bounded size.

    Args:
        schema, config: what the columns mean, what is asked.
        train, holdout, synthetic: the patients.
        anchors: of an earlier comparison with the same real patients and as many synthetic ones.
        drawn: whether sections have plots.

    Raises:
        TableError: the real or the synthetic patients are too few to say anything.
    """
    for source in (train, synthetic):
        refuse_few(source.name, source.num_patients, config.min_patients)
    analyses_of(schema, config)  # a formula that is none is refused before the work
    unused = _too_small(holdout, config)
    if unused:
        holdout = None
    crossed, identifiers = _combinations(schema, config), identifiers_of(schema, config)
    counted = [identifiers] if identifiers and can_be_counted(identifiers, schema) else []
    sampled = sample(train, config.num_patients, config.seed)
    scale = fit_scale(sampled.reals_NTR, schema)

    def side(source: Source, name: str) -> Side:
        amounts = (config.num_patients, config.seed, sampled.num_timesteps)
        return side_of(source, name, scale, crossed, *amounts, counted)

    def all_synthetic() -> Iterator[Panel]:
        return (block.first(sampled.num_timesteps).on(scale) for block in synthetic.panels())

    known, unseen = side(train, "training data"), side(holdout, "holdout") if holdout else None
    if unseen:
        _refuse_overlap(known, unseen, train.name, holdout.name if holdout else "")
    return Comparison(
        schema,
        config,
        known,
        unseen,
        side(synthetic, "synthetic"),
        crossed,
        synthetic.raw_static,
        identifiers,
        all_synthetic if synthetic.num_patients > config.num_patients else None,
        unused,
        unfit=synthetic.unfit,
        remarks=synthetic.remarks,
        shared_anchors=anchors,
        drawn=drawn,
    )


def _refuse_overlap(train: Side, holdout: Side, train_name: str, holdout_name: str) -> None:
    """Refuse a holdout with training patients in it: with it no leak could be seen.

    Patients of short records may be equal by chance, as training patients are among themselves.
    """
    shared = int(np.isin(holdout.statistics.hashes_N, train.statistics.hashes_N).sum())
    repeated = 1 - len(np.unique(train.statistics.hashes_N)) / train.num_patients
    if shared > (_SHARED + 2 * repeated) * holdout.num_patients:
        raise TableError(
            f"{holdout_name}: {shared} of {holdout.num_patients} holdout patients equal a patient of "
            f"{train_name} in every value. A holdout must be patients that were not used for training. "
            f"Give such patients, or no holdout."
        )


def _combinations(schema: Schema, config: ReportConfig) -> list[Combination]:
    """Return every static categorical variable, and those to be crossed."""
    static = [variable.name for variable in schema.categoricals if variable.static]
    singles: list[Combination] = [(name,) for name in static]
    if config.coverage == "auto":
        return singles + list(combinations(static, 2))
    for names in config.coverage:
        unknown = [name for name in names if name not in static]
        if unknown or not 2 <= len(names) <= 3:
            raise ConfigError(
                f"coverage: {listed(names)}: expected two or three static categorical variables of the "
                f"schema '{schema.name}': {listed(static) or 'it has none'}."
            )
    return singles + [tuple(names) for names in config.coverage]
