"""ar: what it draws follows what it scores; nothing is left out; it can be told whom to make."""

import ast
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from healthgym import config as settings
from healthgym.data.fitting.columns import in_memory
from healthgym.data.fitting.fit_cells import fit_cells
from healthgym.errors import CohortError, ConfigError
from healthgym.schema.cells import ABSENT, MOST_PIECES, NONE, Cells
from healthgym.schema.layout import FeatureLayout
from healthgym.stopping import Stopped
from healthgym.strict import parse
from healthgym.systems.autoregressive.deciders import Drawn
from healthgym.systems.autoregressive.history import (
    NUM_GAPS,
    NUM_LEFT,
    NUM_MOVES,
    NUM_REFERENCES,
    Context,
    History,
)
from healthgym.systems.autoregressive.sampling import Past, Patients, draw_timestep
from healthgym.systems.autoregressive.static import draw_patients
from healthgym.systems.autoregressive.system import AutoregressiveSystem
from healthgym.systems.autoregressive.tables import ValueTable
from healthgym.systems.autoregressive.values import FASTER, Others, ValueHead
from healthgym.systems.base import Batch, PositionDraws, SampleDraws
from healthgym.systems.conditions import Conditions
from healthgym.systems.patients import CohortFacts

CPU = torch.device("cpu")
NO_LEFT = torch.zeros(1, 0)


def build(layout: FeatureLayout, facts: CohortFacts, **changes: Any) -> AutoregressiveSystem:
    values = {"system": tiny.SYSTEMS["ar"] | {"width": 16, "hidden_dim": 12} | changes}
    config = parse(settings.RunConfig, values, "test").system
    torch.manual_seed(0)
    return AutoregressiveSystem(config, layout, facts, CPU)  # type: ignore[arg-type]


def cells_of(values_NTR: np.ndarray, lengths_N: np.ndarray | None = None, least: int = 10) -> Cells:
    N, T, R = values_NTR.shape
    lengths_N = np.full(N, T) if lengths_N is None else lengths_N
    kept = np.arange(T) < lengths_N[:, None]
    return fit_cells([in_memory(values_NTR[..., r][kept]) for r in range(R)], lengths_N, least)


def batch_of(
    layout: FeatureLayout, cells: Cells, values_NTR: np.ndarray, codes_NTK: np.ndarray, lengths_N: np.ndarray
) -> Batch:
    N, T, R = values_NTR.shape
    kept = np.arange(T) < lengths_N[:, None]
    codes = np.zeros((N, T, R), np.int16)
    codes[kept] = cells.encode(values_NTR[kept], lengths_N)
    return Batch(layout, *map(torch.from_numpy, (codes, codes_NTK.astype(np.uint8), lengths_N)))


def trained(system: AutoregressiveSystem, batch: Batch, steps: int) -> AutoregressiveSystem:
    system.plan(steps)
    for step in range(steps):
        system.train_step(batch, PositionDraws(0, step, CPU))
    return system


# --- scoring and drawing agree -----------------------------------------------------------------------


def small() -> tuple[FeatureLayout, CohortFacts, np.ndarray, np.ndarray, np.ndarray]:
    """Two classes that go together, a real of three values, patients of 1 to 3 timesteps."""
    random = np.random.default_rng(0)
    N = 600
    sex = random.integers(0, 2, N)
    lengths = 1 + random.binomial(2, np.where(sex == 1, 0.8, 0.3))
    codes = np.zeros((N, 3, 2), np.int64)
    codes[..., 0] = sex[:, None]
    codes[..., 1] = random.random((N, 3)) < np.where(sex == 1, 0.9, 0.2)[:, None]
    values = random.choice([0.0, 1.0, 5.0], (N, 3, 1), p=[0.5, 0.3, 0.2])
    values[:, 1:, 0] = np.where(random.random((N, 2)) < 0.6, values[:, :-1, 0], values[:, 1:, 0])
    layout = FeatureLayout(1, (2, 2), (2, 2), static_classes=(True, False))
    return layout, CohortFacts(cells_of(values, lengths), N, 3, lengths.mean()), values, codes, lengths


