"""
recorded.json: for each toolchain the figures that were found good, when, and why they are what they
are.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

from measure import Costs

TOLERANCE = 0.03  # of a recorded figure

INSTRUCTIONS, CALLS = "instructions", "system calls"
HOW = 'make record-cost REASON="..."'


# By kind, then by name.
Figures = dict[str, dict[str, float]]


def figures_of(costs: Costs) -> Figures:
    """All that is recorded."""
    return {INSTRUCTIONS: costs.instructions, CALLS: costs.total_calls()}


class Records:
    """The file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[dict[str, Any]] = json.loads(path.read_text())

    def of(self, toolchain: dict[str, str]) -> dict[str, Any] | None:
        return next((r for r in self.all if r["toolchain"] == toolchain), None)

    def nearest(self, toolchain: dict[str, str]) -> list[str]:
        """In what the most similar toolchain that has a record differs."""
        def differences(record: dict[str, Any]) -> list[str]:
            return [f"{key} '{record['toolchain'].get(key)}'" for key in toolchain
                    if record["toolchain"].get(key) != toolchain[key]]
        return min(map(differences, self.all), key=len, default=[])

    def put(self, toolchain: dict[str, str], figures: Figures, reason: str) -> None:
        """All figures are recorded anew; what they were goes into the history."""
        record = self.of(toolchain)
        if record is None:
            record = {"toolchain": toolchain, "history": []}
            self.all.append(record)
        record["history"].append({
            "date": datetime.date.today().isoformat(),
            "reason": reason,
            "was": {kind: record.get(kind) for kind in (INSTRUCTIONS, CALLS) if kind in record},
        })
        record.update(figures)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.all, indent="\t") + "\n")
        os.replace(fresh, self.path)


def change(now: float, was: float) -> float:
    """0.05: 5 % more."""
    return now / was - 1 if was else float(now > 0)


def growth(kind: str, costs: Costs, record: dict[str, Any]) -> list[str]:
    """What has grown by more than the tolerance, one sentence each."""
    last = record["history"][-1]
    return [f"{name}: {now:g} {kind}, {change(now, was):+.1%} from {was:g}, which were recorded on "
            f"{last['date']} ({last['reason']})"
            for name, now in figures_of(costs)[kind].items()
            if (was := record[kind].get(name)) is not None and change(now, was) > TOLERANCE]


def advice(costs: Costs, toolchain: dict[str, str], records: Records) -> list[str]:
    """What should be recorded, though nothing is wrong."""
    record = records.of(toolchain)
    if record is None:
        nearest = records.nearest(toolchain)
        return ["No figures are recorded for this toolchain, so nothing guards it but the "
                f"ceilings. To record them: {HOW}",
                *([f"The nearest that has some differs in: {', '.join(nearest)}"]
                  if nearest else [])]
    found = []
    for kind, figures in figures_of(costs).items():
        for name, now in figures.items():
            was = record[kind].get(name)
            if was is None:
                found.append(f"{name}: {now:g} {kind}, and none are recorded. {HOW}")
            elif change(now, was) < -TOLERANCE:
                found.append(f"{name}: {now:g} {kind}, {change(now, was):+.1%} from {was:g}. "
                             f"To hold on to that: {HOW}")
    return found


def table(costs: Costs, toolchain: dict[str, str], record: dict[str, Any] | None,
          ceilings: dict[str, dict[str, float]]) -> str:
    """All figures with what was recorded and what is allowed."""
    rows = []
    for kind, figures in figures_of(costs).items():
        rows.append(f"{kind:38} {'now':>8} {'recorded':>8} {'change':>7} {'ceiling':>8}")
        for name, now in figures.items():
            was = record[kind].get(name) if record else None
            ceiling = ceilings[kind].get(name)
            cells = [f"{now:8g}", f"{was:8g}" if was is not None else " " * 8,
                     f"{change(now, was):+7.1%}" if was is not None else " " * 7,
                     f"{ceiling:8g}" if ceiling is not None else ""]
            rows.append(f"  {name:36} {' '.join(cells)}".rstrip())
        rows.append("")
    rows += [f"{key:9} {value}" for key, value in toolchain.items()]
    return "\n".join(rows) + "\n"
