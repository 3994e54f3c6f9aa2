"""The simulated patients' hidden history: therapy, failures, changes of regimen, visits, VL and CD4.

All of it is assumed, with rates tuned until the published shares come out (see `simulate`). Legend: N
patients, T months, S spells (a spell lasts from one change of regimen to the next).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from healthgym import seeds
from healthgym.data.simulation.regimens import draw_groups, draw_regimens, joint, shares

Floats = NDArray[np.float64]
Classes = NDArray[np.intp]
Flags = NDArray[np.bool_]

_MAX_SPELLS = 8
_OTHER, _FEMALE = 3, 1  # classes of Ethnic and Gender
_SUPPRESSED = 2.5  # log10 copies/mL below which CD4 cells recover
_CEILING = 5.0  # log10 copies/mL that untreated patients stay below
_PARTIAL = 1.0  # log10 that a failing therapy still takes off


@dataclass(frozen=True)
class Draws:
    """Random numbers by name, for a range of patients: one patient's depend on no other's."""

    seed: int
    first_patient: int
    num_patients: int
    num_months: int

    def uniform(self, name: str, *shape: int) -> Floats:
        """Return draws from the open interval (0, 1), shape (N, *shape)."""
        row_shape = shape or (1,)
        position = ("simulate", name)
        drawn = seeds.uniform_rows(row_shape, self.num_patients, self.first_patient, self.seed, *position)
        # float32 draws are multiples of 2**-24, and 0 is one of them.
        return drawn.reshape(self.num_patients, *shape).astype(np.float64) + 2.0**-25

    def normal(self, name: str) -> Floats:
        """Return standard normal draws, shape (N,)."""
        return np.asarray(ndtri(self.uniform(name)))

    def monthly(self, name: str) -> Floats:
        """Return uniform draws, shape (T, N)."""
        return np.ascontiguousarray(self.uniform(name, self.num_months).T)

    def monthly_normal(self, name: str) -> Floats:
        """Return standard normal draws, shape (T, N)."""
        return np.asarray(ndtri(self.monthly(name)))


@dataclass(frozen=True)
class Patients:
    """Constants of a patient; every array has shape (N,)."""

    gender: Classes
    ethnic: Classes
    set_point: Floats  # log10 VL without therapy
    residual: Floats  # log10 VL under therapy that works
    cd4_level: Floats
    rel_level: Floats
    gain: Floats  # what CD4 scores gain by a full recovery
    treated_at_entry: Flags
    start: Classes  # month of the first dose
    pause_hazard: Floats
    visit_rate: Floats
    vl_chance: Floats  # that a visit measures VL


@dataclass(frozen=True)
class Course:
    """Events; every array has shape (T, N)."""

    treated: Flags
    failing: Flags
    spell: Classes
    vl_measured: Flags
    cd4_measured: Flags


@dataclass(frozen=True)
class Biology:
    """True values; every array has shape (T, N). Scores have mean about 0, standard deviation about 1."""

    log10_vl: Floats
    cd4_score: Floats
    rel_score: Floats


def draw_patients(draws: Draws) -> Patients:
    """Return patients with gender and ethnicity as published, and traits that depend on these."""
    gender, ethnic = draw_groups(draws.uniform("group"))
    female = gender == _FEMALE
    cd4_level = draws.normal("cd4_level")
    untreated = 1.0 - _share_true("Drug (M)", "Ethnic")[ethnic]
    treated_at_entry = draws.uniform("treated_at_entry") < 0.05
    # Exponential, cut off at 60% of the window; later with more CD4 cells, as guidelines long said.
    mean_wait = 77.0 * untreated**1.25 * np.exp(0.35 * cd4_level)
    within = -np.expm1(-0.6 * draws.num_months / mean_wait)
    wait = -mean_wait * np.log1p(-within * draws.uniform("start"))
    vl_factor, cd4_factor = (_group_factor(flag, gender, ethnic) for flag in ("VL (M)", "CD4 (M)"))
    return Patients(
        gender=gender,
        ethnic=ethnic,
        set_point=_CEILING - 0.15 * female - np.exp(-0.60 + 0.55 * draws.normal("set_point")),
        residual=1.17 + 0.52 * draws.normal("residual"),
        cd4_level=cd4_level + np.where(ethnic == _OTHER, 0.14, -0.25) - 0.10 * female,
        rel_level=draws.normal("rel_level"),
        gain=np.maximum(0.9 + 0.3 * draws.normal("gain"), 0.1),
        treated_at_entry=treated_at_entry,
        start=np.where(treated_at_entry, 0, wait).astype(np.intp),
        pause_hazard=0.075 * untreated * np.exp(0.8 * draws.normal("adherence") - 0.32),
        visit_rate=0.072 * cd4_factor**1.4 * np.exp(0.4 * draws.normal("visits") - 0.08),
        vl_chance=np.minimum(0.82 * vl_factor / cd4_factor, 0.98),
    )


def _share_true(flag: str, group: str) -> Floats:
    """Return the published share of a flag within each class of Ethnic or Gender, shape (K,)."""
    law_2K = joint(f"{group} | {flag}")
    return np.asarray(law_2K[1] / law_2K.sum(axis=0))


def _group_factor(flag: str, gender: Classes, ethnic: Classes) -> Floats:
    """Return the ratio of a flag's share in a patient's groups to its overall share, shape (N,)."""
    by_ethnic, by_gender = (_share_true(flag, group) / shares(flag)[1] for group in ("Ethnic", "Gender"))
    # Part of the difference between the genders is that between ethnicities: the root leaves half.
    return np.asarray(by_ethnic[ethnic] * np.sqrt(by_gender[gender]))


def draw_course(draws: Draws, patients: Patients) -> Course:
    """Return therapy, failures, changes and visits, month by month.

    A change comes the month after a visit has found a failure, or for another reason; neither depends
    on the regimen, so that the shares of regimens stay as published.
    """
    names = ("pause", "fail", "change", "visit", "vl_measured", "cd4_measured")
    pause, fail, change, visit, vl, cd4 = (draws.monthly(name) for name in names)
    num_months, num_patients = pause.shape
    treated, failing, vl_measured, cd4_measured = (np.zeros(pause.shape, dtype=bool) for _ in range(4))
    spell = np.zeros(pause.shape, dtype=np.intp)
    on, ill, found = (np.zeros(num_patients, dtype=bool) for _ in range(3))
    months_on, months_ill, current = (np.zeros(num_patients, dtype=np.intp) for _ in range(3))
    for month in range(num_months):
        starts = month == patients.start
        stays_or_resumes = np.where(on, pause[month] > patients.pause_hazard, pause[month] < 0.12)
        on = starts | ((month > patients.start) & stays_or_resumes)
        changes = on & ~starts & (found | (change[month] < 0.0243)) & (current < _MAX_SPELLS - 1)
        ill = on & ~changes & (ill | (~starts & (fail[month] < 0.012)))
        current = current + changes
        months_on, months_ill = np.where(on, months_on + 1, 0), np.where(ill, months_ill + 1, 0)
        chance = patients.visit_rate * np.where(months_ill > 1, 2.5, 1.0)
        chance = chance + 0.38 * 0.8**month + np.where(on, 0.35 * 0.8**months_on, 0.0)
        visits = visit[month] < np.where(starts | changes, 0.65, chance + 0.4 * (month == 0))
        treated[month], failing[month], spell[month] = on, ill, current
        vl_measured[month] = visits & (vl[month] < patients.vl_chance)
        cd4_measured[month] = visits & (cd4[month] < 0.97)
        found = vl_measured[month] & (months_ill > 1)
    return Course(treated, failing, spell, vl_measured, cd4_measured)


def draw_regimen_months(draws: Draws, patients: Patients, course: Course) -> Classes:
    """Return the classes of (base, INI, NNRTI, PI, enhancer), shape (5, T, N)."""
    regimen_5NS = draw_regimens(patients.gender, patients.ethnic, draws.uniform("regimen", _MAX_SPELLS, 2))
    patient_N, last_N = np.arange(len(patients.gender)), course.spell[-1]
    # Integrase inhibitors came last: read the sequence backwards where that puts them later. Those who
    # wait long are left as drawn: their first spell is the longest, and the shares would shift.
    has_ini_NS = regimen_5NS[1] < 3
    backwards_N = has_ini_NS[:, 0] & ~has_ini_NS[patient_N, last_N] & (patients.start < 6)
    spell_TN = np.where(backwards_N, last_N - course.spell, course.spell)
    return np.asarray(regimen_5NS[:, patient_N, spell_TN])


def draw_biology(draws: Draws, patients: Patients, course: Course, has_ini_TN: Flags) -> Biology:
    """Return VL, which nears its target by a share each month, and the CD4 scores that follow it.

    The target is the residual under therapy, the set point without, and somewhat below that while
    therapy fails. Integrase inhibitors bring VL down faster.
    """
    blip, cd4_drift, rel_drift = (draws.monthly_normal(name) for name in ("blip", "cd4_drift", "rel_drift"))
    vl = np.where(patients.treated_at_entry, patients.residual, patients.set_point)
    recovery = np.where(patients.treated_at_entry, 0.7, 0.0)
    cd4_noise, rel_noise = 0.23 * draws.normal("cd4_noise"), 0.23 * draws.normal("rel_noise")
    biology = Biology(*(np.empty_like(blip) for _ in range(3)))
    for month in range(len(blip)):
        on_therapy = np.where(course.failing[month], patients.set_point - _PARTIAL, patients.residual)
        target = np.where(course.treated[month], on_therapy, patients.set_point)
        speed = np.where((vl > target) & has_ini_TN[month], 0.75, 0.6)
        vl = vl + speed * (target - vl) + 0.15 * blip[month]
        recovery = recovery + np.where(vl < _SUPPRESSED, 0.06 * (1 - recovery), -0.04 * recovery)
        cd4_noise = 0.8 * cd4_noise + 0.14 * cd4_drift[month]
        rel_noise = 0.8 * rel_noise + 0.14 * rel_drift[month]
        risen = patients.gain * (recovery - 0.45)
        biology.log10_vl[month] = vl
        biology.cd4_score[month] = 0.93 * patients.cd4_level + risen + cd4_noise + 0.02
        level = 0.55 * patients.cd4_level + 0.72 * patients.rel_level
        biology.rel_score[month] = level + risen + 0.5 * cd4_noise + rel_noise
    return biology
