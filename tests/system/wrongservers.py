"""
Echo servers in threads of the test, right ones and deliberately wrong ones.

    with StreamServer(behaviour) as server:     # behaviour(server, conn, number), for each client
        ... server.port ...

    with DatagramServer(behaviour) as server:   # behaviour(server, data, peer), for each datagram
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Callable, Iterator

HOST = "127.0.0.1"

StreamBehaviour = Callable[["StreamServer", socket.socket, int], None]
DatagramBehaviour = Callable[["DatagramServer", bytes, tuple[str, int]], None]


def lines_of(conn: socket.socket) -> Iterator[bytes]:
    """Each line, with its LF, until the client ends."""
    with conn.makefile("rb") as file:
        yield from file


def reset(conn: socket.socket) -> None:
    """Close with a RST (socket(7), SO_LINGER)."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


class StreamServer:
    """A thread for each connection, so that any of them may stand still."""

    def __init__(self, behaviour: StreamBehaviour) -> None:
        self.ended = threading.Event()  # the test is over: whoever waits, ends
        self.peers: list[str] = []      # the address of each client
        self.met = threading.Barrier(2)  # for behaviours: two clients' threads meet here
        self.shared: dict[int, bytes] = {}
        self._behaviour = behaviour
        self._listener = socket.create_server((HOST, 0), backlog=1000)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._conns: list[socket.socket] = []

    def __enter__(self) -> "StreamServer":
        self._threads[0].start()
        return self

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was shut down
            while True:
                conn, peer = self._listener.accept()
                self.peers.append(peer[0])
                self._conns.append(conn)
                thread = threading.Thread(target=self._serve, args=(conn, len(self.peers) - 1))
                self._threads.append(thread)
                thread.start()

    def _serve(self, conn: socket.socket, number: int) -> None:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The client goes when it has found the error, or when its time is up.
        with conn, contextlib.suppress(OSError, threading.BrokenBarrierError):
            self._behaviour(self, conn, number)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.met.abort()
        for one in [self._listener, *self._conns]:
            with contextlib.suppress(OSError):  # it has ended already
                one.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        self._listener.close()


class DatagramServer:
    """One thread, one socket."""

    def __init__(self, behaviour: DatagramBehaviour) -> None:
        self.received = 0
        self.kept: list[tuple[bytes, tuple[str, int]]] = []  # for behaviours
        self._behaviour = behaviour
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "DatagramServer":
        self._thread.start()
        return self

    def send(self, data: bytes, peer: tuple[str, int]) -> None:
        with contextlib.suppress(ConnectionRefusedError):  # the client is gone
            self._socket.sendto(data, peer)

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self._socket.recvfrom(1 << 16)
            except ConnectionRefusedError:
                continue
            if data == b"":
                return
            self.received += 1
            self._behaviour(self, data, peer)

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (HOST, self.port))
        self._thread.join()
        self._socket.close()