def test_likelihoods_of_all_patients_there_can_be_add_up_to_one() -> None:
    layout, facts, *_ = small()
    system = build(layout, facts, dropout=0.0)
    everybody = []
    for length in (1, 2, 3):
        for sex in (0, 1):
            for flags in np.ndindex(*(2,) * length):
                for values in np.ndindex(*(3,) * length):
                    pad = [0] * (3 - length)
                    everybody.append((length, [[sex, f] for f in (*flags, *pad)], [*values, *pad]))
    lengths = np.array([each[0] for each in everybody])
    codes = np.array([each[1] for each in everybody])
    values = np.array([0.0, 1.0, 5.0])[np.array([each[2] for each in everybody])][..., None]
    assert facts.cells is not None
    nats = system.nats_by_patient(batch_of(layout, facts.cells, values, codes, lengths))
    assert float(torch.exp(-nats.double()).sum()) == pytest.approx(1.0, abs=1e-5)


def test_patients_are_drawn_from_the_histories_by_which_they_are_scored() -> None:
    """Reals that hold, are always new, are constant, are often absent; a class that is often absent."""
    random = np.random.default_rng(0)
    N, T = 300, 6
    flags = (random.random((N, T, 2)) < 0.5).astype(np.int64)
    values = np.stack([
        np.repeat(random.normal(size=(N, 1)), T, 1).round(1), random.normal(size=(N, T)).round(2),
        np.full((N, T), 3.0), np.where(flags[..., 0], random.choice([1.0, 2.0, 4.0], (N, T)), np.nan),
    ], -1)  # fmt: skip
    values[:, T // 2 :, 0] = (values[:, T // 2 :, 0] + 1).round(1)
    codes = np.concatenate([flags, random.integers(0, 3, (N, T, 1))], -1)
    layout = FeatureLayout(
        4, (2, 2, 3), (2, 2, 3), flag_of_reals=(None, None, None, 0), flag_of_classes=(None, None, 1),
        flags=(0, 1), measured_classes=(1, 1),
    )  # fmt: skip
    facts = CohortFacts(cells_of(values), N, T, T)
    assert facts.cells is not None
    batch = batch_of(layout, facts.cells, values, codes, np.full(N, T))
    network = trained(build(layout, facts, dropout=0.0), batch, 20).network
    lengths, slots = torch.full((N,), T), network.varying
    sums, cache = (
        network.draw_static(torch.rand(N, len(network.static.columns)))[1],
        network.trunk.cache(N, T, CPU),
    )
    past, pasts, made = Past.empty(network, N), [], []
    patients = Patients.of(network, sums, lengths)
    for t in range(T):
        pasts.append(past)
        drawn = Drawn(torch.rand(N, len(slots.columns)), slots.columns, 1.0)
        drawn_codes, past = draw_timestep(
            network, patients, past, torch.tensor([t]), cache, drawn, torch.rand(N, 4)
        )
        made.append((drawn_codes.long(), past.values_BR.double()))
    there = torch.stack([codes[:, 0] == 1 for codes, _ in made], 1).numpy()
    made_values = torch.stack([values for _, values in made], 1).numpy().round(2)
    made_values[..., 3] = np.where(there, made_values[..., 3], np.nan)
    again = batch_of(
        layout, facts.cells, made_values, torch.stack([x for x, _ in made], 1).numpy(), np.full(N, T)
    )
    course = network.course(again.reals_BTR, again.codes_BTK, again.lengths_B)
    _, histories, last_BTK = network._inputs(course)
    for t, each in enumerate(pasts):
        assert torch.equal(each.known_BK, last_BTK[:, t])
        for field in fields(History):
            torch.testing.assert_close(
                getattr(each.history, field.name), getattr(histories, field.name)[:, t]
            )


def check_drawn_as_scored(system: AutoregressiveSystem, layout: FeatureLayout, cells: Cells) -> None:
    """The commonest of 20,000 made patients are as common as their likelihood says; at most 3 timesteps."""
    K, R, made = len(layout.num_classes), layout.num_reals, system.make(SampleDraws(3, 0, 20_000))
    found = [
        (length, made.codes_KTB[:, :length, b].tolist(), made.reals_RTB[:, :length, b].tolist())
        for b, length in enumerate(made.lengths_B)
    ]
    for kind, count in Counter(map(str, found)).most_common(12):
        length, codes_KT, reals_RT = ast.literal_eval(kind.replace("np.int64", ""))
        values_NTR, codes_NTK = np.zeros((1, 3, R)), np.zeros((1, 3, K), np.int64)
        values_NTR[0, :length] = np.array(reals_RT).reshape(R, length).T
        codes_NTK[0, :length] = np.array(codes_KT).T
        one = batch_of(layout, cells, values_NTR, codes_NTK, np.array([length]))
        share = float(torch.exp(-system.nats_by_patient(one))[0])
        assert count / 20_000 == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 20_000))


