"""
What clients do, and what of it is divided by what: the cost of a line, a connection, a datagram.

Each conversation is held twice, for a few turns and for many. The difference is what the further
turns cost; it is free of what marks, beginnings and ends cost.
"""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Callable

from echod import read_exactly, read_to_end, seconds
from stage import PATIENCE, Stage

CONNECTIONS = 50
PIPELINED = 16  # lines in a segment
WINDOW = 16     # datagrams
LINE = b"0123456789abcdef0123456789abcde\n"
LONG_LINE = b"x" * 4095 + b"\n"

# "instructions", or system calls by name.
Counts = Counter[str]


# ---- Clients and their turns --------------------------------------------------------------------

Clients = list[socket.socket]


def talkers(stage: Stage, number: int) -> Clients:
    clients = [stage.connect("line") for _ in range(number)]
    stage.connections += number
    return clients


def sender(stage: Stage) -> Clients:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(seconds(PATIENCE))
    client.connect(("127.0.0.1", stage.ports["line"]))
    return [client]


def nobody(_: Stage) -> Clients:
    return []


def one_line(stage: Stage, clients: Clients, data: bytes = LINE) -> None:
    """A client sends a line and reads it back."""
    [client] = clients
    stage.settle("line")
    client.sendall(data)
    assert read_exactly(client, len(data)) == data


def a_line_of_each(stage: Stage, clients: Clients, data: bytes = LINE) -> None:
    """Every client sends in one segment, then every client reads."""
    with stage.halted("line"):
        for client in clients:
            client.sendall(data)
    for client in clients:
        assert read_exactly(client, len(data)) == data


def one_connection(stage: Stage, _: Clients) -> None:
    """Connect, send a line, read until the server closes."""
    stage.settle("once")
    with stage.connect("once") as client:
        client.sendall(LINE)
        assert read_to_end(client) == LINE


def one_prompt_connection(stage: Stage, _: Clients) -> None:
    """The same where accepting is not deferred, and the client takes its time."""
    stage.settle("prompt")
    with stage.connect("prompt") as client:
        stage.await_connections("prompt", more=1)
        client.sendall(LINE)
        assert read_to_end(client) == LINE


def one_lingering_connection(stage: Stage, _: Clients) -> None:
    """The same, with bytes behind the line: the server must not close before the client has."""
    stage.settle("once")
    with stage.connect("once") as client:
        client.sendall(LINE + b"more")
        assert read_to_end(client) == LINE
    stage.await_connections("once")


def datagrams(stage: Stage, clients: Clients, number: int) -> None:
    """So many at once. No two are the same: one that comes back again would be part of a loop."""
    [client] = clients
    sent = [b"%031d\n" % (stage.serial + i) for i in range(number)]
    stage.serial += number
    if number == 1:
        stage.settle("line")
        client.send(sent[0])
    else:
        with stage.halted("line"):
            for data in sent:
                client.send(data)
    assert [client.recv(len(LINE) + 1) for _ in sent] == sent


@dataclass(frozen=True)
class Conversation:
    """What is measured: some clients, and what they do in each turn."""

    name: str
    service: str
    clients: Callable[[Stage], Clients]
    turn: Callable[[Stage, Clients], None]
    turns: tuple[int, int]
    units: int = 1      # of what is named, in a turn
    shutdowns: int = 0  # in a turn


LINE_AT_1 = "line, 1 connection"
LINE_AT_50 = f"line, {CONNECTIONS} connections"
SEGMENT = f"{PIPELINED} pipelined lines, {CONNECTIONS} connections"
FURTHER = "each further pipelined line"
LINE_OF_4K = "line of 4 KiB, 1 connection"
CONNECTION = "connection of one line"
NOT_DEFERRED = "connection of one line, not deferred"
LINGERING = "connection of one line that lingers"
DATAGRAM = "datagram"
WINDOWFUL = f"{WINDOW} datagrams in a window"
IN_WINDOW = f"datagram in a window of {WINDOW}"

CONVERSATIONS = (
    Conversation(LINE_AT_1, "line", partial(talkers, number=1), one_line, (20, 220)),
    Conversation(LINE_AT_50, "line", partial(talkers, number=CONNECTIONS), a_line_of_each,
                 (10, 60), units=CONNECTIONS),
    Conversation(SEGMENT, "line", partial(talkers, number=CONNECTIONS),
                 partial(a_line_of_each, data=LINE * PIPELINED), (10, 60), units=CONNECTIONS),
    Conversation(LINE_OF_4K, "line", partial(talkers, number=1), partial(one_line, data=LONG_LINE),
                 (20, 220)),
    Conversation(CONNECTION, "once", nobody, one_connection, (20, 220), shutdowns=1),
    Conversation(NOT_DEFERRED, "prompt", nobody, one_prompt_connection, (10, 110),
                 shutdowns=1),
    Conversation(LINGERING, "once", nobody, one_lingering_connection, (10, 110), shutdowns=1),
    Conversation(DATAGRAM, "line", sender, partial(datagrams, number=1), (20, 220)),
    Conversation(WINDOWFUL, "line", sender, partial(datagrams, number=WINDOW), (10, 60)),
)


@dataclass(frozen=True)
class Held:
    """A conversation that was held: between which cuts lie the few turns and the many."""

    what: Conversation
    cuts: tuple[int, int, int]

    def cost(self, pieces: list[Counts]) -> dict[str, float]:
        """Of one unit; `pieces` are what was counted before the first cut, up to the next, ..."""
        begin, middle, end = self.cuts
        many = sum(pieces[middle:end], Counter())
        few = sum(pieces[begin:middle], Counter())
        few_turns, many_turns = self.what.turns
        units = (many_turns - few_turns) * self.what.units
        return {name: round((many[name] - few[name]) / units, 3)
                for name in sorted(many | few) if many[name] != few[name]}


def hold(stage: Stage, what: Conversation) -> Held:
    clients = what.clients(stage)
    stage.await_connections(what.service)

    def turns(number: int) -> None:
        for _ in range(number):
            what.turn(stage, clients)
            stage.cuts[what.service] += what.shutdowns

    turns(1)  # what only the first costs
    few, many = what.turns
    begin = stage.mark(what.service)
    turns(few)
    middle = stage.mark(what.service)
    turns(many)
    end = stage.mark(what.service)
    for client in clients:
        client.close()
    stage.connections = 0
    stage.await_connections(what.service)
    return Held(what, (begin, middle, end))
