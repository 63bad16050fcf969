"""The boot script (rule 28), run as a distribution's runlevels run it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from echod import PATH, Echod, seconds
from launching import assert_is_daemon
from procfs import lock_holder

SCRIPT = Path(__file__).resolve().parents[2] / "contrib" / "init.d" / "echod"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="contrib/init.d/echod is not there")


class Boot:
    """The script with settings of this test's own."""

    def __init__(self, echod: Echod):
        self.echod = echod
        echod.configure()
        self.run_dir = echod.dir / "run" / "echod"  # made by the script
        echod.pidfile = self.run_dir / "echod.pid"
        echod.control = self.run_dir / "echod.sock"
        self.settings = echod.dir / "default"
        self.write()

    def write(self, **more: str) -> None:
        """The file that /etc/default/echod is on a real machine."""
        self.echod.configure(pidfile=str(self.echod.pidfile))
        values = {"DAEMON": self.echod.executable, "PIDFILE": self.echod.pidfile,
                  "CONFIG": self.echod.config, **more}
        self.settings.write_text("".join(f'{k}="{v}"\n' for k, v in values.items()))

    def __call__(self, *words: str, expect: int | None = None,
                 **popen: object) -> subprocess.CompletedProcess[str]:
        environment = {**self.echod.env, "ECHOD_DEFAULT": str(self.settings)}
        done = self.echod.run_command(["sh", str(SCRIPT), *words], expect=expect, env=environment,
                                      **popen)
        if self.echod.pidfile.exists() and lock_holder(self.echod.pidfile):
            self.echod.adopt()
        return done


@pytest.fixture
def boot(echod: Echod) -> Boot:
    return Boot(echod)


def test_rule_28_start_stop_restart_status(boot: Boot) -> None:
    """The four words of every boot script, with the daemon as the rules want it."""
    boot("status", expect=3)
    boot("start", expect=0)
    assert_is_daemon(boot.echod)
    boot("status", expect=0)
    pid = boot.echod.pid
    boot("restart", expect=0)
    boot.echod.assert_serves()
    assert boot.echod.pid == pid, "a restart in place keeps the process"
    boot("stop", expect=0)
    assert not boot.echod.pidfile.exists()
    boot("status", expect=3)


def test_rule_28_force_reload(boot: Boot) -> None:
    """The new configuration serves; of a daemon that does not run it makes one that does."""
    boot("force-reload", expect=0)
    boot.echod.assert_serves()
    path = boot.echod.config
    path.write_text(path.read_text().replace('name = "line";', 'name = "line"; max_lines = 2;'))
    boot("force-reload", expect=0)
    assert boot.echod.echo(b"1\n2\n3\n") == b"1\n2\n"


def test_rule_28_lsb_header(boot: Boot) -> None:
    """What update-rc.d and insserv read."""
    text = SCRIPT.read_text()
    header = re.search(r"^### BEGIN INIT INFO\n((?:#.*\n)+)### END INIT INFO$", text, re.MULTILINE)
    assert header
    for key in ("Provides:", "Required-Start:", "Required-Stop:", "Default-Start:", "Default-Stop:",
                "Short-Description:"):
        assert re.search(rf"^# {key}\s+\S", header[1], re.MULTILINE), key
    assert text.startswith("#!/bin/sh\n") and os.access(SCRIPT, os.X_OK)


def test_start_of_what_runs_is_a_success(boot: Boot) -> None:
    """LSB: starting what is started, stopping what is stopped are no failures."""
    boot("start", expect=0)
    pid = boot.echod.pid
    boot("start", expect=0)
    assert boot.echod.pid == pid
    boot("stop", expect=0)
    boot("stop", expect=0)


def test_restart_of_what_does_not_run_starts_it(boot: Boot) -> None:
    boot("restart", expect=0)
    boot.echod.assert_serves()


def test_restart_with_a_broken_configuration(boot: Boot) -> None:
    """Refused, and the daemon serves on."""
    boot("start", expect=0)
    boot.echod.expect_log("restart|nonsense")
    with open(boot.echod.config, "a") as file:
        file.write("nonsense = 1;\n")
    done = boot("restart")
    assert done.returncode != 0 and "nonsense" in done.stderr
    boot.echod.assert_serves()


