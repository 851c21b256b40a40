"""Whether the other end of a datagram pair is still there: the question that poll does not answer."""

import ctypes
import os
import socket
import sys
import threading

import pytest

from softnet.links.datagram import DatagramLink

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about Linux network namespaces")


def test_an_end_is_there_until_its_last_descriptor_closes() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    link, copy = DatagramLink(near), far.dup()
    assert link.needs_alive_check
    assert link.alive()
    far.close()
    assert link.alive()
    copy.close()
    assert not link.alive()
    assert not link.alive()
    link.close()


def test_frames_that_wait_do_not_hide_it() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    link = DatagramLink(near)
    far.send(b"last")
    far.close()
    assert not link.alive()
    link.close()


def test_it_is_answered_a_thousand_times_with_the_same_descriptors() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    link = DatagramLink(near)
    before = len(os.listdir("/dev/fd"))
    assert all(link.alive() for _ in range(1000))
    assert len(os.listdir("/dev/fd")) == before
    far.close()
    link.close()


@pytest.mark.root
def test_it_is_answered_after_privileges_were_dropped() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    link = DatagramLink(near)
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os.close(far.detach())
        os._exit(0 if link.alive() else 1)  # the parent holds the other end open
    assert os.waitpid(child, 0)[1] == 0
    far.close()
    child = os.fork()
    if not child:
        os.setresuid(65534, 65534, 65534)
        os._exit(1 if link.alive() else 0)
    assert os.waitpid(child, 0)[1] == 0
    link.close()


@linux
@pytest.mark.root
def test_a_socket_of_another_network_namespace_is_not_called_dead() -> None:
    pair: list[socket.socket] = []

    def make() -> None:
        assert ctypes.CDLL(None).unshare(0x40000000) == 0
        pair.extend(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    link = DatagramLink(pair[0])
    assert not link.needs_alive_check
    assert link.alive()
    link.close()
    pair[1].close()
