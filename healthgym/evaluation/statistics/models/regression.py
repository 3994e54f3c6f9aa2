"""Regressions that a user of a cohort would run: coefficients, with errors by patients.

Rows of one patient are not independent. Linear and logistic models are fitted as generalised estimating
equations with an independent working correlation: estimates of ordinary (generalised) least squares, and
Liang and Zeger's variance by patients (Biometrika 1986). Time to an event is Cox's model (J. R. Stat. Soc.
B 1972) on patients' first timestep, an event of another kind counting as censored.

Real variables, outcome included, are in standard deviations of the training data, so that the sizes of
coefficients can be compared.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import patsy
import statsmodels.api as sm
from numpy.typing import NDArray
from statsmodels.tools.sm_exceptions import PerfectSeparationError

from healthgym.errors import ConfigError, listed, nearest
from healthgym.evaluation.settings import Effect
from healthgym.evaluation.statistics.models.survival import follow_up
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.relations import Family
from healthgym.schema import Schema

Floats = NDArray[np.float64]

Kind: TypeAlias = Literal["linear", "logistic", "cox"]
TIMESTEP = "timestep"
_WITH = " with "  # of an interaction
_FEWEST = 20  # patients with, and without, what a coefficient is about
_EVENTS_PER_COEFFICIENT = 10  # Peduzzi et al., J. Clin. Epidemiol. 1996
_MOST_CLASSES = 10
_MOST_DEFAULTS = 24
_COLUMN = re.compile(r"v([0-9]+)(?:\[T\.c([0-9]+)\])?|step")
_OUTSIDE = r"""[^'"%s]|'[^']*'|"[^"]*\""""
"""A character or quoted text, without a mark outside quotation marks."""
_SIDES = re.compile(rf"((?:{_OUTSIDE % '~'})*)~((?:{_OUTSIDE % '~'})*)")
_LARGEST_LOG = 15.0  # a coefficient beyond this has no finite estimate


def default_effects(schema: Schema) -> list[Effect]:
    """Return analyses that follow from a schema: what varies on time and statics, the event on baseline."""
    follow = schema.follow_up
    taken = {follow.time, follow.event} if follow else set()
    statics = [
        v.name
        for v in schema.encoded
        if v.static and v.name not in taken and (v.kind == "real" or len(v.classes) <= _MOST_CLASSES)
    ]
    fixed = " + ".join(_quoted(name) for name in statics)
    terms = " + ".join(filter(None, [TIMESTEP, fixed]))
    found = (
        [] if not (follow and statics) else [_asked(schema, f"time to {follow.event}", f"~ {fixed}", "cox")]
    )
    for variable in schema.encoded:
        if not variable.static and (variable.kind == "real" or len(variable.classes) == 2):
            family: Kind = "linear" if variable.kind == "real" else "logistic"
            found.append(_asked(schema, variable.name, f"{_quoted(variable.name)} ~ {terms}", family))
    return found[:_MOST_DEFAULTS]


def _asked(schema: Schema, name: str, formula: str, family: Kind) -> Effect:
    return Effect(name=name, schema=schema.name, formula=formula, family=family)


class Analysis:
    """One regression of a schema's variables.

    Args:
        effect: what is asked.
        schema: of the patients.

    Raises:
        ConfigError: the formula is none, or names what the schema lacks.
    """

    def __init__(self, effect: Effect, schema: Schema) -> None:
        self.effect, self._schema = effect, schema
        outcome, terms = self._parsed()
        self.outcome = outcome
        self._terms = terms
        self.used = sorted({int(k) for k in re.findall(r"v([0-9]+)", terms)})

    def coefficients(self, panel: Panel, scale: Mapping[int, float]) -> tuple[list[str], Floats, Floats]:
        """Return names of coefficients, their estimates and standard errors; NaN where patients are too few.

        Args:
            panel: the patients.
            scale: standard deviations of real variables, by position.
        """
        rows = panel.present_NT
        if self.effect.family == "cox":
            rows = rows & (np.arange(rows.shape[1]) == 0)
        patient_R, step_R = np.nonzero(rows)
        values_RV = _values(panel)[rows]
        frame = {"step": step_R / scale[-1]} | {f"v{k}": self._column(values_RV, k, scale) for k in self.used}
        design = patsy.dmatrix(
            self._terms, frame, eval_env=patsy.EvalEnvironment([]), NA_action=patsy.NAAction(NA_types=[]),
            return_type="dataframe",
        )  # fmt: skip
        names = list(design.columns)
        x = design.to_numpy(float)
        known = np.isfinite(x).all(axis=1) & np.isfinite(values_RV[:, self.used]).all(axis=1)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                if self.effect.family == "cox":
                    estimate, error, usable = self._cox(panel, x, known)
                else:
                    estimate, error, usable = self._clustered(values_RV, x, known, patient_R, scale)
            except (np.linalg.LinAlgError, PerfectSeparationError):  # columns that tell all, or the same
                estimate, error, usable = _nothing(x.shape[1])
        kept = [k for k, name in enumerate(names) if name != "Intercept"]
        sure = usable & np.isfinite(estimate) & np.isfinite(error) & (np.abs(estimate) < _LARGEST_LOG)
        estimate, error = (np.where(sure, each, np.nan)[kept] for each in (estimate, error))
        return [self._in_words(names[k]) for k in kept], estimate, error

    def _clustered(
        self, values_RV: Floats, x_RC: Floats, known_R: Any, patient_R: Any, scale: Mapping[int, float]
    ) -> tuple[Floats, Floats, Any]:
        assert self.outcome is not None
        y = values_RV[:, self.outcome]
        known = known_R & np.isfinite(y)
        y, x, patients = y[known], x_RC[known], patient_R[known]
        if self.effect.family == "linear":
            y = y / scale[self.outcome]
            enough = len(np.unique(patients)) >= _FEWEST
            model = sm.OLS(y, x) if enough else None
        else:
            events = min(len(np.unique(patients[y == code])) for code in (0, 1))
            enough = events >= _EVENTS_PER_COEFFICIENT * x.shape[1]
            model = sm.GLM(y, x, family=sm.families.Binomial()) if enough else None
        if model is None:
            return _nothing(x.shape[1])
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": patients})
        return np.asarray(fitted.params), np.asarray(fitted.bse), _enough(x, patients)

    def _cox(self, panel: Panel, x_NC: Floats, known_N: Any) -> tuple[Floats, Floats, Any]:
        found = follow_up(panel)
        happened = (found.event_N >= 0) & (found.event_N != found.censored)
        if self.effect.event:
            event = next(v for v in self._schema.categoricals if v.name == self._follow.event)
            happened = found.event_N == event.labels.index(self.effect.event)
        known = known_N & np.isfinite(found.time_N) & (found.event_N >= 0)
        x, time, status = x_NC[known][:, 1:], found.time_N[known], happened[known]
        estimate, error, none = _nothing(x.shape[1] + 1)
        usable = _enough(x, np.arange(len(x)))
        if not usable.any() or status.sum() < _EVENTS_PER_COEFFICIENT * x.shape[1]:
            return estimate, error, none
        fitted = sm.PHReg(time, x[:, usable], status=status.astype(int)).fit(disp=0)
        where = 1 + np.flatnonzero(usable)
        estimate[where], error[where] = fitted.params, fitted.bse
        return estimate, error, np.concatenate([[False], usable])

    @property
    def _follow(self) -> Any:
        return self._schema.follow_up

    def _column(self, values_RV: Floats, k: int, scale: Mapping[int, float]) -> Any:
        variable = self._schema.encoded[k]
        if variable.kind == "real":
            return values_RV[:, k] / scale[k]
        labels = [f"c{code}" for code in range(len(variable.classes))]
        codes = np.where(np.isfinite(values_RV[:, k]), values_RV[:, k], 0).astype(np.int64)
        return pd.Categorical.from_codes(codes, pd.Index(labels))

    def _in_words(self, name: str) -> str:
        def word(found: re.Match[str]) -> str:
            if found[1] is None:
                return TIMESTEP
            variable = self._schema.encoded[int(found[1])]
            return (
                variable.name if found[2] is None else f"{variable.name} = {variable.labels[int(found[2])]}"
            )

        return _COLUMN.sub(word, name.replace(":", _WITH))

    def _parsed(self) -> tuple[int | None, str]:
        """Return the position of the outcome, and the right side with names that mean nothing to Python."""
        sides = _SIDES.fullmatch(self.effect.formula)
        names = {v.name: k for k, v in enumerate(self._schema.encoded)}
        where = f"effects: '{self.effect.formula}'"
        if not sides:
            raise ConfigError(f"{where}: write OUTCOME ~ A + B, or ~ A + B for family: cox.")
        left, right = sides.groups()
        outcome = None
        if self.effect.family == "cox":
            if left.strip() or not self._follow:
                raise ConfigError(
                    f"{where}: Cox's model takes no outcome before ~, and a schema with follow_up."
                )
            self._check_event(where)
        else:
            outcome = _position(_unquoted(left.strip()), names, where)
            variable = self._schema.encoded[outcome]
            fits = variable.kind == "real" if self.effect.family == "linear" else len(variable.classes) == 2
            if not fits:
                wanted = "a real variable" if self.effect.family == "linear" else "a variable of two classes"
                raise ConfigError(f"{where}: the outcome of a {self.effect.family} model is {wanted}.")
        terms = [_term(term, names, where) for term in _split(right, "+")]
        return outcome, " + ".join(terms)

    def _check_event(self, where: str) -> None:
        labels = next(v.labels for v in self._schema.categoricals if v.name == self._follow.event)
        if self.effect.event and self.effect.event not in labels:
            raise ConfigError(
                f"{where}: event '{self.effect.event}': expected one of {listed(list(labels))}."
            )


def effects_of(analyses: Sequence[Analysis], panel: Panel, scale: Mapping[int, float]) -> Family:
    """Return every coefficient of some analyses of a set of patients."""
    names: list[tuple[str, str]] = []
    estimates, errors = [np.empty(0)], [np.empty(0)]
    for analysis in analyses:
        terms, estimate, error = analysis.coefficients(panel, scale)
        names += [(term, analysis.effect.name) for term in terms]
        estimates.append(estimate)
        errors.append(error)
    # `is_relation` would take a coefficient that cannot be estimated for none.
    return Family(names, np.concatenate(estimates), np.concatenate(errors), _phrase, is_relation=False)


def _phrase(term: str, outcome: str) -> str:
    parts = ("time" if part == TIMESTEP else part for part in term.split(_WITH))
    return f"the coefficient of {_WITH.join(parts)} for {outcome}"


def scale_of(panel: Panel) -> dict[int, float]:
    """Return standard deviations of real variables by position, and of the timestep's number as -1."""
    values = _values(panel)[panel.present_NT]
    scale = {
        k: float(np.nanstd(values[:, k])) or 1.0
        for k, variable in enumerate(panel.schema.encoded)
        if variable.kind == "real" and np.isfinite(values[:, k]).any()
    }
    return {-1: float(np.std(np.nonzero(panel.present_NT)[1])) or 1.0} | {
        k: scale.get(k, 1.0) for k in range(len(panel.schema.encoded))
    }


def _values(panel: Panel) -> Floats:
    """Return values in the units of the table and class indices, shape (N, T, V); NaN is absent."""
    codes = np.where(panel.codes_NTK < 0, np.nan, panel.codes_NTK.astype(np.float64))
    return np.concatenate([panel.reals_NTR, codes], axis=2)


def _nothing(number: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return coefficients of which none is known."""
    return np.full(number, np.nan), np.full(number, np.nan), np.zeros(number, bool)


def _enough(x_RC: Floats, patient_R: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which columns vary, those of classes over enough patients."""
    found = []
    for column in x_RC.T:
        values = np.unique(column[: 10**5])
        if len(values) > 2:
            found.append(True)
            continue
        groups = [len(np.unique(patient_R[column == value])) for value in np.unique(column)]
        found.append(len(groups) == 2 and min(groups) >= _FEWEST)
    return np.array(found)


def _split(text: str, mark: str) -> list[str]:
    """Split at a mark outside quotation marks."""
    return [part.strip() for part in re.findall(f"(?:{_OUTSIDE % re.escape(mark)})+", text)]


def _term(text: str, names: Mapping[str, int], where: str) -> str:
    parts = _split(text, ":")
    return ":".join(
        "step" if part == TIMESTEP else f"v{_position(_unquoted(part), names, where)}" for part in parts
    )


def _position(name: str, names: Mapping[str, int], where: str) -> int:
    if name not in names:
        raise ConfigError(
            f"{where}: the schema has no variable '{name}'{nearest(name, names)}. Terms are names of "
            f"variables, in quotation marks where they hold +, : or ~, A:B for an interaction, or {TIMESTEP}."
        )
    return names[name]


def _quoted(name: str) -> str:
    """Return a name for a formula, in quotation marks unless it is plain; such marks in it are doubled."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"' if re.search(r"[^\w ]", name) or name == TIMESTEP else name


def _unquoted(text: str) -> str:
    mark = text[:1]
    quoted = len(text) > 1 and mark == text[-1] and mark in "'\""
    return text[1:-1].replace(2 * mark, mark) if quoted else text