def test_patients_are_drawn_as_they_are_scored() -> None:
    layout, facts, values, codes, lengths = small()
    assert facts.cells is not None
    batch = batch_of(layout, facts.cells, values, codes, lengths)
    system = trained(build(layout, facts, dropout=0.0), batch, 150)
    check_drawn_as_scored(system, layout, facts.cells)


def sometimes_measured(T: int) -> tuple[FeatureLayout, CohortFacts, Batch]:
    """A class that a patient keeps for life, measured at 40% of the timesteps, after its flag; no reals."""
    random = np.random.default_rng(1)
    N = 600
    flag_NT = random.random((N, T)) < 0.4
    codes = np.stack([flag_NT, np.where(flag_NT, random.integers(0, 3, (N, 1)), 0)], -1).astype(np.int64)
    layout = FeatureLayout(0, (2, 3), (2, 3), flag_of_classes=(None, 0), flags=(0,), measured_classes=(1,))
    facts = CohortFacts(cells_of(np.zeros((N, T, 0))), N, T, T)
    assert facts.cells is not None
    return layout, facts, batch_of(layout, facts.cells, np.zeros((N, T, 0)), codes, np.full(N, T))


def test_patients_with_absent_classes_are_drawn_as_they_are_scored() -> None:
    layout, facts, batch = sometimes_measured(3)
    assert facts.cells is not None
    system = trained(build(layout, facts, dropout=0.0), batch, 150)
    check_drawn_as_scored(system, layout, facts.cells)


def test_a_class_is_remembered_while_it_is_not_measured() -> None:
    layout, facts, batch = sometimes_measured(12)
    system = trained(build(layout, facts, dropout=0.0), batch, 150)
    made = system.make(SampleDraws(0, 0, 2000))
    flag_TB, class_TB = made.codes_KTB
    changes = measured = 0
    last_B = np.full(2000, -1)
    for t in range(12):
        again_B = (flag_TB[t] == 1) & (last_B >= 0)
        changes += (class_TB[t] != last_B)[again_B].sum()
        measured += again_B.sum()
        last_B = np.where(flag_TB[t] == 1, class_TB[t], last_B)
    assert changes < 0.012 * measured


def test_it_learns_what_there_is_to_learn() -> None:
    layout, facts, values, codes, lengths = small()
    assert facts.cells is not None
    system = build(layout, facts, dropout=0.0)
    batch = batch_of(layout, facts.cells, values, codes, lengths)
    before = float(system.validate(batch)["nats"])
    trained(system, batch, 150)
    after = float(system.validate(batch)["nats"])
    assert after < 0.8 * before
    made = system.make(SampleDraws(1, 0, 5000))
    sex_B, kept = made.codes_KTB[0, 0], np.arange(3)[:, None] < made.lengths_B
    for sex in (0, 1):
        assert made.lengths_B[sex_B == sex].mean() == pytest.approx(
            lengths[codes[:, 0, 0] == sex].mean(), abs=0.1
        )
        real = codes[codes[:, 0, 0] == sex, 0, 1].mean()
        assert made.codes_KTB[1][kept & (sex_B == sex)].mean() == pytest.approx(real, abs=0.06)
    held = made.reals_RTB[0, 1:][kept[1:]] == made.reals_RTB[0, :-1][kept[1:]]
    kept_N = np.arange(1, 3) < lengths[:, None]
    assert held.mean() == pytest.approx((values[:, 1:, 0] == values[:, :-1, 0])[kept_N].mean(), abs=0.05)
    assert set(np.unique(made.reals_RTB)) <= {0.0, 1.0, 5.0}


def test_what_is_before_is_all_that_counts() -> None:
    """Later timesteps and padding change nothing about earlier decisions."""
    layout, facts, values, codes, _ = small()
    assert facts.cells is not None
    system = build(layout, facts, dropout=0.0)
    short = np.full(len(values), 2)
    wide = batch_of(layout, facts.cells, values, codes, short)
    narrow = batch_of(layout, facts.cells, values[:, :2], codes[:, :2], short)
    torch.testing.assert_close(system.nats_by_patient(wide), system.nats_by_patient(narrow))


