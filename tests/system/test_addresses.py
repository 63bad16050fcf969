"""
Where a service listens: TCP, UDP and Unix sockets, ports and their names, interfaces, sockets that
a service manager passes, and what inetd puts on descriptor 0.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from echod import Echod, executable, read_to_end, seconds
from launching import refuses
from procfs import wait_until

LINE = b"a line\n"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


def needs_key(*keys: str) -> None:
    """Skip where this echod does not have these settings."""
    known = subprocess.run([str(executable()), "check", "--defaults"], capture_output=True,
                           text=True).stdout
    for key in keys:
        if not re.search(rf"^\s*(# )?{key}(:| =)", known, re.MULTILINE):
            pytest.skip(f"there is no setting {key}")


def line(echod: Echod, *listen: str, name: str = "line", **keys: Any) -> str:
    """A line service that listens there: any number of lines, two workers."""
    return echod.service(name, listen=list(listen), **{"max_lines": 0, "workers": 2, **keys})


def say(family: int, address: Any, data: bytes = LINE) -> bytes:
    """One line over a stream socket, and what comes back."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(seconds(10))
        client.connect(address)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_to_end(client)


def say_unix(path: Path | str, data: bytes = LINE) -> bytes:
    """The same; a name that begins with "@" is abstract."""
    name = str(path)
    return say(socket.AF_UNIX, "\0" + name[1:] if name.startswith("@") else name, data)


def addresses(echod: Echod, name: str = "line") -> list[str]:
    return echod.service_status(name)["addresses"]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.fixture
def path(echod: Echod) -> Path:
    """Of a Unix socket; nothing is there yet."""
    return echod.dir / "line"


@pytest.fixture
def by_path(echod: Echod, path: Path) -> Path:
    """A daemon that serves at a path."""
    echod.configure(line(echod, f"unix:{path}"))
    echod.start()
    return path


# ---- Unix sockets -------------------------------------------------------------------------------

def test_unix_sockets_by_path_and_by_name(echod: Echod, path: Path) -> None:
    """All workers accept on the one socket; status shows the address as it is written."""
    name = f"@{echod.dir}"
    echod.configure(line(echod, f"unix:{path}", f"unix:{name}"))
    echod.start()
    for address in (path, name):
        for _ in range(20):
            assert say_unix(address) == LINE
    assert addresses(echod) == [f"unix:{path}", f"unix:{name}"]
    assert len(echod.workers()) == 2
    echod.stop()
    assert not path.exists()


def test_many_clients_of_a_unix_socket_reach_all_workers(echod: Echod, by_path: Path) -> None:
    clients = []
    try:
        for _ in range(200):
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.settimeout(seconds(10))
            client.connect(str(by_path))
        for client in clients:
            client.sendall(LINE)
        for client in clients:
            assert client.recv(100) == LINE
        held = [row["connections"] for row in echod.ps()]
        assert sum(held) == 200
    finally:
        for client in clients:
            client.close()


def test_a_unix_socket_survives_the_death_of_a_worker(echod: Echod, by_path: Path) -> None:
    victim = echod.row("line/0")["pid"]
    os.kill(victim, signal.SIGKILL)
    for _ in range(20):
        assert say_unix(by_path) == LINE
    echod.await_state("line/0", but=victim)
    assert say_unix(by_path) == LINE


def test_a_stale_socket_file_is_replaced(echod: Echod, by_path: Path) -> None:
    """After kill -9 of the supervisor its workers may still hold it: a start waits for them."""
    before = by_path.stat().st_ino
    os.kill(echod.pid, signal.SIGKILL)
    echod.await_end()
    assert by_path.exists()
    echod.start()
    assert say_unix(by_path) == LINE
    assert by_path.stat().st_ino != before or "was left behind" in echod.log_text()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("listening", [True, False])
def test_the_socket_of_somebody_else_is_left_alone(echod: Echod, path: Path, kind: int,
                                                   listening: bool) -> None:
    """One that listens, and one that is only just starting; the file stays theirs."""
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        if listening and kind == socket.SOCK_STREAM:
            other.listen()
        before = path.stat().st_ino
        echod.configure(line(echod, f"unix:{path}"))
        done = echod.start(expect=1)
        assert str(path) in done.stderr and "name another path" in done.stderr
        assert path.stat().st_ino == before


def test_one_file_by_two_paths_is_a_mistake(echod: Echod, path: Path) -> None:
    """As /run and /var/run are one: the second service must not take the first one's place."""
    (echod.dir / "link").symlink_to(echod.dir)
    other = echod.dir / "link" / "line"
    echod.configure(line(echod, f"unix:{path}"), line(echod, f"unix:{other}", name="second"))
    done = echod.start(expect=6)
    assert f"unix:{other} is the same file as unix:{path}" in done.stderr
    assert "left behind" not in done.stderr
    assert not path.exists()


def test_a_socket_that_is_starting_is_seen_by_every_path(echod: Echod, path: Path) -> None:
    """It is bound and does not listen yet: nothing but the kernel's list tells it from a stale one."""
    (echod.dir / "link").symlink_to(echod.dir)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        echod.configure(line(echod, f"unix:{echod.dir}/link/line"))
        assert "another process listens at the socket" in echod.start(expect=1).stderr
        assert path.is_socket()


