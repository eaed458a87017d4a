"""How a running function talks to the person who waits for it: lines, tables and progress bars on a terminal.

Functions of the library take a `console` and stay silent by default. Standard output belongs to results, so lines
and progress go to standard error; rich is imported only when something is drawn.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

Advance = Callable[..., None]  # advance(steps=1, text="")


class Console:
    """Says nothing. The default of every library function, and the contract of `Terminal`."""

    def line(self, text: str) -> None:
        """One sentence about what happened."""

    @contextlib.contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """A bar over `total` steps: call what it yields with the number of steps done and a short text."""
        yield lambda steps=1, text="": None


class Terminal(Console):
    """Writes to standard error."""

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = RichConsole(stderr=True)
        if not console.is_terminal:  # a log file wants no bar: the caller's lines tell the same
            yield lambda steps=1, text="": None
            return
        with Progress(*columns, TextColumn("{task.fields[text]}"), console=console, transient=True) as bars:
            bar = bars.add_task(title, total=total, text="")
            yield lambda steps=1, text="": bars.update(bar, advance=steps, text=text)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A result as a table on standard output: drawn to fit a terminal, plain columns for a pipe or a file."""
    if not sys.stdout.isatty():
        if title:
            print(title)
        print_plain(headings, rows)
        return
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(*headings, title=title or None, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(*map(str, row))
    RichConsole().print(table)


def print_plain(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns two spaces apart, the first to the left, the others to the right."""
    lines = [list(headings), *([str(each) for each in row] for row in rows)]
    widths = [max(map(_places, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for first, *others in lines:
        cells = [first + " " * (widths[0] - _places(first))]
        cells += [" " * (width - _places(cell)) + cell for width, cell in zip(widths[1:], others, strict=True)]
        print("  ".join(cells))


def _places(text: str) -> int:
    """Columns of a terminal: a Chinese character takes two."""
    return len(text) if text.isascii() else sum(2 if "\u1100" <= each <= "\uffe6" else 1 for each in text)


def bytes_text(count: float) -> str:
    """1234567890 -> "1.15 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit != "MiB" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def seconds_text(seconds: float) -> str:
    """0.0123 -> "12.3 ms", 75 -> "1 min 15 s"."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left} s"
