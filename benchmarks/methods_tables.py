"""The table of `benchmarks/methods.py`, from the JSON that it leaves: printed, or put into a page.

    python benchmarks/methods_tables.py [--json benchmarks/methods.json] [--write docs/adapting.md]

`--write` replaces what stands between `<!-- methods -->` and `<!-- /methods -->`.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.adaptation_tables import write

RESULTS = Path(__file__).with_name("methods.json")
ALL_KS, BEST_KS = (10, 100), (50, 500)
DECIDING_K = 100
"""Where the best three are chosen."""
LAST, FLAT = 0.25, 0.05
"""Validation is flat where the best error of the last part of the training is not so much below the best one before."""

Record = dict[str, Any]


def load(path: Path) -> list[Record]:
    """Every finished run, in the order of its id; none where there is no file yet."""
    found: dict[str, Record] = json.loads(path.read_text()) if path.is_file() else {}
    return [found[name] for name in sorted(found)]


def flat(curve: Sequence[Mapping[str, Any]]) -> bool:
    """Had the one-step error on validation trajectories stopped to fall before the last part of the training?

    No curve of a single point is flat: nothing is known.
    """
    points = [(point["step"], math.inf if point["one_step"] is None else point["one_step"]) for point in curve]
    end = max((step for step, _ in points), default=0)
    before = [error for step, error in points if step <= (1 - LAST) * end]
    after = [error for step, error in points if step > (1 - LAST) * end]
    if not before or not after or not math.isfinite(min(before)):
        return False
    return min(after) > (1 - FLAT) * min(before)


def error(record: Record, part: str = "one_step") -> float:
    """Infinite where it diverged."""
    value = None if record["tuned"] is None else record["tuned"][part]
    return math.inf if value is None else float(value)


def columns(records: Sequence[Record]) -> list[tuple[str, int, str]]:
    """(problem, k, budget)"""
    return sorted({(record["problem"], record["k"], record["budget"]) for record in records})


def at(records: Sequence[Record], column: tuple[str, int, str]) -> dict[str, list[Record]]:
    """The runs of a column by method."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if (record["problem"], record["k"], record["budget"]) == column:
            found.setdefault(record["method_label"], []).append(record)
    return found


def best_three(records: Sequence[Record], problem: str) -> list[str]:
    """The methods with the smallest mean one-step error at `DECIDING_K`, with equal steps."""
    found = at(records, (problem, DECIDING_K, "steps"))
    return sorted(found, key=lambda name: statistics.mean(map(error, found[name])))[:3]


def table(records: Sequence[Record]) -> Iterator[str]:
    """A table a problem: a row a method, a column a number of trajectories and budget."""
    for problem in sorted({record["problem"] for record in records}):
        own = [record for record in records if record["problem"] == problem]
        places = columns(own)
        final = own[0]["horizon"] == "final"
        yield f"**{problem}**, {'error of the solution' if final else 'one-step / rollout'}:"
        yield ""
        yield "| method | start | " + " | ".join(f"k = {k}, equal {budget}" for _, k, budget in places) + " |"
        yield "|" + "---|" * (2 + len(places))
        cells = [at(own, place) for place in places]
        starts = {record["method_label"]: record["method_start"] for record in own}
        for label, start in sorted(starts.items(), key=lambda entry: (entry[1], entry[0])):
            yield f"| {label} | {start} | " + " | ".join(cell(found.get(label, []), final) for found in cells) + " |"
        still = own[0]["persistence"]
        yield ""
        if still is not None and not final:
            yield f"Persistence: {still['one_step']:.4f} / {still['rollout']:.4f}."
        for place, found in zip(places, cells, strict=True):
            yield verdict(place, found)
        yield ""


def cell(records: Sequence[Record], final: bool) -> str:
    """Mean over seeds, lowest and highest; `*` where validation was still falling."""
    if not records:
        return "-"
    parts = ("one_step",) if final else ("one_step", "rollout")
    text = " / ".join(spread([error(record, part) for record in records]) for part in parts)
    return text if all(record["flat"] for record in records) else f"{text} *"


def spread(values: Sequence[float]) -> str:
    if not all(map(math.isfinite, values)):
        return "diverged"
    around = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{around}"


def verdict(place: tuple[str, int, str], found: Mapping[str, Sequence[Record]]) -> str:
    """Which methods are better than others in one-step error: those whose ranges over seeds lie apart."""
    _, k, budget = place
    ranges = {label: [error(record) for record in records] for label, records in found.items()}
    best = min(ranges, key=lambda label: statistics.mean(ranges[label]))
    told = f"k = {k}, equal {budget}: "
    falling = sorted(label for label, records in found.items() if not all(record["flat"] for record in records))
    unsettled = f" Still falling at the end (*): {', '.join(falling)}." if falling else ""
    if min(len(values) for values in ranges.values()) < 2:
        return f"{told}one seed, so no method is called better than another; the lowest is {best}.{unsettled}"
    alike = sorted(label for label in ranges if label != best and min(ranges[label]) <= max(ranges[best]))
    apart = f"{best} is best" if not alike else f"{best} is lowest, not told apart from {', '.join(alike)}"
    return f"{told}{apart}.{unsettled}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--write", type=Path, nargs="+", default=[], help="files with a block to replace")
    options = parser.parse_args(arguments)
    text = "\n".join(table(load(options.json))).rstrip()
    for file in options.write:
        write(text, file, "methods")
    print(text)


if __name__ == "__main__":
    main()
