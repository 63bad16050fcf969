"""Where the memory of many connections is: read from /proc, changing nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable

KIB = 1024
MIB = 1024 * KIB

# What a connection costs the kernel; a kernel may keep some of these under another's name.
SLABS = ("TCP", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq",
         "request_sock_TCP", "tw_sock_TCP", "skbuff_head_cache", "skbuff_small_head")


def meminfo() -> dict[str, int]:
    """/proc/meminfo, in bytes."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * (KIB if len(row) > 2 else 1) for row in rows}


def slabs() -> dict[str, int] | None:
    """The bytes in each of SLABS, or None: only root may know."""
    try:
        text = Path("/proc/slabinfo").read_text()
    except OSError:
        return None
    found = {}
    for line in text.splitlines()[2:]:
        row = line.split()
        if row[0] in SLABS:
            found[row[0]] = int(row[1]) * int(row[3])  # in use * size
    return found


def sockstat() -> dict[str, int]:
    """The line of TCP in /proc/net/sockstat; `mem` is in pages."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        words = line.split()
        if words[0] == "TCP:":
            return {words[i]: int(words[i + 1]) for i in range(1, len(words), 2)}
    return {}


def cgroup_left() -> int | None:
    """What the memory limits of our control groups leave, in bytes; None: there are none."""
    left = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for root, most, used in (("/sys/fs/cgroup", "memory.max", "memory.current"),
                                 ("/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                  "memory.usage_in_bytes")):
            if controllers not in ("", "memory"):
                continue
            folder = Path(root + path)
            try:
                left.append(int((folder / most).read_text()) - int((folder / used).read_text()))
            except (OSError, ValueError):
                pass  # no such file, or "max"
    return min(left, default=None)


@dataclass
class Kernel:
    """The kernel's side at one moment, in bytes."""

    available: int = field(default_factory=lambda: meminfo()["MemAvailable"])
    slabs: dict[str, int] | None = field(default_factory=slabs)
    tcp: dict[str, int] = field(default_factory=sockstat)


@dataclass
class User:
    """What processes have, in bytes: their anonymous memory, and their share of it all."""

    anonymous: int = 0
    pss: int = 0


def user_memory(pids: Iterable[int]) -> User:
    """The sum over these processes (proc(5), smaps_rollup)."""
    total = User()
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "Anonymous":
                total.anonymous += int(rest.split()[0]) * KIB
            elif name == "Pss":
                total.pss += int(rest.split()[0]) * KIB
    return total
