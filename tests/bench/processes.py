"""
Processes that were started here, their descendants, and their end; and a network of our own.

Everything is ended by pid. What a server leaves behind becomes our child (adopt_orphans), and a
child that was not reaped keeps its pid, so that nobody else can be hit.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import os
import signal
import socket
import struct
import subprocess

STOP_LIMIT = 3.0  # seconds from SIGTERM to SIGKILL


def _call(name: str, *args: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def adopt_orphans() -> None:
    """What our children leave behind becomes ours, so that it can be ended."""
    _call("prctl", 36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def enter_private_network() -> bool:
    """A loopback where nobody else is; False: we may not, and use that of the machine."""
    try:
        _call("unshare", 0x40000000)  # CLONE_NEWNET
    except PermissionError:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    return True


def _parents() -> dict[int, int]:
    """The parent of each process."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, encoding="ascii", errors="replace") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        found[int(path.split("/")[2])] = int(fields[1])
    return found


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def end_children() -> None:
    """Kill and reap every child that is left, then what became ours by their end."""
    while children := [pid for pid, parent in _parents().items() if parent == os.getpid()]:
        for pid in children:
            os.kill(pid, signal.SIGKILL)  # not reaped, so the pid is still its own
        for pid in children:
            os.waitpid(pid, 0)


def ended(process: subprocess.Popen[bytes], limit: float) -> bool:
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        return False
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """Asked first, then killed, with all that it has started."""
    if process.poll() is None:
        process.terminate()
        if not ended(process, STOP_LIMIT):
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
    end_children()