def test_dense_shapes_give_the_same_likelihood() -> None:
    layout, facts, values, codes, lengths = small()
    assert facts.cells is not None
    system, batch = build(layout, facts), batch_of(layout, facts.cells, values, codes, lengths)
    course = system.network.course(batch.reals_BTR, batch.codes_BTK, batch.lengths_B)
    sparse, dense = (system.network.nats(course, dense=dense) for dense in (False, True))
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-3)
    by_patient = system.network.nats(course, by_patient=True)
    torch.testing.assert_close(by_patient.sum(), sparse, rtol=1e-5, atol=1e-3)


# --- missing values ----------------------------------------------------------------------------------


def test_absence_is_generated_and_absent_values_are_not_modelled() -> None:
    random = np.random.default_rng(1)
    N, T = 300, 5
    measured = random.random((N, T)) < 0.4
    values = np.where(measured, random.normal(size=(N, T)).round(1), np.nan)[..., None]
    stain = random.integers(0, 3, (N, T))
    codes = np.stack([measured, np.where(measured, stain, 2)], -1).astype(np.int64)
    layout = FeatureLayout(
        1, (2, 3), (2, 4), flag_of_reals=(0,), flag_of_classes=(None, 0), flags=(0,), measured_classes=(1,)
    )
    facts = CohortFacts(cells_of(values), N, T, T)
    assert facts.cells is not None
    lengths = np.full(N, T)
    batch = batch_of(layout, facts.cells, values, codes, lengths)
    system = trained(build(layout, facts, dropout=0.0), batch, 120)
    # Another value under an absent flag scores the same.
    other = codes.copy()
    other[..., 1] = np.where(measured, other[..., 1], 0)
    twin = batch_of(layout, facts.cells, values, other, lengths)
    torch.testing.assert_close(system.nats_by_patient(batch), system.nats_by_patient(twin))
    made = system.make(SampleDraws(0, 0, 3000))
    assert made.codes_KTB[0].mean() == pytest.approx(0.4, abs=0.03)
    assert made.codes_KTB[1].max() < 3
    there = made.codes_KTB[0] == 1
    drawn = made.reals_RTB[0][there]
    assert drawn.mean() == pytest.approx(np.nanmean(values), abs=0.15)
    assert drawn.std() == pytest.approx(np.nanstd(values), rel=0.15)


def test_numbers_of_history_by_hand() -> None:
    history = History.empty(1, 1, 1, CPU)
    steps = [(0.5, True, True), (0.5, True, False), (0.5, False, False), (1.5, True, True)]
    for score, present, changed in steps:
        history = added(history, [score], [present], [changed])
    assert history.count.item() == 3
    assert history.changes.item() == 1
    assert history.moved.item() == 1.0
    assert history.held_for.item() == 0
    assert history.class_held_for.item() == 4
    references = history.references()[0, 0]
    torch.testing.assert_close(references, torch.tensor([1.5, 0.5, 2.5 / 3, 0.8 * 0.5 + 0.2 * 1.5, 0.5]))


def added(
    history: History, scores: list[float], present: list[bool], changed: list[bool], code: str = "same"
) -> History:
    """Return the history of one patient with one more timestep; the class is the same, new, or absent."""
    class_present, class_changed = torch.tensor([[code != "absent"]]), torch.tensor([[code == "new"]])
    rows = torch.tensor([scores]), *(torch.tensor([x], dtype=torch.bool) for x in (present, changed))
    return history.add(*rows, class_present, class_changed)


def test_history_keeps_what_was_measured_while_nothing_is() -> None:
    history = History.empty(1, 1, 1, CPU)
    for score, present in ((0.5, True), (1.5, True), (1.5, False), (1.5, False)):
        history = added(history, [score], [present], [present])
    torch.testing.assert_close(history.references()[0, 0, :2], torch.tensor([1.5, 0.5]))
    assert history.moves()[0, 0, 2] == 1.0


def test_what_a_value_refers_to_by_hand() -> None:
    """The second variable is measured once, at the second of four timesteps; the third one never."""
    history = History.empty(1, 3, 1, CPU)
    assert history.contexts((0, 1, 2), NO_LEFT)[1].gaps.tolist() == [[0.0, 0.0, 1.0]]
    for first, second in ((0.1, None), (0.2, 0.5), (0.3, None), (0.4, None)):
        here = [True, second is not None, False]
        history = added(history, [first, 0.0 if first < 0.2 else 0.5, 0.0], here, here)
    contexts = history.contexts((0, 1, 2), NO_LEFT)
    torch.testing.assert_close(contexts[0].gaps, torch.tensor([[0.0, 0.0, 0.0]]))
    torch.testing.assert_close(
        contexts[1].gaps, torch.tensor([[np.log(3), np.log(3), 0.0]], dtype=torch.float32)
    )
    torch.testing.assert_close(contexts[1].others, torch.tensor([[0.2, 0.5, 0.0]]))
    assert contexts[2].gaps.tolist() == [[0.0, 0.0, 1.0]]


