from __future__ import annotations

from distillery.console import COLUMNS, as_text, new_table


def test_tables_and_lines_stand_below_each_other_without_spaces_at_line_ends() -> None:
    table = new_table("Title")
    table.add_column("name")
    table.add_column("WER %", justify="right")
    table.add_row("a student", "3.5 [1.0, 6.0]")
    assert as_text(table, "", "a line").splitlines() == [
        "Title",
        "name                WER %",
        "─" * 26,
        "a student  3.5 [1.0, 6.0]",
        "",
        "a line",
    ]


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    table = new_table()
    table.add_column("[bold]name[/bold]")
    table.add_row("[red]a[/red] :smile:")
    shown = as_text(table, "[/nothing] \\[x]")
    assert "[bold]name[/bold]" in shown
    assert "[red]a[/red] :smile:" in shown
    assert "[/nothing] \\[x]" in shown


def test_long_lines_are_folded() -> None:
    lines = as_text("word " * 50).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= COLUMNS
