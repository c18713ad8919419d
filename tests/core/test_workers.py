"""Work in threads: in order, bounded, and without leftovers after an error."""

from __future__ import annotations

import threading
import time

import pytest

from easi3r_ns.core.workers import ordered


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(ordered(slow_first, range(20), workers=4)) == [k * k for k in range(20)]
    assert list(ordered(slow_first, [], workers=2)) == []


def test_no_more_than_the_limit_is_held() -> None:
    taken, given, most = 0, 0, 0

    def items():
        nonlocal taken, most
        for number in range(40):
            taken += 1
            most = max(most, taken - given)
            yield number

    for _ in ordered(lambda number: number, items(), workers=2, limit=3):
        given += 1
    assert given == 40 and most <= 3 + 1, "those in hand, and the one that is offered"


def test_work_goes_on_while_the_next_item_is_made() -> None:
    begun = threading.Event()

    def items():
        yield 0
        assert begun.wait(10), "the first item is worked on before the second one is asked for"
        yield 1

    def work(number: int) -> int:
        begun.set()
        return number

    assert list(ordered(work, items(), workers=1)) == [0, 1]


@pytest.mark.parametrize("of", ["work", "items", "caller"])
def test_an_error_is_raised_and_the_rest_is_left_undone(of: str) -> None:
    done: list[int] = []

    def items():
        for number in range(100):
            if of == "items" and number == 3:
                raise OSError("no space left")
            yield number

    def work(number: int) -> int:
        if of == "work" and number == 3:
            raise OSError("no space left")
        time.sleep(0.001)
        done.append(number)
        return number

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt if of == "caller" else OSError):
        for number in ordered(work, items(), workers=2, limit=4):
            if of == "caller" and number == 3:
                raise KeyboardInterrupt
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(done) < 12 and threading.active_count() == before
