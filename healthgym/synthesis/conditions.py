"""Parsing of `--where` and `--shares` with a cohort's schema."""

import math
import re
from collections.abc import Sequence, Set

from healthgym.data.class_counts import LENGTH, ClassCounts
from healthgym.errors import ConfigError, listed, nearest
from healthgym.schema import Schema, Variable, plain_word
from healthgym.schema.cells import LEAST_PATIENTS, Cells
from healthgym.systems.conditions import Conditions, pieces_in

TIMESTEPS = "timesteps"
_NUMBER = r"[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER})(?:\.\.({_NUMBER}))?")
_SUM_TOLERANCE = 1e-6


def read_conditions(where: Sequence[str], shares: str, schema: Schema) -> Conditions:
    """Return the conditions of `--where` and `--shares`.

    Several values of one variable are alternatives, several variables must hold together.

    Args:
        where: such as "Gender=Female", "AgeGroup=80+", "Age=60..80", "timesteps=24..48".
        shares: such as "Gender=Female:0.5,Male:0.5"; nothing if empty.
        schema: of the cohort.

    Raises:
        ConfigError: a condition is invalid, or its variable is unknown or not static.
    """
    classes: dict[int, frozenset[int]] = {}
    reals: dict[int, tuple[tuple[float, float], ...]] = {}
    timesteps: tuple[tuple[int, int], ...] = ()
    for text in where:
        name, value = _split(text, "--where", "such as Gender=Female or Age=60..80")
        if name == TIMESTEPS:
            timesteps += (_whole_range(value, text),)
            continue
        variable = _static(name, schema, "--where")
        if variable.kind == "real":
            k = [each.name for each in schema.reals].index(name)
            reals[k] = (*reals.get(k, ()), _range(value, text))
        else:
            k = [each.name for each in schema.categoricals].index(name)
            classes[k] = classes.get(k, frozenset()) | {_class(value, variable, "--where")}
    if not shares:
        return Conditions(classes, reals, timesteps)
    name, value = _split(shares, "--shares", "such as Gender=Female:0.5,Male:0.5")
    variable = _static(name, schema, "--shares")
    if variable.kind == "real":
        raise ConfigError(f"--shares {name}: it is a real variable; shares are of classes. Use --where.")
    shared = [each.name for each in schema.categoricals].index(name)
    allowed = classes.get(shared)
    shares_of_classes = _shares(value, variable)
    if excluded := [k for k, share in shares_of_classes.items() if share and allowed and k not in allowed]:
        raise ConfigError(
            f"--shares {shares}: '{variable.labels[excluded[0]]}' has a share and is excluded by --where. "
            f"Leave one of them out."
        )
    return Conditions(classes, reals, timesteps, shares_of_classes, shared)


def refuse_rare_groups(
    conditions: Conditions,
    counts: ClassCounts,
    schema: Schema,
    least: int = LEAST_PATIENTS,
    cells: Cells | None = None,
) -> bool:
    """Refuse conditions that fewer than `least` training patients met together.

    Each class that has a share must be frequent enough. Training patients whose value lies in the same piece
    as one of a range count as in the range, since they are modelled as one kind.

    Args:
        conditions: on synthetic patients.
        counts: of the training patients.
        schema: of the cohort.
        least: number of training patients who must meet the conditions; k of the cells.
        cells: of the cohort; None if pieces were not counted.

    Returns:
        Whether all conditions were counted: otherwise, reals and lengths were not.

    Raises:
        ConfigError: names the conditions.
    """
    asked = {schema.categoricals[k].name: set(classes) for k, classes in conditions.classes.items()}
    counted = not (conditions.reals or conditions.timesteps)
    if cells is not None and LENGTH in counts.names:
        asked, counted = asked | _pieces_by_name(conditions, schema, cells), True
    groups = [asked]
    if conditions.shared is not None:
        shared = schema.categoricals[conditions.shared].name
        groups = [asked | {shared: {k}} for k, share in conditions.shares.items() if share]
    for group in filter(None, groups):
        if counts.number_with(group) < least:
            words = " together with ".join(_in_words(name, group[name], conditions, schema) for name in group)
            raise ConfigError(
                f"--where, --shares, --timesteps: fewer than {least} of the {counts.counts_G.sum():,} "
                f"training patients had {words}; synthetic patients would resemble individuals. Ask for a "
                f"larger group."
            )
    return counted