def test_how_often_a_class_changed_by_hand() -> None:
    """Of four measurements two differ from the one before, the last one among them, two timesteps ago."""
    history = History.empty(1, 0, 1, CPU)
    for code in ("same", "new", "absent", "same", "new", "absent", "absent"):
        history = added(history, [], [], [], code)
    last = history.last_classes((7,), torch.tensor([[3]]), NO_LEFT)[7]
    assert last.code_N.tolist() == [3]
    assert last.held_for_N.tolist() == [2]
    torch.testing.assert_close(
        last.paces_NP, torch.tensor([[np.log(3 / 10), 1.0, np.log(3)]], dtype=torch.float32)
    )


def test_scales_follow_the_time_since_a_value_was_measured() -> None:
    """With a weight of a half on log(1 + timesteps) a value moves as a random walk does."""
    table = ValueTable(cells_of(np.random.default_rng(0).normal(size=(500, 1, 1)).round(2)).variables[0])
    head = ValueHead(table, hidden_dim=4, static=False, num_others=0, num_before=0)
    assert head.gaps is not None
    with torch.no_grad():
        head.gaps.weight.view(head.num_components, -1, NUM_GAPS)[:, -1, 1] = 0.5 / FASTER
        gaps_n3 = torch.tensor([[0.0, 0.0, 0.0], [0.0, float(np.log(16.0)), 0.0]])
        context = Context(
            torch.zeros(2, NUM_REFERENCES), torch.ones(2, NUM_MOVES), gaps_n3, torch.zeros(2, 1), NO_LEFT
        )
        nothing = torch.zeros(2, 0)
        known = torch.zeros(2, dtype=torch.int64)
        mixture = head.prediction(torch.zeros(2, 4), known, context, Others(nothing, nothing))
    assert mixture is not None
    torch.testing.assert_close(mixture.scale_Gn[:, 1], 4 * mixture.scale_Gn[:, 0])


def test_values_follow_the_number_of_timesteps_left() -> None:
    """With a weight of -2 on "none is left" the last value is expected 2 volatilities lower."""
    table = ValueTable(cells_of(np.random.default_rng(0).normal(size=(500, 1, 1)).round(2)).variables[0])
    head = ValueHead(table, hidden_dim=4, static=False, num_others=0, num_before=0, num_left=NUM_LEFT)
    assert head.left is not None
    with torch.no_grad():
        head.left.view(head.num_components, -1, NUM_LEFT)[:, -2, 1] = -2 / FASTER
        left_n3 = torch.tensor([[float(np.log(6.0)), 0.0, 0.0], [0.0, 1.0, 0.0]])
        context = Context(
            torch.zeros(2, NUM_REFERENCES),
            torch.ones(2, NUM_MOVES),
            torch.zeros(2, 3),
            torch.zeros(2, 1),
            left_n3,
        )
        nothing = torch.zeros(2, 0)
        known = torch.zeros(2, dtype=torch.int64)
        mixture = head.prediction(torch.zeros(2, 4), known, context, Others(nothing, nothing))
    assert mixture is not None
    volatility = head.volatility.abs().sum()
    torch.testing.assert_close(
        mixture.location_Gn[:, 1] - mixture.location_Gn[:, 0], (-2 * volatility).expand(head.num_components)
    )


def test_the_timesteps_left_are_read_only_where_patients_differ_in_them() -> None:
    layout, facts, *_ = small()
    assert any("left" in name for name in build(layout, facts).network.state_dict())
    alike = CohortFacts(cells_of(np.random.default_rng(0).normal(size=(50, 3, 1)).round(1)), 50, 3, 3)
    assert not any("left" in name for name in build(layout, alike).network.state_dict())


