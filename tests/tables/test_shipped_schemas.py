"""The schemas that are shipped, and (with --cohorts DIR) the real tables they describe."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from healthgym.data.prepare import SplitSettings, prepare
from healthgym.data.tables.table import read_table
from healthgym.errors import SchemaError
from healthgym.schema import Schema, load_schema
from healthgym.strict import parse

SCHEMAS = Path(__file__).parents[2] / "configs" / "schemas"

# Reals, binary and categorical variables, encoded columns.
SHAPES = {
    "art_hiv": (3, 10, 37),
    "art_hiv_notebook": (2, 5, 22),
    "hypotension": (9, 11, 54),
    "sepsis": (37, 8, 96),
    "icu_p12": (8, 10, 38),
    "icu_p12_sparse": (17, 19, 66),
    "renal60": (4, 6, 16),
}
TABLES = {
    "art_hiv": ("art_hiv/sample_rows.csv", 10),
    "icu_p12": ("icu_p12/icu_p12.csv.gz", 188_928),
    "icu_p12_sparse": ("icu_p12/hourly_sparse.parquet", 192_000),
    "renal60": ("renal60/renal60.csv.gz", 24_420),
}


def test_every_schema_is_listed() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.yaml")} == set(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    schema = load_schema(SCHEMAS / f"{name}.yaml")
    assert schema.name == name
    assert schema.title
    assert schema.source
    assert (len(schema.reals), len(schema.categoricals), schema.layout.num_features) == SHAPES[name]
    assert Schema.from_json(schema.to_json()) == schema


def test_art_hiv_is_as_published() -> None:
    schema = load_schema(SCHEMAS / "art_hiv.yaml")
    assert [v.name for v in schema.variables if v.static] == ["Gender", "Ethnic"]
    assert schema["Ethnic"].classes == {1: "Asian", 2: "African", 3: "Caucasian", 4: "Other"}
    assert schema["Extra pk-En"].classes == {0: "False", 1: "True"}
    notebook = load_schema(SCHEMAS / "art_hiv_notebook.yaml")
    assert all(schema[name] == notebook[name] for name in notebook.names())
    spans = [len(variable.classes) for variable in notebook.categoricals]
    assert spans == [2, 4, 6, 6, 2]


def random_table(schema: Schema, num_patients: int = 40, num_timesteps: int = 12) -> pd.DataFrame:
    """A table in raw codes that fits the schema, with gaps where it allows them."""
    rng = np.random.default_rng(0)
    rows = num_patients * num_timesteps
    frame = pd.DataFrame(
        {
            schema.keys.patient: np.repeat(np.arange(num_patients), num_timesteps),
            schema.keys.timestep: np.tile(np.arange(num_timesteps), num_patients),
        }
    )
    for variable in schema.variables:
        if variable.kind == "real":
            values = rng.lognormal(2, 1, rows) - variable.offset / 2
        else:
            values = np.array(variable.codes, dtype=object)[rng.integers(0, len(variable.codes), rows)]
        frame[variable.name] = np.repeat(values[:num_patients], num_timesteps) if variable.static else values
        if variable.missing != "refuse":
            frame[variable.name] = frame[variable.name].where(rng.random(rows) < 0.5)
    return frame


@pytest.mark.parametrize("name", SHAPES)
def test_tables_fit(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    """With --cohorts DIR the real tables are taken, where there are any; they are not shipped."""
    folder: Path | None = request.config.getoption("--cohorts")
    schema = load_schema(SCHEMAS / f"{name}.yaml")
    if folder is not None and name in TABLES:
        frame = read_table(folder / TABLES[name][0], schema)
        assert len(frame) == TABLES[name][1]
    else:
        frame = random_table(schema)
    holdout = 0.2 if frame[schema.keys.patient].nunique() > 10 else 0.0
    cohort = prepare(frame, schema, tmp_path / "p.h5", SplitSettings(holdout, least_patients=1), source=name)
    some = cohort.train.at_least(10)[:200]
    reals, codes, _ = cohort.train.gather(some, 10)
    assert reals.min() >= 0
    assert reals.max() <= 1
    assert (codes < np.array([len(v.classes) for v in schema.categoricals])).all()
    back = cohort.transform.inverse_reals(reals)
    raw = cohort.train.raw(0, len(some))[2].reshape(len(some), -1, len(schema.reals))[:, :10]
    known = ~np.isnan(raw)
    np.testing.assert_allclose(back[known], raw[known], rtol=1e-3, atol=1e-3)


def test_what_is_impossible_is_kept_and_changes_no_number() -> None:
    schema = load_schema(SCHEMAS / "icu_p12.yaml")
    assert schema.impossible
    assert Schema.from_json(schema.to_json()) == schema
    assert schema.model_copy(update={"impossible": ()}).fingerprint == schema.fingerprint


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"variable": "Heigth", "below": 3}, "no variable 'Heigth' .did you mean 'height'"),
        ({"variable": "height", "is": "tall"}, "'height' is real; say of it below or above"),
        ({"variable": "sex", "above": 1}, "'sex' is binary; say of it is"),
        ({"variable": "sex", "is": "Mal"}, "'sex' is never 'Mal' .did you mean 'Male'.*Male, Female"),
        ({"variable": "height"}, "needs exactly one of below, above and is"),
    ],
)
def test_an_impossible_combination_must_name_what_is_there(condition: dict[str, object], words: str) -> None:
    variables = [
        {"name": "height", "kind": "real"},
        {"name": "sex", "kind": "binary", "classes": {1: "Male", 2: "Female"}},
    ]
    values = {"name": "s", "variables": variables, "impossible": [{"name": "odd", "never": [condition]}]}
    with pytest.raises(SchemaError, match=words) as raised:
        parse(Schema, values, "s.yaml", SchemaError)
    assert "at least 1" not in str(raised.value), "the entry is there, and wrong"
