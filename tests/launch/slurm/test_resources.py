"""Settings of Slurm jobs: valid ones are read, and invalid ones are refused with the reason."""

from pathlib import Path
from typing import Any

import pytest

from healthgym.errors import ConfigError
from healthgym.launch.slurm.resources import SlurmSettings, parse_minutes
from healthgym.strict import load, parse

SHIPPED = sorted((Path(__file__).parents[3] / "slurm").glob("*.yaml"))
SHIPPED = [path for path in SHIPPED if path.stem != "pipeline"]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("12:30", 13),
        ("1:00:00", 60),
        ("12:30:30", 751),
        ("2-0", 2880),
        ("1-12:30", 2190),
        ("7-00:00:00", 10080),
    ],
)
def test_minutes(text: str, minutes: int) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1d", "0", "0:30"])
def test_not_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_minutes(text)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"partion": "gpu"}, r"partion: unknown key \(did you mean 'partition'\?\)"),
        ({"time": 43200}, 'must be text, such as "90"'),
        ({"time": "long"}, 'must read like "90"'),
        ({"partition": "a b"}, "partition: "),
        ({"partition": "x;rm -rf"}, "partition: "),
        ({"gpu_type": "a100"}, "gpu_type needs gpus_per_node"),
        ({"time": "1", "warning_seconds": 60}, "warning_seconds must be less than time"),
        ({"warning_seconds": 30}, r"warning_seconds: must be at least 60 \(given: 30\)"),
        ({"mail": {"to": "nobody"}}, "mail.to"),
        ({"mail": {"to": "a@b.c", "when": ["SOMETIMES"]}}, "mail.when"),
        ({"container": {"kind": "docker", "image": "x"}}, "container.kind"),
        ({"container": {"kind": "apptainer", "image": "x"}, "python": "py"}, "container.python"),
        ({"extra": {"--licenses": "a"}}, "named without dashes"),
        ({"nodes": 0}, "nodes"),
    ],
)
def test_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(SlurmSettings, {"time": "60", **values}, "slurm/x.yaml")


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError, match="2 problem"):
        parse(SlurmSettings, {"nodes": 0, "cpus": 4}, "slurm/x.yaml")


def test_a_time_needs_no_quotes_unless_it_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("time: 12:00:00\n")
    assert load(SlurmSettings, path).time == "12:00:00"
    path.write_text("time: 90\n")
    with pytest.raises(ConfigError, match=r'must be text, such as "90" .*put a bare number in quotes'):
        load(SlurmSettings, path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_examples_are_valid(path: Path) -> None:
    load(SlurmSettings, path)