def test_static_values_of_few_patients_are_not_learned_by_heart() -> None:
    """Two static reals and a number of timesteps that have nothing to do with each other."""

    def patients(seed: int, N: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        values = np.repeat(random.normal(size=(N, 1, 2)).round(1), 6, 1)
        return values, random.integers(1, 7, N)

    layout = FeatureLayout(2, (), (), static_reals=(True, True))
    values, lengths = patients(0, 200)
    facts = CohortFacts(cells_of(values, lengths), 200, 6, lengths.mean())
    assert facts.cells is not None
    batch = batch_of(layout, facts.cells, values, np.zeros((200, 6, 0), np.int64), lengths)
    system = trained(build(layout, facts, hidden_dim=64), batch, 100)
    others, of_others = patients(1, 2000)
    unseen = batch_of(layout, facts.cells, others, np.zeros((2000, 6, 0), np.int64), of_others)
    tables = [*facts.cells.variables, facts.cells.length]
    pieces = [
        np.searchsorted(table.bounds, x, side="right")
        for table, x in zip(tables, (others[:, 0, 0], others[:, 0, 1], of_others), strict=True)
    ]
    independent = sum(
        float(-np.log(table.new_P[p] / table.new_P.sum()).mean())
        for table, p in zip(tables, pieces, strict=True)
    )
    found = float(system.nats_by_patient(unseen).mean())
    assert found < independent + 0.3  # 4.4 with random marks and without dropout


def test_what_is_measured_once_a_day_is_measured_after_a_day() -> None:
    """A flag is set every twelfth timestep, from a first one that differs between patients."""
    random = np.random.default_rng(0)
    N, T = 200, 30
    codes = ((np.arange(T) - random.integers(0, 12, size=(N, 1))) % 12 == 0).astype(np.int64)[..., None]
    layout, facts = FeatureLayout(0, (2,), (2,)), CohortFacts(cells_of(np.zeros((N, T, 0))), N, T, T)
    assert facts.cells is not None
    batch = batch_of(layout, facts.cells, np.zeros((N, T, 0)), codes, np.full(N, T))
    system = trained(build(layout, facts, dropout=0.0), batch, 120)
    made = system.make(SampleDraws(0, 0, 500)).codes_KTB[0]
    gaps = np.concatenate([np.diff(np.flatnonzero(flag_T)) for flag_T in made.T])
    assert np.mean(gaps == 12) > 0.6


def test_values_measured_at_different_times_go_together() -> None:
    """One variable is measured at the first timestep, another that is nearly its equal at the third."""
    random = np.random.default_rng(0)
    N, T = 600, 3
    level = random.normal(size=N)
    values = np.full((N, T, 2), np.nan)
    values[:, 2, 0], values[:, 0, 1] = (level + 0.1 * random.normal(size=(2, N))).round(2)
    codes = np.zeros((N, T, 2), np.int64)
    codes[:, 2, 0], codes[:, 0, 1] = 1, 1
    layout = FeatureLayout(2, (2, 2), (2, 2), flag_of_reals=(0, 1), flags=(0, 1), measured_classes=(1, 1))
    facts = CohortFacts(cells_of(values), N, T, T)
    assert facts.cells is not None
    batch = batch_of(layout, facts.cells, values, codes, np.full(N, T))
    system = trained(build(layout, facts, dropout=0.0), batch, 150)
    made = system.make(SampleDraws(0, 0, 2000))
    both = (made.codes_KTB[0, 2] == 1) & (made.codes_KTB[1, 0] == 1)
    assert both.mean() > 0.9
    assert np.corrcoef(made.reals_RTB[0, 2, both], made.reals_RTB[1, 0, both])[0, 1] > 0.8


def test_a_first_value_after_absence_may_be_zero() -> None:
    """Nothing is measured at first. Then each of eleven values about 0 is as likely, and often held."""
    random = np.random.default_rng(0)
    N, T = 66, 4
    values = np.full((N, T, 1), np.nan)
    values[:, 1:, 0] = np.tile(np.arange(-5, 6) / 100, N // 11)[:, None]
    values[:, 3] = np.where(random.random((N, 1)) < 0.3, 0.05, values[:, 3])
    layout = FeatureLayout(1, (2,), (2,), flag_of_reals=(0,), flags=(0,), measured_classes=(1,))
    facts = CohortFacts(cells_of(values), N, T, T)
    assert facts.cells is not None
    cells = facts.cells.variables[0]
    around = int(cells.encode(np.zeros(1))[0])
    assert cells.holds
    assert cells.low_P[around] < cells.high_P[around]  # 0 is one of several values of its piece
    made = build(layout, facts).make(SampleDraws(0, 0, 4000))
    late_B = (made.codes_KTB[0, 0] == 0) & (made.codes_KTB[0, 1] == 1)
    first_B = made.reals_RTB[0, 1, late_B]
    inside_B = first_B[cells.encode(first_B.astype(np.float64)) == around]
    assert len(inside_B) > 50
    count = round((cells.high_P[around] - cells.low_P[around]) / cells.step_P[around]) + 1
    assert np.mean(inside_B == 0) == pytest.approx(1 / count, rel=0.5)


def test_rare_values_have_dropout_also_in_a_cohort_that_needs_none() -> None:
    layout, facts, *_ = small()
    system = build(layout, replace(facts, num_patients=500_000), dropout="auto")
    drop, ones = system._dropout(PositionDraws(0, 0, CPU)), torch.ones(50, 4)
    assert torch.equal(drop("head", ones), ones)
    assert set(drop("head/rare", ones).unique().tolist()) == {0.0, 2.0}


# --- odd cohorts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["no reals", "no classes", "only statics", "one timestep", "three values", "200"]
)
def test_odd_cohorts_train_and_are_made(kind: str) -> None:
    random = np.random.default_rng(0)
    N, T = 40, 1 if kind == "one timestep" else 4
    R, classes = (0 if kind == "no reals" else 2), ((200,) if kind == "200" else (2, 3))
    classes = () if kind == "no classes" else classes
    static = kind == "only statics"
    values = random.normal(size=(N, T, R))
    if kind == "three values":
        values = random.integers(0, 3, (N, T, R)).astype(float)
    codes = np.stack([random.integers(0, k, (N, T)) for k in classes], -1) if classes else np.zeros((N, T, 0))
    if static:
        values, codes = values[:, :1].repeat(T, 1), codes[:, :1].repeat(T, 1)
    layout = FeatureLayout(R, classes, classes, (static,) * R, (static,) * len(classes))
    facts = CohortFacts(cells_of(values), N, T, T)
    assert facts.cells is not None
    batch = batch_of(layout, facts.cells, values, codes, np.full(N, T))
    system = trained(build(layout, facts), batch, 5)
    made = system.make(SampleDraws(0, 0, 50))
    assert np.isfinite(made.reals_RTB).all()
    assert made.reals_RTB.shape == (R, T, 50)
    assert made.codes_KTB.shape == (len(classes), T, 50)
    if static and R:
        assert (made.reals_RTB == made.reals_RTB[:, :1]).all()
        assert (made.codes_KTB == made.codes_KTB[:, :1]).all()


def test_a_cohort_without_cells_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"older version .* Prepare it anew"):
        build(tiny.SCHEMA.layout, CohortFacts(None, 40, 6, 6.0))


