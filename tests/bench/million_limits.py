"""
What a machine must allow before so many connections can be opened on it. Nothing is changed here:
each shortfall is a sentence with the command that an operator would give.
"""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from million_memory import KIB, MIB, cgroup_left, meminfo

# Of the kernel, for both ends of a connection (6 to 9 KiB were seen), and of both processes.
PAIR_BYTES = 10 * KIB
PROCESS_BYTES = 2 * MIB
RESERVE_BYTES = 512 * MIB

WORKER_FDS = 32  # of a worker, besides sockets and connections


@dataclass(frozen=True)
class Plan:
    """How much is to be opened by whom."""

    connections: int
    newcomers: int  # after the restart
    workers: int
    clients: int    # processes
    per_source: int
    backlog: int

    @property
    def worker_fds(self) -> int:
        """
        The most that one worker may need. The kernel deals connections out by a hash, so their
        numbers differ as if thrown by dice: 6 standard deviations are once in a billion.
        """
        mean = self.connections / self.workers
        return math.ceil(mean + 6 * math.sqrt(mean)) + self.workers + WORKER_FDS

    @property
    def client_fds(self) -> int:
        return math.ceil(self.connections / self.clients) + 8

    @property
    def memory(self) -> int:
        """A generous guess, in bytes."""
        return ((self.connections + self.newcomers) * PAIR_BYTES
                + (2 * self.workers + self.clients) * PROCESS_BYTES + RESERVE_BYTES)


def fds_of_a_process() -> int:
    """The most that a process may raise its limit to without a privilege."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _sysctl(name: str) -> list[int] | None:
    try:
        return [int(word) for word in
                Path("/proc/sys", *name.split(".")).read_text().split()]
    except (OSError, ValueError):
        return None


def _at_least(name: str, need: int, why: str, index: int = 0) -> list[str]:
    """One sentence, or none, about a limit that stands in /proc/sys."""
    found = _sysctl(name)
    if found is None or found[index] >= need:
        return []
    value = " ".join(str(need if i == index else one) for i, one in enumerate(found))
    return [f"{name} is {found[index]} and must be {need}, {why}: sysctl -w {name}='{value}'"]


def _descriptors(plan: Plan) -> list[str]:
    wrong = []
    most = fds_of_a_process()
    if plan.worker_fds > most:
        wrong.append(f"a process may hold {most} descriptors, and a worker would need up to "
                     f"{plan.worker_fds}: give --workers more than {plan.workers}, or raise the "
                     f"limit with 'ulimit -Hn {plan.worker_fds}' as root")
    if plan.client_fds > most:
        wrong.append(f"a process may hold {most} descriptors, and a client process would need "
                     f"{plan.client_fds}: give --clients more than {plan.clients}")
    return wrong


def _files(plan: Plan) -> list[str]:
    """Of the whole machine; who has CAP_SYS_ADMIN is not held to it, but workers have nothing."""
    used = _sysctl("fs.file-nr")
    both = 2 * (plan.connections + plan.newcomers) + 1000
    return _at_least("fs.file-max", (used[0] if used else 0) + both,
                     "two open files for each connection")


def _ports(plan: Plan) -> list[str]:
    span = _sysctl("net.ipv4.ip_local_port_range")
    if span is None or span[1] - span[0] + 1 >= 2 * plan.per_source:
        return []
    return [f"net.ipv4.ip_local_port_range has {span[1] - span[0] + 1} ports, too few for "
            f"{plan.per_source} connections from one address: "
            f"sysctl -w net.ipv4.ip_local_port_range='32768 60999'"]


def _watches(plan: Plan) -> list[str]:
    """Of a user; where we are not root, workers and clients are one."""
    sides = 1 if os.geteuid() == 0 else 2
    need = sides * (plan.connections + plan.newcomers) + 1000
    return _at_least("fs.epoll.max_user_watches", need,
                     "for each user the connections that are waited on")


def _tracking(plan: Plan) -> list[str]:
    """Only where a firewall looks at connections at all."""
    if (_sysctl("net.netfilter.nf_conntrack_count") or [0])[0] == 0:
        return []
    return _at_least("net.netfilter.nf_conntrack_max", plan.connections + plan.newcomers + 1000,
                     "a firewall keeps an entry of each connection")


def shortfalls(plan: Plan) -> list[str]:
    """Everything that stands against the plan but memory."""
    pages = 16 * MIB // os.sysconf("SC_PAGE_SIZE")
    return [
        *_descriptors(plan),
        *_at_least("fs.nr_open", max(plan.worker_fds, plan.client_fds),
                   "the most that 'ulimit -Hn' may allow a process"),
        *_files(plan),
        *_ports(plan),
        *_watches(plan),
        *_at_least("net.core.somaxconn", plan.backlog, "so many wait to be accepted by a worker"),
        *_at_least("net.ipv4.tcp_mem", pages, "pages for what is under way", index=1),
        *_at_least("kernel.pid_max", 2 * plan.workers + plan.clients + 1000,
                   "old and new workers, and the clients"),
        *_tracking(plan),
    ]


def memory_shortfall(plan: Plan) -> str | None:
    """One sentence when it would not fit."""
    free = meminfo()["MemAvailable"]
    left = cgroup_left()
    if left is not None:
        free = min(free, left)
    if plan.memory <= free:
        return None
    fits = max(0, int((free - plan.memory) / PAIR_BYTES) + plan.connections)
    return (f"{plan.connections} connections may need {plan.memory // MIB} MiB, and "
            f"{free // MIB} MiB are available: try --connections {fits // 1000 * 1000}")
