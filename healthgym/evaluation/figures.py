"""Every metric that a threshold can be given for, by section.

A threshold for another name would be read and never used. A test keeps this list equal to the sections.
"""

from collections.abc import Mapping

FIGURES: Mapping[str, tuple[str, ...]] = {
    "collapse": ("diversity", "duplicates", "groups", "knn_coverage", "twins"),
    "discriminability": ("boosting", "covariances"),
    "dynamics": (
        "baseline",
        "changes",
        "lost",
        "measured",
        "moves",
        "switches",
        "trajectories",
        "transitions",
        "within",
    ),
    "follow_up": ("events", "gaps", "length_relations", "lengths", "lengths_by_group", "order", "survival"),
    "joint": ("between", "by_group", "effects", "lost", "same_time"),
    "marginals": ("classes", "ks", "missing", "moments", "recorded", "tails"),
    "memory": ("coverage", "linked", "membership_auc", "membership_tpr", "nearer_to_training", "spread"),
    "privacy": (
        "attribute_inference",
        "copies",
        "courses",
        "disclosure",
        "membership_auc",
        "membership_shadow",
        "membership_tpr",
        "near_copies",
        "nearer_to_training",
    ),
    "utility": ("effects", "endpoint", "next_step", "policy_disagreement", "policy_value"),
    "validity": ("absent", "impossible", "negative", "range", "raw_static", "static", "unfit"),
}
