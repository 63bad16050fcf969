"""The verbs: what they do, what they say, and the exit code of each row of the table."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from echod import Echod, read_exactly, read_to_end, seconds
from launching import NOBODY, ordinary, refuses
from procfs import Process, lock_holder, wait_until

ONE_LINE = r"echod: [^\n]+\n"


# ---- Exit codes ---------------------------------------------------------------------------------

@pytest.mark.valgrind_subset
def test_exit_0_done(echod: Echod) -> None:
    """Everything that works says nothing on stderr."""
    for verb in ("check", "start", "status", "restart", "reload", "stop"):
        done = echod.run(verb, expect=0)
        assert done.stderr == "", verb


@pytest.mark.parametrize("verb", ["stop", "restart", "reload"])
def test_exit_7_not_running(echod: Echod, verb: str) -> None:
    """The verbs have nothing to act on, with and without a pidfile."""
    done = echod.run(verb, expect=7)
    assert re.fullmatch(r"echod: [^\n]*not running[^\n]*\n", done.stderr)
    echod.pidfile.write_text("123456\n")
    done = echod.run(verb, expect=7)
    assert re.fullmatch(r"echod: [^\n]*not running[^\n]*\n", done.stderr)
    assert echod.pidfile.read_text() == "123456\n"
    echod.pidfile.unlink()


@pytest.mark.valgrind_subset
def test_status_exit_codes(echod: Echod) -> None:
    """3 does not run, 0 runs, 1 dead but the pidfile remains."""
    echod.run("status", expect=3)
    echod.start()
    echod.run("status", expect=0)
    echod.signal(signal.SIGKILL)
    echod.await_end()
    echod.run("status", expect=1)
    echod.pidfile.unlink()
    echod.control.unlink()
    echod.run("status", expect=3)


def test_status_exit_4_unknown(echod: Echod) -> None:
    """A pidfile that cannot be looked at leaves the question open."""
    echod.pidfile.mkdir()
    done = echod.run("status", expect=4)
    assert re.fullmatch(ONE_LINE, done.stdout + done.stderr)
    echod.pidfile.rmdir()


@pytest.mark.needs_root
def test_status_exit_4_for_a_stranger_without_access(echod: Echod) -> None:
    """A directory that may not be searched hides the answer."""
    hidden = echod.dir / "hidden"
    hidden.mkdir(mode=0o700)
    echod.pidfile, echod.control = hidden / "echod.pid", hidden / "echod.sock"
    echod.start()
    done = echod.run("status", expect=4, user=NOBODY)
    assert re.fullmatch(ONE_LINE, done.stdout + done.stderr)


@pytest.mark.needs_root
def test_status_of_a_stranger_answers_by_the_lock(echod: Echod) -> None:
    """Without rights to the control socket it is still known that it runs, and as which pid."""
    echod.start()
    done = echod.run("status", expect=0, user=NOBODY)
    assert str(echod.pid) in done.stdout
    done = echod.run("status", "--json", expect=0, user=NOBODY)
    assert json.loads(done.stdout)["pid"] == echod.pid


@pytest.mark.needs_root
@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_exit_4_not_permitted(echod: Echod, verb: str) -> None:
    """A stranger cannot end or restart root's daemon."""
    echod.start()
    done = echod.run(verb, expect=4, user=NOBODY)
    assert re.fullmatch(ONE_LINE, done.stderr)
    assert echod.status()["restarts"]["begun"] == 0


