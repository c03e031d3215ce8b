"""What commands print: results on stdout, progress and mistakes on stderr."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ups_server.errors import UserError

stdout = Console(highlight=False, markup=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


class Advance(Protocol):
    """Reports progress: how many are done, of how many, and of what where that changes."""

    def __call__(self, done: int, total: int, what: str | None = None, /) -> None: ...


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_line(text: str) -> None:
    stdout.print(text)


def print_note(text: str) -> None:
    """A line beside the result: on stderr, so that stdout can be piped."""
    stderr.print(text)


def print_error(error: UserError) -> None:
    """One sentence."""
    stderr.print(f"ups: {error}", style="red")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Aligned `name value` lines."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print_line(f"{name:<{width}}  {value}")


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """A progress bar on stderr; nothing where stderr is no terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int, what: str | None = None, /) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield advance
