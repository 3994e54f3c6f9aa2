"""Two computations at once."""

import multiprocessing
import threading

import pytest
import torch

from healthgym.nn.side_by_side import side_by_side


@pytest.fixture(autouse=True)
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items() -> None:
    assert side_by_side(lambda n: n * n, [3, 4]) == [9, 16]
    assert side_by_side(lambda n: n * n, [1, 2, 3]) == [1, 4, 9]


def test_both_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=20)  # broken, unless both get there
    side_by_side(lambda _: meeting.wait(), [0, 1])


def test_each_has_half_of_the_threads_and_the_caller_gets_them_back() -> None:
    torch.set_num_threads(5)
    assert side_by_side(lambda _: torch.get_num_threads(), [0, 1]) == [2, 3]
    assert torch.get_num_threads() == 5


def test_one_thread_is_not_shared() -> None:
    torch.set_num_threads(1)
    assert side_by_side(lambda _: threading.get_ident(), [0, 1]) == [threading.get_ident()] * 2


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_reaches_the_caller_who_still_gets_his_threads_back(bad: int) -> None:
    def job(item: int) -> None:
        if item == bad:
            raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        side_by_side(job, [0, 1])
    assert torch.get_num_threads() == 2


def test_no_gradient_is_recorded_in_either() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert [r.requires_grad for r in side_by_side(lambda k: weight * k, [1, 2])] == [False, False]


@pytest.mark.parametrize("flush", [True, False])
def test_both_take_subnormal_numbers_as_the_caller_does(flush: bool) -> None:
    try:
        torch.set_flush_denormal(flush)
        found = side_by_side(lambda _: float(torch.full((1,), 1e-30) * 1e-10), [0, 1])
    finally:
        torch.set_flush_denormal(False)
    assert [number == 0 for number in found] == [flush, flush]


def test_it_works_in_a_forked_process() -> None:
    side_by_side(abs, [1, 2])  # the thread is there before the fork
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_in_fork).get(timeout=60) == [1, 2]


def _in_fork() -> list[int]:
    return side_by_side(abs, [-1, -2])
