"""
Right under each launcher (rule 29): shells, cron, at, service managers, and broken surroundings.

Each test launches from one kind of surroundings and then asks for everything that is true of a
daemon. The boot script has a file of its own, test_boot.py.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from echod import Echod, seconds
from launching import (Container, assert_is_daemon, assert_only_own_descriptors, ordinary,
                       prepared, start_after)
from procfs import wait_until

SURROUNDINGS = {
    "nothing_special": "",
    "no_stdin": "os.close(0)",
    "no_stdout": "os.close(1)",
    "no_stderr": "os.close(2)",
    "no_0_to_2": "os.closerange(0, 3)",
    "no_0_to_2_but_3": "os.dup2(0, 3, inheritable=True); os.closerange(0, 3)",
    "500_descriptors": """
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
for i in range(500):
    os.set_inheritable(os.open("/usr", os.O_RDONLY) if i % 2 else socket.socket().detach(), True)
""",
    "high_descriptor": """
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
os.dup2(os.open("/usr", os.O_RDONLY), hard - 1, inheritable=True)
""",
    "ignored_signals": """
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
""",
    "ignored_children": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "blocked_signals": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "pending_signals": """
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
for number in (signal.SIGALRM, signal.SIGUSR2, signal.SIGWINCH):
    os.kill(os.getpid(), number)
""",
    "pending_alarm": "signal.alarm(1)",
    "umask_0": "os.umask(0)",
    "umask_077": "os.umask(0o077)",
    "lowered_priority": "os.nice(15)",
    "session_leader": "os.setpgid(0, 0) if os.getsid(0) == os.getpid() else os.setsid()",
    "process_group_leader": "os.setpgid(0, 0)",
    "an_unknown_child": """
if os.fork() == 0:
    os._exit(0)
""",
    "deleted_directory": """
import tempfile
place = tempfile.mkdtemp()
os.chdir(place)
os.rmdir(place)
""",
    "empty_environment": "os.environ.clear()",
    "without_PATH": "del os.environ['PATH']",
    "read_only_stdout": "os.dup2(os.open('/dev/null', os.O_RDONLY), 1)",
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_rule_29_launched_from(echod: Echod, name: str) -> None:
    """A daemon like any other comes out of strange surroundings."""
    start_after(echod, SURROUNDINGS[name])
    if name == "lowered_priority" and os.geteuid() == 0:
        assert echod.supervisor.nice == 0
    assert_is_daemon(echod)


@pytest.mark.parametrize("name", ["no_0_to_2", "500_descriptors", "ignored_signals",
                                  "blocked_signals", "pending_alarm", "umask_077",
                                  "deleted_directory", "empty_environment", "an_unknown_child"])
def test_rule_29_restart_after_launch_from(echod: Echod, name: str) -> None:
    """What the surroundings left in the first image does not show up in the next one either."""
    start_after(echod, SURROUNDINGS[name])
    echod.restart()
    assert_is_daemon(echod)


@pytest.mark.parametrize("name", ["no_0_to_2", "500_descriptors", "ignored_signals",
                                  "blocked_signals", "pending_signals", "umask_077",
                                  "deleted_directory", "empty_environment", "ignored_children"])
def test_rule_29_foreground_launched_from(echod: Echod, name: str) -> None:
    """The foreground needs the same care, but keeps what is open at 0 to 2."""
    command = prepared(SURROUNDINGS[name], echod.command("start", "-F"))
    echod.process = subprocess.Popen(command, env=echod.env, text=True, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                     start_new_session=True)
    echod.await_ready()
    for process in [echod.supervisor, *echod.workers()]:
        assert process.cwd == "/"
        assert process.umask == 0
        assert process.signals("SigBlk") == set()
        assert {0, 1, 2} <= process.fds.keys()
        assert_only_own_descriptors(echod, process)
    if name == "no_0_to_2":
        assert [echod.supervisor.fds[fd] for fd in (0, 1, 2)] == ["/dev/null"] * 3
    echod.assert_serves()
    echod.signal(signal.SIGTERM)
    assert echod.process.wait(seconds(10)) == 0


def test_rule_29_launched_from_cron(echod: Echod) -> None:
    """Cron: a shell in its own session, a bare environment, output into a pipe to the mailer."""
    command = shlex.join(echod.command("start"))
    sanitizers = [f"{k}={v}" for k, v in echod.env.items() if k.endswith("_OPTIONS")]
    cron = ["env", "-i", "HOME=/", "LOGNAME=root", "SHELL=/bin/sh", "PATH=/usr/bin:/bin",
            *sanitizers, "setsid", "-w", "sh", "-c", command]
    done = echod.run_command(cron, expect=0, cwd="/")
    assert done.stdout + done.stderr == "", "cron would send a mail about each word"
    echod.adopt()
    assert_is_daemon(echod)


def test_rule_29_launched_from_at(echod: Echod) -> None:
    """at: the job's file is the shell's stdin, the umask and directory are the submitter's."""
    job = echod.dir / "job"
    job.write_text(f"#!/bin/sh\numask 077\ncd {echod.dir} || exit 1\nnice -n 2 "
                   f"{shlex.join(echod.command('start'))}\n")
    with open(job) as stdin:
        echod.run_command(["setsid", "-w", "sh"], expect=0, stdin=stdin)
    echod.adopt()
    assert str(job) not in echod.supervisor.fds.values()
    assert_is_daemon(echod)


