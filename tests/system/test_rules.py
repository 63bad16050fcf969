"""
The rules of a Unix daemon, each looked up in the running process.

The number in a test's name is the rule's. Rules 28 (boot script) and 29 (launchers) have files of
their own, test_boot.py and test_launch.py.
"""

from __future__ import annotations

import os
import pty
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from echod import Echod, read_exactly, read_to_end, seconds
from launching import (assert_is_daemon, assert_only_own_descriptors, ordinary, orphans_parent,
                       prepared, start_after)
from procfs import Process, lock_holder, wait_until

HANDLED = {signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
IGNORED = {signal.SIGPIPE, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF,
           signal.SIGIO, signal.SIGURG, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
           signal.SIGWINCH, signal.SIGXFSZ, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)}
FATAL = {signal.SIGQUIT, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS,
         signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS, signal.SIGXCPU, signal.SIGPWR,
         16}  # SIGSTKFLT has no name here


@pytest.mark.valgrind_subset
def test_rule_01_parent_ends_and_init_adopts(echod: Echod) -> None:
    """The command returns; what it leaves is init's child and leads no process group."""
    echod.start()
    assert echod.supervisor.ppid == orphans_parent()
    assert echod.supervisor.pgrp != echod.pid
    assert not Process(echod.supervisor.session).alive, "the process between must be gone too"


def test_rule_01_command_returns_only_when_a_client_would_be_served(echod: Echod) -> None:
    """The first connection right after the return is answered."""
    for _ in range(3):
        echod.start()
        assert echod.echo(b"at once\n") == b"at once\n"
        echod.stop()


def test_rule_01_command_exits_with_the_outcome(echod: Echod) -> None:
    """A daemon that cannot serve is no success, and says why in one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", echod.port))
        taken.listen()
        done = echod.start(expect=1)
    assert re.fullmatch(rf"echod: .*127\.0\.0\.1:{echod.port}.*[Aa]ddress already in use.*\n",
                        done.stderr)
    assert done.stdout == ""


def test_rule_02_setsid_no_controlling_terminal(echod: Echod) -> None:
    """Launched from a terminal, it is in another session and has no terminal."""
    master, slave = pty.openpty()
    command = ["setsid", "-c", "-w", *echod.command("start")]
    echod.run_command(command, expect=0, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    echod.adopt()
    for process in [echod.supervisor, *echod.workers()]:
        assert process.tty_nr == 0
        assert process.session not in (0, os.getsid(0))
    os.close(master)  # the terminal goes away, and nobody minds
    echod.assert_serves()
    assert echod.status()["restarts"]["begun"] == 0


def test_rule_03_not_a_session_leader(echod: Echod) -> None:
    """Neither supervisor nor workers lead their session."""
    echod.start()
    for process in [echod.supervisor, *echod.workers()]:
        assert process.pid != process.session


def test_rule_03_terminal_opened_later_does_not_become_controlling(echod: Echod) -> None:
    """A terminal as log file is opened and stays an ordinary file."""
    master, slave = pty.openpty()
    echod.log_path = None
    echod.settings["log.target"] = f"file:{os.ttyname(slave)}"
    echod.settings["log.level"] = "debug"
    echod.start()
    assert os.ttyname(slave) in echod.supervisor.fds.values()
    assert echod.supervisor.tty_nr == 0
    echod.restart()
    assert os.ttyname(slave) in echod.supervisor.fds.values()
    assert echod.supervisor.tty_nr == 0
    echod.stop()
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_rule_04_modes_asked_for_are_modes_given(echod: Echod, mask: int) -> None:
    """The launcher's umask changes no file of the daemon."""
    start_after(echod, f"os.umask({mask})")
    assert echod.supervisor.umask == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode)
             for path in (echod.pidfile, echod.control, echod.log_path)}
    assert modes == {"echod.pid": 0o644, "echod.sock": 0o600, "echod.log": 0o640}


