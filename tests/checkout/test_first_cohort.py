"""The notebook of docs/ runs from its first cell to its last, and an interrupted cell can be run again."""

import asyncio
import copy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[2] / "docs/first-cohort.ipynb"
QUICK = {
    "simulate_art_hiv(400": "simulate_art_hiv(200",
    "minutes=2": "minutes=0.2, settings={'system.width': 16, 'system.num_layers': 1}",
    "hg.evaluate(cohort, patients)": "hg.evaluate(cohort, patients, settings={'num_splits': 3})",
}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def quick_notebook() -> NotebookNode:
    """The notebook with fewer patients and a small system."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = "".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for old, new in QUICK.items():
        assert code.count(old) == 1
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    return notebook


def client_of(notebook: NotebookNode, folder: Path) -> NotebookClient:
    return NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})


def output_of(notebook: NotebookNode, code: str, kind: str) -> str:
    """What the one cell with this code has printed or displayed."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and code in cell.source]
    return "".join(each.get("text", "") + each.get("data", {}).get(kind, "") for each in cell.outputs)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs_as_it_stands(tmp_path: Path) -> None:
    notebook = quick_notebook()
    client_of(notebook, tmp_path).execute()
    assert "200 patients, 24 rows each" in output_of(notebook, "print(schema)", "text/plain")
    assert output_of(notebook, "value_counts", "text/plain").split()[:3] == ["Gender", "Female", "2400"]
    assert output_of(notebook, "report.show()", "text/html").startswith("<iframe srcdoc=")
    assert {"visits.yaml", "prepared.h5", "report/report.html"} <= {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_training_cell_resumes_when_it_is_run_again(tmp_path: Path) -> None:
    notebook = quick_notebook()
    training = next(n for n, cell in enumerate(notebook.cells) if "hg.train(" in cell.source)
    stopped, again = notebook.cells[training], copy.deepcopy(notebook.cells[training])
    notebook.cells = [*notebook.cells[: training + 1], again]
    client = client_of(notebook, tmp_path)

    async def stop_it() -> None:
        while not [*tmp_path.glob("runs/first/metrics.jsonl")]:
            await asyncio.sleep(0.05)
        await client.km.interrupt_kernel()

    async def run() -> None:
        async with client.async_setup_kernel():
            for index in range(training):
                await client.async_execute_cell(notebook.cells[index], index)
            await asyncio.gather(client.async_execute_cell(stopped, training), stop_it())
            await client.async_execute_cell(again, training + 1)

    asyncio.run(run())
    first, second = ("".join(each.get("text", "") for each in cell.outputs) for cell in (stopped, again))
    assert "stopped by SIGINT" in first
    assert "and saved; the same command or call resumes it" in first
    assert "resuming from step" in second
    assert "finished at step" in second


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