def test_exit_4_privileged_port(echod: Echod) -> None:
    """An ordinary user and a port below 1024."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if lowest < 100:
        pytest.skip("every port is open to everybody on this machine")
    ordinary(echod)
    echod.port = 79
    done = echod.start(expect=4)
    assert re.fullmatch(r"echod: [^\n]*127\.0\.0\.1:79[^\n]*Permission denied[^\n]*\n", done.stderr)
    assert not echod.pidfile.exists()


def test_exit_4_configuration_that_may_not_be_read(echod: Echod) -> None:
    """Not permitted to read is not the same as wrong."""
    ordinary(echod)
    path = echod.configure()
    path.chmod(0)
    done = echod.start(expect=4)
    assert str(path) in done.stderr and "Permission denied" in done.stderr


@pytest.mark.parametrize("verb", ["start", "check"])
def test_exit_6_wrong_configuration(echod: Echod, verb: str) -> None:
    """Said with file and line; nothing was started."""
    path = echod.configure(extra="no such thing\n")
    done = echod.run(verb, expect=6)
    assert re.search(rf"^(echod: )?{path}:\d+: ", done.stderr, re.MULTILINE)
    assert not echod.pidfile.exists()


def test_exit_6_unknown_user(echod: Echod) -> None:
    """The user that workers should run as does not exist."""
    echod.configure(user="no-such-user-here")
    for verb in ("check", "start"):
        done = echod.run(verb, expect=6)
        assert "no-such-user-here" in done.stderr
    assert not echod.pidfile.exists()


def test_exit_6_missing_configuration_file(echod: Echod) -> None:
    """A file that is named must exist."""
    echod.config = echod.dir / "nothing.conf"
    done = echod.start(expect=6)
    assert "nothing.conf" in done.stderr and "No such file" in done.stderr


def test_exit_1_port_in_use(echod: Echod) -> None:
    """Another program listens there: which address, and why not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", echod.port))
        taken.listen()
        done = echod.start(expect=1)
    assert re.fullmatch(rf"echod: [^\n]*127\.0\.0\.1:{echod.port}: Address already in use\n",
                        done.stderr)
    assert echod.processes() == [] and not echod.pidfile.exists() and not echod.control.exists()


def test_exit_1_second_echod_on_the_same_port(make_echod) -> None:
    """Though both would set SO_REUSEPORT: clients must not be split between two daemons."""
    first, second = make_echod(), make_echod()
    first.start()
    second.port = first.port
    done = second.start(expect=1)
    assert re.fullmatch(rf"echod: [^\n]*:{first.port}: Address already in use\n", done.stderr)
    first.assert_serves()


def test_exit_1_address_of_another_machine(echod: Echod) -> None:
    """An address that this machine does not have."""
    echod.listen = ["192.0.2.1"]
    done = echod.start(expect=1)
    assert re.fullmatch(rf"echod: [^\n]*192\.0\.2\.1:{echod.port}[^\n]*\n", done.stderr)
    assert not echod.pidfile.exists()


def test_every_failure_is_one_line_on_stderr(echod: Echod) -> None:
    """The program's name in front; nothing on stdout."""
    echod.expect_log("cannot start: ")
    missing = echod.dir / "missing"
    cases = {
        ("-P", str(missing / "echod.pid")): 1,
        ("-o", "nonsense=1"): 6,
        ("-o", "nonsense"): None,
        ("-o", "log.target=file:/nonexistent/log"): None,
        ("-l", "300.1.1.1.1.1"): None,
        ("-p", "99999"): None,
    }
    for options, code in cases.items():
        done = echod.run_command([*echod.command("start"), *options])
        assert done.returncode in ((1, 2, 6) if code is None else (code,)), options
        assert done.stdout == ""
        assert done.stderr.startswith("echod: "), options
        if done.returncode != 2:
            assert re.fullmatch(ONE_LINE, done.stderr), options
        assert echod.processes() == []


# ---- What stands before and behind a verb -------------------------------------------------------

@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(echod: Echod, option: str) -> None:
    done = echod.run_command([str(echod.executable), option], expect=0)
    assert re.match(r"echod \d+\.\d+\.\d+", done.stdout) and done.stderr == ""


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(echod: Echod, option: str) -> None:
    """Asked for, it goes to stdout, and names every verb."""
    done = echod.run_command([str(echod.executable), option], expect=0)
    assert done.stderr == ""
    for word in ("start", "check", "stop", "restart", "reload", "status", "-f", "-F", "-P", "-T"):
        assert re.search(rf"(?<!\w){word}\b", done.stdout), word


def test_help_into_a_full_disk_is_a_failure(echod: Echod) -> None:
    """Output that cannot be written is not a success."""
    with open("/dev/full", "w") as full:
        for words in (["-V"], ["-h"], ["check", "--defaults"]):
            done = echod.run_command([str(echod.executable), *words], stdout=full)
            assert done.returncode == 1, words