def test_rule_05_working_directory_is_root(echod: Echod) -> None:
    """No file system is kept busy by the directory that it was launched in."""
    place = echod.dir / "place"
    place.mkdir()
    echod.start(cwd=place)
    for process in [echod.supervisor, *echod.workers()]:
        assert process.cwd == "/"
        assert os.readlink(process.path / "root") == "/"


def test_rule_06_inherited_descriptors_are_closed(echod: Echod) -> None:
    """Files, sockets and pipes of the launcher are not held by any process of the daemon."""
    (echod.dir / "held").write_text("x")
    with open(echod.dir / "held") as file, socket.socket() as sock:
        reading, writing = os.pipe()
        passed = (file.fileno(), sock.fileno(), writing)
        links = {os.readlink(f"/proc/self/fd/{fd}") for fd in passed}
        echod.start(pass_fds=passed)
        for process in [echod.supervisor, *echod.workers()]:
            assert not links & set(process.fds.values())
            assert_only_own_descriptors(echod, process)
        os.close(writing)
        os.set_blocking(reading, False)
        assert os.read(reading, 1) == b"", "nobody else may hold the pipe open"
        os.close(reading)


def test_rule_07_standard_descriptors_on_dev_null(echod: Echod) -> None:
    """0, 1 and 2 of every process, and they can be read and written."""
    echod.start()
    for process in [echod.supervisor, *echod.workers()]:
        for fd in (0, 1, 2):
            assert process.fds[fd] == "/dev/null"
            flags = (process.path / "fdinfo" / str(fd)).read_text()
            assert int(re.search(r"flags:\s*(\d+)", flags)[1], 8) & os.O_ACCMODE == os.O_RDWR


def test_rule_08_signals_of_the_launcher_are_reset(echod: Echod) -> None:
    """Whatever was ignored or blocked, dispositions and mask are the daemon's own."""
    start_after(echod, """
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
""")
    for process in [echod.supervisor, *echod.workers()]:
        assert process.signals("SigBlk") == set()
        assert FATAL <= process.signals("SigCgt")
    assert HANDLED <= echod.supervisor.signals("SigCgt")
    echod.signal(signal.SIGTERM)
    echod.await_end()


def test_rule_08_pending_alarm_of_the_launcher_does_no_harm(echod: Echod) -> None:
    """
    An alarm armed before the start ends neither the daemon nor the command that waits for it.

    The port is in use, so the command waits about two seconds: longer than the alarm.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", echod.port))
        taken.listen()
        done = start_after(echod, "signal.alarm(1)", expect=1)
    assert "in use" in done.stderr
    start_after(echod, """
signal.setitimer(signal.ITIMER_REAL, 1, 0.1)
signal.setitimer(signal.ITIMER_VIRTUAL, 1, 0.1)
signal.setitimer(signal.ITIMER_PROF, 1, 0.1)
""")
    echod.assert_serves()


@pytest.mark.needs_root
@pytest.mark.parametrize("options, expected", [
    ({}, 0), ({"nice": 7}, 7), ({"nice": -3}, -3)], ids=["reset", "configured", "raised"])
def test_rule_09_priority_of_the_launcher_does_not_stay(echod: Echod, options: dict,
                                                        expected: int) -> None:
    """Launched with nice 10, root's daemon runs at 0, or where the configuration says."""
    echod.settings.update(options)
    start_after(echod, "os.nice(10)")
    for process in [echod.supervisor, *echod.workers()]:
        assert process.nice == expected


def test_rule_09_priority_in_the_foreground_is_the_launchers(echod: Echod) -> None:
    """Whoever runs `nice echod -F` means it."""
    echod.process = subprocess.Popen(prepared("os.nice(3)", echod.command("start", "-F")),
                                     env=echod.env, text=True, stderr=subprocess.PIPE,
                                     start_new_session=True)
    echod.await_ready()
    assert echod.supervisor.nice == os.nice(0) + 3


