"""The metrics of the report against closed forms, brute force, published examples and recorded numbers."""

import numpy as np
import pytest
from evaluation_cohort import SCHEMA, cohort
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from healthgym.evaluation.comparison import Side
from healthgym.evaluation.result import Noise, Verdict, in_words, judge, show, undecided, worst
from healthgym.evaluation.sections.collapse import diversity, duplicates, twins
from healthgym.evaluation.sections.disclosure import disclosure_risk
from healthgym.evaluation.sections.dynamics import autocorrelation, quantile_lines
from healthgym.evaluation.settings import Threshold
from healthgym.evaluation.statistics.attacks.membership import nearer_interval, nearer_share, nearest_in_first
from healthgym.evaluation.statistics.hashes import hash_patients
from healthgym.evaluation.statistics.models.policy import Decisions, disagreement, learn, policy_value
from healthgym.evaluation.statistics.models.ranking import (
    auc,
    auc_interval,
    rate_interval,
    true_positive_rate,
)
from healthgym.evaluation.statistics.panel import Panel, panel_from_frame
from healthgym.evaluation.statistics.patients import (
    k_nearest,
    neighbours,
    sequence_vectors,
    squared_distances,
)
from healthgym.evaluation.statistics.scale import fit_scale
from healthgym.evaluation.statistics.sufficient import statistics_of

COMBINATIONS = [("sex",), ("group",), ("sex", "group")]


def panel_of(num_patients: int = 200, seed: int = 0, num_timesteps: int = 16) -> Panel:
    """Return toy patients on their own scale."""
    panel = panel_from_frame(cohort(num_patients, seed, num_timesteps), SCHEMA, "toy")
    return panel.on(fit_scale(panel.reals_NTR, SCHEMA))


# --- verdicts ------------------------------------------------------------------------------------


def test_a_value_passes_up_to_the_larger_of_threshold_and_noise() -> None:
    threshold = Threshold(at_most=0.1, fail_above=0.2)

    def verdicts(limit: float, *values: float) -> list[Verdict]:
        return [judge(value, Noise(limit / 2, limit), threshold) for value in values]

    assert verdicts(0.01, 0.1, 0.15, 0.21) == [Verdict.PASS, Verdict.CAUTION, Verdict.FAIL]
    assert verdicts(0.16, 0.15, 0.17, 0.21) == [Verdict.PASS, Verdict.CAUTION, Verdict.FAIL]
    assert verdicts(0.3, 0.29, 0.31) == [Verdict.PASS, Verdict.FAIL]
    assert "between samples of real patients at most 0.16" in in_words(threshold, Noise(0.08, 0.16))


def test_a_value_fails_beyond_the_middle_between_noise_and_independence() -> None:
    threshold = Threshold(at_most=0.1, fail_above=0.9)
    noise = Noise(0.0, 0.05, 0.4)
    verdicts = [judge(value, noise, threshold) for value in (0.1, 0.19, 0.21)]
    assert verdicts == [Verdict.PASS, Verdict.CAUTION, Verdict.FAIL]
    assert judge(0.21, Noise(0.0, 0.05, 3.0), threshold) is Verdict.CAUTION  # the stricter of both
    large = Threshold(at_least=0.8, fail_below=0.1)
    verdicts = [judge(value, Noise(0.9, 0.85, 0.3), large) for value in (0.8, 0.7, 0.59)]
    assert verdicts == [Verdict.PASS, Verdict.CAUTION, Verdict.FAIL]


def test_what_independent_variables_would_pass_is_not_judged() -> None:
    threshold = Threshold(at_most=0.1, fail_above=0.2)
    assert judge(0.05, Noise(0.2, 0.5, 0.4), threshold) is Verdict.NOT_JUDGED
    assert judge(0.05, Noise(0.02, 0.05, 0.4), threshold) is Verdict.PASS


def test_what_no_value_could_fail_is_not_judged() -> None:
    ratio = Threshold(at_least=0.7, fail_below=0.4)
    assert judge(0.01, Noise(0.9, -0.868), ratio) is Verdict.NOT_JUDGED
    assert judge(0.01, Noise(0.9, 0.1), ratio) is Verdict.FAIL
    share = Threshold(at_most=0.1, fail_above=0.2)
    assert judge(0.99, Noise(0.2, 1.3), share, style="percent") is Verdict.NOT_JUDGED
    assert judge(0.99, Noise(0.2, 1.3), share) is Verdict.PASS  # a number may be larger than 1.3
    assert "no value could fail" in in_words(share, Noise(0.2, 1.3), "percent")