def test_start_is_what_happens_without_a_verb(echod: Echod) -> None:
    """`echod` and `echod start` are the same."""
    command = [str(echod.executable), "start", *echod.options()]
    echod.run_command(command, expect=0)
    echod.adopt()
    echod.stop()
    command.remove("start")
    echod.run_command(command, expect=0)
    echod.adopt()
    echod.assert_serves()


def test_options_stand_before_or_behind_the_verb(echod: Echod) -> None:
    """In both places, short and long."""
    exe, where = str(echod.executable), str(echod.pidfile)
    echod.start()
    for words in (["-P", where, "status"], ["status", "-P", where], ["--pidfile", where, "status"],
                  ["status", f"--pidfile={where}"], [f"-P{where}", "status", "--json"]):
        assert str(echod.pid) in echod.run_command([exe, *words], expect=0).stdout
    echod.run_command([exe, "-P", where, "stop"], expect=0)


def test_quiet(echod: Echod) -> None:
    """-q: exit codes only, but errors are still told."""
    assert echod.start("-q").stderr == ""
    for verb in ("status", "restart", "stop"):
        done = echod.run(verb, "-q", expect=0)
        assert done.stdout + done.stderr == "", verb
    done = echod.run("stop", "-q", expect=7)
    assert done.stdout == ""


def test_verbose_raises_the_log_level(echod: Echod) -> None:
    """-v: what is at level info appears, connections for one."""
    echod.start("-v")
    echod.assert_serves()
    echod.await_log(r" info: line/\d+\[\d+\]: connection from 127\.0\.0\.1:\d+ ended")
    echod.restart()
    echod.assert_serves()
    echod.await_log(r" info: .* ended", count=2)


def test_listen_option_is_repeatable(echod: Echod) -> None:
    """-l: hosts at the port of -p, or hosts with a port."""
    other = echod.another_port()
    echod.listen = ["127.0.0.1", "127.0.0.2", f"127.0.0.3:{other}"]
    echod.start()
    assert echod.echo(host="127.0.0.2") == b"hello\n"
    assert echod.echo(host="127.0.0.3", port=other) == b"hello\n"
    assert set(echod.status()["services"][0]["addresses"]) == {
        f"127.0.0.1:{echod.port}", f"127.0.0.2:{echod.port}", f"127.0.0.3:{other}"}


def test_all_addresses_by_default(echod: Echod) -> None:
    """Without -l both families serve, and status says where."""
    echod.listen = []
    echod.start()
    assert echod.echo() == b"hello\n"
    addresses = {f"0.0.0.0:{echod.port}"}
    if Path("/proc/net/if_inet6").exists():
        assert echod.echo(host="::1") == b"hello\n"
        addresses.add(f"[::]:{echod.port}")
    assert set(echod.status()["services"][0]["addresses"]) == addresses


# ---- status -------------------------------------------------------------------------------------

STATUS_KEYS = {"ok", "schema", "pid", "version", "state", "since", "config", "pidfile", "control",
               "generation", "restarts", "services", "processes", "connections", "counters"}