KEPT_NAMES = {"PATH", "TZ", "LANG", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET", "JOURNAL_STREAM",
              "ECHOD_HANDOVER", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"}


def test_rule_10_environment_of_the_launcher_does_not_steer(echod: Echod) -> None:
    """Only a short list of names is kept; even a library's switches have no effect."""
    echod.env.update(EVENT_NOEPOLL="1", EVENT_SHOW_METHOD="1", LC_ALL="C", HOME="/root",
                     MALLOC_ARENA_MAX="1", ANYTHING="secret", TZ="UTC", LANG="C")
    echod.start()
    for _ in range(2):
        for process in [echod.supervisor, *echod.workers()]:
            assert "anon_inode:[eventpoll]" in process.fds.values(), "libevent obeyed EVENT_NOEPOLL"
            assert process.environ.keys() <= KEPT_NAMES, "what is not kept is not to be seen either"
        echod.restart()


def test_rule_10_what_is_kept_of_the_environment(echod: Echod) -> None:
    """The trial of a restart is a child of the daemon: what it gets is what was kept."""
    copy = echod.dir / "echod"
    shutil.copy(echod.executable, copy)
    installed, echod.executable = echod.executable, copy
    echod.env.update(TZ="UTC", LANG="C", HOME="/root", ANYTHING="secret")
    echod.start()
    copy.unlink()
    copy.write_text(f"#!/bin/sh\nenv -0 >{echod.dir}/seen\nexit 1\n")
    copy.chmod(0o755)
    echod.expect_log("restart")
    echod.run_command([str(installed), "restart", "-P", str(echod.pidfile)], expect=1)
    seen = dict(pair.split("=", 1) for pair in (echod.dir / "seen").read_text().split("\0") if pair)
    for name in ("PWD", "OLDPWD", "SHLVL", "_"):
        seen.pop(name, None)  # the shell's own
    assert seen.keys() <= KEPT_NAMES
    assert (seen["TZ"], seen["LANG"], seen["PATH"]) == ("UTC", "C", echod.env["PATH"])


def test_rule_11_reports_to_syslog_without_a_terminal(echod: Echod) -> None:
    """Name, pid, facility and level are in each datagram to the system's logger."""
    logger = echod.dir / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(logger))
        logger.chmod(0o666)
        syslog.settimeout(seconds(10))
        echod.log_path = None
        echod.settings["log.socket"] = logger
        echod.pidfile.write_text("4194304\n")  # something to report: a stale pidfile
        done = echod.start()
        said = syslog.recv(4096).decode()
        while "pidfile" not in said:
            said = syslog.recv(4096).decode()
        echod.stop()
    daemon_notice = 3 * 8 + 5
    front = rf"<{daemon_notice}>\w{{3}} [ \d]\d \d\d:\d\d:\d\d echod\[{echod.pid}\]: "
    assert re.match(front, said)
    # Before "ready" it is also on the launcher's stderr.
    assert re.search(r"^echod: .*pidfile.*taken over", done.stderr, re.MULTILINE)


@pytest.mark.valgrind_subset
def test_rule_12_second_start_says_already_running(echod: Echod) -> None:
    """One instance: the second start names the first and fails; the first is not disturbed."""
    echod.start()
    done = echod.start(expect=1)
    assert done.stderr == f"echod: already running (pid {echod.pid})\n"
    done = echod.start("-F", expect=1)
    assert done.stderr == f"echod: already running (pid {echod.pid})\n"
    assert lock_holder(echod.pidfile) == echod.pid
    echod.assert_serves()


def test_rule_13_pidfile_holds_the_pid_as_text(echod: Echod) -> None:
    """The pid and a newline, for everybody to read; written after the last fork."""
    echod.start()
    assert echod.pidfile.read_text() == f"{echod.pid}\n"
    assert stat.S_IMODE(echod.pidfile.stat().st_mode) == 0o644
    assert echod.status()["pid"] == echod.pid


