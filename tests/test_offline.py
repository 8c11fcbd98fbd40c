"""The tests run offline, in this process and in its children."""

import socket
import subprocess
import sys

import pytest


def test_connections_outside_are_blocked_and_loopback_works():
    with pytest.raises(OSError, match="offline"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_connections_of_child_processes_are_blocked():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the tests run offline" in done.stderr
