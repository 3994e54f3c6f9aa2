"""A schema's names, codes and labels are read as written, not as YAML's booleans, numbers or dates."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from healthgym.errors import ConfigError, SchemaError
from healthgym.schema import Schema, load_schema
from healthgym.strict import load_yaml, parse_override


def schema(folder: Path, variable: str, name: str = "s", more: str = "") -> Schema:
    path = folder / "s.yaml"
    path.write_text(f"name: {name}\nvariables:\n  - {variable}\n{more}")
    return load_schema(path)


def drugs(folder: Path, classes: str) -> dict[Any, str]:
    return schema(folder, f"{{name: c, kind: categorical, classes: {classes}}}")["c"].classes


ODD = ["NO", "no", "yes", "Y", "n", "on", "Off", "true", "FALSE", "null", "~", "Null", "010", "0x1F", "0o17"]
ODD += [
    "6:30",
    "12:30:45",
    "2024-01-01",
    "1_000",
    "1e3",
    ".5",
    "1.10",
    ".inf",
    ".NaN",
    "-.5",
    "=",
    "<<",
    "08",
]


@pytest.mark.parametrize("word", ODD)
def test_a_word_is_a_label_code_or_name_as_it_stands(tmp_path: Path, word: str) -> None:
    assert drugs(tmp_path, f"{{0: {word}, 1: b}}") == {0: word, 1: "b"}
    assert list(drugs(tmp_path, f"[{word}, b]").values()) == [word, "b"]
    assert list(drugs(tmp_path, f"{{'{word}': x, b: c}}")) == [word, "b"]
    if word != "<<":
        assert list(drugs(tmp_path, f"{{{word}: x, b: c}}")) == [word, "b"]
    if word not in ("null", "~", "Null"):
        assert schema(tmp_path, f"{{name: {word}, kind: real, unit: {word}}}", word)[word].unit == word


def test_whole_numbers_are_codes_as_before(tmp_path: Path) -> None:
    assert list(drugs(tmp_path, "{0: a, 12: b, -3: c, 4.0: d, '5': e}")) == [0, 12, -3, 4, "5"]
    assert drugs(tmp_path, "[1, 2]") == {1: "1", 2: "2"}
    assert all(type(code) in (int, str) for code in drugs(tmp_path, "{0: a, NO: b}"))
    assert all(type(label) is str for label in drugs(tmp_path, "{0: a, NO: b}").values())


@pytest.mark.parametrize("classes", ["{1: a, 1.0: b, 2: c}", "[a, b, a]", "[1, 2, 1.0]"])
def test_no_class_is_lost_to_another(tmp_path: Path, classes: str) -> None:
    with pytest.raises(SchemaError, match=r"appears twice|could mean the class"):
        drugs(tmp_path, classes)


def test_numbers_and_truths_of_a_schema_are_read_as_such(tmp_path: Path) -> None:
    read = schema(
        tmp_path,
        "{name: x, kind: real, offset: 1e-3, static: yes, measured_flag: null}",
        more="impossible:\n  - {name: r, never: [{variable: x, below: .5, is: ~}]}\n",
    )
    assert (read["x"].offset, read["x"].static, read["x"].measured_flag) == (1e-3, True, None)
    assert read.impossible[0].never[0].below == 0.5


def test_nothing_where_a_word_is_needed_is_told(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"variables\.0\.name: YAML reads nothing; if a word is meant"):
        schema(tmp_path, "{name: null, kind: real}")
    with pytest.raises(SchemaError, match=r"classes\.0: YAML reads nothing; if a word is meant, put it"):
        drugs(tmp_path, "{0: , 1: b}")


def test_settings_are_read_as_yaml_1_2_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "{a: NO, b: 010, c: 6:30, d: 2024-01-01, e: true, f: 12, g: 1e-3,"
        " h: null, i: , j: '12', k: .inf, l: -.5}"
    )
    read = load_yaml(path)
    expected = {"a": "NO", "b": "010", "c": "6:30", "d": "2024-01-01", "e": True, "f": 12, "g": 1e-3}
    assert read == expected | {"h": None, "i": None, "j": "12", "k": float("inf"), "l": -0.5}
    assert type(read["f"]) is int
    path.write_text("base: &b {x: 1}\nmore: {<<: *b, y: 2}\n")
    assert load_yaml(path)["more"] == {"x": 1, "y": 2}
    assert parse_override("a.b=off") == {"a": {"b": "off"}}
    assert parse_override("a.b=[1, 2.5, x]") == {"a": {"b": [1, 2.5, "x"]}}
    path.write_text("{1: a, 01: b, 1: c}")
    with pytest.raises(ConfigError, match=r"line 1: the key '1' appears twice"):
        load_yaml(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.from_regex(r"[-+.~=<0-9a-zA-Z_:]{1,8}", fullmatch=True).filter(lambda w: w[-1] != ":" and w[0] != ":")
)
def test_any_plain_word_is_itself_as_a_label(tmp_path: Path, word: str) -> None:
    if word == "-":
        return
    assert drugs(tmp_path, f"{{0: {word}, another code: another label}}") == {
        0: word,
        "another code": "another label",
    }
