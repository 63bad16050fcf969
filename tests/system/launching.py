"""Launching a command from surroundings that were prepared in some unusual way."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from echod import Echod
from procfs import Process

NOBODY = 65534

# Runs in a process of its own, which then becomes the command: what it ignores, blocks, closes or
# arms is what the command is born with. Python itself ignores two signals; a shell does not.
_LAUNCHER = """
import fcntl, os, resource, signal, socket, sys, time
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
{code}
os.execve(sys.argv[1], sys.argv[1:], os.environ)
"""

_ORPHAN = """
import os, time
ready, say = os.pipe()
parent = os.getpid()
if os.fork() == 0:
    if os.fork() == 0:
        middle = int(os.read(ready, 20))
        while os.getppid() == middle:
            time.sleep(0.001)
        print(os.getppid(), flush=True)
        os._exit(0)
    os.write(say, str(os.getpid()).encode())
    os._exit(0)
os.wait()
"""


def prepared(code: str, command: list[str]) -> list[str]:
    """The command line that runs some Python code and then becomes the command."""
    return [sys.executable, "-c", _LAUNCHER.format(code=code), *command]


def start_after(echod: Echod, code: str, *args: str, expect: int = 0,
                **popen: Any) -> subprocess.CompletedProcess[str]:
    """Start the daemon from a launcher that has run this Python code."""
    if expect != 0:
        echod.expect_log("cannot start: ")
    done = echod.run_command(prepared(code, echod.command("start", *args)), expect=expect, **popen)
    if expect == 0:
        echod.adopt()
    return done


def orphans_parent() -> int:
    """Who adopts a process whose parent ends: init, or a reaper that stands nearer."""
    done = subprocess.run([sys.executable, "-c", _ORPHAN], capture_output=True, text=True,
                          timeout=20, check=True)
    return int(done.stdout)


def ordinary(echod: Echod) -> int:
    """Make this daemon an ordinary user's: ours, or for root nobody's. Returns the uid."""
    if os.geteuid() == 0:
        echod.become(NOBODY)
        return NOBODY
    return os.geteuid()


def refuses(echod: Echod, port: int | None = None) -> bool:
    """Is a client turned away by the kernel: does nobody listen on this port?"""
    try:
        echod.connect(port=port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # it came between the last look into the queue and the end of the socket
    return False


def assert_is_daemon(echod: Echod) -> None:
    """Everything that is true of a daemon, whoever launched it."""
    supervisor = echod.supervisor
    assert supervisor.ppid == orphans_parent()
    assert supervisor.session not in (os.getsid(0), supervisor.pid)
    assert supervisor.pgrp == supervisor.session
    assert not Process(supervisor.session).alive, "the session has lost its leader"
    for process in [supervisor, *echod.workers()]:
        assert process.tty_nr == 0
        assert process.cwd == "/"
        assert process.umask == 0
        assert process.signals("SigBlk") == set()
        fds = process.fds
        assert [fds[fd] for fd in (0, 1, 2)] == ["/dev/null"] * 3
        assert_only_own_descriptors(echod, process)
    assert echod.pidfile.read_text() == f"{supervisor.pid}\n"
    assert echod.pidfile.stat().st_mode & 0o7777 == 0o644
    assert echod.control.stat().st_mode & 0o7777 == 0o600
    echod.assert_serves()


def assert_only_own_descriptors(echod: Echod, process: Process) -> None:
    """Above 2 there is only what echod itself makes: sockets, pipes, memory files, lock and log."""
    own = ("socket:", "pipe:", "anon_inode:", "/memfd:", "/dev/null", str(echod.dir))
    strange = {fd: link for fd, link in process.fds.items() if fd > 2 and not link.startswith(own)}
    assert strange == {}, f"{process} holds {strange}"
    assert len(process.fds) < 100, process.fds


class Container:
    """
    `echod -F` as process 1 of a pid namespace of its own.

    `before` is what the shell does that then becomes echod: its children are those of process 1.
    """

    def __init__(self, echod: Echod, before: str = ":"):
        self.echod = echod
        self.unshare = subprocess.Popen(
            ["unshare", "-pf", "--mount-proc", "--kill-child", "sh", "-c",
             before + '\nexec "$@"', "sh", *echod.command("start", "-F")],
            env=echod.env, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True)
        echod.process = self.unshare
        # Seen from outside the kernel gives its pid in our namespace; inside, it is 1.
        echod.await_ready()
        assert echod.pid == 1
        echod.adopt()

    def run(self, *words: str, expect: int | None = None) -> subprocess.CompletedProcess[str]:
        """A command inside."""
        return self.echod.run_command(
            ["nsenter", "-t", str(self.echod.pid), "-p", "-m", *words], expect=expect)

    def verb(self, verb: str, expect: int | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(*self.echod.command(verb), expect=expect)