def test_a_cohort_whose_codes_have_no_room_for_its_pieces_is_refused() -> None:
    facts = tiny.facts()
    assert facts.cells is not None
    many = np.arange(MOST_PIECES + 1)
    crowded = replace(facts.cells.length, low_P=1.0 * many, high_P=1.0 * many)
    with pytest.raises(ConfigError, match=r"more than 4,095 pieces.* by version 0\.1\.0\. Prepare it anew"):
        build(tiny.SCHEMA.layout, replace(facts, cells=replace(facts.cells, length=crowded)))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_heads is 3 and does not divide system.width = 16"):
        build(tiny.SCHEMA.layout, tiny.facts(), num_heads=3)


def test_rows_far_longer_than_trained_are_refused() -> None:
    system = build(tiny.SCHEMA.layout, tiny.facts())
    assert set(system.make(SampleDraws(0, 0, 5), 4).lengths_B) == {4}
    with pytest.raises(ConfigError, match=r"at most 6 timesteps; 7 are asked for"):
        system.make(SampleDraws(0, 0, 5), 7)


# --- whom to make ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def well_trained() -> AutoregressiveSystem:
    layout, facts, values, codes, lengths = small()
    assert facts.cells is not None
    batch = batch_of(layout, facts.cells, values, codes, lengths)
    return trained(build(layout, facts, dropout=0.0), batch, 150)


def test_conditions_are_met_and_the_rest_follows(well_trained: AutoregressiveSystem) -> None:
    system, (_, _, _, codes, lengths) = well_trained, small()
    made = system.make(SampleDraws(0, 0, 2000), conditions=Conditions({0: frozenset({1})}))
    assert (made.codes_KTB[0] == 1).all()
    assert made.lengths_B.mean() == pytest.approx(lengths[codes[:, 0, 0] == 1].mean(), abs=0.12)
    long = system.make(SampleDraws(0, 0, 500), conditions=Conditions(timesteps=((2, 3),)))
    assert set(long.lengths_B) == {2, 3}
    shared = system.make(SampleDraws(0, 0, 4000), conditions=Conditions(shares={0: 0.9, 1: 0.1}, shared=0))
    assert (shared.codes_KTB[0, 0] == 0).mean() == pytest.approx(0.9, abs=0.02)