def _pieces_by_name(conditions: Conditions, schema: Schema, cells: Cells) -> dict[str, set[int]]:
    """Return the pieces of static reals and of the length that the ranges touch."""
    found = {
        schema.reals[r].name: pieces_in(cells.variables[r], ranges) for r, ranges in conditions.reals.items()
    }
    if conditions.timesteps:
        found[LENGTH] = pieces_in(cells.length, conditions.timesteps)
    return found


def _in_words(name: str, allowed: Set[int], conditions: Conditions, schema: Schema) -> str:
    if name == LENGTH:
        return f"{TIMESTEPS} = {ranges_in_words(conditions.timesteps)}"
    if schema[name].kind == "real":
        r = [variable.name for variable in schema.reals].index(name)
        return f"{name} = {ranges_in_words(conditions.reals[r])}"
    return f"{name} = {' or '.join(schema[name].labels[k] for k in sorted(allowed))}"


def ranges_in_words(ranges: Sequence[tuple[float, float]]) -> str:
    """Return "3..5 or 8", as `--where` takes them."""
    return " or ".join(f"{low:g}" if low == high else f"{low:g}..{high:g}" for low, high in ranges)


def _split(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.strip() and value.strip()):
        raise ConfigError(f"{option} {text}: expected a variable and a value, {example}.")
    return name.strip(), value.strip()


def _static(name: str, schema: Schema, option: str) -> Variable:
    follow = schema.follow_up.time if schema.follow_up else ""
    static = [variable.name for variable in schema.variables if variable.static and variable.name != follow]
    if name in static:
        return schema[name]
    if name == follow:
        raise ConfigError(
            f"{option} {name}: the time of follow-up is known only after a patient's rows were generated, so "
            f"patients cannot be sampled by it. Leave the condition out, make a larger cohort, and select "
            f"patients from it."
        )
    known = listed(f"'{each}'" for each in static) or "none: this schema has no static variable"
    why = "is not constant within a patient" if name in [v.name for v in schema.variables] else "is unknown"
    raise ConfigError(
        f"{option} {name}: '{name}' {why}{nearest(name, static)}. Patients can be chosen by what is "
        f"static: {known}, and by '{TIMESTEPS}'."
    )


def _class(text: str, variable: Variable, option: str) -> int:
    words = [plain_word(label) for label in variable.labels]
    codes = [plain_word(code) for code in variable.codes]
    for known in (words, codes):
        if plain_word(text) in known:
            return known.index(plain_word(text))
    raise ConfigError(
        f"{option} {variable.name}={text}: '{variable.name}' has no class "
        f"'{text}'{nearest(text, variable.labels)}; it has {listed(variable.labels)}."
    )


def _range(value: str, text: str) -> tuple[float, float]:
    found = _RANGE.fullmatch(value)
    low, high = (float(found[1]), float(found[2] or found[1])) if found else (1.0, 0.0)
    if low > high or not math.isfinite(high - low):
        raise ConfigError(f"--where {text}: expected a number or a range such as 60..80, lowest first.")
    return low, high


def _whole_range(value: str, text: str) -> tuple[int, int]:
    low, high = _range(value, text)
    if math.ceil(low) > math.floor(high):
        raise ConfigError(f"--where {text}: expected a whole number of timesteps, or a range with one.")
    return math.ceil(low), math.floor(high)


def _shares(text: str, variable: Variable) -> dict[int, float]:
    shares: dict[int, float] = {}
    # A label may contain commas and colons: split only after a number.
    for part in re.split(r"(?<=[0-9.]),", text):
        label, colon, number = part.rpartition(":")
        if not colon or not re.fullmatch(_NUMBER, number) or float(number) < 0:
            raise ConfigError(
                f"--shares {variable.name}={text}: expected a share of 0 or more behind each class, such as "
                f"{variable.labels[0]}:0.5."
            )
        k = _class(label, variable, "--shares")
        if k in shares:
            raise ConfigError(
                f"--shares {variable.name}={text}: '{variable.labels[k]}' has two shares; give one for each "
                f"class."
            )
        shares[k] = float(number)
    if abs(sum(shares.values()) - 1) > _SUM_TOLERANCE:
        raise ConfigError(
            f"--shares {variable.name}={text}: the shares add up to {sum(shares.values()):g}, not to 1."
        )
    return shares
