"""The model of cost counts what the systems do, and predicts what was measured."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from healthgym.distributed.parallel import Place
from healthgym.distributed.ranks import Ranks
from healthgym.distributed.share import Share
from healthgym.systems.base import PositionDraws

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "two-shared-cores" / "scaling.json"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return


class Products(TorchDispatchMode):
    """Counts the floating-point operations of products, below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        in_place = {torch.ops.aten.addmm_: torch.ops.aten.addmm}
        packet = in_place.get(func._overloadpacket, func._overloadpacket)
        if count := flop_registry.get(packet):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


class Recorded(Ranks):
    """Two processes of which only this one exists; keeps what it would send."""

    def __init__(self) -> None:
        super().__init__(Place(0, 2))
        self.sent: list[int] = []

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        self.sent.append(value.numel() * value.element_size())
        return 2 * value.detach()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("v1", "v2.5")]


@pytest.mark.parametrize("system", ["v2", "v3", *SLOW])
def test_collectives_and_products_are_those_of_a_step(system: str) -> None:
    from cost_model import collectives, step_flops
    from scaling_measures import layout_of, make_system
    from training_step import patients

    batch, length, features = 4, 16, 22
    made = make_system(system, features, length)
    x_BTF = patients(layout_of(features), batch, length, CPU)
    draws = PositionDraws(0, 0, CPU, 0, batch)
    with Products() as counter:
        made.train_step(x_BTF, draws)
    assert step_flops(system, features, batch, length) == pytest.approx(counter.flops, rel=0.1)
    made.share = Share(ranks := Recorded(), batch)
    made.train_step(x_BTF[: batch // 2], draws)
    assert ranks.sent == collectives(system, features, batch)


def test_what_was_measured_is_predicted_within_15_percent() -> None:
    from cost_model import calibrate, cpu_step

    found: dict[str, Any] = json.loads(RESULTS.read_text())
    constants = calibrate(found)
    for row in found["ranks"]["rows"]:
        for processes, side in ((1, "alone"), (2, "shared")):
            model = cpu_step(constants, row["length"], found["ranks"]["batch"], processes)
            assert model == pytest.approx(row[side]["processor_seconds"], rel=0.15), (row["length"], side)


def test_more_gpus_never_compute_more_and_one_sends_nothing() -> None:
    from cost_model import Machine, gpu_step

    steps = [gpu_step(Machine(), "v2", 60, 4096, n) for n in (1, 8, 64, 512)]
    assert steps[0]["exchange"] == 0
    compute = [step["compute"] for step in steps]
    assert compute == sorted(compute, reverse=True)
    assert compute[0] / compute[-1] == pytest.approx(512)
    assert steps[-1]["all"] >= steps[-1]["launch"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.2, "3.2 s"), (90, "90 s"), (600, "10 min"), (8000, "2.2 h"), (864_000, "10 days")],
)
def test_durations(seconds: float, words: str) -> None:
    from cost_model import duration

    assert duration(seconds) == words


@pytest.mark.slow
def test_pictures_and_tables_come_from_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cost_model
    import scaling

    monkeypatch.setattr(sys, "argv", ["scaling.py", "--json", str(RESULTS), "--draw", str(tmp_path)])
    scaling.main()
    drawn = {path.stem.removeprefix("scaling-") for path in tmp_path.iterdir()}
    assert {"patients", "length", "features", "batch", "shards", "processes"} == drawn
    monkeypatch.setattr(sys, "argv", ["cost_model.py", "--json", str(RESULTS)])
    cost_model.main()
    assert "| 500 million |" in capsys.readouterr().out
