"""The pages of docs/: their Python code runs, and commands, options, files and links in them exist."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from fake_system import open_fake, write_fake

from healthgym.commands.main import COMMANDS, main, usage
from healthgym.launch.programs import ENDED
from healthgym.stopping import FENCED, INTERRUPTED, LOST
from healthgym.synthesis.cohort import SynthesisRequest, synthesize

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")])
READ = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]


def text_of(page: Path) -> str:
    """Return a page as Markdown; of a notebook, the cells that are no code."""
    if page.suffix == ".md":
        return page.read_text()
    cells = nbformat.read(page, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def run_python(page: Path) -> dict[str, Any]:
    """Run a page's blocks of Python one after the other and return their names."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    names: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), names)
    return names


def test_the_examples_of_file_formats_read_a_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = write_fake(tmp_path / "fake.json", decimals={"Load": 1})
    for name, file_format in (("cohort", "parquet"), ("cohort-hdf5", "hdf5")):
        request = SynthesisRequest(
            checkpoint=checkpoint,
            out=tmp_path / name,
            patients=30,
            patients_per_shard=20,
            workers=1,
            file_format=file_format,  # type: ignore[arg-type]
            one_file=tmp_path / "cohort.csv" if name == "cohort" else None,
        )
        assert synthesize(request, open_fake).state == "complete"
    names = run_python(ROOT / "docs/files.md")
    assert len(names["patients"]) == len(names["table"]) == 30 * 12
    assert names["words"].tolist() == names["patients"]["Gender"].tolist()[: 20 * 12]
    assert (names["first"], names["last"]) == (0, 12)


@pytest.mark.parametrize("page", READ, ids=lambda path: path.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text_of(page))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [*READ, ROOT / "benchmarks/RESULTS.md"], ids=lambda path: path.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = re.findall(r"`((?:healthgym|tests|benchmarks|configs|jobs|slurm|docs)/[\w./-]*\w)", text_of(page))
    real = [name for name in named if not re.search(r"\b[A-Z]+\b(/|$)", name)]  # DEVICE stands for any
    assert [name for name in real if not (ROOT / name).exists()] == []
    modules = re.findall(r"`((?:[a-z]\w*/)+\w+\.py)`", text_of(page))
    roots = (ROOT, ROOT / "healthgym", ROOT / "tests")
    assert [name for name in modules if not any((root / name).exists() for root in roots)] == []


@pytest.mark.parametrize("page", READ, ids=lambda path: path.name)
def test_commands_are_there(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"```bash\n(.*?)```", text_of(page), re.DOTALL))
    named = set(re.findall(r"^healthgym (\w+)", code, re.MULTILINE))
    assert named <= set(COMMANDS)
    for name, rest in re.findall(r"^healthgym (\w+)((?:.*\\\n)*.*)", code, re.MULTILINE):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        known = re.findall(r"--[a-z-]+", capsys.readouterr().out)
        for option in re.findall(r"(?<!\S)(--[a-z-]+)", rest.partition("#")[0]):
            assert option in known, f"healthgym {name} has no {option}"


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"[\w-]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == [page.with_suffix(".md").name for page in PAGES]


def test_exit_statuses_are_those_of_the_documentation() -> None:
    said = dict(re.findall(r"^ +(\d+)  (.*)$", usage(), re.MULTILINE))
    page = (ROOT / "docs/cluster.md").read_text()
    assert dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)) == said
    assert {"0", "1", "2", str(INTERRUPTED), str(FENCED), str(LOST), str(ENDED)} == set(said)