def test_rule_29_launched_in_the_background_of_a_script(echod: Echod) -> None:
    """`echod &` in a script: the shell has ignored SIGINT and SIGQUIT."""
    command = shlex.join(echod.command("start"))
    echod.run_command(["sh", "-c", f"{command} & wait $!"], expect=0)
    echod.adopt()
    assert_is_daemon(echod)


def test_rule_29_launched_with_nohup(echod: Echod) -> None:
    """nohup has ignored SIGHUP: the daemon restarts on it all the same."""
    echod.run_command(["nohup", *echod.command("start")], expect=0, cwd=echod.dir)
    echod.adopt()
    echod.signal(signal.SIGHUP)
    wait_until(lambda: echod.status()["restarts"]["ended"] == 1, seconds(15))
    assert_is_daemon(echod)


def test_rule_29_launched_from_a_terminal_that_closes(echod: Echod) -> None:
    """A window that is closed right after the start takes nothing with it."""
    master, slave = pty.openpty()
    command = ["setsid", "-c", "-w", *echod.command("start")]
    echod.run_command(command, expect=0, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.close(master)
    echod.adopt()
    assert_is_daemon(echod)


def test_rule_29_launched_as_a_service_of_a_manager(echod: Echod) -> None:
    """A manager that takes pidfiles: waits for the command, then reads the file at once."""
    with subprocess.Popen(echod.command("start"), env=echod.env) as command:
        assert command.wait(seconds(20)) == 0
        assert int(echod.pidfile.read_text()) != command.pid
    echod.adopt()
    assert_is_daemon(echod)


def test_launchers_pipe_reaches_its_end(echod: Echod) -> None:
    """`output=$(echod start)` returns: nobody keeps the launcher's stdout and stderr open."""
    reading, writing = os.pipe()
    echod.start(stdout=writing, stderr=writing)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], seconds(5))
    assert ready and os.read(reading, 1000) == b""
    os.close(reading)


def test_fails_clearly_though_stderr_is_closed(echod: Echod) -> None:
    """With 0 to 2 closed an error still has its exit code, and hits no file of the daemon."""
    echod.settings["services.line.workers"] = "many"
    start_after(echod, "os.closerange(0, 3)", expect=6)
    assert not echod.pidfile.exists()


def test_found_through_PATH(echod: Echod) -> None:
    """A name without a slash is looked up, and a restart finds the same file."""
    echod.env["PATH"] = f"{echod.executable.parent}:{echod.env['PATH']}"
    echod.run_command(["env", echod.executable.name, *echod.command("start")[1:]], expect=0)
    echod.adopt()
    echod.restart()
    assert_is_daemon(echod)