def test_start_that_fails(boot: Boot) -> None:
    """LSB code 6 for a wrong configuration, with the reason."""
    boot.echod.config.write_text("nonsense = 1;\n")
    done = boot("start", expect=6)
    assert "nonsense" in done.stderr


def test_program_that_is_not_installed(boot: Boot) -> None:
    """LSB code 5; a stop of it is asked at each shutdown after a package was removed."""
    boot.write(DAEMON="/nonexistent/echod")
    boot("start", expect=5)


def test_crashed_daemon(boot: Boot) -> None:
    """Status 1: dead, and the pidfile remains; a start repairs it."""
    boot("start", expect=0)
    boot.echod.signal(signal.SIGKILL)
    boot.echod.await_end()
    boot("status", expect=1)
    boot("start", expect=0)
    boot("status", expect=0)


@pytest.mark.parametrize("words", [[], ["bogus"]], ids=str)
def test_unknown_words(boot: Boot, words: list[str]) -> None:
    """Usage on stderr, exit code 2."""
    done = boot(*words, expect=2)
    assert "usage" in done.stderr.lower()


def test_options_of_the_settings(boot: Boot) -> None:
    """DAEMON_OPTS reach the daemon."""
    boot.write(DAEMON_OPTS="-v -o services.line.max_lines=3")
    boot("start", expect=0)
    assert boot.echod.echo(b"1\n2\n3\n4\n") == b"1\n2\n3\n"


def test_directory_of_the_script_does_not_matter(boot: Boot) -> None:
    """Run through a link in rc2.d, from another directory, under a strange umask."""
    link = boot.echod.dir / "S01echod"
    link.symlink_to(SCRIPT)
    environment = {"ECHOD_DEFAULT": str(boot.settings), "PATH": PATH,
                   **{k: v for k, v in boot.echod.env.items() if k.endswith("_OPTIONS")}}
    boot.echod.run_command(["sh", "-c", f"umask 077; exec setsid -w {link} start"], expect=0,
                           env=environment, cwd="/")
    boot.echod.adopt()
    assert_is_daemon(boot.echod)


@pytest.mark.needs_root
def test_run_directory_is_made_for_everybody_to_read(boot: Boot) -> None:
    """/run is empty after a boot; a strange umask must not hide the pidfile from status."""
    boot.echod.run_command(["sh", "-c", f"umask 077; exec sh {SCRIPT} start"], expect=0,
                           env={**boot.echod.env, "ECHOD_DEFAULT": str(boot.settings)})
    boot.echod.adopt()
    assert boot.run_dir.stat().st_mode & 0o005 == 0o005
    assert boot.run_dir.stat().st_uid == os.geteuid()


@pytest.mark.skipif(shutil.which("start-stop-daemon") is None, reason="no start-stop-daemon here")
def test_start_stop_daemon_finds_it_by_the_pidfile(boot: Boot) -> None:
    """Debian's own tool works with the same pidfile."""
    boot("start", expect=0)
    tool = ["start-stop-daemon", "--pidfile", str(boot.echod.pidfile), "--exec",
            str(boot.echod.executable)]
    boot.echod.run_command([*tool, "--status"], expect=0)
    boot.echod.run_command([*tool, "--stop", "--signal", "USR1", "--retry", "USR1/10"], expect=0)
    assert not boot.echod.pidfile.exists()
    boot.echod.run_command([*tool, "--status"], expect=3)


def test_no_process_of_the_script_remains(boot: Boot) -> None:
    """The script's pipes end with it: a boot does not wait for the daemon's end."""
    reading, writing = os.pipe()
    boot("start", stdout=writing, stderr=writing)
    os.close(writing)
    os.set_blocking(reading, True)
    with open(reading) as stream:
        stream.read()  # returns, or the test's time limit says that somebody holds the pipe
    assert lock_holder(boot.echod.pidfile) == boot.echod.pid
    boot.echod.run("stop", expect=0, timeout=seconds(20))