def test_rule_13_pidfile_is_in_the_run_directory_by_default(echod: Echod) -> None:
    """The compiled-in place, or for an ordinary user a directory of theirs; `status` names it."""
    done = subprocess.run([echod.executable, "status"], text=True, capture_output=True,
                          env={**echod.env, "XDG_RUNTIME_DIR": str(echod.dir)}, timeout=seconds(20))
    where = r"/[^ ]*run/" if os.geteuid() == 0 else f"{echod.dir}/"
    assert re.search(rf"{where}echod\.pid\b", done.stdout), done


def test_rule_14_stale_pidfile_does_not_block_the_next_start(echod: Echod) -> None:
    """After kill -9 the file remains; only the lock counts."""
    echod.start()
    first = echod.pid
    echod.signal(signal.SIGKILL)
    echod.await_end()
    assert echod.pidfile.read_text() == f"{first}\n"
    done = echod.start()
    assert f"process {first}" in done.stderr and "taken over" in done.stderr
    assert echod.pid != first
    assert re.search(r" notice: .*taken over", echod.log_text())


def test_rule_14_stale_pidfile_hits_no_innocent_process(echod: Echod) -> None:
    """The pid in the file belongs to somebody else by now: no verb touches that process."""
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        echod.pidfile.write_text(f"{innocent.pid}\n")
        assert echod.stop(expect=7).stderr.startswith("echod: ")
        echod.run("restart", expect=7)
        echod.run("status", expect=1)
        echod.start()
        assert echod.pid != innocent.pid
        echod.stop()
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.valgrind_subset
def test_rule_15_pidfile_is_removed_at_a_normal_end(echod: Echod) -> None:
    """Both kinds of stop remove it."""
    for sig in (signal.SIGTERM, signal.SIGUSR1):
        echod.start()
        echod.signal(sig)
        echod.await_end()
        assert not echod.pidfile.exists()


def test_rule_15_pidfile_of_somebody_else_is_not_removed(echod: Echod) -> None:
    """What stands there in place of our file stays."""
    echod.start()
    echod.pidfile.unlink()
    echod.pidfile.write_text("not yours\n")
    echod.signal(signal.SIGTERM)
    echod.await_end()
    assert echod.pidfile.read_text() == "not yours\n"
    echod.pidfile.unlink()


def test_rule_16_three_classes_of_signals(echod: Echod) -> None:
    """Each signal has the disposition of its class, in the supervisor and in workers."""
    echod.start()
    supervisor = echod.supervisor
    assert supervisor.signals("SigCgt") - {32, 33} == HANDLED | FATAL
    assert supervisor.signals("SigIgn") == IGNORED
    for worker in echod.workers():
        assert worker.signals("SigCgt") - {32, 33} == FATAL
        assert worker.signals("SigIgn") == IGNORED | HANDLED


def test_rule_16_dispositions_are_the_same_after_a_restart(echod: Echod) -> None:
    """A restart in place executes anew, which resets handlers: they are set again."""
    echod.start()
    echod.restart()
    assert echod.supervisor.signals("SigCgt") - {32, 33} == HANDLED | FATAL
    assert echod.supervisor.signals("SigIgn") == IGNORED
    assert echod.supervisor.signals("SigBlk") == set()


def test_rule_17_a_storm_of_signals_does_no_harm(echod: Echod) -> None:
    """Handlers do next to nothing, so any number of signals at any moment is sound."""
    echod.start()
    storm = [signal.SIGCHLD, signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM, signal.SIGWINCH]
    for _ in range(400):
        for sig in storm:
            echod.signal(sig)
    echod.assert_serves()
    assert echod.status()["pid"] == echod.pid


def test_rule_17_a_signal_is_seen_at_once(echod: Echod) -> None:
    """An idle daemon does not wait for some other event before it looks at a flag."""
    for _ in range(5):
        echod.start()
        begun = time.monotonic()
        echod.signal(signal.SIGTERM)
        echod.await_end()
        assert time.monotonic() - begun < seconds(1)


