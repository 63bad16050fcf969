"""
Trains of datagrams, which clients send as one message (udp(7), UDP_SEGMENT): each datagram of them
is answered, judged and counted as if it had come alone, and replies that leave together look to a
client as if they had not.
"""

from __future__ import annotations

import random
import socket
import struct
import time

import pytest

from echod import Echod, seconds
from networks import Cable, ip
from procfs import wait_until
from test_addresses import needs_ipv6
from test_datagrams import (BUFFER, HOST, PATIENCE, UDP_MOST, ask, assert_nothing_came, cable,
                            counters, echo_service, halted, network,
                            restart_by_hangup, serve, udp)
from test_proxy import v2

__all__ = ["cable", "network"]  # fixtures

UDP_SEGMENT, UDP_GRO = 103, 104  # linux/udp.h

TRAINS = [(2, 1), (64, 1), (2000, 100), (2037, 100), (101, 100), (64 * 512, 512),
          (64 * 1023, 1023), (UDP_MOST, 1472), (60000, 9000), (UDP_MOST, 65000)]


def kernel_has_trains() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
            any_socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        except OSError:
            return False
    return True


pytestmark = pytest.mark.skipif(not kernel_has_trains(), reason="the kernel has no trains")

both_families = pytest.mark.parametrize("host", [HOST, pytest.param("::1", marks=needs_ipv6)])


# ---- Tools --------------------------------------------------------------------------------------

def send_train(client: socket.socket, data: bytes, segment: int) -> list[bytes]:
    """One message; returns the datagrams that it is."""
    size = struct.pack("@H", segment)
    assert client.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, size)]) == len(data)
    return [data[at:at + segment] for at in range(0, len(data), segment)]


def datagrams(client: socket.socket, number: int) -> list[bytes]:
    """As many as come, and there must be no more."""
    got = [client.recv(1 << 17) for _ in range(number)]
    assert_nothing_came(client)
    return got


def large_queue(client: socket.socket) -> socket.socket:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return client


def assert_train_returns(client: socket.socket, size: int, segment: int) -> int:
    sent = send_train(client, random.Random(size + segment).randbytes(size), segment)
    assert datagrams(client, len(sent)) == sent, (size, segment)
    return len(sent)


def await_fates(echod: Echod, number: int) -> dict[str, int]:
    """All of them came, and each was answered or not."""
    def all_have() -> bool:
        now = counters(echod)
        unanswered = ("datagrams_rate", "datagrams_port", "refused_access", "datagrams_unsent",
                      "refused_proxy")
        return (now["datagrams"] == number and
                now["datagram_replies"] + sum(now[name] for name in unanswered) == number)
    wait_until(all_have, seconds(PATIENCE), f"{number} datagrams have their fate")
    return counters(echod)


# ---- Answers ------------------------------------------------------------------------------------

@both_families
@pytest.mark.valgrind_subset
def test_a_train_comes_back_datagram_by_datagram(echod: Echod, host: str) -> None:
    """To a client that knows nothing of trains; before and after a restart in place."""
    where = f"[{host}]" if ":" in host else host
    serve(echod, f"udp:{where}:{echod.port}", receive_buffer=BUFFER)
    with large_queue(udp(echod.port, host)) as client:
        number = sum(assert_train_returns(client, *train) for train in TRAINS)
        assert ask(client) == b"hello"
        restart_by_hangup(echod)
        number += sum(assert_train_returns(client, *train) for train in TRAINS)
    assert await_fates(echod, number + 1)["datagram_replies"] == number + 1
    assert counters(echod)["bytes_in"] == counters(echod)["bytes_out"]


@both_families
def test_a_client_that_takes_trains_is_given_trains(echod: Echod, host: str) -> None:
    """In one message each, so that the kernel's way is walked once for all of its datagrams."""
    where = f"[{host}]" if ":" in host else host
    serve(echod, f"udp:{where}:{echod.port}", receive_buffer=BUFFER)
    with large_queue(udp(echod.port, host)) as client:
        client.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        # The kernel takes trains apart until the worker receives from the socket.
        assert ask(client) == b"hello"
        for size, segment in ((6400, 100), (64 * 1000, 1000), (150, 100)):
            data = random.Random(size).randbytes(size)
            send_train(client, data, segment)
            got, extra, _, _ = client.recvmsg(1 << 17, 100)
            assert got == data
            assert [entry[:2] for entry in extra] == [(socket.IPPROTO_UDP, UDP_GRO)]
            assert struct.unpack("@i", extra[0][2]) == (segment,)
            assert_nothing_came(client)