def test_launched_by_a_relative_path(echod: Echod) -> None:
    """Relative paths of executable, configuration and pidfile are made absolute before chdir."""
    shutil.copy(echod.executable, echod.dir / "daemon")
    echod.configure()
    echod.env["PATH"] = "/usr/bin:/bin"
    echod.run_command(["./daemon", "-f", "echod.conf", "-P", "echod.pid"], expect=0, cwd=echod.dir)
    echod.adopt()
    echod.restart()
    assert_is_daemon(echod)


def test_a_relative_path_in_a_deleted_directory_is_a_clear_error(echod: Echod) -> None:
    """Such a path has no absolute form: it is said, nothing is started."""
    command = [str(echod.executable), "-P", "echod.pid", "-p", str(echod.port)]
    done = echod.run_command(prepared(SURROUNDINGS["deleted_directory"], command))
    assert done.returncode != 0
    assert re.fullmatch(r"echod: .*echod\.pid.*\n", done.stderr)


def test_symbolic_link_to_the_executable(echod: Echod) -> None:
    """An upgrade by link is seen at the next restart: the link is never resolved."""
    for version in ("one", "two"):
        (echod.dir / version).mkdir()
        shutil.copy(echod.executable, echod.dir / version / "echod")
    link = echod.dir / "current"
    link.symlink_to("one")
    echod.executable = link / "echod"
    echod.start()
    assert os.readlink(echod.supervisor.path / "exe") == str(echod.dir / "one/echod")
    link.unlink()
    link.symlink_to("two")
    echod.restart()
    assert os.readlink(echod.supervisor.path / "exe") == str(echod.dir / "two/echod")
    echod.assert_serves()


def test_killed_launcher_leaves_a_working_daemon_or_none(echod: Echod) -> None:
    """Whoever loses patience and kills the command finds either a daemon or a free pidfile."""
    for delay in (0, 0.002, 0.005, 0.01, 0.02, 0.04):
        command = subprocess.Popen(echod.command("start"), env=echod.env, start_new_session=True,
                                   stderr=subprocess.PIPE)
        time.sleep(delay)  # no event to wait for: any moment must do
        command.kill()
        # The daemon lets go of the launcher's stderr when it serves, or when it ends.
        command.communicate(timeout=seconds(15))
        if echod.pidfile.exists():
            echod.adopt()
            echod.assert_serves()
            echod.stop()
        assert echod.processes() == []


def test_interrupted_launcher(echod: Echod) -> None:
    """What a terminal sends to a group does not disturb the daemon."""
    echod.start()
    os.killpg(echod.supervisor.pgrp, signal.SIGWINCH)
    echod.assert_serves()


def test_ordinary_user_without_run_directory_is_told_about_P(echod: Echod) -> None:
    """No place for a pidfile: the message names the option that helps."""
    uid = ordinary(echod)
    if Path(f"/run/user/{uid}").is_dir():
        pytest.skip(f"/run/user/{uid} exists")
    done = echod.run_command([str(echod.executable), "-p", str(echod.port)], expect=6)
    assert re.fullmatch(r"echod: .*-P.*\n", done.stderr)


def test_ordinary_user_has_a_daemon_of_their_own(echod: Echod) -> None:
    """With -P, or a run directory of the user's own, everything works without root."""
    uid = ordinary(echod)
    echod.start()
    for process in [echod.supervisor, *echod.workers()]:
        assert process.uids == [uid] * 4
    assert_is_daemon(echod)
    echod.restart()
    assert_is_daemon(echod)
    echod.stop()

    echod.env["XDG_RUNTIME_DIR"] = str(echod.dir)
    echod.run_command([str(echod.executable), "-p", str(echod.port), "-l", "127.0.0.1",
                       "-o", f"log.target=file:{echod.log_path}"], expect=0)
    echod.adopt()
    assert_is_daemon(echod)
    echod.run_command([str(echod.executable), "stop"], expect=0)


@pytest.mark.needs_root
def test_workers_of_root_are_ordinary_users_for_good(echod: Echod) -> None:
    """Uid, gid, groups and capabilities are gone, and no program can bring them back."""
    start_after(echod, "os.setgroups([0, 1, 2])")
    assert echod.supervisor.uids == [0] * 4
    for worker in echod.workers():
        assert 0 not in worker.uids and 0 not in worker.gids
        status = worker.status
        assert status["Groups"] == ""
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
    echod.assert_serves()