@pytest.mark.valgrind_subset
def test_status_json(echod: Echod) -> None:
    """One line, every key, and each value is what it says."""
    echod.settings["services.line.workers"] = 2
    echod.start()
    for _ in range(3):
        echod.assert_serves()
    wait_until(lambda: echod.status()["connections"]["now"] == 0, seconds(5))
    done = echod.run("status", "--json", expect=0)
    assert done.stdout.count("\n") == 1
    status = json.loads(done.stdout)
    assert STATUS_KEYS <= status.keys()
    assert status["ok"] is True and status["schema"] == 1
    assert status["pid"] == echod.pid
    assert re.fullmatch(r"\d+\.\d+\.\d+", status["version"])
    since = datetime.fromisoformat(status["since"].replace("Z", "+00:00"))
    assert abs((datetime.now(timezone.utc) - since).total_seconds()) < seconds(60)
    assert status["config"] is None or Path(status["config"]).is_absolute()
    assert status["pidfile"] == str(echod.pidfile) and status["control"] == str(echod.control)
    assert status["generation"] == 1
    assert status["restarts"] == {"begun": 0, "ended": 0, "failed": 0, "last": None}
    [service] = status["services"]
    assert service["name"] == service["protocol"] == "line" and service["processes"] == 2
    assert service["addresses"] == [f"127.0.0.1:{echod.port}"]
    for process in status["processes"]:
        assert Process(process["pid"]).ppid == echod.pid
        assert process["service"] == "line" and process["state"] == "running"
        assert process["generation"] == 1
    assert sorted(p["name"] for p in status["processes"]) == ["line/0", "line/1"]
    assert status["connections"] == {"now": 0, "total": 3}
    counters = status["counters"]
    assert counters["accepted"] == counters["closed"] == counters["requests"] == 3
    assert counters["bytes_in"] == counters["bytes_out"] == 3 * len(b"are you there?\n")


def test_status_for_people(echod: Echod) -> None:
    """Pid, since when, version, configuration, addresses, connections."""
    echod.configure(echod.service(max_lines=0))
    echod.start()
    with echod.connect() as client:
        client.sendall(b"x\n")
        read_exactly(client, 2)
        text = echod.run("status", expect=0).stdout
    version = echod.status()["version"]
    for part in (str(echod.pid), version, str(echod.config), f"127.0.0.1:{echod.port}"):
        assert part in text, part
    assert re.search(r"\b1\b.*connection|connection.*\b1\b", text)


def test_status_of_what_does_not_run(echod: Echod) -> None:
    """In both forms, with the exit code of the table."""
    assert json.loads(echod.run("status", "--json", expect=3).stdout)["ok"] is False
    assert "not" in echod.run("status", expect=3).stdout
    echod.pidfile.write_text("1\n")
    assert json.loads(echod.run("status", "--json", expect=1).stdout)["ok"] is False
    echod.pidfile.unlink()


def test_status_after_restarts(echod: Echod) -> None:
    """What was begun, what came of it; `since` and totals go on counting."""
    echod.configure()
    echod.start()
    echod.assert_serves()
    since = echod.status()["since"]
    echod.restart()
    status = echod.status()
    assert status["restarts"]["begun"] == status["restarts"]["ended"] == 1
    assert status["restarts"]["last"]["ok"] is True
    assert status["since"] == since
    assert status["connections"]["total"] == 1
    echod.configure(extra="nonsense = 1;\n")
    echod.expect_log("nonsense")
    echod.restart(expect=6)
    restarts = echod.status()["restarts"]
    assert (restarts["begun"], restarts["ended"], restarts["failed"]) == (2, 2, 1)
    assert restarts["last"]["ok"] is False and "echod.conf" in restarts["last"]["text"]


# ---- stop ---------------------------------------------------------------------------------------

def test_stop_begins_a_polite_end(echod: Echod) -> None:
    """The request under way is answered before the command returns."""
    echod.settings["services.line.max_lines"] = 0
    echod.start()
    with echod.connect() as client:
        client.sendall(b"half")
        wait_until(lambda: echod.status()["counters"]["bytes_in"] == 4, seconds(5))
        with subprocess.Popen(echod.command("stop"), env=echod.env) as stop:
            wait_until(lambda: refuses(echod), seconds(5), "it accepts no more")
            assert stop.poll() is None
            client.sendall(b" whole\n")
            assert read_to_end(client) == b"half whole\n"
            assert stop.wait(seconds(10)) == 0


@pytest.mark.slow
def test_stop_of_a_stopped_process_runs_into_its_limit(echod: Echod) -> None:
    """A supervisor that does not react: exit 1 and a clear line after -T seconds."""
    echod.start()
    echod.signal(signal.SIGSTOP)
    done = echod.stop("-T", "0.5", expect=1)
    assert re.fullmatch(ONE_LINE, done.stderr)
    done = echod.run("restart", "-T", "0.5", expect=1)
    assert re.fullmatch(ONE_LINE, done.stderr)
    done = echod.run("status", expect=0)
    assert str(echod.pid) in done.stdout, "the lock still answers"
    echod.signal(signal.SIGCONT)
    echod.await_end()