def test_what_waits_is_answered_in_order(echod: Echod) -> None:
    """Of each client, whatever the sizes are; some of them can be joined, and some cannot."""
    serve(echod, receive_buffer=BUFFER)
    source = random.Random(11)
    sizes = [source.choice([0, 1, 50, 50, 50, 49, 51, 1400, 1400, 9000]) for _ in range(300)]
    clients = [large_queue(udp(echod.port)) for _ in range(5)]
    sent: list[list[bytes]] = [[] for _ in clients]
    with halted(*echod.workers()):
        for size in sizes:
            number = source.randrange(len(clients))
            data = source.randbytes(size)
            if size > 1 and source.random() < 0.2:
                sent[number] += send_train(clients[number], data, (size + 4) // 5)
            else:
                clients[number].send(data)
                sent[number].append(data)
    for client, expected in zip(clients, sent):
        assert datagrams(client, len(expected)) == expected
        client.close()


def test_replies_to_a_train_are_each_its_own(echod: Echod) -> None:
    """The protocol sees no trains: a transform, and one that tells the client's own datagram."""
    other = echod.another_port()
    echod.configure(
        echo_service(echod, protocol="line", transform="upper"),
        echo_service(echod, "other", protocol="whoami", listen=[f"udp:{HOST}:{other}"]))
    echod.start()
    with udp(echod.port) as client:
        sent = send_train(client, b"first second third sixth", 6)
        assert datagrams(client, 4) == [one.upper() for one in sent]
    with udp(other) as client:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xb8)
        assert len(send_train(client, b" " * 3000, 1000)) == 3
        for one in datagrams(client, 3):
            assert b'"ttl":33' in one.replace(b" ", b"") and b'"dscp":46' in one.replace(b" ", b"")


# ---- Rules --------------------------------------------------------------------------------------

def test_each_of_a_train_counts_for_the_rate(echod: Echod) -> None:
    serve(echod, max_datagram_rate=40, receive_buffer=BUFFER)
    with large_queue(udp(echod.port)) as client:
        begun = time.monotonic()
        for _ in range(3):
            send_train(client, random.Random(0).randbytes(64 * 100), 100)
        now = await_fates(echod, 192)
        elapsed = time.monotonic() - begun
    assert 40 <= now["datagram_replies"] <= 40 + 40 * elapsed + 1
    assert now["datagrams_rate"] == 192 - now["datagram_replies"]


def test_each_of_a_train_is_refused(echod: Echod) -> None:
    """By its source port, by the access rules, for want of a PROXY header; and counted."""
    port, other = echod.another_port(), echod.another_port()
    echod.configure(
        echo_service(echod, deny_source_ports=[port], access=["deny 127.0.0.9", "allow *"]),
        echo_service(echod, "other", listen=[f"udp:{HOST}:{other}"],
                     proxy_protocol="required", proxy_from=[HOST]))
    echod.start()
    with udp(echod.port, source=(HOST, port)) as denied, udp(
            echod.port, source=("127.0.0.9", 0)) as refused, udp(other) as bare:
        send_train(denied, bytes(1000), 100)
        send_train(refused, bytes(1050), 100)
        send_train(bare, bytes(1200), 100)
        now = await_fates(echod, 10 + 11 + 12)
        assert now["datagrams_port"] == 10
        assert now["refused_access"] == 11
        assert now["refused_proxy"] == 12
        for client in (denied, refused, bare):
            assert_nothing_came(client)
        headers = [v2() + b"%04d" % number for number in range(5)]
        send_train(bare, b"".join(headers), len(headers[0]))
        assert datagrams(bare, 5) == [b"%04d" % number for number in range(5)]


# ---- Routes that carry no trains ----------------------------------------------------------------

@pytest.mark.needs_root
@pytest.mark.parametrize("family", ["IPv4", pytest.param("IPv6", marks=needs_ipv6)])
def test_what_the_route_cuts_leaves_one_by_one(echod: Echod, cable: Cable, family: str) -> None:
    """Longer than its MTU, they cannot be a train; shorter ones can, before and afterwards."""
    here, alias = ((cable.HERE, cable.ALIAS) if family == "IPv4" else
                   (cable.HERE6, cable.ALIAS6))
    mtu = 600 if family == "IPv4" else 1280
    ip("link", "set", "near", "mtu", str(mtu))
    with cable.far_end():
        ip("link", "set", "far", "mtu", str(mtu))
    serve(echod, f"udp:*:{echod.port}", receive_buffer=BUFFER)
    with cable.far_end(), large_queue(udp(echod.port, alias)) as client, \
            large_queue(udp(echod.port, here)) as other:
        number = 0
        for size in (100, mtu - 48, mtu - 20, 2 * mtu, 100, mtu + 1):
            sent = [b"%04d" % index + bytes(size - 4) for index in range(20)]
            with halted(*echod.workers()):
                for one in sent:
                    client.send(one)
                    other.send(one)
            assert datagrams(client, 20) == sent, size
            assert datagrams(other, 20) == sent, size
            number += 40
        number += assert_train_returns(client, 6400, 100)
    now = await_fates(echod, number)
    assert now["datagram_replies"] == number and now["datagrams_unsent"] == 0