def test_a_restart_does_not_change_the_kind_of_a_socket(echod: Echod, by_path: Path) -> None:
    """One file is one socket, and the one that serves stays until the new one is ready."""
    echod.expect_log("restart in place refused")
    echod.configure(line(echod, f"unixgram:{by_path}", protocol="echo"))
    done = echod.restart(expect=6)
    assert f"unixgram:{by_path} is the same file as unix:{by_path}" in done.stderr
    assert say_unix(by_path) == LINE


def test_what_is_no_socket_is_left_alone(echod: Echod, path: Path) -> None:
    echod.configure(line(echod, f"unix:{path}"))
    path.write_text("precious")
    assert "is no socket" in echod.start(expect=1).stderr
    target = path.rename(path.with_suffix(".target"))
    path.symlink_to(target)
    assert "is no socket" in echod.start(expect=1).stderr
    assert path.is_symlink() and target.read_text() == "precious"
    path.unlink()
    path.symlink_to(echod.dir / "nothing")
    assert "is no socket" in echod.start(expect=1).stderr


def test_the_file_of_a_second_daemon_is_not_removed(echod: Echod, by_path: Path) -> None:
    """Only what is still ours goes at the end."""
    by_path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(by_path))
        echod.stop()
        assert by_path.is_socket()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGUSR1])
def test_the_file_is_removed_at_each_orderly_end(echod: Echod, by_path: Path, sig: int) -> None:
    echod.signal(sig)
    echod.await_end()
    assert not by_path.exists()


