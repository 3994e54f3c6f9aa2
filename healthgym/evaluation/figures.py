"""Every figure that a threshold can be given for, by section.

A threshold for another name would be read and never used. A test keeps this list equal to the sections.
"""

from collections.abc import Mapping

FIGURES: Mapping[str, tuple[str, ...]] = {
    "collapse": (
        "active_modes",
        "diversity",
        "duplicates",
        "knn_coverage",
        "rare_groups",
        "shares",
        "vanished",
    ),
    "discriminability": ("boosting", "sequences"),
    "dynamics": (
        "autocorrelation",
        "changes",
        "cycle_linear",
        "cycle_lost",
        "cycle_smooth",
        "dwell",
        "switches",
        "trajectories",
        "transitions",
        "trend_linear",
        "trend_smooth",
    ),
    "follow_up": ("events", "gaps", "length_relations", "lengths", "lengths_by_group", "order", "survival"),
    "joint": (
        "category_coverage",
        "contingency",
        "cramer",
        "kendall",
        "log_cluster",
        "pearson",
        "pearson_lost",
    ),
    "marginals": (
        "ks",
        "missing",
        "total_variation",
        "v1_f",
        "v1_ks",
        "v1_t",
        "v1_three_sigma",
        "wasserstein",
    ),
    "memory": ("coverage", "linked", "membership_auc", "membership_tpr", "nearer_to_training", "spread"),
    "privacy": (
        "attribute_inference",
        "copied_rows",
        "copies",
        "disclosure",
        "distance_ratio",
        "membership_auc",
        "membership_shadow",
        "membership_tpr",
        "nearer_to_training",
        "neighbour_ratio",
        "smallest_distance",
    ),
    "utility": ("endpoint", "next_step", "policy_disagreement", "policy_value"),
    "validity": ("absent", "impossible", "negative", "range", "raw_static", "static", "unfit"),
}
