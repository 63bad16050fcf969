"""
Records what echod costs now as what it may cost: `make record-cost REASON="..."`.

It measures three times and keeps the medians; figures that are not the same each time are refused.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

from echod import executable
from measure import measure
from records import HOW, Figures, Records, figures_of
from toolchain import toolchain

TIMES = 3
SPREAD = 0.015  # between the lowest and the highest


def medians(kind: str, found: list[Figures]) -> dict[str, float]:
    """Print how far the figures are from each other; the median of each."""
    print(kind)
    result = {}
    for name in found[0][kind]:
        values = sorted(figures[kind][name] for figures in found)
        spread = values[-1] / values[0] - 1
        print(f"  {name:36} {' '.join(f'{value:8g}' for value in values)}  spread {spread:.2%}")
        if spread > SPREAD:
            raise SystemExit(f"{name}: the counts differ by more than {SPREAD:.1%}; nothing was "
                             "recorded")
        result[name] = statistics.median(values)
    return result


def main() -> None:
    reason = os.environ.get("REASON", "").strip()
    path = Path(__file__).with_name("recorded.json")
    if not reason:
        raise SystemExit(f"record-cost: say why the figures are right: {HOW}")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise SystemExit(f"record-cost: {path} cannot be written; record in a clone of your own")
    this = toolchain(executable(), Path.cwd())
    found = [figures_of(measure()) for _ in range(TIMES)]
    Records(path).put(this, {kind: medians(kind, found) for kind in found[0]}, reason)
    print(f"Recorded in {path}.")


main()
