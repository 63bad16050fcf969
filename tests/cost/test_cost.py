"""
The guard of what echod costs. tests/cost/run.sh runs it as part of `make check`, in the build
directory, where it leaves the table of all figures: cost.txt.

The ceilings hold for every toolchain; beside them, nothing may cost 3 % more than what was recorded
for this very toolchain. A change that is worth what it costs is recorded with its reason:
`make record-cost REASON="..."`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import echod as driver
from conversations import (CONNECTION, FURTHER, LINE_AT_1, LINE_AT_50, LINE_OF_4K, LINGERING,
                           NOT_DEFERRED, SEGMENT, WINDOWFUL)
from measure import Costs, measure
from records import CALLS, HOW, INSTRUCTIONS, Records, advice, growth, table
from toolchain import is_optimised, toolchain

CEILINGS = {
    INSTRUCTIONS: {
        LINE_AT_1: 750,
        LINE_AT_50: 450,
        FURTHER: 40,
    },
    CALLS: {
        CONNECTION: 8,
        # shutdown(2) is one of them, which saves a segment, and the poller's own epoll_wait(2).
        NOT_DEFERRED: 10,
        LINGERING: 11,
    },
}

# A line costs these and the share of one epoll_wait; so do many lines that come together.
EACH_ONCE = {
    LINE_AT_1: ("recvfrom", "sendto"),
    LINE_AT_50: ("recvfrom", "sendto"),
    SEGMENT: ("recvfrom", "sendto"),
    LINE_OF_4K: ("recvfrom", "sendto"),
    WINDOWFUL: ("recvmmsg", "sendmmsg"),
}


@dataclass(frozen=True)
class Found:
    """What this run is about."""

    costs: Costs
    toolchain: dict[str, str]
    record: dict[str, Any] | None


@pytest.fixture(scope="module")
def found() -> Found:
    this = toolchain(driver.executable(), Path.cwd())
    costs = measure()
    records = Records(Path(__file__).with_name("recorded.json"))
    record = records.of(this)
    text = table(costs, this, record, CEILINGS)
    text += "".join(f"\n{line}\n" for line in advice(costs, this, records))
    print("\n" + text)
    Path("cost.txt").write_text(text)
    return Found(costs, this, record)


@pytest.mark.parametrize("what", CEILINGS[INSTRUCTIONS])
def test_instructions_stay_below_the_ceiling(found: Found, what: str) -> None:
    if not is_optimised(found.toolchain["flags"]):
        pytest.skip("the ceilings are for builds that are optimised")
    now, ceiling = found.costs.instructions[what], CEILINGS[INSTRUCTIONS][what]
    if not 0 < now <= ceiling:
        pytest.fail(f"{what}: {now:g} instructions; the ceiling is {ceiling}", pytrace=False)


@pytest.mark.parametrize("what", CEILINGS[CALLS])
def test_system_calls_stay_below_the_ceiling(found: Found, what: str) -> None:
    now, ceiling = found.costs.total_calls()[what], CEILINGS[CALLS][what]
    if not 4 <= now <= ceiling:  # receive, send, close, and wait for what comes next
        pytest.fail(f"{what}: {now:g} system calls; the ceiling is {ceiling}: "
                    f"{found.costs.calls[what]}", pytrace=False)


@pytest.mark.parametrize("what", EACH_ONCE)
def test_one_call_receives_and_one_sends(found: Found, what: str) -> None:
    calls = dict(found.costs.calls[what])
    # How large a window is, is learnt: one call more or less in all its rounds.
    once = [round(calls.pop(name, 0), 1) for name in EACH_ONCE[what]]
    assert once == [1, 1], found.costs.calls[what]
    # A worker that was stopped has left epoll_wait for nothing once.
    assert calls.pop("epoll_wait", 0) + calls.pop("epoll_pwait", 0) <= 2
    assert sum(calls.values()) == 0, f"{calls} besides"


def test_epoll_never_knows_a_connection_of_one_line(found: Found) -> None:
    """One recv, as accepting was deferred until there was something to receive."""
    calls = found.costs.calls[CONNECTION]
    assert "epoll_ctl" not in calls
    assert calls["recvfrom"] == calls["sendto"] == calls["close"] == 1
    assert calls["accept4"] <= 2


def test_a_connection_that_is_accepted_before_it_speaks(found: Found) -> None:
    calls = found.costs.calls[NOT_DEFERRED]
    assert calls["epoll_ctl"] <= 2
    assert calls["recvfrom"] == calls["sendto"] == calls["close"] == 1
    assert calls["accept4"] <= 2


@pytest.mark.parametrize("kind", [INSTRUCTIONS, CALLS])
def test_nothing_costs_more_than_was_recorded(found: Found, kind: str) -> None:
    if found.record is None:
        pytest.skip("no figures are recorded for this toolchain")
    if grown := growth(kind, found.costs, found.record):
        pytest.fail("\n".join([*grown, f"If that is worth it: {HOW}"]), pytrace=False)