def test_a_start_that_fails_leaves_no_file(echod: Echod, path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        echod.configure(line(echod, f"unix:{path}", f"127.0.0.1:{port}"))
        assert "Address already in use" in echod.start(expect=1).stderr
    assert not path.exists()


def test_a_restart_in_place_keeps_the_file(echod: Echod, by_path: Path) -> None:
    """The same socket: who connected during the restart is served."""
    before = by_path.stat().st_ino
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(seconds(10))
        client.connect(str(by_path))
        client.sendall(LINE)
        assert client.recv(100) == LINE
        echod.restart()
        client.sendall(LINE)
        assert client.recv(100) == LINE
    assert by_path.stat().st_ino == before
    assert say_unix(by_path) == LINE


def test_an_address_that_a_restart_drops_takes_its_file_along(echod: Echod, by_path: Path) -> None:
    other = echod.dir / "other"
    echod.configure(line(echod, f"unix:{other}"))
    echod.restart()
    assert not by_path.exists()
    assert say_unix(other) == LINE
    echod.configure(line(echod, f"unix:{by_path}"))
    echod.restart()
    assert say_unix(by_path) == LINE and not other.exists()


def test_a_refused_restart_leaves_no_file(echod: Echod, by_path: Path) -> None:
    echod.expect_log("restart in place refused")
    other = echod.dir / "other"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        echod.configure(line(echod, f"unix:{by_path}", f"unix:{other}", f"127.0.0.1:{port}"))
        echod.restart(expect=1)
    assert not other.exists()
    assert say_unix(by_path) == LINE


def test_a_file_that_was_removed_comes_back_at_a_restart(echod: Echod, by_path: Path) -> None:
    by_path.unlink()
    echod.restart()
    assert say_unix(by_path) == LINE


def test_the_file_goes_and_comes_with_its_service(echod: Echod, by_path: Path) -> None:
    echod.tell("stop", "line")
    assert not by_path.exists()
    echod.start_service("line")
    assert say_unix(by_path) == LINE


def test_everybody_may_connect_unless_a_mode_is_set(echod: Echod, by_path: Path) -> None:
    assert stat.S_IMODE(by_path.stat().st_mode) & 0o600 == 0o600
    assert by_path.stat().st_uid == os.geteuid()


@pytest.mark.needs_root
def test_mode_and_owner_of_the_file(echod: Echod, path: Path) -> None:
    """And a restart in place changes those of the same file."""
    needs_key("socket_mode", "socket_user", "socket_group")
    nobody, games = pwd.getpwnam("nobody"), grp.getgrnam("games")
    echod.configure(line(echod, f"unix:{path}", socket_mode="0640", socket_user="nobody",
                         socket_group="games"))
    echod.start()
    before = path.stat()
    assert stat.S_IMODE(before.st_mode) == 0o640
    assert (before.st_uid, before.st_gid) == (nobody.pw_uid, games.gr_gid)
    echod.configure(line(echod, f"unix:{path}", socket_mode="0600", socket_user="daemon"))
    echod.restart()
    after = path.stat()
    assert after.st_ino == before.st_ino
    assert (stat.S_IMODE(after.st_mode), after.st_uid) == (0o600, pwd.getpwnam("daemon").pw_uid)
    assert say_unix(path) == LINE


@pytest.mark.needs_root
def test_who_has_many_groups_escapes_no_rule(echod: Echod, path: Path) -> None:
    """All of them are looked at."""
    echod.configure(line(echod, f"unix:{path}", access=["deny gid:5299", "allow *"]))
    echod.start()
    client = ("import os, socket, sys\n"
              "os.setgroups(range(5000, int(sys.argv[2])))\n"
              "s = socket.socket(socket.AF_UNIX)\n"
              "s.connect(sys.argv[1])\n"
              "s.sendall(b'a line\\n')\n"
              "print(s.recv(100))\n")
    for end, served in ((5299, True), (5300, False)):
        done = echod.run_command([sys.executable, "-c", client, str(path), str(end)])
        assert (done.stdout == f"{LINE!r}\n") == served


@pytest.mark.needs_root
def test_a_refused_restart_changes_no_mode(echod: Echod) -> None:
    """Also where it fails at the last step: an ordinary user cannot give a file away."""
    needs_key("socket_mode", "socket_user")
    echod.expect_log("restart in place refused")
    echod.become(pwd.getpwnam("nobody").pw_uid)
    first, second = echod.dir / "first", echod.dir / "second"
    echod.configure(line(echod, f"unix:{first}", name="first", socket_mode="0600"),
                    line(echod, f"unix:{second}", name="second"))
    echod.start()
    echod.configure(line(echod, f"unix:{first}", name="first", socket_mode="0666"),
                    line(echod, f"unix:{second}", name="second", socket_user="root"))
    assert f"cannot change the owner of the socket {second}" in echod.restart(expect=4).stderr
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert say_unix(second) == LINE


def test_an_abstract_name_that_is_taken_is_said(echod: Echod) -> None:
    name = f"{echod.dir}"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("\0" + name)
        echod.configure(line(echod, f"unix:@{name}"))
        done = echod.start(expect=1)
        assert f"cannot listen on unix:@{name}: Address already in use" in done.stderr


# ---- UDP ----------------------------------------------------------------------------------------

def udp_sockets(port: int) -> int:
    """How many IPv4 UDP sockets are bound to this port."""
    rows = Path("/proc/net/udp").read_text().splitlines()[1:]
    return sum(int(row.split()[1].split(":")[1], 16) == port for row in rows)


def test_udp_has_a_socket_for_each_worker_beside_tcp(echod: Echod) -> None:
    """One number, two ports: udp:7 and tcp:7 are two addresses."""
    echod.configure(line(echod, f"127.0.0.1:{echod.port}", workers=1),
                    line(echod, f"udp:127.0.0.1:{echod.port}", name="datagrams", protocol="echo",
                         workers=3))
    echod.start()
    assert udp_sockets(echod.port) == 3
    assert addresses(echod, "datagrams") == [f"udp:127.0.0.1:{echod.port}"]
    echod.restart()
    assert udp_sockets(echod.port) == 3
    assert say(socket.AF_INET, ("127.0.0.1", echod.port)) == LINE
    echod.tell("stop", "datagrams")
    wait_until(lambda: udp_sockets(echod.port) == 0, seconds(10))


def test_a_second_daemon_does_not_share_a_udp_port_unseen(echod: Echod, make_echod: Any) -> None:
    address = f"udp:127.0.0.1:{echod.port}"
    echod.configure(line(echod, address, protocol="echo"))
    echod.start()
    second = make_echod("second")
    second.configure(line(echod, address, protocol="echo"))
    done = second.start(expect=1)
    assert f"cannot listen on {address}: Address already in use" in done.stderr


def test_a_socket_is_one_of_its_kind(echod: Echod, path: Path) -> None:
    """unixgram: a file for datagrams."""
    echod.configure(line(echod, f"unixgram:{path}", protocol="echo"))
    echod.start()
    assert addresses(echod) == [f"unixgram:{path}"]
    with socket.socket(socket.AF_UNIX) as stream:
        with pytest.raises(OSError) as wrong:
            stream.connect(str(path))
        assert wrong.value.errno == errno.EPROTOTYPE
    echod.stop()
    assert not path.exists()


# ---- Any port -----------------------------------------------------------------------------------

def test_any_port_is_told_by_print_ports_and_status(echod: Echod) -> None:
    echod.configure(
        line(echod, "127.0.0.1:0"),
        line(echod, "127.0.0.1:0", "udp:127.0.0.1:0", name="second", protocol="echo"))
    done = echod.start("--print-ports")
    rows = [row.split() for row in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["line", "second", "second"]
    assert rows[0][1].startswith("tcp:127.0.0.1:") and rows[2][1].startswith("udp:127.0.0.1:")
    assert ["tcp:" + a for a in addresses(echod)] == [rows[0][1]]
    assert len({rows[0][1], rows[1][1]}) == 2, "two services share no port"
    for row in rows[:2]:
        for _ in range(8):
            assert say(socket.AF_INET, ("127.0.0.1", port_of(row[1]))) == LINE
    assert udp_sockets(port_of(rows[2][1])) == 2


def test_a_restart_in_place_keeps_the_port(echod: Echod) -> None:
    echod.configure(line(echod, "127.0.0.1:0"))
    echod.start()
    [before] = addresses(echod)
    with echod.connect(port=port_of(before)) as client:
        client.sendall(LINE)
        assert client.recv(100) == LINE
        echod.configure(line(echod, "127.0.0.1:0", workers=3))
        echod.restart()
        assert addresses(echod) == [before]
        client.sendall(LINE)
        assert client.recv(100) == LINE
    for _ in range(10):
        assert say(socket.AF_INET, ("127.0.0.1", port_of(before))) == LINE


def test_a_port_that_is_kept_is_not_shared_with_who_asks_for_it(echod: Echod) -> None:
    """Whichever of the two comes first in the file: clients would meet either of them."""
    echod.expect_log("restart in place refused")
    echod.configure(line(echod, "127.0.0.1:0"))
    echod.start()
    [before] = addresses(echod)
    services = [line(echod, before, name="new"), line(echod, "127.0.0.1:0")]
    for order in (services, services[::-1]):
        echod.configure(*order)
        said = echod.restart(expect=6).stderr
        assert before in said and "is used already by service" in said
    assert addresses(echod) == [before]


@needs_ipv6
def test_any_port_of_all_addresses_is_one_port(echod: Echod) -> None:
    echod.listen = []
    done = echod.start("--print-ports", "-p", "0")
    four, six = (row.split()[1] for row in done.stdout.splitlines())
    assert four.startswith("tcp:0.0.0.0:") and six.startswith("tcp:[::]:")
    assert port_of(four) == port_of(six)
    assert echod.echo(port=port_of(four)) == b"hello\n"
    assert echod.echo(host="::1", port=port_of(six)) == b"hello\n"
    echod.restart()
    assert ["tcp:" + a for a in addresses(echod)] == [four, six]


def test_print_ports_in_the_foreground(echod: Echod) -> None:
    """As soon as it serves, in one piece, though stdout is a pipe."""
    process = echod.foreground("--print-ports", "-p", "0", ready=False, stdout=subprocess.PIPE)
    assert process.stdout is not None
    name, address = process.stdout.readline().split()
    assert name == "line" and address.startswith("tcp:127.0.0.1:")
    assert echod.echo(port=port_of(address)) == b"hello\n"
    echod.await_ready()
    process.stdout.close()


def test_print_ports_prints_nothing_when_the_start_fails(echod: Echod) -> None:
    echod.configure(line(echod, "127.0.0.1%no-such-device:0"))
    done = echod.start("--print-ports", expect=1)
    assert done.stdout == "" and "no-such-device" in done.stderr


# ---- Names of ports, interfaces ------------------------------------------------------------------

@pytest.mark.needs_root
def test_names_of_ports(echod: Echod) -> None:
    """In a network of its own, where the ports of others are free."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    try:
        wanted = socket.getservbyname("echo", "tcp"), socket.getservbyname("domain", "udp")
    except OSError:
        pytest.skip("needs /etc/services")
    echod.configure(line(echod, "127.0.0.1:echo", "udp:0.0.0.0:domain", protocol="echo"))
    up = ("import fcntl, os, socket, struct, sys\n"
          "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
          "fcntl.ioctl(s, 0x8914, struct.pack('16sH22x', b'lo', 1))\n"
          "os.execv(sys.argv[1], sys.argv[1:])\n")
    echod.run_command(["unshare", "-n", sys.executable, "-c", up, *echod.command("start")],
                      expect=0)
    echod.adopt()
    assert addresses(echod) == [f"127.0.0.1:{wanted[0]}", f"udp:0.0.0.0:{wanted[1]}"]


def test_a_name_that_is_no_port_is_said(echod: Echod) -> None:
    echod.configure(line(echod, "*:no-such-service"))
    assert "no service of tcp has that name" in echod.start(expect=6).stderr


def test_an_interface(echod: Echod) -> None:
    echod.configure(line(echod, f"*%lo:{echod.port}"))
    try:
        echod.start()
    except AssertionError as error:
        if "Operation not permitted" in str(error):
            pytest.skip("only root may bind to an interface here")
        raise
    assert say(socket.AF_INET, ("127.0.0.1", echod.port)) == LINE
    assert addresses(echod)[0] == f"0.0.0.0%lo:{echod.port}"
    echod.restart()
    assert say(socket.AF_INET, ("127.0.0.1", echod.port)) == LINE


def test_an_interface_that_there_is_not_is_said(echod: Echod) -> None:
    echod.configure(line(echod, f"127.0.0.1%nothing:{echod.port}"))
    done = echod.start(expect=1)
    assert f"interface of 127.0.0.1%nothing:{echod.port}: No such device" in done.stderr


@pytest.mark.parametrize("a, b", [
    ("udp:*:{port}", "udp:*:{port}"), ("unix:{dir}/x", "unix:{dir}/x"), ("unix:@x", "unix:@x"),
    ("unix:{dir}/x", "unixgram:{dir}/x"), ("*%lo:{port}", "tcp:*%lo:{port}"),
])
def test_the_same_address_twice_is_a_mistake(echod: Echod, a: str, b: str) -> None:
    names = {"port": echod.port, "dir": echod.dir}
    echod.configure(line(echod, a.format(**names)), line(echod, b.format(**names), name="second"))
    assert "is already used at" in echod.run("check", expect=6).stderr


def test_addresses_that_only_look_alike(echod: Echod) -> None:
    names = {"port": echod.port, "dir": echod.dir}
    for a, b in (("tcp:*:{port}", "udp:*:{port}"), ("*:0", "*:0"), ("unix:@x", "unixgram:@x"),
                 ("*:{port}", "*%lo:{port}"), ("unix:{dir}/x", "unix:@{dir}/x")):
        echod.configure(line(echod, a.format(**names)),
                        line(echod, b.format(**names), name="second"))
        echod.run("check", expect=0)


@needs_ipv6
def test_one_socket_for_both_families(echod: Echod) -> None:
    needs_key("v6only")
    echod.configure(line(echod, f"[0::0]:{echod.port}", v6only=False))
    echod.start()
    assert addresses(echod) == [f"[::]:{echod.port}"]
    assert say(socket.AF_INET, ("127.0.0.1", echod.port)) == LINE
    echod.configure(line(echod, f"[::]:{echod.port}", v6only=False))
    echod.restart()
    assert say(socket.AF_INET, ("127.0.0.1", echod.port)) == LINE
    assert say(socket.AF_INET6, ("::1", echod.port)) == LINE
    echod.configure(line(echod, f"[::]:{echod.port}", v6only=True))
    echod.restart()
    assert say(socket.AF_INET6, ("::1", echod.port)) == LINE
    wait_until(lambda: refuses(echod), seconds(5))


def test_options_of_sockets_do_not_hinder(echod: Echod, path: Path) -> None:
    """All at once, on every kind of socket, MPTCP as well."""
    options = {"mptcp": True, "receive_buffer": 65536, "send_buffer": 65536, "tos": 16, "ttl": 64,
               "mss": 1000, "fastopen": 16, "user_timeout": 30}
    needs_key(*options)
    echod.configure(line(echod, f"127.0.0.1:{echod.port}", f"unix:{path}", **options))
    echod.start()
    assert say(socket.AF_INET, ("127.0.0.1", echod.port)) == LINE == say_unix(path)
    echod.configure(line(echod, f"127.0.0.1:{echod.port}", f"unix:{path}"))
    echod.restart()
    assert say(socket.AF_INET, ("127.0.0.1", echod.port)) == LINE == say_unix(path)


# ---- Sockets of a service manager ---------------------------------------------------------------

# What systemd does: the sockets stand from descriptor 3 on, and LISTEN_PID is who executes echod.
PASS = """
import os, sys
fds, names = [int(n) for n in sys.argv[1].split(",")], sys.argv[2]
high = [os.dup2(os.dup(fd), 200 + i) for i, fd in enumerate(fds)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
    os.close(fd)
os.environ["LISTEN_FDS"] = str(len(fds))
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[3]))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(sys.argv[4], sys.argv[4:])
"""


class Manager:
    """A service manager that has sockets for echod."""

    def __init__(self, echod: Echod) -> None:
        self.echod = echod
        self.sockets: list[socket.socket] = []

    def tcp(self, listening: bool = True) -> int:
        """A new TCP socket; its port."""
        one = socket.socket()
        self.sockets.append(one)
        one.bind(("127.0.0.1", 0))
        if listening:
            one.listen()
        return one.getsockname()[1]

    def other(self, family: int, kind: int, address: Any) -> socket.socket:
        one = socket.socket(family, kind)
        self.sockets.append(one)
        one.bind(address)
        return one

    def command(self, names: str, *args: str, wrong_pid: bool = False) -> list[str]:
        fds = ",".join(str(one.fileno()) for one in self.sockets)
        return [sys.executable, "-c", PASS, fds, names, str(int(wrong_pid)),
                *self.echod.command("start", *args)]

    def start(self, names: str = "-", *args: str, expect: int = 0,
              wrong_pid: bool = False) -> subprocess.CompletedProcess[str]:
        if expect != 0:
            self.echod.expect_log("cannot start: ")
        done = self.echod.run_command(self.command(names, *args, wrong_pid=wrong_pid),
                                      expect=expect,
                                      pass_fds=[one.fileno() for one in self.sockets])
        if expect == 0:
            self.echod.adopt()
        return done

    def close(self) -> None:
        for one in self.sockets:
            one.close()


@pytest.fixture
def manager(echod: Echod) -> Iterator[Manager]:
    one = Manager(echod)
    yield one
    one.close()


def test_passed_sockets_take_the_place_of_listen(echod: Echod, manager: Manager) -> None:
    """By the name of a service; of others, listen holds. Listening already, or not yet."""
    ports = [manager.tcp(), manager.tcp(listening=False)]
    manager.other(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{echod.dir}")
    unused, own = echod.another_port(), echod.port
    echod.configure(line(echod, f"127.0.0.1:{unused}"),
                    line(echod, f"127.0.0.1:{own}", name="second"))
    manager.start("line:line:line")
    assert addresses(echod) == [f"127.0.0.1:{port}" for port in ports] + [f"unix:@{echod.dir}"]
    assert addresses(echod, "second") == [f"127.0.0.1:{own}"]
    for port in (*ports, own):
        for _ in range(6):
            assert say(socket.AF_INET, ("127.0.0.1", port)) == LINE
    assert say_unix(f"@{echod.dir}") == LINE
    assert refuses(echod, unused)


@pytest.mark.parametrize("names", ["-", "unknown", "echod.socket"])
def test_passed_without_a_name_they_are_for_the_only_service(echod: Echod, manager: Manager,
                                                             names: str) -> None:
    port = manager.tcp()
    echod.configure(line(echod, f"127.0.0.1:{echod.port}"), echod.program("p", echod.sleeper, 1000))
    manager.start(names)
    assert say(socket.AF_INET, ("127.0.0.1", port)) == LINE


@pytest.mark.parametrize("names", ["-", "a.socket", "nobody", "p"])
def test_passed_sockets_that_are_nobodys_are_said(echod: Echod, manager: Manager,
                                                  names: str) -> None:
    manager.tcp()
    echod.configure(line(echod, f"127.0.0.1:{echod.port}"),
                    line(echod, "127.0.0.1:0", name="second"),
                    echod.program("p", echod.sleeper, 1000))
    done = manager.start(names, expect=6)
    assert "set FileDescriptorName= in its socket unit" in done.stderr


def test_passed_to_another_process_is_not_for_us(echod: Echod, manager: Manager) -> None:
    port = manager.tcp()
    echod.configure(line(echod, f"127.0.0.1:{echod.port}"))
    manager.start(wrong_pid=True)
    assert addresses(echod) == [f"127.0.0.1:{echod.port}"]
    manager.close()
    wait_until(lambda: refuses(echod, port), seconds(5))


def test_passed_things_that_are_no_listening_sockets_are_said(echod: Echod, manager: Manager,
                                                              tmp_path: Path) -> None:
    echod.configure(line(echod, f"127.0.0.1:{echod.port}"))
    pair = socket.socketpair()
    manager.sockets += pair
    assert "is a connection" in manager.start(expect=1).stderr
    manager.close()
    manager.sockets = [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)]
    assert "neither TCP, UDP nor Unix" in manager.start(expect=1).stderr
    assert "not as many names" in manager.start("line:line", expect=1).stderr
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        manager.close()
        manager.sockets = [socket.socket(socket.AF_INET, kind)]
        assert "is not bound to any address" in manager.start(expect=1).stderr


def test_limits_of_datagrams_hold_for_passed_sockets(echod: Echod, manager: Manager) -> None:
    """Also after restarts, and for a service that does not ask for datagrams itself."""
    where = manager.other(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)).getsockname()
    echod.configure(line(echod, "127.0.0.1:0", protocol="echo", workers=1, max_datagram_rate=1))
    manager.start("line")
    for _ in range(2):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(seconds(10))
            client.connect(where)
            refused = echod.service_status()["counters"]["datagrams_rate"]
            for _ in range(10):
                client.send(b"x")
            assert client.recv(100) == b"x"
            wait_until(lambda: echod.service_status()["counters"]["datagrams_rate"] > refused,
                       seconds(10))
        echod.restart()


def test_passed_sockets_outlast_restarts_and_stops(echod: Echod, manager: Manager) -> None:
    """They cannot be opened again: who comes while the service is stopped is served later."""
    port = manager.tcp()
    echod.configure(line(echod, "127.0.0.1:0"))
    manager.start("line")
    manager.close()
    echod.restart()
    assert say(socket.AF_INET, ("127.0.0.1", port)) == LINE
    echod.tell("stop", "line")
    with echod.connect(port=port) as client:
        client.sendall(LINE)
        echod.restart()
        echod.start_service("line")
        assert client.recv(100) == LINE
    echod.restart()
    assert say(socket.AF_INET, ("127.0.0.1", port)) == LINE
    echod.stop()
    assert refuses(echod, port)


def test_passed_sockets_in_the_foreground(echod: Echod, manager: Manager) -> None:
    port = manager.tcp()
    echod.configure(line(echod, "127.0.0.1:0"))
    echod.process = subprocess.Popen(manager.command("line", "-F"), env=echod.env, text=True,
                                     pass_fds=[manager.sockets[0].fileno()],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE)
    echod.await_ready()
    assert say(socket.AF_INET, ("127.0.0.1", port)) == LINE
    echod.restart()
    assert say(socket.AF_INET, ("127.0.0.1", port)) == LINE
    assert b"LISTEN_" not in Path(f"/proc/{echod.pid}/environ").read_bytes()


# ---- Every kind at once -------------------------------------------------------------------------

@pytest.mark.parametrize("address", ["udp:127.0.0.1:{port}", "unix:{dir}/x", "unixgram:{dir}/x",
                                     "unix:@{dir}"])
def test_the_watchdog_knows_a_hung_worker_from_an_idle_one(echod: Echod, address: str) -> None:
    """On sockets of which nobody can tell who waits there, too."""
    echod.expect_log("SIGABRT")
    echod.configure(line(echod, address.format(port=echod.port, dir=echod.dir), protocol="echo"),
                    watchdog=2)
    echod.start()
    hung, idle = echod.row("line/0")["pid"], echod.row("line/1")["pid"]
    os.kill(hung, signal.SIGSTOP)
    echod.await_state("line/0", but=hung)
    assert echod.row("line/1")["pid"] == idle
    assert len(re.findall("gives no sign of life", echod.log_text())) == 1


def test_any_way_to_listen_follows_any_other(echod: Echod, path: Path) -> None:
    """Restarts from each to each; what was given up is free for others."""
    tcp, there = echod.port, ("127.0.0.1", echod.port)

    def ask_datagram(family: int, own: Any, address: Any) -> bytes:
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.bind(own)
            client.settimeout(seconds(10))
            client.sendto(LINE, address)
            return client.recv(100)

    ways: dict[str, tuple[Any, Callable[[], bytes]]] = {
        "tcp": (line(echod, f"127.0.0.1:{tcp}"), lambda: say(socket.AF_INET, there)),
        "all": (line(echod, f"*:{tcp}", workers=3), lambda: say(socket.AF_INET, there)),
        "mptcp": (line(echod, f"127.0.0.1:{tcp}", mptcp=True),
                  lambda: say(socket.AF_INET, there)),
        "udp": (line(echod, f"udp:127.0.0.1:{tcp}", protocol="echo"),
                lambda: ask_datagram(socket.AF_INET, ("127.0.0.1", 0), there)),
        "unix": (line(echod, f"unix:{path}"), lambda: say_unix(path)),
        "unixgram": (line(echod, f"unixgram:{path}.d", protocol="echo"),
                     lambda: ask_datagram(socket.AF_UNIX, "", f"{path}.d")),
    }
    if has_ipv6():
        ways["both"] = (line(echod, f"[::]:{tcp}", v6only=False),
                        lambda: say(socket.AF_INET, there))
    echod.configure(ways["tcp"][0])
    echod.start()
    for first in ways:
        for second in ways:
            for way in (first, second):
                echod.configure(ways[way][0])
                echod.restart()
                assert ways[way][1]() == LINE, f"{way}, from {first} to {second}"
                assert path.exists() == (way == "unix")
                assert Path(f"{path}.d").exists() == (way == "unixgram")


def test_a_socket_moves_with_its_file_from_service_to_service(echod: Echod, by_path: Path) -> None:
    """Who has come and was not accepted yet is served by the new one."""
    before = by_path.stat().st_ino
    for protocol, name in (("echo", "second"), ("line", "third")):
        echod.configure(line(echod, f"unix:{by_path}", name=name, protocol=protocol,
                             socket_mode="0600"))
        echod.restart()
        assert addresses(echod, name) == [f"unix:{by_path}"]
        assert say_unix(by_path) == LINE
        assert by_path.stat().st_ino == before


def test_restarts_leave_no_descriptor_open(echod: Echod, manager: Manager) -> None:
    """Of every kind of socket, in supervisor and workers; refused restarts, stops and starts."""
    echod.expect_log("restart in place refused")
    manager.other(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
    services = [
        line(echod, f"127.0.0.1:{echod.port}", "127.0.0.1:0", f"unix:{echod.dir}/stream",
             name="streams", max_connections=100),
        line(echod, f"udp:127.0.0.1:{echod.port}", f"unixgram:{echod.dir}/datagram",
             name="datagrams", protocol="echo", max_connections=10),
        line(echod, "127.0.0.1:0", name="passed", protocol="echo")]

    def descriptors() -> list[list[str]]:
        """What each process has open; nothing when one has just ended."""
        with contextlib.suppress(OSError):
            return [sorted(re.sub(r"\d+", "N", target) for target in process.fds.values())
                    for process in (echod.supervisor, *echod.workers())]
        return []

    def refused_restart() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            echod.configure(*services, line(echod, f"unix:{echod.dir}/other",
                                            f"127.0.0.1:{taken.getsockname()[1]}", name="other"))
            echod.restart(expect=1)
        echod.configure(*services)

    echod.configure(*services)
    manager.start("passed")
    echod.restart()
    # Former workers may take a moment to end, and so long the supervisor holds what is theirs.
    wait_until(lambda: len(echod.status()["processes"]) == 6, seconds(5))
    before = descriptors()
    assert len(before) == 7
    for number in range(20):
        if number % 5 == 1:
            refused_restart()
        elif number % 5 == 3:
            for name in ("streams", "datagrams", "passed"):
                echod.tell("stop", name)
                echod.start_service(name)
        echod.restart()
    wait_until(lambda: descriptors() == before, seconds(5))


# ---- inetd --------------------------------------------------------------------------------------

def inetd(echod: Echod, client: socket.socket, *args: str,
          option: str = "--inetd") -> subprocess.Popen[bytes]:
    """As inetd starts a server: the socket is 0, 1 and 2."""
    where = ["-f", str(echod.config)] if echod.config else []
    settings = [] if echod.config else ["-o", f"log.target=file:{echod.log_path}"]
    return subprocess.Popen([str(echod.executable), option, *where, *settings, *args],
                            stdin=client, stdout=client, stderr=client, env=echod.env)


def test_inetd_serves_a_connection(echod: Echod) -> None:
    """Unix or TCP; until the client has had all, then exit status 0."""
    client, server = socket.socketpair()
    with client, server:
        process = inetd(echod, server, "-o", "services.line.max_lines=0")
        server.close()
        client.settimeout(seconds(10))
        client.sendall(b"one\ntwo\n")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"one\ntwo\n"
        assert process.wait(seconds(10)) == 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname(), seconds(10)) as client:
            server, _ = listener.accept()
            with server:
                process = inetd(echod, server)
            client.sendall(b"one\ntwo\n")
            assert read_to_end(client) == b"one\n", "the built-in service answers one line"
            assert process.wait(seconds(10)) == 0


def test_inetd_waits_on_a_listening_socket(echod: Echod) -> None:
    """Until nobody has come for idle_timeout; the socket stays that of who started it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = inetd(echod, listener, "-o", "services.line.idle_timeout=1")
        begun = time.monotonic()
        with echod.connect(port=port) as client:
            client.sendall(LINE)
            assert client.recv(100) == LINE
        while time.monotonic() - begun < 1.2:
            assert echod.echo(port=port) == b"hello\n"
        assert process.wait(seconds(10)) == 0
        listener.settimeout(seconds(5))
        with echod.connect(port=port) as client:
            listener.accept()[0].close()


def test_inetd_takes_the_service_that_is_named(echod: Echod) -> None:
    echod.configure(line(echod, "127.0.0.1:0"),
                    line(echod, "127.0.0.1:0", name="second", protocol="echo"))
    client, server = socket.socketpair()
    with client, server:
        process = inetd(echod, server, option="--inetd=second")
        server.close()
        client.settimeout(seconds(10))
        client.sendall(b"no line")
        assert client.recv(100) == b"no line"
        client.shutdown(socket.SHUT_WR)
        assert process.wait(seconds(10)) == 0


@pytest.mark.parametrize("option, args, code, said", [
    ("--inetd", ("-o", "nothing=1"), 6, "there is no setting"),
    ("--inetd=nobody", (), 6, "there is no service 'nobody'"),
    ("--inetd", ("--nonsense",), 2, ""),
])
def test_inetd_says_what_is_wrong_to_the_log_only(echod: Echod, option: str, args: tuple[str, ...],
                                                  code: int, said: str) -> None:
    echod.expect_log(".")
    client, server = socket.socketpair()
    with client, server:
        process = inetd(echod, server, *args, option=option)
        server.close()
        assert process.wait(seconds(10)) == code
        assert read_to_end(client) == b""
    assert said in echod.log_text()


@pytest.mark.parametrize("family, kind", [(socket.AF_UNIX, socket.SOCK_SEQPACKET),
                                          (socket.AF_NETLINK, socket.SOCK_RAW)])
def test_inetd_serves_no_other_sockets(echod: Echod, family: int, kind: int) -> None:
    echod.expect_log("is no socket of connections or datagrams")
    with socket.socket(family, kind) as one:
        assert inetd(echod, one).wait(seconds(10)) == 1


def test_inetd_refuses_as_a_daemon_does(echod: Echod) -> None:
    """That is no failure; nor is a client that has gone already."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for reset in (False, True):
            with socket.create_connection(listener.getsockname(), seconds(10)) as client:
                server, _ = listener.accept()
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                      struct.pack("ii", 1, 0))
                    client.close()
                with server:
                    process = inetd(echod, server, "-o", "services.line.access=deny *")
                assert reset or read_to_end(client) == b""
                assert process.wait(seconds(10)) == 0
    assert "refused: access" in echod.log_text()


def test_inetd_serves_datagrams(echod: Echod) -> None:
    """Those, too, that have waited for it; until nobody sends any more."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(seconds(10))
            client.connect(server.getsockname())
            client.send(b"first")
            process = inetd(echod, server, "-o", "services.line.idle_timeout=1")
            assert client.recv(100) == b"first"
            client.send(b"second")
            assert client.recv(100) == b"second"
            assert process.wait(seconds(10)) == 0


def test_inetd_needs_a_socket(echod: Echod) -> None:
    echod.expect_log("no socket")
    done = subprocess.run([str(echod.executable), "--inetd"], stdin=subprocess.DEVNULL,
                          capture_output=True, env=echod.env, timeout=seconds(10))
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@pytest.mark.needs_root
def test_inetd_gives_up_root(echod: Echod) -> None:
    client, server = socket.socketpair()
    with client, server:
        process = inetd(echod, server, "-o", "user=nobody", "-o", "services.line.max_lines=0")
        server.close()
        client.settimeout(seconds(10))
        client.sendall(LINE)
        assert client.recv(100) == LINE
        status = Path(f"/proc/{process.pid}/status").read_text()
        nobody = pwd.getpwnam("nobody").pw_uid
        assert re.search(rf"^Uid:\s+{nobody}\s+{nobody}\s+{nobody}", status, re.MULTILINE)
        for number in (0, 1, 2):
            assert os.readlink(f"/proc/{process.pid}/fd/{number}") == "/dev/null"
        client.close()
        assert process.wait(seconds(10)) == 0


def test_inetd_is_no_verb(echod: Echod) -> None:
    """And of a wrong command line, nothing reaches what may be a client."""
    done = echod.run_command([str(echod.executable), "stop", "--inetd", "-P", str(echod.pidfile)],
                             expect=2)
    assert done.stdout == done.stderr == ""
