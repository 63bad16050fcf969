"""The configuration as the command sees it: check, errors with file and line, options over it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from echod import Echod, read_to_end, seconds
from launching import ordinary, refuses
from procfs import wait_until

MANY_MISTAKES = """\
pidfile = "relative.pid";
drain_timout = 30;
drain_timeout = "soon";
max_retiring = 0;
log = {
    level = "notise";
    target = "somewhere";
    colour = true;
};
services = (
    { name = "one"; listen = [ "127.0.0.1" ]; },
    { name = "one"; listen = [ "127.0.0.1:70000" ]; workers = "two"; },
    { protocol = "chargn"; listen = [ "127.0.0.1:7007" ]; nodelay = 1; },
    { name = "bad name"; max_line = 5000000000; }
);
"""

# Line and what is said about it.
SAID = {
    1: "absolute", 2: "did you mean 'drain_timeout'", 3: "time", 4: "between",
    6: "did you mean 'notice'", 8: "colour", 11: "port", 12: "70000", 13: "did you mean 'chargen'",
    14: "5000000000",
}


def check(echod: Echod, text: str, expect: int) -> str:
    """Check this text; what it says on stderr."""
    echod.config = echod.dir / "echod.conf"
    echod.config.write_text(text)
    return echod.run_command([str(echod.executable), "check", "-f", str(echod.config)],
                             expect=expect).stderr


@pytest.mark.valgrind_subset
@pytest.mark.parametrize("verb", ["check", "start"])
def test_all_mistakes_at_once_with_file_and_line(echod: Echod, verb: str) -> None:
    """Each is one line "echod: file:line: sentence"; nothing is touched."""
    echod.config = echod.dir / "echod.conf"
    echod.config.write_text(MANY_MISTAKES)
    before = set(os.listdir(echod.dir))
    done = echod.run_command([str(echod.executable), verb, "-f", str(echod.config)], expect=6)
    lines = done.stderr.splitlines()
    assert all(line.startswith("echod: ") for line in lines)
    for number, words in SAID.items():
        found = [line for line in lines if f"{echod.config}:{number}: " in line]
        assert found and any(words in line for line in found), (number, words, done.stderr)
    assert "somewhere" in done.stderr  # found after the walk through the file
    assert "already defined" in done.stderr
    assert set(os.listdir(echod.dir)) == before


def test_syntax_error(echod: Echod) -> None:
    """Where libconfig stopped to understand."""
    said = check(echod, "drain_timeout = 5;\nlog = {\n  level = ;\n};\n", 6)
    assert f"{echod.config}:3: " in said and "syntax" in said


def test_mistake_in_an_included_file(echod: Echod) -> None:
    """The line is that of the file in which it stands, and lines behind it keep their numbers."""
    included = echod.dir / "part.conf"
    included.write_text("\n\nnonsense = 1;\n")
    said = check(echod, '@include "part.conf"\n\nrubbish = 2;\n', 6)
    assert f"{included}:3: " in said and "nonsense" in said
    assert f"{echod.config}:3: " in said and "rubbish" in said


def test_included_file_that_is_missing(echod: Echod) -> None:
    said = check(echod, '\n@include "missing.conf"\n', 6)
    assert f"{echod.config}:2: " in said and "missing.conf" in said and "No such file" in said


def test_file_that_includes_itself(echod: Echod) -> None:
    said = check(echod, '@include "echod.conf"\n', 6)
    assert f"{echod.config}:1: " in said


def test_check_of_a_correct_file_touches_nothing(echod: Echod) -> None:
    """No pidfile, no socket, no log: a check may run at any time, also beside the daemon."""
    echod.configure()
    before = {name: os.stat(echod.dir / name).st_mtime_ns for name in os.listdir(echod.dir)}
    done = echod.run("check", expect=0)
    assert done.stderr == "" and str(echod.config) in done.stdout
    after = {name: os.stat(echod.dir / name).st_mtime_ns for name in os.listdir(echod.dir)}
    assert before == after


def test_check_beside_the_running_daemon(echod: Echod) -> None:
    """It opens no sockets, so it steals no connections, and it leaves the lock alone."""
    echod.configure()
    echod.start()
    checks = [subprocess.Popen(echod.command("check", "-q"), env=echod.env) for _ in range(10)]
    for _ in range(30):
        echod.assert_serves()
    assert [c.wait(seconds(20)) for c in checks] == [0] * 10
    assert echod.status()["pid"] == echod.pid


def test_check_defaults_names_every_key(echod: Echod) -> None:
    """Each with its sentence; the sample file and the manual are checked against it."""
    done = echod.run_command([str(echod.executable), "check", "--defaults"], expect=0)
    both = {"access", "access_times", "max_load", "max_connections", "max_connections_per_source",
            "max_connections_per_prefix", "max_connection_rate", "max_connection_rate_per_source",
            "max_byte_rate", "max_byte_rate_per_source", "max_request_rate",
            "max_request_rate_per_source", "max_datagram_rate", "max_pending", "idle_timeout",
            "write_timeout", "first_byte_timeout", "lifetime", "user", "group", "nice"}
    for key in ("pidfile", "control", "drain_timeout", "retire_timeout", "start_timeout",
                "max_retiring", "watchdog", "target", "facility", "level", "socket", "name",
                "protocol", "listen", "workers", "busy_poll", "backlog", "defer_accept", "keepalive",
                "nodelay", "v6only", "device", "receive_buffer", "send_buffer", "tos", "ttl",
                "mss", "fastopen", "user_timeout", "mptcp", "socket_mode", "socket_user",
                "socket_group", "max_lines", "max_line", "delimiter", "on_long_line",
                "transform", "greeting", "on_refuse", "deny_source_ports", "proxy_protocol",
                "proxy_from", "command", "environment", "directory", "umask", "restart",
                "stop_signal", "stop_timeout", *sorted(both)):
        found = re.findall(rf"^\s*(?:# )?{key}(?: =|:)", done.stdout, re.MULTILINE)
        assert len(found) == (2 if key in both else 1), key


def test_printed_defaults_can_be_read(echod: Echod) -> None:
    """They are a configuration, but for what each service must have of its own."""
    done = echod.run_command([str(echod.executable), "check", "--defaults"], expect=0)
    said = check(echod, 'pidfile = "/x.pid";\n' + done.stdout, 6).splitlines()
    assert len(said) == 2 and "no name" in said[0] and "no listen" in said[1]


def test_shipped_sample_is_correct(echod: Echod) -> None:
    """etc/echod.conf as it stands passes the check."""
    sample = Path(__file__).resolve().parents[2] / "etc" / "echod.conf"
    if not sample.exists():
        pytest.skip("the sample is not there")
    done = echod.run_command([str(echod.executable), "check", "-f", str(sample), "-P",
                              str(echod.pidfile)])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value, fits", [
    ("30", True), ('"30"', True), ('"500ms"', True), ('"2m"', True), ("0.5", True), ('"1d"', True),
    ("-1", False), ('"2 days"', False), ('"1e3"', False), ("true", False), ("[ 1 ]", False),
    ('""', False), ("5000000000", False), ("90000", False), ("0x10", True),
])
def test_times(echod: Echod, value: str, fits: bool) -> None:
    """Seconds, or a string with a unit; everything else is said."""
    said = check(echod, f"drain_timeout = {value};\npidfile = \"/x.pid\";\n", 0 if fits else 6)
    assert fits or "echod.conf:1: " in said


@pytest.mark.parametrize("value, fits", [
    ("4096", True), ('"64k"', True), ('"1M"', True), ("2", True), ("1", False), ('"17M"', False),
    ('"64x"', False), ("5000000000", False), ("5000000000L", False),
    ('"99999999999999999999G"', False),
])
def test_sizes(echod: Echod, value: str, fits: bool) -> None:
    said = check(echod, 'services = ( { name = "a"; listen = [ "*:7007" ];\n'
                 f'max_line = {value}; }} );\npidfile = "/x.pid";\n', 0 if fits else 6)
    assert fits or "echod.conf:2: " in said


@pytest.mark.parametrize("address, fits", [
    ("*:7007", True), ("127.0.0.1:7007", True), ("[::1]:7007", True), ("tcp:*:7007", True),
    ("localhost:7007", True), ("::1:7007", False), ("[::1]", False), ("7007", False),
    (":7007", False), ("*:0", True), ("*:65536", False), ("*:no-such-service", False),
    ("udp:*:7007", True), ("udp:7007", False), ("unix:/tmp/x", True), ("unixgram:@x", True),
    ("unix:tmp/x", False), ("unix:/" + "x" * 107, False), ("*%lo:7007", True), ("*%:7007", False),
    ("", False), ("[::1:7007", False), ("x" * 300 + ":7", False),
])
def test_addresses(echod: Echod, address: str, fits: bool) -> None:
    said = check(echod, 'pidfile = "/x.pid";\nservices = ( { name = "a";\n'
                 f'listen = [ "{address}" ]; }} );\n', 0 if fits else 6)
    assert fits or "echod.conf:3: " in said


@pytest.mark.parametrize("setting, words", [
    ('access = [ "allow 10.0.0.0/8", "deny *" ];', None), ('access = "allow unix";', None),
    ('access = [ "allow 10.0.0.1/8" ];', "write 10.0.0.0/8"),
    ('access = [ "Deny *" ];', "did you mean 'deny'"),
    ('access = [ "allow uid:no-such-user" ];', "no user 'no-such-user'"),
    ('access_times = [ "Mon-Fri 08:00-18:00", "Sat 10:00-12:00" ];', None),
    ('access_times = [ "Mo 08:00-18:00" ];', "did you mean Mon"),
    ("max_load = 2.5;", None), ("max_load = 8;", None), ('max_load = "much";', "2.5"),
    ('max_byte_rate = "1M";', None), ("max_connections = -1;", "between"),
    ("max_connections_per_sourc = 1;", "did you mean 'max_connections_per_source'"),
])
def test_limits_of_the_daemon_and_of_a_service(echod: Echod, setting: str,
                                               words: str | None) -> None:
    """The same settings in both places, and the same errors with their lines."""
    service = '{ name = "a"; listen = [ "*:7007" ];\n%s }'
    for text in (f'pidfile = "/x.pid";\n{setting}\n',
                 f'pidfile = "/x.pid"; services = ( {service % setting} );\n'):
        said = check(echod, text, 0 if words is None else 6)
        assert words is None or (f"{echod.config}:2: " in said and words in said)


@pytest.mark.parametrize("setting, words", [
    ('proxy_protocol = "required";', "needs proxy_from"),
    ('proxy_protocol = "optional"; proxy_from = [ ];', "needs proxy_from"),
    ('proxy_protocol = "required"; proxy_from = [ "10.0.0.0/8" ];', None),
    ('deny_source_ports = ( 53, "0-1023" );', None), ("deny_source_ports = [ ];", None),
    ('deny_source_ports = [ "9-5" ];', "ends before it begins"),
    ('socket_mode = "0660"; socket_user = "root";', None), ("socket_mode = 660;", "quotes"),
    ("mss = 1;", "0 (off) or between 88"), ('transform = "rot13";', "one of none"),
])
def test_settings_of_a_service(echod: Echod, setting: str, words: str | None) -> None:
    said = check(echod, 'pidfile = "/x.pid"; services = ( { name = "a";\n'
                 f'listen = [ "*:7007" ]; {setting} }} );\n', 0 if words is None else 6)
    assert words is None or (re.search(r"echod\.conf:[12]: ", said) and words in said)


@pytest.mark.parametrize("text", [
    'services = ();', 'services = "line";', 'services = ( 1 );', 'services = ( { name = "a"; } );',
    'services = ( { listen = [ "*:7007" ]; } );', 'services = ( { name = "a"; listen = []; } );',
    'log = "syslog";', 'log = { target = "file:relative"; };', 'user = "";', 'user = 0;',
    'services = ( { name = "a"; listen = [ "*:7007", "*:7007" ]; } );',
    'services = ( { name = "a"; listen = [ "*:7007" ]; },'
    ' { name = "b"; listen = [ "*:7007" ]; } );',
    'pidfile = "/x"; control = "/x";', 'control = "/' + "x" * 120 + '";',
], ids=lambda text: text[:40])
def test_what_makes_no_sense(echod: Echod, text: str) -> None:
    """Each is refused with at least one sentence."""
    said = check(echod, ("" if "pidfile" in text else 'pidfile = "/x.pid";\n') + text + "\n", 6)
    assert re.search(r"^echod: [^\n]{10,}$", said, re.MULTILINE)


@pytest.mark.needs_root
def test_file_that_everybody_may_write_is_not_obeyed_by_root(echod: Echod) -> None:
    """Root does not do what anybody may write."""
    path = echod.configure()
    path.chmod(0o666)
    done = echod.start(expect=6)
    assert str(path) in done.stderr and "writable" in done.stderr
    path.chmod(0o644)
    echod.start()
    path.chmod(0o666)
    echod.expect_log("writable")
    assert echod.restart(expect=None).returncode != 0
    echod.assert_serves()


@pytest.mark.needs_root
def test_workers_must_not_run_as_root(echod: Echod) -> None:
    echod.configure(user="root")
    assert "root" in echod.start(expect=6).stderr


def test_ordinary_user_cannot_choose_another_user(echod: Echod) -> None:
    """Exit code 4: not permitted."""
    ordinary(echod)
    echod.settings["user"] = "daemon"
    done = echod.start(expect=4)
    assert re.fullmatch(r"echod: [^\n]*'daemon'[^\n]*\n", done.stderr)


@pytest.mark.parametrize("file", ["directory", "fifo", "device", "nul", "huge"])
def test_files_that_are_none(echod: Echod, file: str) -> None:
    """They neither hang nor crash anything."""
    echod.config = path = echod.dir / "echod.conf"
    if file == "directory":
        path.mkdir()
    elif file == "fifo":
        os.mkfifo(path)
    elif file == "device":
        echod.config = path = Path("/dev/zero")
    elif file == "nul":
        path.write_bytes(b"drain_timeout = 3;\0")
    else:
        path.write_bytes(b"#" * 2_000_000)
    done = echod.run_command([str(echod.executable), "check", "-f", str(path)], expect=6)
    assert str(path) in done.stderr


def test_options_go_over_the_file(echod: Echod) -> None:
    """-o for global keys, the log and services by name."""
    echod.configure(echod.service(max_lines=1), drain_timeout=1)
    echod.settings["services.line.max_lines"] = 3
    echod.start()
    assert echod.echo(b"1\n2\n3\n4\n") == b"1\n2\n3\n"


@pytest.mark.parametrize("setting, words", [
    ("drain_timout=3", "did you mean 'drain_timeout'"), ("log.levl=info", "did you mean 'level'"),
    ("services.line.max_linse=3", "did you mean"),
    ("services.other.max_lines=3", "no service 'other'"),
    ("services.line.max_lines=x", "whole number"), ("log.level=loud", "loud"),
    ("a.b.c.d=1", "a.b.c.d"),
    ("drain_timeout=", "time"), ("nice=99", "between"), ("access=dney *", "did you mean 'deny'"),
    ("services.line.access=allow 10.0.0.0/8,deny all", "'all' is not known"),
    ("services.line.proxy_from=10", "proxy_from"), ("max_load=1.234", "max_load"),
])
def test_wrong_settings_on_the_command_line(echod: Echod, setting: str, words: str) -> None:
    """Said as "command line", with the nearest known key."""
    done = echod.start("-o", setting, expect=6)
    assert re.fullmatch(r"echod: command line: [^\n]*\n", done.stderr) and words in done.stderr


def test_port_and_listen_are_for_the_built_in_service(echod: Echod) -> None:
    """With services in the file they would be ambiguous: it is said."""
    echod.configure()
    done = echod.start("-p", str(echod.port), expect=6)
    assert "-p" in done.stderr and str(echod.config) in done.stderr


def test_several_services(echod: Echod) -> None:
    """Each with its own protocol, addresses, workers and limits."""
    other = echod.another_port()
    echod.configure(
        echod.service("line", max_lines=2, workers=1),
        echod.service("echo", protocol="echo", listen=[f"127.0.0.1:{other}"], workers=2))
    echod.start()
    assert echod.echo(b"a\nb\nc\n") == b"a\nb\n"
    assert echod.echo(b"no line at all", port=other) == b"no line at all"
    services = {s["name"]: s for s in echod.status()["services"]}
    assert services["line"]["processes"] == 1 and services["echo"]["processes"] == 2
    assert sorted(p["name"] for p in echod.status()["processes"]) == ["echo/0", "echo/1", "line/0"]


def test_restart_adds_and_drops_services_and_addresses(echod: Echod) -> None:
    """What is new serves, what is gone refuses, what stays is not disturbed."""
    second, third = echod.another_port(), echod.another_port()
    echod.configure(echod.service("a"), echod.service("b", listen=[f"127.0.0.1:{second}"]))
    echod.start()
    echod.configure(echod.service("a"), echod.service("c", listen=[f"127.0.0.1:{third}"]))
    echod.restart()
    assert echod.echo() == echod.echo(port=third) == b"hello\n"
    wait_until(lambda: refuses(echod, second), seconds(5))
    echod.configure(echod.service("b", listen=[f"127.0.0.1:{second}"]))
    echod.restart()
    assert echod.echo(port=second) == b"hello\n"
    for port in (echod.port, third):
        wait_until(lambda port=port: refuses(echod, port), seconds(5))


@pytest.mark.parametrize("counts", [(1, 4), (4, 1), (3, 2)], ids=str)
def test_restart_changes_the_number_of_workers(echod: Echod, counts: tuple[int, int]) -> None:
    """Fewer workers share the sockets that there are: no address is left without one."""
    echod.configure(echod.service(workers=counts[0]))
    echod.start()
    echod.configure(echod.service(workers=counts[1]))
    echod.restart()
    assert echod.status()["services"][0]["processes"] == counts[1]
    assert len(echod.workers()) == counts[1]
    for _ in range(30):
        echod.assert_serves()


def test_ipv6_and_names(echod: Echod) -> None:
    """Brackets around the one, a look-up for the other."""
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    other = echod.another_port()
    echod.configure(echod.service(listen=[f"[::1]:{echod.port}", f"localhost:{other}"]))
    echod.start()
    assert echod.echo(host="::1") == b"hello\n"
    assert echod.echo(host="localhost", port=other) == b"hello\n"
    assert f"[::1]:{echod.port}" in echod.status()["services"][0]["addresses"]


def test_name_that_does_not_exist(echod: Echod) -> None:
    echod.configure(echod.service(listen=[f"no-such-host.invalid:{echod.port}"]))
    done = echod.start(expect=1)
    assert re.fullmatch(r"echod: [^\n]*no-such-host\.invalid[^\n]*\n", done.stderr)


def test_two_names_for_one_address(echod: Echod) -> None:
    """Seen only when names are looked up: two services would share the clients by chance."""
    echod.configure(echod.service("a"), echod.service("b", listen=[f"localhost:{echod.port}"]))
    done = echod.start(expect=6)
    assert "is used already by service" in done.stderr


def test_line_limits_are_in_force(echod: Echod) -> None:
    """max_line and idle_timeout, as a check that settings reach the workers."""
    echod.configure(echod.service(max_lines=0, max_line=8, idle_timeout="300ms", defer_accept=0))
    echod.start()
    assert echod.echo(b"1234567\n12345678\n") == b"1234567\n"
    with echod.connect() as client:
        client.settimeout(seconds(5))
        assert read_to_end(client) == b"", "the idle one is closed"
    assert isinstance(client, socket.socket)