def test_workers_have_no_new_privileges(echod: Echod) -> None:
    """Also those of an ordinary user."""
    echod.start()
    assert all(worker.status["NoNewPrivs"] == "1" for worker in echod.workers())


@pytest.mark.slow
def test_fifty_starts_at_once(echod: Echod) -> None:
    """Exactly one serves; the 49 others say who it is and exit 1."""
    echod.expect_log("cannot start: already running")
    starts = [subprocess.Popen(echod.command("start"), env=echod.env, text=True,
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
              for _ in range(50)]
    ended = [(start.communicate(timeout=seconds(50))[1], start.returncode) for start in starts]
    echod.adopt()
    assert sorted(code for _, code in ended) == [0] + [1] * 49
    said = {stderr for stderr, code in ended if code == 1}
    assert said == {f"echod: already running (pid {echod.pid})\n"}
    assert_is_daemon(echod)


# ---- Process 1 of a container -------------------------------------------------------------------

@pytest.fixture
def container(echod: Echod) -> Container:
    return Container(echod)


@pytest.mark.needs_root
def test_pid_1_serves_and_obeys_verbs(container: Container) -> None:
    """Start in the foreground, status, restart, stop."""
    echod = container.echod
    assert echod.pidfile.read_text() == "1\n"
    echod.assert_serves()
    assert "pid 1" in container.verb("status", expect=0).stdout
    container.verb("restart", expect=0)
    echod.assert_serves()
    # With process 1 the kernel ends the whole namespace: the verb may not live to report it.
    assert container.verb("stop").returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL)
    assert container.unshare.wait(seconds(10)) == 0
    assert not echod.pidfile.exists()


@pytest.mark.needs_root
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_pid_1_ends_by_signal(container: Container, sig: signal.Signals) -> None:
    """What a container runtime sends."""
    container.echod.signal(sig)
    assert container.unshare.wait(seconds(10)) == 0
    assert not container.echod.pidfile.exists()


@pytest.mark.needs_root
@pytest.mark.parametrize("sig", [signal.SIGSEGV, signal.SIGABRT])
def test_pid_1_dies_of_a_fatal_signal(container: Container, sig: signal.Signals) -> None:
    """Process 1 survives its own raise(), so it exits with 128 and the signal's number."""
    echod = container.echod
    echod.expect_log("fatal signal")
    container.run("sh", "-c", f"kill -{int(sig)} 1")
    assert container.unshare.wait(seconds(10)) == 128 + sig
    assert f"fatal signal {sig.name} in supervisor" in echod.log_text()
    assert not echod.pidfile.exists()
    echod.control.unlink(missing_ok=True)


@pytest.mark.needs_root
def test_pid_1_waits_for_orphans(container: Container) -> None:
    """Whoever loses its parent in the container becomes a child of process 1, and no zombie."""
    before = {child.pid for child in container.echod.supervisor.children}
    container.run("sh", "-c", "(sleep 0.5 >/dev/null 2>&1 &)", expect=0)
    wait_until(lambda: {c.pid for c in container.echod.supervisor.children} != before, seconds(5))
    wait_until(lambda: {c.pid for c in container.echod.supervisor.children} == before, seconds(5))
    container.echod.assert_serves()


@pytest.mark.needs_root
def test_a_daemon_outside_the_pid_namespace_is_not_signalled(echod: Echod) -> None:
    """From inside a container the lock's holder has no pid: the verbs say so and do nothing."""
    echod.expect_log("cannot start: already running")
    echod.start()
    for verb, code in (("stop", 4), ("restart", 4)):
        done = echod.run_command(["unshare", "-pf", "--mount-proc", *echod.command(verb)],
                                 expect=code)
        assert re.fullmatch(r"echod: .*namespace.*\n", done.stderr)
    done = echod.run_command(["unshare", "-pf", "--mount-proc", *echod.command("start")], expect=1)
    assert re.fullmatch(r"echod: already running.*namespace.*\n", done.stderr)
    echod.assert_serves()
