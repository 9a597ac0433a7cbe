"""Tables and lines as text for a terminal, alike in every command."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = 100


def new_table(title: str | None = None) -> Table:
    """Return an empty table with a rule below its headers and none around it.

    Args:
        title: stands above, at the left.
    """
    return Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title=title,
        title_justify="left",
    )


def as_text(*items: Table | str) -> str:
    """Return tables and lines below each other, COLUMNS wide, without spaces at line ends.

    Args:
        items: longer lines are folded; square brackets mean nothing.
    """
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=COLUMNS, color_system=None, highlight=False, markup=False, emoji=False
    )
    for item in items:
        console.print(item)
    return "\n".join(line.rstrip() for line in buffer.getvalue().strip("\n").splitlines())