def test_a_group_of_few_real_patients_is_refused() -> None:
    layout, facts, *_ = small()
    system = build(layout, CohortFacts(facts.cells, 12, 3, 2.0))
    system.check_conditions(Conditions(timesteps=((1, 3),)))
    with pytest.raises(ConfigError, match=r"of the 12 training patients were like this; at least 10"):
        system.check_conditions(Conditions({0: frozenset({1})}))
    assert facts.cells is not None
    system = build(layout, CohortFacts(replace(facts.cells, least_patients=1), 12, 3, 2.0))
    system.check_conditions(Conditions({0: frozenset({1})}))


def test_fewer_patients_than_a_group_must_have_can_be_cut() -> None:
    system = build(tiny.SCHEMA.layout, replace(tiny.facts(), num_patients=5))
    system.check_conditions(Conditions(), 4)


def test_patients_of_a_given_length_are_patients_of_that_length(well_trained: AutoregressiveSystem) -> None:
    _, _, _, codes, lengths = small()
    for length in (1, 3):
        made = well_trained.make(SampleDraws(0, 0, 1000), length)
        assert set(made.lengths_B) == {length}
        assert made.codes_KTB[0, 0].mean() == pytest.approx(codes[lengths == length, 0, 0].mean(), abs=0.06)
        same = well_trained.make(
            SampleDraws(0, 0, 1000), conditions=Conditions(timesteps=((length, length),))
        )
        np.testing.assert_array_equal(made.codes_KTB, same.codes_KTB)


def test_several_ranges_are_alternatives(well_trained: AutoregressiveSystem) -> None:
    either = Conditions(timesteps=((1, 1), (3, 3)))
    assert set(well_trained.make(SampleDraws(0, 0, 200), conditions=either).lengths_B) == {1, 3}


def test_a_length_that_is_hardly_ever_made_is_refused_and_a_range_is_not() -> None:
    layout, _, values, _, _ = small()
    lengths = np.random.default_rng(0).integers(1, 3000, len(values))
    facts = CohortFacts(cells_of(values, np.minimum(lengths, 3)), 600, 3000, 1500.0)
    assert facts.cells is not None
    length = fit_cells([], lengths, 10).length
    system = build(layout, replace(facts, cells=replace(facts.cells, length=length)))
    system.check_conditions(Conditions(timesteps=((1400, 1600),)))
    with pytest.raises(
        ConfigError,
        match=r"^--timesteps 1500: about 0\.0\d% of the patients .* At least 0\.1% .*=LOW\.\.HIGH",
    ):
        system.check_conditions(Conditions(), 1500)


def test_patients_who_cannot_be_found_are_an_error() -> None:
    layout, facts, *_ = small()
    system, nobody = build(layout, facts), Conditions(timesteps=((9, 9),))
    with pytest.raises(CohortError, match=r"20 patients of the kind that is asked for were not found in 3"):
        draw_patients(system.network, system.cells, SampleDraws(0, 0, 20), nobody, most_attempts=3)


def test_the_search_for_patients_can_be_stopped() -> None:
    layout, facts, *_ = small()
    system, nobody, asked = build(layout, facts), Conditions(timesteps=((9, 9),)), []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 4

    with pytest.raises(Stopped):
        system.begin_make(SampleDraws(0, 0, 20), conditions=nobody, stop=stop)
    assert len(asked) == 4


def test_a_patient_without_conditions_is_the_same_where_it_meets_them_anyway() -> None:
    layout, facts, *_ = small()
    system, draws = build(layout, facts), SampleDraws(0, 0, 30)
    anyway = Conditions({0: frozenset({0, 1})})
    np.testing.assert_array_equal(
        system.make(draws).codes_KTB, system.make(draws, conditions=anyway).codes_KTB
    )


def test_codes_of_no_value_yet_are_understood() -> None:
    system = build(tiny.SCHEMA.layout, tiny.facts())
    codes = torch.tensor([[[NONE | ABSENT, 0], [3, NONE | ABSENT]]], dtype=torch.int16)
    course = system.network.course(codes, torch.zeros(1, 2, 2, dtype=torch.uint8), torch.tensor([2]))
    assert course.pieces_BTR[0, 0, 0] == system.network.tables[0].num_pieces
    assert not course.present_BTR[0, 0, 0]
