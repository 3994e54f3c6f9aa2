"""Dates in tables: ISO dates or those of a form, as days since 1970.

Legend: N rows.
"""

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healthgym.schema import plain_word

_ISO_DATE = re.compile(r"\s*[0-9]{4}-[0-9]{2}-[0-9]{2}")
_OFFSET = r" *(?:[Zz]|[+-][0-9]{2}:?(?:[0-9]{2})?)\s*$"
_CLOCK = "[Tt ][0-9:.,]+"
_ZONE = _CLOCK + _OFFSET
_EPOCH = pd.Timestamp("1970-01-01")
DAYS = ("day", "days")
"""The unit of times that are given as dates."""


def has_dates(column: pd.Series, form: str = "") -> bool:
    """Tell whether a column holds ISO dates, or dates of the form that is given."""
    if getattr(column.dtype, "kind", "") == "M":
        return True
    if form:
        return bool(pd.to_datetime(_plain(column.dropna()), format=form, errors="coerce").notna().any())
    if getattr(column.dtype, "kind", "") in "iufb" or column.isna().all():
        return False
    return bool(column.dropna().astype(str).str.match(_ISO_DATE).any())


def days_in(column: pd.Series, form: str = "") -> pd.Series:
    """Return dates, ISO or of the form that is given, as days since 1970; another word becomes no number."""
    is_time = getattr(column.dtype, "kind", "") == "M"
    text = column if is_time else _plain(column) if form else column.astype(str)
    dates = moments(text, "ISO8601" if is_time or not form else form)
    days = ((dates - _EPOCH) / pd.Timedelta(days=1)).astype(object)
    words = column.astype(object).map(lambda word: f"{word} (no date)", na_action="ignore")
    days = days.where(dates.notna(), words)
    lacking = lacks_zone(column, form)
    return days.mask(lacking, text + " (without a time zone)") if lacking.any() else days


def moments(text: pd.Series, form: str) -> pd.Series:
    """Return dates in universal time; where all are midnight of their time zone, the days of the calendar.

    The days when clocks change have 23 or 25 hours, but the next day is one day later.
    """
    dates = pd.to_datetime(text, format=form, errors="coerce", utc=True).dt.tz_localize(None)
    if getattr(text.dtype, "kind", "") == "M":
        local = text.dt.tz_localize(None)
    elif form == "ISO8601" and text.str.contains(_ZONE).any():
        written = text.str.replace(rf"({_CLOCK}){_OFFSET}", r"\1", regex=True)
        local = pd.to_datetime(written, format=form, errors="coerce", utc=True).dt.tz_localize(None)
    else:
        return dates
    return local if (local.dropna() == local.dropna().dt.normalize()).all() else dates


def lacks_zone(column: pd.Series, form: str = "") -> NDArray[np.bool_]:
    """Return which rows have an ISO date without a time zone, if others have one: it may be off by hours."""
    if form or getattr(column.dtype, "kind", "") == "M":
        return np.zeros(len(column), bool)
    text = column.astype(str)
    zoned = text.str.contains(_ZONE).to_numpy(bool)
    return text.str.match(_ISO_DATE).to_numpy(bool) & ~zoned & zoned.any()


def as_date(days: float) -> str:
    """Return days since 1970 as an ISO date, with the time of day if there is one."""
    date = _EPOCH.to_datetime64().astype("datetime64[s]") + np.timedelta64(round(days * 86_400), "s")
    return str(date).removesuffix("T00:00:00")


def _plain(column: pd.Series) -> pd.Series:
    """Return a column's words in plain writing: 20240131 may be read as a number."""
    return column.map(plain_word, na_action="ignore").astype(str)
