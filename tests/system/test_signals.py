"""Signals in the running daemon: which one does what, in supervisor and workers."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import time

import pytest

from echod import Echod, read_exactly, read_to_end, seconds
from launching import refuses
from procfs import Process, signal_name, wait_until

HANDLED = [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]
IGNORED = [signal.SIGPIPE, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF,
           signal.SIGIO, signal.SIGURG, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
           signal.SIGWINCH, signal.SIGXFSZ, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)]
FATAL = [signal.SIGQUIT, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS,
         signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS, signal.SIGXCPU, signal.SIGPWR, 16]


def name_of(sig: int) -> str:
    return "SIGSTKFLT" if sig == 16 else signal_name(sig)


@pytest.fixture
def talking(echod: Echod) -> Echod:
    """A running daemon for conversations of many lines, with two workers."""
    echod.settings.update({"services.line.max_lines": 0, "services.line.workers": 2})
    echod.start()
    return echod


def say(client: socket.socket, line: bytes = b"a line\n") -> None:
    """One line there and back."""
    client.sendall(line)
    assert read_exactly(client, len(line)) == line


# ---- Ignored ------------------------------------------------------------------------------------

def test_ignored_signals_do_nothing(talking: Echod) -> None:
    """Every one of them, to supervisor and workers, while a client talks."""
    workers = talking.workers()
    with talking.connect() as client:
        for sig in IGNORED:
            for pid in (talking.pid, *(w.pid for w in workers)):
                os.kill(pid, sig)
            say(client)
    assert [w.pid for w in talking.workers()] == [w.pid for w in workers]
    assert talking.status()["restarts"]["begun"] == 0


def test_workers_ignore_what_is_meant_for_the_supervisor(talking: Echod) -> None:
    """Orders come over the channel; a kill of the whole group does not end them under a drain."""
    with talking.connect() as client:
        for worker in talking.workers():
            for sig in HANDLED:
                os.kill(worker.pid, sig)
        say(client)


def test_stop_and_continue(talking: Echod) -> None:
    """SIGSTOP and SIGCONT, as job control and debuggers send them, lose nothing."""
    with talking.connect() as client:
        say(client)
        pids = [talking.pid, *(w.pid for w in talking.workers())]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        client.sendall(b"while stopped\n")
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert read_exactly(client, 14) == b"while stopped\n"


# ---- Fatal --------------------------------------------------------------------------------------

@pytest.mark.parametrize("sig", FATAL, ids=name_of)
def test_fatal_signal_ends_the_supervisor(echod: Echod, sig: int) -> None:
    """Logged, pidfile removed, the same signal in the exit status; the next start succeeds."""
    echod.expect_log("fatal signal")
    process = echod.foreground()
    echod.signal(sig)
    assert process.wait(seconds(10)) == -sig
    lines = [line for line in echod.log_text().splitlines() if "fatal signal" in line]
    assert len(lines) == 1
    assert f"fatal signal {name_of(sig)} in supervisor" in lines[0] and str(echod.pid) in lines[0]
    assert not echod.pidfile.exists()
    process.stderr.close()
    echod.process = None
    echod.start()
    echod.assert_serves()


def test_fatal_signal_of_the_daemon_is_said_to_syslog(echod: Echod) -> None:
    """Level critical, from the handler itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(echod.dir / "log"))
        syslog.settimeout(seconds(10))
        echod.log_path = None
        echod.settings["log.socket"] = echod.dir / "log"
        echod.start()
        echod.signal(signal.SIGABRT)
        echod.await_end()
        while b"fatal" not in (line := syslog.recv(4096)):
            pass
    assert line == f"<26>echod[{echod.pid}]: fatal signal SIGABRT in supervisor".encode()
    assert not echod.pidfile.exists()
    echod.control.unlink()


@pytest.mark.parametrize("sig", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGQUIT],
                         ids=name_of)
def test_fatal_signal_in_a_worker(talking: Echod, sig: int) -> None:
    """It says which process it was; the sibling is not disturbed, and a successor serves."""
    talking.expect_log("fatal signal")
    victim, sibling = talking.workers()
    os.kill(victim.pid, sig)
    talking.await_log(rf"line/0\[{victim.pid}\]: fatal signal {name_of(sig)} in line/0")
    talking.await_log(rf"line/0\[{victim.pid}\] was ended by signal {name_of(sig)}")
    wait_until(lambda: len(talking.workers()) == 2, seconds(5))
    assert sibling.alive
    assert {w.pid for w in talking.workers()} >= {sibling.pid}
    assert victim.pid not in {w.pid for w in talking.workers()}
    for _ in range(8):
        talking.assert_serves()
    assert talking.pidfile.exists(), "a worker's death is not the daemon's"


def test_killed_worker_is_replaced_at_once(talking: Echod) -> None:
    """kill -9 from outside is not held against the worker: no pause before the successor."""
    for _ in range(4):
        victim = talking.workers()[0]
        os.kill(victim.pid, signal.SIGKILL)
        begun = time.monotonic()
        wait_until(lambda: len(talking.workers()) == 2 and
                   victim.pid not in {w.pid for w in talking.workers()}, seconds(5))
        assert time.monotonic() - begun < seconds(1)
        victim.await_end(seconds(5))
    assert "was ended by signal SIGKILL" in talking.log_text()
    assert "starts in" not in talking.log_text()


