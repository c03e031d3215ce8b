"""The tables of `benchmarks/adaptation.py`, from the JSON that it leaves: printed, or put into a README or a card.

    python benchmarks/adaptation_tables.py [--json benchmarks/adaptation.json] [--write README.md]

`--write` replaces what stands between `<!-- adaptation -->` and `<!-- /adaptation -->`, by the table of transfer alone:
where no step hears the language model, as in `ups-mini`, a table of alignments with it ranks nothing.
"""

import argparse
import json
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ups_server.errors import UserError

RESULTS = Path(__file__).with_suffix("").with_name("adaptation.json")
FNO_NAME = "fno"
PLAIN = ("none", "operator")
"""The alignment and tuning of table (a)."""
DEFAULT = f"`{PLAIN[0]}` with `{PLAIN[1]}`, the default"
PARTS = ("one_step", "rollout")

Record = dict[str, Any]


def load(path: Path) -> list[Record]:
    """Every finished row, in the order of its id; none where there is no file yet."""
    found: dict[str, Record] = json.loads(path.read_text()) if path.is_file() else {}
    return [found[name] for name in sorted(found)]


def report(records: Sequence[Record], methods: bool = True) -> Iterator[str]:
    """The table of transfer, and that of methods, with their verdicts, for every model that was adapted."""
    fno = [record for record in records if record["model"] == FNO_NAME]
    for name, weights in sorted({(r["model"], r["weights"]) for r in records if r["model"] != FNO_NAME}):
        own = [record for record in records if (record["model"], record["weights"]) == (name, weights)]
        yield f"`{name}` (weights {weights}):"
        yield ""
        yield from transfer_table([record for record in own if record["table"] == "a"], fno)
        compared = [record for record in own if record["table"] == "b"]
        if compared and methods:
            yield ""
            yield from method_table(compared)
        yield ""


def transfer_table(own: Sequence[Record], fno: Sequence[Record]) -> Iterator[str]:
    """Table (a): one row a target and number of trajectories, one-step / rollout; then what follows from it."""
    yield "| target | k | zero-shot | tuned | FNO from scratch on the same | persistence | UPS, published one-step |"
    yield "|" + "---|" * 7
    better = compared = 0
    for record in sorted(own, key=lambda record: (record["target"], record["k"])):
        other = next((entry for entry in fno if compared_with(entry, record)), None)
        cells = [
            shown(record, "zero_shot"),
            shown(record, "tuned"),
            shown(other, "tuned"),
            shown(record, "persistence"),
        ]
        yield "| " + " | ".join([record["target"], str(record["k"]), *cells, published(record)]) + " |"
        if other is not None:
            compared += 1
            better += all(figure(record, part) < figure(other, part) for part in PARTS)
    yield ""
    yield f"The adapted model is better than FNO in one-step and rollout in {better} of {compared} rows."


def method_table(records: Sequence[Record]) -> Iterator[str]:
    """Table (b): one row a method, mean over seeds and half the distance of the outermost, one-step / rollout; then
    errors (geometric mean) and seconds of training, each over those of the default."""
    steps = max(record["steps"] for record in records)
    yield f"Methods, each run of {steps} steps:"
    yield ""
    columns = sorted({place(record) for record in records})
    titles = [*(f"{target}, k = {k}" for target, k in columns), "errors", "seconds"]
    yield "| alignment | tuning | " + " | ".join(titles) + " |"
    yield "|" + "---|" * (2 + len(titles))
    means = dict[tuple[str, str], float]()
    default = [record for record in records if method(record) == PLAIN]
    for name in dict.fromkeys(sorted(map(method, records), key=lambda name: (name[0] != "none", *name))):
        found = [[entry for entry in records if (method(entry), place(entry)) == (name, column)] for column in columns]
        cells = [" / ".join(spread(entries, part) for part in PARTS) if entries else "-" for entries in found]
        own = [entry for entries in found for entry in entries]
        yield "| " + " | ".join([*name, *cells, *over(own, default)]) + " |"
        if all(found):
            means[name] = error(own)
    yield ""
    yield choice(means)


def choice(means: dict[tuple[str, str], float]) -> str:
    """Which method to choose, by the geometric mean of all errors of its row."""
    whole = {name: value for name, value in means.items() if math.isfinite(value)}
    if not whole or PLAIN not in whole:
        return "No method is recommended before the table is whole."
    best = min(whole, key=whole.__getitem__)
    if best == PLAIN:
        return f"Over these columns no method has smaller errors than {DEFAULT}."
    gain = 1 - math.exp(whole[best] - whole[PLAIN])
    return (
        f"Over these columns `{best[0]}` with `{best[1]}` has the smallest errors, {100 * gain:.0f} % below {DEFAULT}."
    )


def error(records: Sequence[Record]) -> float:
    """Mean logarithm of all errors."""
    return statistics.mean(math.log(figure(record, part)) for record in records for part in PARTS)


def over(records: Sequence[Record], default: Sequence[Record]) -> tuple[str, str]:
    """Errors and seconds of a method over those of the default, where both have the same runs."""
    runs, other = ({(*place(record), record["seed"]) for record in part} for part in (records, default))
    if runs != other or not all(record["seconds"] for record in (*records, *default)):
        return "-", "-"
    seconds = [statistics.mean(record["seconds"] for record in part) for part in (records, default)]
    return f"{math.exp(error(records) - error(default)):.2f}", f"{seconds[0] / seconds[1]:.1f}"


def method(record: Record) -> tuple[str, str]:
    return record["alignment"], record["tuning"]


def place(record: Record) -> tuple[str, int]:
    return record["target"], record["k"]


def compared_with(fno: Record, record: Record) -> bool:
    """Did this FNO train on the same trajectories, for as many steps at most?"""
    same = ("resolution", "seed")
    return place(fno) == place(record) and all(fno[name] == record[name] for name in same)


def figure(record: Record, part: str) -> float:
    """An error of the tuned model; infinite where it diverged."""
    value = None if record["tuned"] is None else record["tuned"][part]
    return math.inf if value is None else value


def published(record: Record) -> str:
    """Zero-shot and k-shot error of the published model, where there is one."""
    known = {int(k): value for k, value in record["published"].items()}
    return f"{known[0]:.4f} to {known[record['k']]:.4f}" if record["k"] in known else "-"


def shown(record: Record | None, part: str) -> str:
    """`one-step / rollout` of a part of a row."""
    if record is None:
        return "-"
    if record[part] is None:
        return "diverged"
    return " / ".join("inf" if record[part][name] is None else f"{record[part][name]:.4f}" for name in PARTS)


def spread(records: Sequence[Record], part: str) -> str:
    values = [figure(record, part) for record in records]
    if not all(map(math.isfinite, values)):
        return "diverged"
    half = f" ± {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{half}"


def write(text: str, file: Path, block: str = "adaptation") -> None:
    """Puts a text between the marks of a block. Raises UserError ``no_block`` where the file has none."""
    place = re.compile(rf"(<!-- {block} -->\n).*?(<!-- /{block} -->)", re.DOTALL)
    after, count = place.subn(lambda found: f"{found[1]}{text.rstrip()}\n{found[2]}", file.read_text(encoding="utf-8"))
    if not count:
        raise UserError("no_block", f"{file} has no block of tables", expected=f"<!-- {block} -->")
    file.write_text(after, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--write", type=Path, nargs="+", default=[], help="files with a block to replace")
    options = parser.parse_args(arguments)
    records = load(options.json)
    for file in options.write:
        write("\n".join(report(records, methods=False)), file)
    print("\n".join(report(records)).rstrip())


if __name__ == "__main__":
    main()
