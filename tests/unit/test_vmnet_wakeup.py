"""The wake-up on its own: callbacks come from a thread, as dispatch makes them."""

import select
import threading
import time
from collections.abc import Iterator

import pytest

from softnet.uplinks.vmnet.wakeup import Wakeup


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    made = Wakeup()
    yield made
    made.let_go()
    made.close()


def call(wakeup: Wakeup) -> threading.Thread:
    thread = threading.Thread(target=wakeup.callback)
    thread.start()
    return thread


def readable(wakeup: Wakeup, timeout: float = 0) -> bool:
    return bool(select.select([wakeup], [], [], timeout)[0])


def test_a_callback_wakes_and_is_held_back_until_the_interface_was_found_empty(wakeup: Wakeup) -> None:
    assert not readable(wakeup)
    thread = call(wakeup)
    assert readable(wakeup, 2)
    wakeup.consume()
    assert not readable(wakeup)
    thread.join(0.05)
    assert thread.is_alive()
    wakeup.rearm()
    thread.join(2)
    assert not thread.is_alive()


def test_a_rearm_before_the_callback_does_not_lose_its_byte(wakeup: Wakeup) -> None:
    wakeup.rearm()
    thread = call(wakeup)
    assert readable(wakeup, 2)
    wakeup.rearm()
    thread.join(2)
    assert readable(wakeup)


def test_letting_go_is_for_good(wakeup: Wakeup) -> None:
    thread = call(wakeup)
    assert readable(wakeup, 2)
    wakeup.let_go()
    thread.join(2)
    for _ in range(3):
        start = time.monotonic()
        wakeup.callback()
        assert time.monotonic() - start < 1


def test_a_full_socket_and_a_closed_one_do_not_raise(wakeup: Wakeup) -> None:
    wakeup.let_go()
    for _ in range(5000):
        wakeup.callback()
    assert readable(wakeup)
    for _ in range(5000):
        wakeup.consume()
    assert not readable(wakeup)
    wakeup.close()
    wakeup.callback()
