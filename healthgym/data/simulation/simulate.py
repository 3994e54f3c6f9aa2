"""A simulated ART-for-HIV cohort, so that a demo, a test or a benchmark needs no download.

Calibrated to published statistics of the public cohort (`art_hiv_statistics.json`): the share of every
class; the cross-tables of gender, ethnicity and regimen; the quartiles of VL, CD4 and Rel CD4 and, as
limits, their extremes; how often VL and CD4 are measured and drugs recorded, by ethnicity and gender;
the share of patients who ever change regimen; roughly, the static correlations.

Assumed, because no month-to-month statistics are published: all dynamics. Most patients enter before
therapy and start after a while, later with more CD4 cells. VL then falls within months to the patient's
own residual level; it rebounds to the set point when therapy pauses, and part of the way when it fails.
CD4 and Rel CD4 rise slowly while VL is low and fall slowly while it is high. A failure that a visit
finds leads to another regimen the month after; other changes have other reasons. Visits crowd at entry,
at the start of therapy, at failures and at changes. Between measurements the last value is carried
forward. Before therapy and in pauses the regimen is the one prescribed, and Drug (M) is 0.

Not modelled: one regimen working better than another (but that VL falls faster under an integrase
inhibitor), death, seasons, laboratories. Do not learn medicine from it. Where the public file is odd, so
is this: about 3% of Rel CD4 exceed 100%, some CD4 counts are far too high, and VL stops at 97,566.

A patient is a pure function of (seed, index, number of timesteps): any part of a registry of millions
can be made without the rest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import inv_boxcox

from healthgym.data.simulation.disease import (
    Biology,
    Course,
    Draws,
    Flags,
    Floats,
    draw_biology,
    draw_course,
    draw_patients,
    draw_regimen_months,
)
from healthgym.data.simulation.regimens import AXES, published

REALS = ("VL", "CD4", "Rel CD4")
_FIRST_CODE = {"Gender": 1, "Ethnic": 1}  # raw codes of the other variables count from 0
_ASSAY_NOISE = 0.12  # log10 copies/mL of VL; scores of CD4 and Rel CD4
_QUARTILES_APART = 1.349  # in standard deviations of a normal law
_SHORTEST = 10  # months before anybody drops out


def simulate_art_hiv(
    num_patients: int,
    seed: int,
    num_timesteps: int = 60,
    first_patient: int = 0,
    *,
    dropout: float = 0.0,
    blank_unmeasured: bool = False,
    truth: bool = False,
) -> pd.DataFrame:
    """Return patients `first_patient ...` of the endless simulated registry of a seed, one row a month.

    Args:
        num_patients: at least 1.
        seed: any integer; another seed is another registry.
        num_timesteps: months, at least 2.
        first_patient: PatientID of the first patient, at least 0.
        dropout: chance in [0, 1) of leaving for good, each month from the tenth on; patients then differ
            in length.
        blank_unmeasured: make VL, CD4 and Rel CD4 NaN where their flag is 0.
        truth: add hidden variables: True VL, True CD4, True Rel CD4, Treated, Failing.

    Returns:
        The 13 variables in the order of the public file, reals as float64 rounded to 3 decimals, classes
        as raw codes (int8), then PatientID and Timestep; sorted by these.

    Raises:
        ValueError: when a count is too small or `dropout` is no such chance.
    """
    if num_patients < 1 or num_timesteps < 2 or first_patient < 0:
        raise ValueError(
            f"The simulator was asked for {num_patients} patients x {num_timesteps} timesteps from patient "
            f"{first_patient} on; it needs at least 1 patient, 2 timesteps and a first patient of 0 or more."
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; give the chance of leaving each month, 0 to below 1.")
    draws = Draws(seed, first_patient, num_patients, num_timesteps)
    columns = _simulate(draws, blank_unmeasured, truth)
    frame = pd.DataFrame({name: values_TN.T.ravel() for name, values_TN in columns.items()})
    frame["PatientID"] = np.repeat(np.arange(first_patient, first_patient + num_patients), num_timesteps)
    frame["Timestep"] = np.tile(np.arange(num_timesteps), num_patients)
    if not dropout:
        return frame
    length_N = _SHORTEST + np.floor(np.log(draws.uniform("dropout")) / np.log1p(-dropout))
    stays = frame["Timestep"].to_numpy() < length_N.repeat(num_timesteps)
    kept: pd.DataFrame = frame.loc[stays]
    return kept.reset_index(drop=True)


def simulate_chunks(
    num_patients: int,
    seed: int,
    num_timesteps: int = 60,
    first_patient: int = 0,
    *,
    chunk_patients: int = 20_000,
    **options: Any,
) -> Iterator[pd.DataFrame]:
    """Yield the rows of `simulate_art_hiv` in parts of `chunk_patients` patients, in bounded memory.

    Args:
        options: `dropout`, `blank_unmeasured` and `truth` of `simulate_art_hiv`.
    """
    last = first_patient + num_patients
    for first in range(first_patient, last, chunk_patients):
        count = min(chunk_patients, last - first)
        yield simulate_art_hiv(count, seed, num_timesteps, first, **options)


def _simulate(draws: Draws, blank_unmeasured: bool, truth: bool) -> Mapping[str, NDArray[Any]]:
    """Return the columns of the table, each of shape (T, N)."""
    patients = draw_patients(draws)
    course = draw_course(draws, patients)
    regimen_5TN = draw_regimen_months(draws, patients, course)
    biology = draw_biology(draws, patients, course, has_ini_TN=regimen_5TN[1] < 3)
    reals = _measured(draws, course, biology, blank_unmeasured)
    static_2TN = np.stack([patients.gender, patients.ethnic])[:, None].repeat(draws.num_months, axis=1)
    classes = dict(zip(AXES, [*static_2TN, *regimen_5TN], strict=True)) | {
        "VL (M)": course.vl_measured,
        "CD4 (M)": course.cd4_measured,
        "Drug (M)": course.treated,
    }
    codes = {name: (c + _FIRST_CODE.get(name, 0)).astype(np.int8) for name, c in classes.items()}
    if not truth:
        return reals | codes
    hidden = {f"True {name}": values_TN for name, values_TN in _values(biology).items()}
    return reals | codes | hidden | {"Treated": course.treated, "Failing": course.failing}


def _values(biology: Biology) -> dict[str, Floats]:
    """Return VL (copies/mL), CD4 (cells/uL) and Rel CD4 (%), within the published extremes."""
    values = {"VL": 10.0**biology.log10_vl}
    for name, score_TN in (("CD4", biology.cd4_score), ("Rel CD4", biology.rel_score)):
        # The public values are close to normal after Box-Cox: quartiles give mean and SD.
        power = published()["box_cox_lambda"][name]
        low, middle, high = (np.array(published()["quantiles"][name][1:4]) ** power - 1) / power
        values[name] = inv_boxcox(middle + (high - low) / _QUARTILES_APART * score_TN, power)
    extremes = {name: published()["quantiles"][name][::4] for name in REALS}
    return {name: np.clip(values[name], *extremes[name]).round(3) for name in REALS}


def _measured(draws: Draws, course: Course, biology: Biology, blank: bool) -> dict[str, Floats]:
    """Return the measured values, shape (T, N), carried forward or blank between measurements."""
    noise = (_ASSAY_NOISE * draws.monthly_normal(f"{name} assay") for name in REALS)
    states = (biology.log10_vl, biology.cd4_score, biology.rel_score)
    shown = _values(Biology(*(state + error for state, error in zip(states, noise, strict=True))))
    flags = {"VL": course.vl_measured, "CD4": course.cd4_measured, "Rel CD4": course.cd4_measured}
    if blank:
        return {name: np.where(flags[name], shown[name], np.nan) for name in REALS}
    return {name: _carried_forward(shown[name], flags[name]) for name in REALS}


def _carried_forward(values_TN: Floats, measured_TN: Flags) -> Floats:
    """Return the last measured value; before the first, that of a visit just before the window."""
    month_TN = np.where(measured_TN, np.arange(len(values_TN))[:, None], 0)
    return np.take_along_axis(values_TN, np.maximum.accumulate(month_TN, axis=0), axis=0)