def test_rule_18_fatal_signal_leaves_a_record(echod: Echod) -> None:
    """One line in the log, no pidfile, and the true exit status."""
    echod.expect_log("fatal signal SIGSEGV")
    process = echod.foreground()
    echod.signal(signal.SIGSEGV)
    assert process.wait(seconds(10)) == -signal.SIGSEGV
    assert re.search(rf"echod\[{echod.pid}\].*: fatal signal SIGSEGV in supervisor",
                     echod.log_text())
    assert not echod.pidfile.exists()
    echod.control.unlink(missing_ok=True)  # a crash may leave it; the next start replaces it


@pytest.mark.valgrind_subset
def test_rule_19_polite_end_answers_what_was_begun(echod: Echod) -> None:
    """SIGUSR1: a line half sent may be finished, an idle connection ends with a FIN."""
    echod.settings["services.line.max_lines"] = 0
    echod.start()
    with echod.connect() as busy, echod.connect() as idle:
        for client in (busy, idle):
            client.sendall(b"one\n")
            assert read_exactly(client, 4) == b"one\n"
        busy.sendall(b"two, ")
        wait_until(lambda: echod.status()["counters"]["bytes_in"] == 13, seconds(5))
        echod.signal(signal.SIGUSR1)
        assert idle.recv(1) == b"", "the idle one ends in order"
        busy.sendall(b"finished\n")
        assert read_to_end(busy) == b"two, finished\n"
        idle.close()
    echod.await_end()
    assert not echod.pidfile.exists()


def test_rule_20_plain_end_is_quick(echod: Echod) -> None:
    """SIGTERM: within a second, though clients are connected; pidfile and socket go."""
    echod.settings["services.line.max_lines"] = 0
    echod.start()
    with echod.connect() as busy:
        busy.sendall(b"one\ntwo")
        assert read_exactly(busy, 4) == b"one\n"
        begun = time.monotonic()
        echod.signal(signal.SIGTERM)
        echod.await_end()
        assert time.monotonic() - begun < seconds(1)
    assert not echod.pidfile.exists() and not echod.control.exists()


@pytest.mark.valgrind_subset
def test_rule_21_hangup_reads_the_configuration_anew(echod: Echod) -> None:
    """SIGHUP: the new configuration serves, in the same process, under the same lock."""
    echod.configure(echod.service(max_lines=1))
    echod.start()
    assert echod.echo(b"one\ntwo\n") == b"one\n"
    started = echod.supervisor.start_time
    generation = echod.status()["generation"]
    echod.configure(echod.service(max_lines=2))
    echod.signal(signal.SIGHUP)
    wait_until(lambda: echod.status()["restarts"]["ended"] == 1, seconds(15))
    assert echod.echo(b"one\ntwo\n") == b"one\ntwo\n"
    status = echod.status()
    assert status["pid"] == echod.pid == lock_holder(echod.pidfile)
    assert status["generation"] == generation + 1
    assert echod.supervisor.start_time == started


def test_rule_22_no_zombies(echod: Echod) -> None:
    """Every child that ends is waited for: killed workers, retired ones, trials of a restart."""
    echod.settings["services.line.workers"] = 2
    echod.start()
    killed = echod.workers()
    for worker in killed:
        os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: len(echod.workers()) == 2
               and not {w.pid for w in killed} & {w.pid for w in echod.workers()}, seconds(15))
    echod.restart()
    wait_until(lambda: len(echod.supervisor.children) == 2, seconds(10), "old workers are reaped")
    assert all(child.alive for child in echod.supervisor.children)


