"""The statistics behind the verdicts: their errors, what they detect, their values for real patients."""

import numpy as np
import pandas as pd
import pytest
from evaluation_cohort import SCHEMA, cohort

from healthgym.evaluation.statistics.anchors import Anchors, independent
from healthgym.evaluation.statistics.attacks.changed_copies import Trimmed
from healthgym.evaluation.statistics.attacks.copies import (
    chance_courses,
    copy_limit,
    course_hashes,
    course_window,
    repeated_courses,
)
from healthgym.evaluation.statistics.columns import fit_columns
from healthgym.evaluation.statistics.findings import compare_families, families_of, lost_relations
from healthgym.evaluation.statistics.groups import compared_groups
from healthgym.evaluation.statistics.models.classifiers import ridge_scores, telling_features
from healthgym.evaluation.statistics.models.ranking import auc
from healthgym.evaluation.statistics.panel import Panel, panel_from_frame
from healthgym.evaluation.statistics.patients import sequence_vectors, summary_features, summary_names
from healthgym.evaluation.statistics.recorded import misrecorded_shares
from healthgym.evaluation.statistics.relations import correlations
from healthgym.evaluation.statistics.scale import fit_scale
from healthgym.evaluation.statistics.singles import ratio
from healthgym.schema import Schema


def panel_of(frame: pd.DataFrame, schema: Schema = SCHEMA) -> Panel:
    panel = panel_from_frame(frame, schema, "toy")
    return panel.on(fit_scale(panel.reals_NTR, schema))


@pytest.fixture(scope="module")
def real() -> Panel:
    return panel_of(cohort(400, 1))


@pytest.fixture(scope="module")
def fresh() -> Panel:
    return panel_of(cohort(400, 3))


@pytest.fixture(scope="module")
def anchors(real: Panel) -> Anchors:
    return Anchors(real, panel_of(cohort(300, 2)), 400, num_splits=4, seed=0)


def correlated(num_patients: int, r: float, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(num_patients, 1, 2))
    x[:, :, 1] = r * x[:, :, 0] + np.sqrt(1 - r**2) * x[:, :, 1]
    return x - x.mean(axis=0)


# --- standard errors -----------------------------------------------------------------------------


def test_the_error_of_a_correlation_of_normals_is_fishers() -> None:
    x = correlated(5000, 0.6)
    r, error = correlations(x, x)
    assert r[0, 1] == pytest.approx(np.corrcoef(x[:, 0].T)[0, 1], abs=1e-5)
    assert error[0, 1] == pytest.approx((1 - 0.6**2) / np.sqrt(5000), rel=0.06)
    few = 2 / (5000 / 3)  # w = a^2 of normals: (sum w)^2 / sum w^2 is a third of the patients
    assert error[0, 0] == pytest.approx(few, rel=0.1)


def test_timesteps_of_one_patient_count_once() -> None:
    x = correlated(500, 0.4)
    again = np.repeat(x, 20, axis=1)
    for one, other in zip(correlations(x, x), correlations(again, again), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    values = (np.arange(300) % 3 == 0).astype(float)
    assert ratio(values * 20, np.full(300, 20.0)) == pytest.approx(ratio(values, np.ones(300)))
    assert ratio(values, np.ones(300))[1] == pytest.approx(np.sqrt(1 / 3 * 2 / 3 / 300))


def test_gaps_leave_the_shared_timesteps() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6, 2)) + rng.normal(size=(200, 1, 1))
    x[rng.random(x.shape) < 0.2] = np.nan
    both = np.isfinite(x).all(axis=2)
    a, b = x[both].T
    expected = (a * b).mean() / np.sqrt((a**2).mean() * (b**2).mean())
    assert correlations(x, x)[0][0, 1] == pytest.approx(expected, abs=1e-5)


def test_a_correlation_of_few_patients_has_an_error_of_its_own_size() -> None:
    """Of one patient it is 1 or -1 whatever the truth is, and of two no better."""
    random = np.random.default_rng(0)
    worst = 0.0
    for _ in range(200):
        x = random.standard_normal((500, 2, 2))
        x -= x.mean(axis=1, keepdims=True)
        x[2:, :, 1] = np.nan  # two patients have the second variable
        r, error = correlations(x, x)
        worst = max(worst, abs(r[0, 1] / error[0, 1]))
    assert worst < 5
    many = random.standard_normal((500, 1, 2))
    r, error = correlations(many, many)
    assert error[0, 1] == pytest.approx((1 - r[0, 1] ** 2) / np.sqrt(500), rel=0.05)


# --- what is found -------------------------------------------------------------------------------


def test_honest_patients_stay_within_the_noise(anchors: Anchors, fresh: Panel) -> None:
    found = anchors.compared(fresh)
    assert {"same time", "within", "lag 1", "changes 0", "between", "stratum", "effect"} <= set(found)
    assert anchors.cut >= 5
    assert max(each.largest_z for each in found.values()) < anchors.cut
    assert lost_relations(found, list(found), anchors.cut)[1] == 0