def test_an_interval_passes_or_fails_only_as_a_whole() -> None:
    threshold = Threshold(at_most=0.55, fail_above=0.6)
    found = {
        (0.45, 0.54): Verdict.PASS,
        (0.56, 0.59): Verdict.CAUTION,
        (0.58, 0.7): Verdict.CAUTION,
        (0.61, 0.9): Verdict.FAIL,
        (0.5, 0.58): Verdict.NOT_JUDGED,
        (0.3, 0.9): Verdict.NOT_JUDGED,
    }
    for (low, high), expected in found.items():
        assert judge((low + high) / 2, None, threshold, (low, high)) is expected, (low, high)
    large = Threshold(at_least=0.8, fail_below=0.5)
    assert judge(0.85, None, large, (0.81, 0.9)) is Verdict.PASS
    assert judge(0.4, None, large, (0.3, 0.49)) is Verdict.FAIL
    assert judge(0.8, None, large, (0.7, 0.9)) is Verdict.NOT_JUDGED


def test_an_undecided_result_says_how_many_patients_would_decide() -> None:
    # Half as wide an interval takes four times as many patients.
    said = undecided(0.5, (0.4, 0.6), 0.55, 100, 100, "percent")
    assert "about 400 patients would decide" in said
    assert "from 40.0% to 60.0%, the 95% interval lies on both sides of 55.0%" in said
    assert "more than ten times the real patients at hand" in undecided(0.5, (0.4, 0.6), 0.55, 100, 39)


def test_a_value_passes_from_at_least_up() -> None:
    threshold = Threshold(at_least=0.9, fail_below=0.5)
    verdicts = [judge(value, None, threshold) for value in (0.9, 0.7, 0.4)]
    assert verdicts == [Verdict.PASS, Verdict.CAUTION, Verdict.FAIL]


def test_no_value_is_not_a_pass() -> None:
    assert judge(None, None, Threshold(at_most=1, fail_above=1)) is Verdict.NOT_JUDGED
    assert worst([Verdict.NOT_JUDGED, Verdict.SHOWN]) is Verdict.NOT_JUDGED
    assert worst([]) is Verdict.NOT_JUDGED
    assert worst([Verdict.PASS, Verdict.FAIL, Verdict.CAUTION]) is Verdict.FAIL


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either at_most or at_least"),
        ({"at_most": 0.1}, "needs fail_above"),
        ({"at_most": 0.1, "fail_above": 0.05}, "needs fail_above"),
        ({"at_least": 0.1, "fail_below": 0.2}, "needs fail_below"),
    ],
)
def test_a_threshold_that_contradicts_itself_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Threshold.model_validate(values)


def test_numbers_are_written_for_people() -> None:
    assert [show(0.12345), show(0.5, "percent"), show(12345, "count"), show(None)] == [
        "0.123",
        "50.0%",
        "12,345",
        "–",
    ]
    assert [show(x, "percent") for x in (0.0, 0.0001, 0.00049, 0.0005)] == ["0.0%", "0.01%", "0.05%", "0.1%"]


# --- collapse ------------------------------------------------------------------------------------


def test_collapse_metrics_see_the_same_patient_again_and_again() -> None:
    panel = panel_of(400)
    everybody = Side("real", panel, COMBINATIONS)
    repeated = Side("one patient", panel.take(np.zeros(400, dtype=np.int64)), COMBINATIONS)
    assert duplicates(everybody, repeated)["patients"] == pytest.approx(399 / 400)
    assert diversity(everybody, repeated)["patients"] == pytest.approx(0.0, abs=1e-3)
    assert twins(everybody, repeated)["patients"] == 1.0
    others = Side("others", panel_of(400, 5), COMBINATIONS)
    assert twins(everybody, others)["patients"] == pytest.approx(0.05, abs=0.05)


# --- tally ---------------------------------------------------------------------------------------


def test_sufficient_statistics_of_two_sets_add_up() -> None:
    panel = panel_of(90)
    whole = statistics_of(panel, COMBINATIONS)
    parts = [statistics_of(panel.take(part), COMBINATIONS) for part in np.array_split(np.arange(90), 3)]
    total = parts[0] + parts[1] + parts[2]
    assert total.num_rows == whole.num_rows == 90 * 16
    np.testing.assert_array_equal(total.together_CC, whole.together_CC)
    np.testing.assert_array_equal(total.hashes_N, whole.hashes_N)
    np.testing.assert_array_equal(total.lengths, whole.lengths)
    np.testing.assert_allclose(total.pearson_VV, whole.pearson_VV, atol=1e-10)
    for a, b in zip(total.transitions, whole.transitions, strict=True):
        np.testing.assert_array_equal(a, b)