def test_worker_that_keeps_dying_is_slowed_down(echod: Echod) -> None:
    """Deaths by its own fault: at once, then after 0.1 s, 0.2 s, 0.4 s …, and each is logged."""
    echod.expect_log("fatal signal")
    echod.settings["services.line.workers"] = 1
    echod.start()
    for _ in range(4):
        [worker] = wait_until(echod.workers, seconds(5))
        os.kill(worker.pid, signal.SIGSEGV)
        worker.await_end(seconds(5))
        wait_until(lambda: worker.pid not in {w.pid for w in echod.workers()}, seconds(5))
    wait_until(echod.workers, seconds(5))
    pauses = re.findall(r"a new line/0 starts in ([\d.]+) s", echod.log_text())
    assert pauses == ["0.1", "0.2", "0.4"]
    echod.assert_serves()


# ---- The two kinds of end -----------------------------------------------------------------------

def test_polite_end_refuses_new_clients_and_finishes_the_old(talking: Echod) -> None:
    """SIGUSR1: a half line may be finished; no new connection is taken meanwhile."""
    with talking.connect() as client:
        client.sendall(b"half")
        wait_until(lambda: talking.status()["counters"]["bytes_in"] == 4, seconds(5))
        talking.signal(signal.SIGUSR1)
        wait_until(lambda: refuses(talking), seconds(5))
        client.sendall(b" and whole\n")
        assert read_to_end(client) == b"half and whole\n"
    talking.await_end()


def test_polite_end_answers_all_lines_already_received(talking: Echod) -> None:
    """What lies in the socket when the signal comes is answered."""
    lines = b"".join(b"line %d\n" % i for i in range(200))
    clients = [talking.connect() for _ in range(20)]
    for client in clients:
        say(client)
    for worker in talking.workers():
        os.kill(worker.pid, signal.SIGSTOP)
    for client in clients:
        client.sendall(lines)
    talking.signal(signal.SIGUSR1)
    for worker in talking.workers("draining") or talking.workers():
        os.kill(worker.pid, signal.SIGCONT)
    for client in clients:
        assert read_to_end(client) == lines
        client.close()
    talking.await_end()


def test_polite_end_has_a_limit(echod: Echod) -> None:
    """After drain_timeout the rest is closed."""
    echod.settings.update({"services.line.max_lines": 0, "drain_timeout": "500ms"})
    echod.start()
    with echod.connect() as client:
        client.sendall(b"never finished")
        wait_until(lambda: echod.status()["counters"]["bytes_in"] == 14, seconds(5))
        begun = time.monotonic()
        echod.signal(signal.SIGUSR1)
        echod.await_end()
        assert 0.4 < time.monotonic() - begun < seconds(3)
        assert client.recv(100) == b""


@pytest.mark.parametrize("second", [signal.SIGUSR1, signal.SIGTERM], ids=name_of)
def test_second_signal_ends_at_once(talking: Echod, second: signal.Signals) -> None:
    """Whoever has no more patience sends another one."""
    with talking.connect() as client:
        client.sendall(b"half")
        wait_until(lambda: talking.status()["counters"]["bytes_in"] == 4, seconds(5))
        talking.signal(signal.SIGUSR1)
        wait_until(lambda: refuses(talking), seconds(5))
        begun = time.monotonic()
        talking.signal(second)
        talking.await_end()
        assert time.monotonic() - begun < seconds(1)
    assert not talking.pidfile.exists() and not talking.control.exists()


def test_quick_end_though_a_worker_is_stopped(talking: Echod) -> None:
    """A worker that does not react is killed: gone within a second all the same."""
    os.kill(talking.workers()[0].pid, signal.SIGSTOP)
    begun = time.monotonic()
    talking.signal(signal.SIGTERM)
    talking.await_end()
    assert time.monotonic() - begun < seconds(1.5)
    assert talking.processes() == []


def test_end_by_the_keyboard_in_the_foreground(echod: Echod) -> None:
    """^C goes to the whole group: the supervisor ends quickly and in order, exit code 0."""
    echod.settings["services.line.max_lines"] = 0
    process = echod.foreground()
    with echod.connect() as client:
        say(client)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(seconds(5)) == 0
    assert not echod.pidfile.exists()


def test_interrupt_of_a_daemon_is_a_quick_stop_too(talking: Echod) -> None:
    """Nobody has a keyboard for it; whoever sends SIGINT gets what it says."""
    talking.signal(signal.SIGINT)
    talking.await_end()
    assert not talking.pidfile.exists()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1], ids=name_of)
