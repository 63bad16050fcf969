"""
Networks of a test's own, with all ports free (network_namespaces(7)); they need root.

    with private_network():
        ...                                # has a loopback, and nobody else is there

    with private_network(), Cable() as cable:
        echod.start()                      # at one end: cable.HERE, cable.ALIAS, cable.HERE6, ...
        with cable.far_end():
            client = socket.socket(...)    # at the other: cable.THERE; stays there
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from typing import Iterator

from procfs import wait_until

_NAMESPACE = "/proc/thread-self/ns/net"


def _call(name: str, *args: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def enter_private_network() -> None:
    """This thread, and what it starts from now on, has a network with a loopback of its own."""
    _call("unshare", 0x40000000)  # CLONE_NEWNET
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sH14x", b"lo", 1)  # netdevice(7): IFF_UP
        fcntl.ioctl(any_socket, 0x8914, up)    # SIOCSIFFLAGS


@contextlib.contextmanager
def private_network() -> Iterator[None]:
    """For a while; what was started there stays there."""
    before = os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_private_network()
        yield
    finally:
        _call("setns", before, 0)
        os.close(before)


def ip(*words: str) -> str:
    """ip(8), in this thread's network."""
    return subprocess.run(["ip", *words], check=True, timeout=10, stdout=subprocess.PIPE,
                          text=True).stdout


def forge(source: tuple[str, int], to: tuple[str, int], data: bytes = b"hello") -> None:
    """A datagram from any port of an address of this machine, whosever that is."""
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        if family == socket.AF_INET6:
            raw.setsockopt(socket.IPPROTO_IPV6, 7, 6)  # IPV6_CHECKSUM: where it stands (RFC 768)
        raw.bind((source[0], 0))
        raw.sendto(struct.pack("!HHHH", source[1], to[1], 8 + len(data), 0) + data, (to[0], 0))


def forge_from_afar(source: tuple[str, int], to: tuple[str, int], data: bytes = b"hello") -> None:
    """The same over IPv4, from an address that this machine does not have."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0,
                         socket.inet_aton(source[0]), socket.inet_aton(to[0]))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(header + struct.pack("!HHHH", source[1], to[1], 8 + len(data), 0) + data,
                   (to[0], 0))


class Cable:
    """Between this network and one more: the device `near` here, `far` there."""

    HERE, ALIAS, THERE, BROADCAST = "10.77.0.1", "10.77.0.2", "10.77.0.9", "10.77.0.255"
    HERE6, ALIAS6, THERE6 = "fd77::1", "fd77::2", "fd77::9"
    LINK_LOCAL = "fe80::1"  # with the scope of who asks: %near, %far

    def __enter__(self) -> "Cable":
        self._here = os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        enter_private_network()
        self._there = os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        # A process of that network, by whose pid ip(8) finds it.
        self._keeper = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        _call("setns", self._here, 0)
        ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns",
           str(self._keeper.pid))
        self._set_up("near", f"{self.HERE}/24", f"{self.ALIAS}/24", f"{self.HERE6}/64",
                     f"{self.ALIAS6}/64", f"{self.LINK_LOCAL}/64")
        with self.far_end():
            self._set_up("far", f"{self.THERE}/24", f"{self.THERE6}/64", "fe80::9/64")
            wait_until(lambda: self._carries("far"), 10, "the cable carries")
        wait_until(lambda: self._carries("near"), 10, "the cable carries")
        return self

    @staticmethod
    def _set_up(device: str, *addresses: str) -> None:
        ip("link", "set", device, "addrgenmode", "none")
        for address in addresses:
            # Without the question whether somebody else has it, which takes a second.
            six = ["nodad"] if ":" in address else ["broadcast", "+"]
            ip("addr", "add", address, "dev", device, *six)
        ip("link", "set", device, "up")

    @staticmethod
    def _carries(device: str) -> bool:
        """The kernel looks at the other end now and then, and only then has IPv6 all its routes."""
        return f"ff00::/8 dev {device} " in ip("-6", "route", "show", "table", "all")

    @contextlib.contextmanager
    def far_end(self) -> Iterator[None]:
        """This thread is there for a while."""
        _call("setns", self._there, 0)
        try:
            yield
        finally:
            _call("setns", self._here, 0)

    def __exit__(self, *_: object) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()
        os.close(self._there)
        os.close(self._here)