def test_independent_variables_lose_their_relations_and_keep_their_values(
    anchors: Anchors, real: Panel
) -> None:
    found = anchors.independent_compared
    clear, lost, which = lost_relations(found, ["same time", "between"], anchors.cut)
    assert lost > 0.5 * clear > 0
    assert abs(which[0].synthetic) < 0.5 * abs(which[0].real)
    for key in ("distribution", "mean", "class"):
        assert found[key].largest_z < anchors.cut, key
    apart = independent(real, 0)
    np.testing.assert_array_equal(np.sort(apart.reals_NTR.ravel()), np.sort(real.reals_NTR.ravel()))


def test_independent_patients_keep_their_lengths() -> None:
    frame = cohort(60, 1)
    lengths = np.random.default_rng(0).integers(3, 17, 60)
    cut = panel_of(frame[frame["Timestep"] < np.repeat(lengths, 16)].reset_index(drop=True))
    apart = independent(cut, 0)
    np.testing.assert_array_equal(apart.lengths_N, lengths)
    assert np.isfinite(apart.reals_NTR[apart.present_NT]).all()
    assert np.isnan(apart.reals_NTR[~apart.present_NT]).all()


def test_a_variable_that_comes_late_is_found_by_its_relations(anchors: Anchors, fresh: Panel) -> None:
    late = fresh.reals_NTR.copy()
    late[:, 1:, 1] = fresh.reals_NTR[:, :-1, 1]
    found = anchors.compared(Panel(SCHEMA, late, fresh.codes_NTK, fresh.lengths_N, fresh.scale))
    worst = found["changes 0"].worst(anchors.cut)
    assert worst is not None
    assert abs(worst.z) > anchors.cut
    assert "rate" in worst.phrase
    assert found["distribution"].largest_z < anchors.cut


@pytest.mark.parametrize(("code", "label"), [(0, "female"), (1, "male")])
def test_one_group_with_another_relation_is_found(
    anchors: Anchors, fresh: Panel, code: int, label: str
) -> None:
    group = np.flatnonzero(fresh.codes_NTK[:, 0, 2] == code)
    reals = fresh.reals_NTR.copy()
    reals[group, :, 1] = reals[np.roll(group, 1), :, 1]
    found = anchors.compared(Panel(SCHEMA, reals, fresh.codes_NTK, fresh.lengths_N, fresh.scale))
    worst = found["stratum"].worst(anchors.cut)
    assert worst is not None
    assert abs(worst.z) > anchors.cut
    assert worst.phrase.startswith(f"sex = {label}: ")
    assert "rate" in worst.phrase


def test_errors_are_never_smaller_than_real_patients_predict(real: Panel) -> None:
    columns = fit_columns(real)
    mine = families_of(real, columns)
    one = families_of(real.take(np.zeros(400, dtype=np.int64)), columns)
    for key, each in compare_families(mine, one, 1.0).items():
        known = np.isfinite(each.error_K)
        assert (each.error_K[known] >= np.sqrt(2) * mine[key].error_K[known]).all(), key


# --- copies, groups, grids, features -------------------------------------------------------------


def test_the_limit_of_near_copies_follows_the_tail_of_honest_ratios() -> None:
    ratios = np.random.default_rng(0).random(20_000) ** (1 / 20)
    # P(ratio < x) = x^20: one in a thousand cohorts of a thousand lies below 1e-6^(1/20).
    limit = copy_limit(ratios, 1000)
    assert 1e-6 ** (1 / 20) / 1.7 < limit <= 1e-6 ** (1 / 20) * 1.1
    assert copy_limit(ratios**0.2, 10) == 0.5
    assert copy_limit(np.zeros(100), 10) == 0.0


def test_one_pair_of_real_patients_who_are_much_alike_lowers_the_limit_of_near_copies() -> None:
    ratios = 0.7 + 0.3 * np.random.default_rng(0).random(1000)
    assert copy_limit(ratios, 60) == 0.5
    alike = np.append(ratios, [0.44, 0.52])
    assert copy_limit(alike, 60) < 0.44


def test_a_course_is_found_at_another_time(real: Panel, fresh: Panel) -> None:
    window = course_window(16)
    known = course_hashes(real, window)
    assert repeated_courses(known, course_hashes(fresh, window)) == 0
    moved = fresh.reals_NTR.copy()
    moved[7, 4:, 0] = real.reals_NTR[3, :12, 0]
    spoiled = Panel(SCHEMA, moved, fresh.codes_NTK, fresh.lengths_N)
    assert repeated_courses(known, course_hashes(spoiled, window)) == 1
    assert chance_courses(known, course_hashes(spoiled, window)) == 1
    moved[7, 4:, 1] = real.reals_NTR[3, :12, 1]
    twice = Panel(SCHEMA, moved, fresh.codes_NTK, fresh.lengths_N)
    assert repeated_courses(known, course_hashes(twice, window)) == 1
    assert chance_courses(known, course_hashes(twice, window)) == 0  # rather one person than chance
    flat = Panel(SCHEMA, np.full_like(moved, 5.0), fresh.codes_NTK, fresh.lengths_N)
    assert repeated_courses(course_hashes(flat, window), course_hashes(flat, window)) == 0