def test_signal_during_the_start(echod: Echod, sig: signal.Signals) -> None:
    """A stop that comes before it serves: a failed start, or a daemon that stops, in order."""
    echod.expect_log("cannot start: ended by")
    for _ in range(5):
        start = subprocess.Popen(echod.command("start"), env=echod.env, text=True,
                                 stderr=subprocess.PIPE)
        wait_until(lambda: echod.pidfile.exists() and echod.pidfile.read_text().strip(),
                   seconds(10))
        pid = int(echod.pidfile.read_text())
        os.kill(pid, sig)
        stderr = start.communicate(timeout=seconds(20))[1]
        assert start.returncode in (0, 1)
        if start.returncode == 1:
            assert stderr.startswith("echod: ")
        assert Process(pid).await_end(seconds(10))
        assert not echod.pidfile.exists() and not echod.control.exists()


def test_stop_during_a_long_start_is_a_failed_start(echod: Echod) -> None:
    """
    With many workers a stop meets a start that is not ready yet.

    The command says so once; a service manager never hears READY=1, and nobody speaks of a restart.
    """
    echod.expect_log("cannot start: ended by SIGTERM")
    echod.settings["services.line.workers"] = 100
    for attempt in range(10):
        notify = echod.dir / f"notify{attempt}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(notify))
            echod.env["NOTIFY_SOCKET"] = str(notify)
            process = echod.foreground(ready=False)
            wait_until(lambda: echod.pidfile.exists() and echod.pidfile.read_text().strip(),
                       seconds(10))
            os.kill(int(echod.pidfile.read_text()), signal.SIGTERM)
            code = process.wait(seconds(10))
            stderr = process.stderr.read()
            process.stderr.close()
            said = b""
            while select.select([manager], [], [], 0)[0]:
                said += manager.recv(4096)
        if code == 1:
            break  # else it was ready before the signal came: once more
    assert code == 1
    assert b"READY=1" not in said
    assert stderr == "echod: ended by SIGTERM before it was ready\n"
    assert "restart" not in echod.log_text()


# ---- SIGHUP -------------------------------------------------------------------------------------

def test_hangup_during_a_restart_starts_one_more(echod: Echod) -> None:
    """Whatever is written before the last SIGHUP is what serves in the end."""
    echod.configure(echod.service(max_lines=1))
    echod.start()
    for lines in (2, 3, 4, 5, 6):
        echod.configure(echod.service(max_lines=lines))
        echod.signal(signal.SIGHUP)
        echod.configure(echod.service(max_lines=lines + 10))
        echod.signal(signal.SIGHUP)
        expected = b"x\n" * (lines + 10)
        wait_until(lambda: echod.echo(b"x\n" * 20) == expected, seconds(15))
    restarts = wait_until(
        lambda: (r := echod.status()["restarts"])["begun"] == r["ended"] and r, seconds(15))
    assert restarts["failed"] == 0
    echod.assert_serves()


def test_hangups_in_a_storm_end_in_a_few_restarts(echod: Echod) -> None:
    """A hundred at once are one under way and one more after it, not a hundred."""
    echod.start()
    for _ in range(100):
        echod.signal(signal.SIGHUP)
    wait_until(lambda: (r := echod.status()["restarts"])["ended"] >= 1 and r["begun"] == r["ended"],
               seconds(20))
    assert echod.status()["restarts"]["begun"] <= 10
    echod.assert_serves()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1], ids=name_of)
def test_stop_wins_over_a_restart(echod: Echod, sig: signal.Signals) -> None:
    """At whatever step of the restart it comes."""
    for delay in (0, 0.005, 0.01, 0.02, 0.03):
        echod.expect_log("the daemon is stopping")
        echod.start()
        echod.signal(signal.SIGHUP)
        time.sleep(delay)  # no event to wait for: any moment must do
        echod.signal(sig)
        echod.await_end()
        assert not echod.pidfile.exists() and not echod.control.exists()


def test_hangup_from_a_terminal_that_goes_away(echod: Echod) -> None:
    """In the foreground that SIGHUP means that nobody is left to serve for: a quick stop."""
    master, slave = pty.openpty()
    # setsid makes the slave the controlling terminal of what it becomes.
    echod.process = subprocess.Popen(["setsid", "-c", *echod.command("start", "-F")], env=echod.env,
                                     text=True, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    echod.await_ready()
    assert echod.supervisor.tty_nr != 0
    # By hand it is a restart, terminal or not.
    echod.signal(signal.SIGHUP)
    wait_until(lambda: echod.status()["restarts"]["ended"] == 1, seconds(15))
    assert echod.status()["restarts"]["failed"] == 0
    os.close(master)
    assert echod.process.wait(seconds(5)) == 0
    assert not echod.pidfile.exists()


def test_interrupt_key_of_a_terminal(echod: Echod) -> None:
    """^C typed at a real terminal."""
    master, slave = pty.openpty()
    echod.process = subprocess.Popen(["setsid", "-c", *echod.command("start", "-F")], env=echod.env,
                                     text=True, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    echod.await_ready()
    os.write(master, b"\x03")
    # The terminal's output must be taken, or its close waits.
    until = time.monotonic() + seconds(5)
    while echod.process.poll() is None and time.monotonic() < until:
        if select.select([master], [], [], 0.05)[0]:
            try:
                os.read(master, 4096)
            except OSError:
                break
    assert echod.process.wait(seconds(5)) == 0
    os.close(master)
