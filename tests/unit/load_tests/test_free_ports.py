"""Ports that several servers can be started on."""

from __future__ import annotations

import socket

from load_tests import free_ports
from load_tests.free_ports import HIGHEST, HOST, LOWEST, free_port


def test_each_is_another_one_and_none_belongs_to_the_system():
    found = [free_port() for _ in range(50)]
    assert len({*found}) == 50
    assert all(LOWEST <= port < HIGHEST for port in found)


def test_what_is_taken_is_passed_over(monkeypatch):
    port = free_port()
    with socket.create_server((HOST, port)):
        monkeypatch.setattr(free_ports, "_turns", iter((port - LOWEST, port - LOWEST + 1, port - LOWEST + 2)))
        assert free_port() != port