# ---- restart ------------------------------------------------------------------------------------

@pytest.mark.valgrind_subset
def test_restart_refused_for_a_broken_configuration(echod: Echod) -> None:
    """The reason on stderr, an exit code, and the old generation serves on."""
    echod.configure(echod.service(max_lines=0))
    echod.start()
    with echod.connect() as client:
        client.sendall(b"before\n")
        assert read_exactly(client, 7) == b"before\n"
        workers = {w.pid for w in echod.workers()}
        path = echod.configure(echod.service(max_lines="many"))
        echod.expect_log("restart|max_lines")
        done = echod.restart(expect=6)
        assert done.stderr.startswith("echod: ") and "max_lines" in done.stderr
        assert str(path) in done.stderr
        assert {w.pid for w in echod.workers()} == workers
        client.sendall(b"after\n")
        assert read_exactly(client, 6) == b"after\n"
    assert lock_holder(echod.pidfile) == echod.pid
    echod.configure(echod.service(max_lines=0))
    echod.restart()


@pytest.mark.parametrize("verb, code", [("restart", 6), ("stop", 6), ("status", 4)])
@pytest.mark.parametrize("file", ["broken", "missing"])
def test_named_file_that_names_no_daemon(echod: Echod, file: str, verb: str, code: int) -> None:
    """
    The file of -f is not there, or cannot be understood: which daemon is meant is not known.

    The one of the default pidfile is somebody else, and is left alone.
    """
    ordinary(echod)
    echod.env["XDG_RUNTIME_DIR"] = str(echod.dir)
    echod.run_command([str(echod.executable), *echod.options()[2:]], expect=0)  # without -P
    echod.adopt()
    path = echod.dir / "other.conf"
    if file == "broken":
        path.write_text("pidfile = \"/nowhere/echod.pid\";\nno sense\n")
    done = echod.run_command([str(echod.executable), verb, "-f", str(path)])
    assert done.returncode == code
    assert str(path) in done.stdout + done.stderr
    assert echod.supervisor.alive and echod.status()["restarts"]["begun"] == 0
    echod.run_command([str(echod.executable), "stop", "-f", str(path), "-P", str(echod.pidfile)],
                      expect=0)


@pytest.mark.parametrize("key", ["pidfile", "control"])
def test_restart_refused_for_a_changed_place(echod: Echod, key: str) -> None:
    """`pidfile` and `control` need stop and start, and the message says so."""
    echod.configure()
    echod.start()
    echod.expect_log("restart|stop and start")
    text = echod.config.read_text()
    if key == "pidfile":
        text = text.replace("echod.pid", "other.pid")
    else:
        text += f'control = "{echod.dir}/other.sock";\n'
    echod.config.write_text(text)
    done = echod.run_command([str(echod.executable), "restart", "-P", str(echod.pidfile)])
    assert done.returncode != 0
    assert key in done.stderr and "stop" in done.stderr
    assert echod.status()["restarts"]["failed"] == 1
    echod.assert_serves()
    assert not (echod.dir / "other.pid").exists() and not (echod.dir / "other.sock").exists()


@pytest.mark.parametrize("broken", ["deleted", "not_executable", "not_a_program", "fails",
                                    "library_missing", "directory", "another_program"])