def test_rule_23_time_wait_does_not_keep_from_the_port(echod: Echod) -> None:
    """Connections in TIME_WAIT on the port: a new daemon starts at once all the same."""
    echod.start()
    with echod.connect() as client:
        client.sendall(b"the server closes first\n")
        read_to_end(client)
    echod.stop()
    suffix = f":{echod.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    waiting = [row for row in rows if row[1].endswith(suffix) and row[3] == "06"]
    assert waiting, "the test needs a connection in TIME_WAIT"
    begun = time.monotonic()
    echod.start()
    assert time.monotonic() - begun < seconds(1.5), "no probe had to wait"
    echod.assert_serves()


@pytest.mark.valgrind_subset
def test_rule_24_everything_taken_is_released(echod: Echod) -> None:
    """After the end nothing is left: processes, files, locks, the port."""
    before = set(os.listdir(echod.dir))
    echod.start()
    echod.assert_serves()
    echod.stop()
    assert echod.processes() == []
    assert set(os.listdir(echod.dir)) - before == {echod.log_path.name}
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", echod.port))


def test_rule_24_restarts_do_not_pile_up_descriptors(echod: Echod) -> None:
    """The supervisor holds the same descriptors after the second restart and after the eighth."""
    echod.start()
    counts = []
    for _ in range(8):
        echod.restart()
        wait_until(lambda: len(echod.supervisor.children) == len(echod.workers()), seconds(10))
        counts.append(len(echod.supervisor.fds))
    assert len(set(counts[1:])) == 1, counts


@pytest.mark.valgrind_subset
def test_rule_25_the_executable_controls_its_daemon(echod: Echod) -> None:
    """Nobody has to look up a pid: status, restart, reload, stop."""
    echod.start()
    assert str(echod.pid) in echod.run("status", expect=0).stdout
    for number, verb in enumerate(("restart", "reload"), 1):
        echod.run(verb, expect=0)
        assert echod.status()["restarts"]["ended"] == number
    echod.assert_serves()
    echod.run("stop", expect=0)
    assert not Process(echod.pid).alive


@pytest.mark.parametrize("words", [["bogus"], ["start", "a", "b"], ["start", "-F", "a"],
                                   ["check", "bogus"], ["--bogus"], ["stop", "-Z"],
                                   ["-p"], ["-T", "soon", "stop"], ["-p", "many"]], ids=" ".join)
def test_rule_26_unknown_words_are_wrong_usage(echod: Echod, words: list[str]) -> None:
    """Usage on stderr, exit code 2, and nothing was started."""
    done = echod.run_command([str(echod.executable), *words, "-P", str(echod.pidfile)]
                             if words != ["-p"] else [str(echod.executable), "-p"], expect=2)
    assert done.stdout == ""
    assert done.stderr.startswith("echod: ") and re.search("usage", done.stderr, re.IGNORECASE)
    assert not echod.pidfile.exists()


@pytest.mark.valgrind_subset
def test_rule_27_stop_waits_until_the_process_is_gone(echod: Echod) -> None:
    """A start right after it succeeds, time and again."""
    for _ in range(4):
        echod.start()
        echod.stop()
        assert not Process(echod.pid).alive
        assert echod.processes() == []


def test_rule_27_stop_waits_for_clients_and_has_a_limit(echod: Echod) -> None:
    """With a line half sent `stop` waits; -T ends the waiting, not the polite end."""
    echod.settings["services.line.max_lines"] = 0
    echod.start()
    with echod.connect() as client:
        client.sendall(b"begun, ")
        wait_until(lambda: echod.status()["counters"]["bytes_in"] == 7, seconds(5))
        done = echod.stop("-T", "0.3", expect=1)
        assert done.stderr.startswith("echod: ") and str(echod.pid) in done.stderr
        assert echod.supervisor.alive
        client.sendall(b"ended\n")
        assert read_to_end(client) == b"begun, ended\n"
    echod.await_end()


