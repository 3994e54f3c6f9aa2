"""Treatment policies learned from the cohort, beside those learned from real patients."""

from dataclasses import dataclass

from healthgym.evaluation.comparison import Comparison, noise_of
from healthgym.evaluation.metric import Metric, metric
from healthgym.evaluation.result import NotJudgedError, Result, Row
from healthgym.evaluation.sections.use.learning import Sets
from healthgym.evaluation.settings import Policy
from healthgym.evaluation.statistics.models.policy import (
    Decisions,
    Policies,
    decisions_of,
    disagreement,
    fit_states,
    learn,
    policy_value,
)

POLICY = metric(
    "utility.policy_disagreement",
    "Policy",
    "The share of decisions in real patients at which the policy learned from synthetic patients "
    "advises another treatment than the policy learned from real patients, or none.",
    "Tabular Q-iteration on clustered states, as the off-policy learning of the v2 paper (doi "
    "10.1016/j.jbi.2023.104514)",
    "percent",
)
VALUE = metric(
    "utility.policy_value",
    "Value of the policy",
    "How much reward unseen real patients would lose if they were treated by the policy learned from "
    "synthetic rather than from real patients, in standard deviations of their returns.",
    "Fitted Q evaluation (Le et al., ICML 2019) in tabular form on patients not learned from",
)


def policy_results(comparison: Comparison, sets: Sets, policy: Policy) -> list[Result]:
    details = f"{POLICY.source}; {policy.num_states} states. {policy.reason}".rstrip(". ")
    agree = POLICY.of(policy.name, POLICY.what, details)
    worth = VALUE.of(policy.name, VALUE.what, VALUE.source)
    reference = comparison.anchors.once(f"policy {policy.name}", lambda: _reference(sets, policy))
    if isinstance(reference, str):
        return [comparison.not_judged(about, reference) for about in (agree, worth)]
    learned = learn(
        decisions_of(sets.synthetic, policy, fit_states(sets.real, policy, sets.seed)), policy.discount
    )
    return [
        _agreement(comparison, agree, reference, learned),
        _worth(comparison, worth, reference, learned, policy.discount),
    ]


@dataclass(frozen=True)
class _Reference:
    """Policies learned from real and from independent patients.

    Args:
        test: decisions of real patients not used for training.
        real, independent: policies.
        pairs: policies of disjoint sets of real patients.
    """

    test: Decisions
    real: Policies
    independent: Policies
    pairs: tuple[tuple[Policies, Policies], ...]


def _reference(sets: Sets, policy: Policy) -> _Reference | str:
    """Return what is learned from all sets but the cohort, or a sentence why nothing can be."""
    try:
        states = fit_states(sets.real, policy, sets.seed)
        real, apart = (
            learn(decisions_of(panel, policy, states), policy.discount)
            for panel in (sets.real, sets.independent)
        )
        pairs = tuple(
            (
                learn(decisions_of(one, policy, states), policy.discount),
                learn(decisions_of(other, policy, states), policy.discount),
            )
            for one, other in sets.halves
        )
        return _Reference(decisions_of(sets.test, policy, states), real, apart, pairs)
    except NotJudgedError as reason:
        return str(reason)


def _agreement(comparison: Comparison, about: Metric, reference: _Reference, learned: Policies) -> Result:
    """Return how often the policies differ; random policies are the other anchor."""
    at_random = 1 - 1 / reference.test.num_actions
    apart = max(disagreement(reference.real, reference.independent, reference.test), at_random)
    noise = noise_of([disagreement(one, other, reference.test) for one, other in reference.pairs], apart)
    value = disagreement(reference.real, learned, reference.test)
    say = (
        f"the policy learned from synthetic patients advises another treatment at {100 * value:.0f}% of "
        "decisions"
    )
    return comparison.result(about, value, noise, finding=say)


def _worth(
    comparison: Comparison, about: Metric, reference: _Reference, learned: Policies, discount: float
) -> Result:
    """Return what is lost of the real policy's value."""
    returns = reference.test.returns(discount)
    deviation = max(float(returns.std()), 1e-9)

    def value(policies: Policies) -> float:
        return policy_value(reference.test, policies, discount)

    best, found = value(reference.real), value(learned)
    losses = [(value(one) - value(other)) / deviation for one, other in reference.pairs]
    rows = [
        Row("value of the policy learned from real patients", best),
        Row("value of the policy learned from synthetic patients", found),
        Row("value of the recorded treatment", float(returns.mean())),
    ]
    lost = (best - found) / deviation
    side = "less" if lost > 0 else "more"
    say = (
        f"the policy learned from synthetic patients is worth {abs(lost):.2f} standard deviations of the "
        f"returns {side} than the one learned from real patients"
    )
    return comparison.result(
        about, (best - found) / deviation, noise_of(losses, None), rows=rows, finding=say
    )