def test_restart_refused_for_a_broken_binary(echod: Echod, broken: str) -> None:
    """The executable was deleted or replaced by something that cannot serve: the old one stays."""
    installed = echod.executable
    copy = echod.dir / "sbin" / "echod"
    copy.parent.mkdir()
    shutil.copy(installed, copy)
    echod.executable = copy
    echod.start()
    copy.unlink()
    if broken == "not_executable":
        copy.write_text("")
        copy.chmod(0o644)
    elif broken == "not_a_program":
        copy.write_bytes(b"\x7fELF" + b"\0" * 100)
        copy.chmod(0o755)
    elif broken in ("fails", "library_missing"):
        code = 1 if broken == "fails" else 127
        copy.write_text(f"#!/bin/sh\necho 'it does not work' >&2\nexit {code}\n")
        copy.chmod(0o755)
    elif broken == "directory":
        copy.mkdir()
    elif broken == "another_program":
        shutil.copy(shutil.which("true"), copy)  # accepts everything, and is no echod
    echod.expect_log("restart")
    done = echod.run_command([str(installed), "restart", "-P", str(echod.pidfile)])
    assert done.returncode != 0
    assert done.stderr.startswith("echod: ")
    echod.assert_serves()
    assert lock_holder(echod.pidfile) == echod.pid
    status = echod.status()
    assert status["restarts"]["failed"] == 1 and status["generation"] == 1

    shutil.rmtree(copy) if copy.is_dir() else copy.unlink(missing_ok=True)
    shutil.copy(installed, copy)
    echod.restart()
    echod.assert_serves()


def test_restart_refused_when_the_trial_hangs(echod: Echod) -> None:
    """A new binary that never ends its check is killed after start_timeout."""
    copy = echod.dir / "echod"
    shutil.copy(echod.executable, copy)
    installed, echod.executable = echod.executable, copy
    echod.settings["start_timeout"] = 2
    echod.start()
    copy.unlink()
    copy.write_text("#!/bin/sh\nexec sleep 60\n")
    copy.chmod(0o755)
    echod.expect_log("restart")
    done = echod.run_command([str(installed), "restart", "-P", str(echod.pidfile)])
    assert done.returncode != 0 and re.fullmatch(ONE_LINE, done.stderr)
    echod.assert_serves()
    assert all(child.cmdline[0] != "sleep" for child in echod.supervisor.children)


def test_restart_refused_when_an_address_cannot_be_bound(echod: Echod) -> None:
    """A new address is in use: the way back leads to the old generation and its clients."""
    other = echod.another_port()
    echod.configure(echod.service(max_lines=0))
    echod.start()
    with socket.socket() as taken, echod.connect() as client:
        client.sendall(b"before\n")
        assert read_exactly(client, 7) == b"before\n"
        taken.bind(("127.0.0.1", other))
        taken.listen()
        echod.configure(echod.service(
            max_lines=0, listen=[f"127.0.0.1:{echod.port}", f"127.0.0.1:{other}"]))
        echod.expect_log(f"restart|:{other}")
        done = echod.restart(expect=1)
        assert f"127.0.0.1:{other}" in done.stderr and "in use" in done.stderr
        client.sendall(b"after\n")
        assert read_exactly(client, 6) == b"after\n"
    status = echod.status()
    assert status["services"][0]["addresses"] == [f"127.0.0.1:{echod.port}"]
    assert status["restarts"]["failed"] == 1
    echod.restart()
    assert echod.echo(port=other) == b"hello\n"


def test_restart_keeps_pid_lock_and_start(echod: Echod) -> None:
    """The same process in the kernel's eyes, before and after several."""
    echod.start()
    begun = echod.supervisor.start_time
    inode = echod.pidfile.stat().st_ino
    for _ in range(3):
        echod.restart()
        assert lock_holder(echod.pidfile) == echod.pid
        assert echod.supervisor.start_time == begun
        assert echod.pidfile.stat().st_ino == inode
    assert echod.status()["generation"] == 4


def test_restart_keeps_options_of_the_command_line(echod: Echod) -> None:
    """-p, -l, -o, -v hold on: the daemon is launched again as it was launched."""
    echod.settings.update({"services.line.max_lines": 2, "drain_timeout": "7s"})
    echod.start("-v")
    echod.restart()
    assert echod.echo(b"1\n2\n3\n") == b"1\n2\n"


def test_two_restart_commands_at_once(echod: Echod) -> None:
    """Each waits for an outcome of its own, and both succeed."""
    echod.start()
    restarts = [subprocess.Popen(echod.command("restart"), env=echod.env) for _ in range(5)]
    assert [r.wait(seconds(30)) for r in restarts] == [0] * 5
    restarts = echod.status()["restarts"]
    assert 1 <= restarts["ended"] <= 5 and restarts["begun"] == restarts["ended"]
    echod.assert_serves()