@pytest.mark.valgrind_subset
def test_rule_30_what_ends_unexpectedly_is_started_again(echod: Echod) -> None:
    """A worker and a program, by a signal and by their own exit; the service goes on."""
    echod.configure(echod.service(workers=1),
                    echod.program("killed", echod.sleeper, 1000),
                    echod.program("ends", "/bin/sh", "-c", f"exec {echod.sleeper} 0.2"))
    echod.start()
    killed = echod.await_program("killed")
    for pid in (killed.pid, echod.workers()[0].pid):
        os.kill(pid, signal.SIGKILL)
    echod.await_ps("line/0", state="running", restarts=1)
    echod.await_ps("killed", state="running", restarts=1)
    wait_until(lambda: echod.row("ends")["restarts"] >= 2, seconds(10))
    echod.assert_serves()


def test_rule_30_a_programs_own_fault_does_not_end_the_service(echod: Echod) -> None:
    """One that cannot live is tried ever more slowly; clients and other programs never notice."""
    echod.configure(echod.service(workers=1), echod.program("good", echod.sleeper, 1000),
                    echod.program("bad", "/bin/sh", "-c", "kill -SEGV $$"))
    echod.start()
    good = echod.await_program("good")
    for pause in ("0.1", "0.2", "0.4"):
        echod.await_log(f"a new bad starts in {pause} s")
        echod.assert_serves()
    assert echod.row("bad")["restarts"] <= 4
    assert echod.row("good")["pid"] == good.pid
    assert echod.status()["pid"] == echod.pid


@pytest.mark.parametrize("name", ["line/0", "sensor"])
def test_rule_30_kill_is_followed_by_a_restart(echod: Echod, name: str) -> None:
    """By the verb: another process is there at once, and the count says so."""
    echod.configure(echod.service(workers=1), echod.program("sensor", echod.sleeper, 1000))
    echod.start()
    echod.await_program("sensor")
    before = echod.row(name)["pid"]
    echod.tell("kill", name)
    assert echod.await_ps(name, state="running", restarts=1)["pid"] != before
    echod.assert_serves()


@pytest.mark.parametrize("name", ["line", "sensor"])
def test_rule_30_stop_is_not_followed_by_a_restart(echod: Echod, name: str) -> None:
    """Not by itself, not by the death of others, not by a restart of the daemon in place."""
    echod.configure(echod.service(workers=1), echod.program("sensor", echod.sleeper, 1000),
                    echod.program("other", echod.sleeper, 2000))
    echod.start()
    echod.tell("stop", name)
    echod.await_program("other")
    echod.tell("kill", "other")
    echod.await_ps("other", state="running", restarts=1)
    echod.restart()
    [row] = echod.ps(name)
    assert (row["state"], row["pid"]) == ("stopped", None)
    if name == "line":
        with pytest.raises(ConnectionRefusedError):
            echod.connect()
    else:
        assert echod.sleepers("1000") == []
    echod.tell("start", name)
    assert echod.ps(name)[0]["state"] == "running"


@pytest.mark.valgrind_subset
def test_rule_31_services_come_and_go_without_a_restart(echod: Echod) -> None:
    """add, stop, start, kill, remove; the same daemon, and a client who never notices."""
    echod.configure(echod.service(workers=1, max_lines=0))
    echod.start()
    with echod.connect() as client:
        client.sendall(b"before\n")
        assert read_exactly(client, 7) == b"before\n"
        echod.tell("add", "sensor", "--", str(echod.sleeper), "1000")
        assert len(echod.sleepers()) == 1
        echod.tell("stop", "sensor")
        assert echod.sleepers() == []
        echod.tell("start", "sensor")
        echod.tell("kill", "sensor")
        echod.await_ps("sensor", state="running", restarts=1)
        echod.tell("remove", "sensor")
        assert echod.ps("sensor") == [] and echod.sleepers() == []
        client.sendall(b"after\n")
        assert read_exactly(client, 6) == b"after\n"
    status = echod.status()
    assert (status["pid"], status["generation"]) == (echod.pid, 1)
    assert status["restarts"]["begun"] == 0