def test_pearson_of_sufficient_statistics_is_numpys_and_leaves_gaps_out() -> None:
    panel = panel_of(50)
    np.testing.assert_allclose(
        statistics_of(panel, []).pearson_VV, np.corrcoef(panel.values_rows, rowvar=False), atol=1e-9
    )
    panel.reals_NTR[:10, :8, 0] = np.nan
    holed = Panel(SCHEMA, panel.reals_NTR, panel.codes_NTK, panel.lengths_N, panel.scale)
    rows = holed.values_rows
    known = np.isfinite(rows[:, 0])
    expected = np.corrcoef(rows[known, 0], rows[known, 1])[0, 1]
    assert statistics_of(holed, []).pearson_VV[0, 1] == pytest.approx(expected, abs=1e-9)


def test_equal_patients_have_equal_hashes_even_after_float32_and_text() -> None:
    panel = panel_of(100)
    through_float32 = panel.reals_NTR.astype(np.float32).astype(np.float64)
    other = Panel(SCHEMA, through_float32, panel.codes_NTK, panel.lengths_N)
    np.testing.assert_array_equal(hash_patients(other), hash_patients(panel))
    two_decimals = np.round(panel.reals_NTR, 2)
    through_text = np.vectorize(lambda value: float(f"{value:.7g}"))(two_decimals.astype(np.float32))
    one, other = (Panel(SCHEMA, x, panel.codes_NTK, panel.lengths_N) for x in (two_decimals, through_text))
    np.testing.assert_array_equal(hash_patients(other), hash_patients(one))
    assert len(np.unique(hash_patients(panel))) == 100
    reals = panel.reals_NTR.copy()
    reals[:, 3, 1] += 0.01
    changed = Panel(SCHEMA, reals, panel.codes_NTK, panel.lengths_N)
    assert not np.any(hash_patients(changed) == hash_patients(panel))
    backwards = Panel(SCHEMA, panel.reals_NTR[:, ::-1], panel.codes_NTK[:, ::-1], panel.lengths_N)
    assert not np.any(hash_patients(backwards) == hash_patients(panel))


# --- dynamics ------------------------------------------------------------------------------------


def test_autocorrelation_of_an_autoregression_is_its_coefficient() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 12))
    for step in range(1, 12):
        x[:, step] = 0.8 * x[:, step - 1] + 0.6 * x[:, step]
    panel = panel_of(4000, num_timesteps=12)
    reals = np.stack([x + 50] * 3, axis=2)
    panel = Panel(SCHEMA, reals, panel.codes_NTK, panel.lengths_N, fit_scale(reals, SCHEMA))
    assert autocorrelation(panel, 0, 1) == pytest.approx(0.8, abs=0.02)
    assert autocorrelation(panel, 0, 3) == pytest.approx(0.8**3, abs=0.03)
    assert autocorrelation(panel, 5, 2) == 1.0  # sex never changes


def test_quantile_lines_are_of_ten_patients_or_more() -> None:
    values = np.repeat([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]], 5, axis=0)
    lines = quantile_lines(values)
    assert lines[1, 0] == 2.0
    assert np.isnan(lines[:, 1:]).all()


# --- privacy -------------------------------------------------------------------------------------


def test_neighbours_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    queries, others = (rng.normal(size=(count, 30)).astype(np.float32) for count in (700, 600))
    distances, indices = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(others).kneighbors(queries)
    near = neighbours(queries, others)
    np.testing.assert_array_equal(near.index_N, indices[:, 0])
    np.testing.assert_allclose(near.nearest_N, distances[:, 0], rtol=1e-4)
    np.testing.assert_allclose(near.second_N, distances[:, 1], rtol=1e-4)
    np.testing.assert_allclose(k_nearest(queries, others, 3)[0], distances, rtol=1e-4)
    assert neighbours(others, others).nearest_N.max() == 0.0


def test_share_nearer_is_half_by_chance_and_all_for_copies_whatever_the_sizes() -> None:
    rng = np.random.default_rng(0)
    queries, large, small = (rng.normal(size=(count, 4)).astype(np.float32) for count in (2000, 900, 60))
    assert nearer_share(queries, large, small) == pytest.approx(0.5, abs=0.08)
    assert nearer_share(queries, small, large) == pytest.approx(1 - nearer_share(queries, large, small))
    assert nearer_share(large, large, small) == 1.0
    assert nearer_share(small, large, small) == 0.0
    half_copied = np.concatenate([queries, large, large])
    assert nearer_share(half_copied, large, small) > 0.6


def test_patients_equally_near_to_both_sets_are_shared() -> None:
    rng = np.random.default_rng(0)
    queries, first, second = ((rng.random((count, 3)) < 0.5).astype(np.float32) for count in (400, 400, 100))
    assert nearer_share(queries, first, second) == pytest.approx(0.5, abs=0.03)
    assert nearer_share(queries, second, first) == pytest.approx(0.5, abs=0.03)
    shares = nearest_in_first(np.array([[0.0, 0.0, 1.0]]), np.array([[0.0, 2.0]]))
    assert shares.tolist() == [pytest.approx(2 / 3)]


