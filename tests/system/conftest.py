"""
Fixtures of the system tests.

    ECHOD=/prefix/sbin/echod python3 -m pytest -n 4 tests/system

The driver (echod.py) says which other variables there are. Each test gets a daemon, a directory and
a port of its own, so any number of tests may run beside each other.
"""

from __future__ import annotations

import os
from typing import Callable, Iterator

import pytest

import echod as driver

TIME_LIMIT = 60  # seconds a test, unless it has a mark of its own

MARKERS = (
    "needs_root: looks at what only root's daemon does; skipped for an ordinary user",
    "slow: takes more than a few seconds",
    "valgrind_subset: also runs with the daemon under valgrind (ECHOD_WRAPPER)",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    try:
        driver.executable()
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("needs_root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        if driver.WRAPPER and not item.get_closest_marker("valgrind_subset"):
            item.add_marker(pytest.mark.skip(reason="not in the subset for ECHOD_WRAPPER"))
        limit = item.get_closest_marker("timeout")
        limit = limit.args[0] if limit else TIME_LIMIT
        # The nearest mark wins: put the scaled one in front.
        item.add_marker(pytest.mark.timeout(driver.seconds(limit)), append=False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember on the item whether the test itself failed, and show the daemons' logs if so."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.stash[FAILED] = True
        for one in item.stash.get(DAEMONS, []):
            report.sections.append((f"log of {one.dir}", one.log_text()[-20000:]))


FAILED = pytest.StashKey[bool]()
DAEMONS = pytest.StashKey[list]()


@pytest.fixture
def make_echod(request: pytest.FixtureRequest) -> Iterator[Callable[..., driver.Echod]]:
    """Makes any number of daemons' surroundings; each is checked at the end of the test."""
    made: list[driver.Echod] = []
    request.node.stash[DAEMONS] = made

    def make(name: str = "echod") -> driver.Echod:
        made.append(driver.Echod(name))
        return made[-1]

    yield make

    failed = request.node.stash.get(FAILED, False)
    wrong = []
    for one in made:
        try:
            if failed:
                one.discard()  # its own report says enough
            else:
                one.finish()
        except AssertionError as error:
            wrong.append(str(error))
    if wrong:
        pytest.fail("after the test: " + "\n".join(wrong), pytrace=False)
    for one in made:
        if not failed:
            one.remove()


@pytest.fixture
def echod(make_echod: Callable[..., driver.Echod]) -> driver.Echod:
    """One daemon's surroundings; nothing runs yet."""
    return make_echod()