def test_rule_31_any_program_may_give_commands(echod: Echod) -> None:
    """A line of JSON and its answer are all that it takes."""
    echod.configure(echod.service(workers=1), echod.program("sensor", echod.sleeper, 1000))
    echod.start()
    for request, text in ((b'{"verb":"stop","args":["sensor"]}', "sensor is stopped"),
                          (b'{"verb":"start","args":["sensor"]}', "sensor runs (pid "),
                          (b'{"verb":"kill","args":["sensor"]}', "SIGKILL was sent to sensor"),
                          (b'{"verb":"stop","args":["line"]}', "line is stopped")):
        answer = echod.ask_raw(request + b"\n")
        assert answer["ok"] is True and answer["schema"] == 1, answer
        assert answer["text"].startswith(text), answer
    assert [row["state"] for row in echod.ps("line")] == ["stopped"]


def test_rule_32_out_of_descriptors_it_pauses_and_recovers(echod: Echod) -> None:
    """More clients than descriptors: the others wait, it is said once, and then they are served."""
    echod.settings.update({"services.line.workers": 1, "services.line.max_lines": 0,
                           "services.line.defer_accept": 0})
    command = ["prlimit", "--nofile=50:50", *echod.command("start")]
    echod.run_command(command, expect=0)
    echod.adopt()
    worker = echod.workers()[0]
    clients = [echod.connect() for _ in range(60)]
    echod.await_log(r" warning: line/0\[\d+\]: cannot accept a connection: Too many open files")
    ticks = worker.cpu_ticks
    time.sleep(0.5)  # a span to measure over, not an event to wait for
    assert worker.cpu_ticks - ticks < 20, "it must not spin"
    for client in clients[:40]:
        client.close()
    for client in clients[40:]:
        client.sendall(b"late but served\n")
        assert read_exactly(client, 16) == b"late but served\n"
        client.close()
    assert echod.status()["counters"]["accept_pauses"] >= 1
    assert len(re.findall("cannot accept", echod.log_text())) <= 5


def test_rule_32_file_size_limit_is_a_clear_error(echod: Echod) -> None:
    """A pidfile that cannot be written ends the start with the reason, not with SIGXFSZ."""
    echod.settings["log.target"] = "syslog"
    echod.settings["log.socket"] = echod.dir / "nobody-listens"
    done = start_after(echod, "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))", expect=1)
    assert re.search(rf"^echod: .*{echod.pidfile}: File too large$", done.stderr, re.MULTILINE)
    assert not echod.pidfile.exists()


def test_rule_32_no_process_can_be_made(echod: Echod) -> None:
    """fork fails: one clear line, exit code 1."""
    ordinary(echod)
    echod.env["ASAN_OPTIONS"] += ":detect_leaks=0"  # that check is a thread, which nproc forbids
    done = start_after(echod, "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))", expect=1)
    assert re.fullmatch(r"echod: cannot fork: .*\n", done.stderr)


def test_rule_32_a_killed_worker_is_replaced_and_nobody_is_refused(echod: Echod) -> None:
    """While the only worker dies again and again, connections wait for its successor."""
    echod.settings["services.line.workers"] = 1
    echod.start()
    for _ in range(5):
        worker = echod.workers()[0]
        os.kill(worker.pid, signal.SIGSTOP)
        with echod.connect() as client:
            client.sendall(b"patience\n")
            os.kill(worker.pid, signal.SIGKILL)
            assert read_to_end(client) == b"patience\n"
        wait_until(lambda: echod.workers(), seconds(5))


def test_rule_all_facts_of_a_daemon_together(echod: Echod) -> None:
    """The whole list for an ordinary start, and again after a restart."""
    echod.start()
    assert_is_daemon(echod)
    echod.restart()
    assert_is_daemon(echod)


def test_rule_core_limits_are_the_launchers(echod: Echod) -> None:
    """The soft limit of open files is raised to the hard one; nothing else is changed."""
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    start_after(echod, f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))")
    assert echod.supervisor.limit("Max open files") == (str(hard), str(hard))
