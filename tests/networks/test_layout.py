"""The layout of variables, and the settings that are marked as sampling settings."""

import pytest
from fake_system import SCHEMA

from healthgym.config import FREE_ON_RESUME, SAMPLING_SETTINGS
from healthgym.schema import Schema, Variable, measured_class
from healthgym.schema.layout import FeatureLayout


@pytest.mark.parametrize(
    ("classes", "measured"),
    [
        ({0: "no", 1: "yes"}, 1),
        ({"1": "a", "0": "b"}, 0),
        ({"True": "True", "False": "False"}, 0),
        ({"Y": "Y", "N": "N"}, 0),
        ({2: "measured", 1: "not measured"}, 0),
        ({1: "seen", 2: "unseen"}, 0),
        ({"absent": "absent", "present": "present"}, 1),
    ],
)
def test_the_class_that_means_measured_is_found_in_any_order(
    classes: dict[int | str, str], measured: int
) -> None:
    assert measured_class(Variable(name="f", kind="binary", classes=classes)) == measured


def test_a_schema_tells_its_layout_statics_and_flags() -> None:
    layout = SCHEMA.layout
    names = [variable.name for variable in SCHEMA.categoricals]
    assert names == ["Gender", "Drug/Dose", "Ethnic", "Stain", "Stain (M)", "Lactate (M)"]
    assert layout.static_reals == (False, True, False)
    assert layout.static_classes == (True, False, True, False, False, False)
    assert layout.flag_of_reals == (None, None, 5)
    assert layout.flag_of_classes == (None, None, None, 4, None, None)
    assert layout.flags == (4, 5)
    assert layout.measured_classes == (0, 1)  # Stain's flag has code 1 first, the derived one second


def test_a_value_carried_forward_has_a_flag_and_is_everywhere() -> None:
    schema = Schema(
        name="s",
        variables=(Variable(name="x", kind="real", missing="carry_forward", measured_flag="x (M)"),),
    )
    assert schema.layout.flags == (0,)
    assert schema.layout.flag_of_reals == (None,)


@pytest.mark.parametrize("reals", [0, 2])
def test_what_is_left_out_is_said_of_every_variable(reals: int) -> None:
    layout = FeatureLayout(reals, (2, 3), (2, 4))
    assert layout.static_reals == (False,) * reals
    assert layout.static_classes == (False, False)
    assert layout.flag_of_reals == (None,) * reals
    assert layout.flag_of_classes == (None, None)
    assert layout == FeatureLayout(reals, (2, 3), (2, 4), static_classes=(False, False))


def test_settings_of_sampling_are_those_that_are_marked() -> None:
    sampler = {f"system.sampler.{name}" for name in ("kind", "num_steps", "eta")}
    guardrail = {
        f"system.guardrail.{name}" for name in ("kind", "max_attempts", "min_acceptance", "quantile")
    }
    assert {"system.start", "system.temperature"} | sampler | guardrail == SAMPLING_SETTINGS


def test_what_trains_something_else_is_not_free() -> None:
    assert SAMPLING_SETTINGS < FREE_ON_RESUME
    assert {"data", "training.epochs", "training.device", "checkpoint.keep"} < FREE_ON_RESUME
    for name in ("training.seed", "training.matmul_precision", "curriculum.batch_size", "system.kind"):
        assert name not in FREE_ON_RESUME
    assert not [name for name in FREE_ON_RESUME if name.startswith(("curriculum.", "system.optimiser."))]
