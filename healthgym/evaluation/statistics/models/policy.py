"""Learning a treatment policy from recorded decisions, and its worth for other patients.

N patients, T timesteps, S clustered states, A actions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from healthgym.evaluation.result import NotJudgedError
from healthgym.evaluation.settings import Policy
from healthgym.evaluation.statistics.conditions import holds
from healthgym.evaluation.statistics.panel import Panel
from healthgym.evaluation.statistics.patients import timestep_features
from healthgym.seeds import stream

Floats = NDArray[np.float64]
Policies = NDArray[np.int64]

_FIT_ROWS = 20_000
_FEWEST_VISITS = 5
_ITERATIONS = 300


@dataclass(frozen=True)
class Decisions:
    """What was decided, in which state, and what came of it.

    Args:
        states_NT, actions_NT: at each timestep; -1 where there is none.
        rewards_NT: of the timestep after; 0 where there is none.
        num_states, num_actions: S, A.
    """

    states_NT: NDArray[np.int64]
    actions_NT: NDArray[np.int64]
    rewards_NT: Floats
    num_states: int
    num_actions: int

    def returns(self, discount: float) -> Floats:
        """Return each patient's discounted sum of rewards, shape (N,)."""
        return np.asarray(self.rewards_NT @ discount ** np.arange(self.rewards_NT.shape[1]))

    def world(self) -> tuple[Floats, Floats, Floats]:
        """Return visits_SA, mean rewards_SA and next-state chances_SAS; what ends a record leads nowhere."""
        size = (self.num_states, self.num_actions)
        now = (self.states_NT[:, :-1] >= 0) & (self.actions_NT[:, :-1] >= 0) & (self.states_NT[:, 1:] >= 0)
        s, a, after = self.states_NT[:, :-1][now], self.actions_NT[:, :-1][now], self.states_NT[:, 1:][now]
        visits, rewards = np.zeros(size), np.zeros(size)
        np.add.at(visits, (s, a), 1)
        np.add.at(rewards, (s, a), self.rewards_NT[:, :-1][now])
        chances = np.zeros((*size, self.num_states))
        np.add.at(chances, (s, a, after), 1)
        shared = np.maximum(visits, 1)
        return visits, rewards / shared, chances / shared[:, :, None]


def fit_states(panel: Panel, policy: Policy, seed: int) -> KMeans:
    """Cluster the timesteps of real patients into states, the action left out.

    Raises:
        NotJudgedError: the schema has no such action, or the patients have too few timesteps.
    """
    if policy.action not in [variable.name for variable in panel.schema.categoricals]:
        raise NotJudgedError(f"The schema '{panel.schema.name}' has no categorical '{policy.action}'.")
    rows = _features(panel, policy)[panel.present_NT]
    if len(rows) < 20 * policy.num_states or panel.num_timesteps < 2:
        raise NotJudgedError(f"{len(rows)} timesteps are too few for {policy.num_states} states.")
    chosen = stream(seed, "states").choice(len(rows), min(_FIT_ROWS, len(rows)), replace=False)
    return KMeans(policy.num_states, n_init=1, max_iter=50, random_state=seed).fit(rows[np.sort(chosen)])


def decisions_of(panel: Panel, policy: Policy, states: KMeans) -> Decisions:
    """Return the decisions of some patients in terms of clustered states."""
    state = np.full(panel.present_NT.shape, -1, dtype=np.int64)
    state[panel.present_NT] = states.predict(_features(panel, policy)[panel.present_NT])
    position = [variable.name for variable in panel.schema.categoricals].index(policy.action)
    reward = np.zeros(panel.present_NT.shape)
    for term in policy.reward:
        reward += term.weight * holds(panel, term.when)
    after = np.zeros_like(reward)
    after[:, :-1] = np.where(panel.present_NT[:, 1:], reward[:, 1:], 0.0)
    num_actions = len(panel.schema.categoricals[position].classes)
    actions = panel.codes_NTK[:, :, position].astype(np.int64)
    return Decisions(state, actions, after, policy.num_states, num_actions)


def learn(decisions: Decisions, discount: float) -> Policies:
    """Return the best action in each state by Q-iteration, shape (S,); -1 where nothing is known.

    Q(s, a) = r(s, a) + discount sum_s' P(s' | s, a) max_a' Q(s', a'); an action taken fewer than five times
    in a state is not considered there.
    """
    visits, rewards, chances = decisions.world()
    known = visits >= _FEWEST_VISITS
    q = np.zeros_like(rewards)
    for _ in range(_ITERATIONS):
        best = np.where(known.any(axis=1), np.where(known, q, -np.inf).max(axis=1), 0.0)
        q = rewards + discount * chances @ best
    return np.where(known.any(axis=1), np.where(known, q, -np.inf).argmax(axis=1), -1)


def disagreement(first: Policies, second: Policies, decisions: Decisions) -> float:
    """Return the share of decisions at which two policies differ, where the first has an opinion.

    A second policy without an opinion differs: it never saw patients in such a state.
    """
    states = decisions.states_NT[decisions.states_NT >= 0]
    known = states[first[states] >= 0]
    return float(np.mean(first[known] != second[known])) if len(known) else 1.0


def policy_value(decisions: Decisions, policy: Policies, discount: float) -> float:
    """Return the mean discounted reward from the first timestep on, were the policy followed.

    Fitted Q evaluation over as many steps as the record has. Where the policy has no opinion, or its action
    was taken fewer than five times in that state, what was done counts.
    """
    visits, rewards, chances = decisions.world()
    behaviour = visits / np.maximum(visits.sum(axis=1, keepdims=True), 1)
    states = np.arange(decisions.num_states)
    follows = (policy >= 0) & (visits[states, policy] >= _FEWEST_VISITS)
    acts = np.where(follows[:, None], np.eye(decisions.num_actions)[policy], behaviour)
    value = np.zeros(decisions.num_states)
    for _ in range(decisions.states_NT.shape[1] - 1):
        value = (acts * (rewards + discount * chances @ value)).sum(axis=1)
    first = decisions.states_NT[:, 0]
    return float(value[first[first >= 0]].mean())


def _features(panel: Panel, policy: Policy) -> Floats:
    """Return every timestep's features without the action, shape (N, T, F)."""
    features = timestep_features(panel)
    start = len(panel.schema.reals)
    kept = [features[:, :, :start]]
    for variable in panel.schema.categoricals:
        width = len(variable.classes)
        if variable.name != policy.action:
            kept.append(features[:, :, start : start + width])
        start += width
    return np.concatenate(kept, axis=2).astype(np.float64)