def test_a_group_that_is_gone_is_found_by_exact_tests(real: Panel, fresh: Panel) -> None:
    assert compared_groups(real, fresh)[0].p > 0.005
    kept = fresh.take(np.flatnonzero(fresh.codes_NTK[:, 0, 3] != 3))
    worst = compared_groups(real, kept)[0]
    assert "group = D" in worst.name
    assert worst.synthetic == 0
    assert worst.p < 0.005
    assert worst.ratio_interval[1] < 0.5


def test_values_off_the_grid_and_missing_from_it_are_counted(real: Panel, fresh: Panel) -> None:
    def rounded(panel: Panel, step: float, add: float = 0.0) -> Panel:
        values = np.round(panel.reals_NTR / step) * step + add
        return Panel(SCHEMA, values, panel.codes_NTK, panel.lengths_N, panel.scale)

    whole = rounded(real, 1.0)
    assert misrecorded_shares(whole, rounded(fresh, 1.0))["pressure"] < 0.02
    assert misrecorded_shares(whole, rounded(fresh, 1.0, 0.3))["pressure"] == 1.0
    assert misrecorded_shares(whole, rounded(fresh, 5.0))["pressure"] > 0.6
    assert misrecorded_shares(real, fresh) == {}  # hardly a value repeats


def test_what_gives_patients_away_is_named(real: Panel, fresh: Panel) -> None:
    mean = fresh.reals_NTR.mean(axis=1, keepdims=True)
    wild = Panel(SCHEMA, mean + 2 * (fresh.reals_NTR - mean), fresh.codes_NTK, fresh.lengths_N, real.scale)
    features = summary_features(wild), summary_features(real)
    assert len(summary_names(SCHEMA)) == features[0].shape[1]
    telling = telling_features(*features, 3)
    names = [summary_names(SCHEMA)[each.position] for each in telling]
    assert any(name.startswith(("standard deviation of", "size of the steps of")) for name in names)
    assert all(each.auc > 0.8 and each.synthetic > each.real for each in telling)


def test_a_linear_classifier_tells_sets_apart_only_if_they_differ() -> None:
    rng = np.random.default_rng(0)
    same = rng.normal(size=(600, 8))
    assert auc(*ridge_scores((same[:300], same[300:]), 0)) == pytest.approx(0.5, abs=0.08)
    moved = same.copy()
    moved[:300, 2] += 2
    assert auc(*ridge_scores((moved[:300], moved[300:]), 0)) > 0.85


def test_distances_that_leave_out_what_differs_most_find_copies_with_a_variable_changed(
    real: Panel, fresh: Panel
) -> None:
    train, others = (sequence_vectors(each.on(real.scale), 16) for each in (real, fresh))  # type: ignore[arg-type]
    trimmed = Trimmed(train, SCHEMA)
    own = trimmed.nearest_other(train)
    copied = train[:5].reshape(5, 16, -1).copy()
    copied[:, :, 0] = others[:5].reshape(5, 16, -1)[:, :, 0]  # pressure is another patient's
    distance, nearest = trimmed.nearest(copied.reshape(5, -1), train)
    assert nearest.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(distance, 0.0, atol=2e-3)
    honest, _ = trimmed.nearest(others, train)
    assert np.median(honest) == pytest.approx(np.median(own), rel=0.1)
    assert honest.min() > 0.02


def test_too_few_variables_leave_nothing_out() -> None:
    few = Schema.model_validate(
        {"name": "few", "variables": SCHEMA.model_dump(by_alias=True)["variables"][:3]}
    )
    vectors = np.random.default_rng(0).normal(size=(20, 3 * 4)).astype(np.float32)
    assert not Trimmed(vectors, few).usable


def test_the_effect_of_a_class_of_one_patient_is_not_known(anchors: Anchors, fresh: Panel) -> None:
    """One patient of a class is fitted exactly: an error of 0 made honest cohorts fail."""
    group = fresh.codes_NTK[:, 0, 3]
    one = np.concatenate([np.flatnonzero(group != 3), np.flatnonzero(group == 3)[:1]])
    found = anchors.compared(fresh.take(one))["effect"]
    names = [k for k, (static, _) in enumerate(found.family.names) if static == "group = D"]
    assert names
    assert np.abs(found.z_K[names]).max() < 1e-3
    assert found.largest_z < anchors.cut