def test_the_interval_of_the_share_nearer_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(40):
        queries, first, second = (rng.normal(size=(count, 6)).astype(np.float32) for count in (300, 200, 100))
        distances = [squared_distances(queries, others) for others in (first, second)]
        low, high = nearer_interval(distances[0], distances[1], seed)
        covered += low <= 0.5 <= high
    assert covered >= 36


def test_disclosure_risk_of_the_published_example() -> None:
    """The example tables of El Emam et al. 2020: origin as the quasi-identifier, population of eight."""
    sample = np.array([2, 0, 3, 3, 1])  # European, Japanese, Hispanic, Hispanic, North African
    synthetic = np.array([0, 0, 1, 2, 3])
    in_population = np.array([1.0, 3.0, 3.0, 3.0, 1.0])
    to_sample, to_population = disclosure_risk(sample, synthetic, 8, in_population)
    assert to_sample == pytest.approx((1 + 1 + 0.5 + 0.5 + 1) / 8)
    assert to_population == pytest.approx((1 + 1 / 3 + 1 / 3 + 1 / 3 + 1) / 5)
    assert disclosure_risk(sample, np.array([9]), 8) == (0.0, 0.0)


def test_whole_patients_differ_by_the_root_mean_square_over_time() -> None:
    panel = panel_of(4)
    reals = panel.reals_NTR.copy()
    codes = panel.codes_NTK.copy()
    codes[1], reals[1] = codes[0], reals[0]
    codes[1, :4, 1] = 1 - codes[0, :4, 1]
    both = Panel(SCHEMA, reals, codes, panel.lengths_N, panel.scale)
    vectors = sequence_vectors(both, 16)
    # Another class on 4 of 16 timesteps counts one deviation each: sqrt(4 / 16).
    assert np.linalg.norm(vectors[0] - vectors[1]) == pytest.approx(0.5, abs=1e-6)


# --- ranking -------------------------------------------------------------------------------------


def test_auc_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    truth = stats.norm.cdf(1 / np.sqrt(2))
    for _ in range(200):
        positive, negative = rng.normal(1, 1, 80), rng.normal(0, 1, 60)
        low, high = auc_interval(positive, negative)
        assert low < auc(positive, negative) < high
        covered += low <= truth <= high
    assert 180 <= covered <= 199
    assert auc_interval(np.arange(10.0) + 20, np.arange(10.0))[1] == 1.0


def test_one_patient_does_not_bound_an_auc() -> None:
    many = np.arange(10.0)
    assert auc_interval(many, np.array([5.5])) == auc_interval(np.array([5.5]), many) == (0.0, 1.0)


def test_true_positive_rate_at_one_percent() -> None:
    negative = np.arange(1000.0)
    assert true_positive_rate(np.array([2000.0, 500.0]), negative) == 0.5
    assert true_positive_rate(negative, negative) == pytest.approx(0.01, abs=0.002)


def test_the_interval_of_the_true_positive_rate_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = 1 - stats.norm.cdf(stats.norm.ppf(0.99) - 1)
    covered = 0
    for seed in range(60):
        low, high = rate_interval(rng.normal(1, 1, 1500), rng.normal(0, 1, 400), seed)
        covered += low <= truth <= high
    assert covered >= 52


# --- policies ------------------------------------------------------------------------------------


def two_state_world() -> Decisions:
    """State 1 pays 1 a step. In state 0 action 1 leads to state 1; in state 1 action 0 stays there."""
    rng = np.random.default_rng(0)
    states, actions = np.zeros((200, 12), dtype=np.int64), rng.integers(0, 2, (200, 12))
    for step in range(1, 12):
        before, act = states[:, step - 1], actions[:, step - 1]
        states[:, step] = np.where(before == 0, act, 1 - act)
    rewards = np.zeros((200, 12))
    rewards[:, :-1] = states[:, 1:]
    return Decisions(states, actions, rewards, 2, 2)


def test_the_best_policy_of_a_known_world_is_learned_and_valued() -> None:
    world = two_state_world()
    best = learn(world, 0.9)
    assert best.tolist() == [1, 0]
    assert policy_value(world, best, 0.9) == pytest.approx((1 - 0.9**11) / 0.1)
    assert policy_value(world, np.array([0, 1]), 0.9) == pytest.approx(0.0)
    assert policy_value(world, np.array([-1, -1]), 0.9) == pytest.approx(world.returns(0.9).mean(), rel=0.05)
    assert disagreement(best, best, world) == 0.0
    assert disagreement(best, 1 - best, world) == 1.0
    in_state_1 = float(np.mean(world.states_NT == 1))
    assert disagreement(best, np.array([1, -1]), world) == pytest.approx(in_state_1)  # no opinion differs
    assert disagreement(np.array([1, -1]), best, world) == 0.0  # only where the first has one
