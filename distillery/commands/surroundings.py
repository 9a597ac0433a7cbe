"""What every command does first about the surroundings it was started in: proxies and terminals.

A proxy in the environment never sees loopback, where our own servers and clients talk: it could not
reach it, or would reach its own. A terminal gets what it can show.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import MutableMapping

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_PROXY = ("no_proxy", "NO_PROXY")
"""Whom clients ask first; the other one where that is not set."""
ALL = "*"
STAND_INS = {
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "─": "-",
    "━": "-",
    "│": "|",
    "┃": "|",
    "┌": "+",
    "┐": "+",
    "└": "+",
    "┘": "+",
    "├": "+",
    "┤": "+",
    "┬": "+",
    "┴": "+",
    "┼": "+",
    "▁": "_",
    "▂": ".",
    "▃": ":",
    "▄": "-",
    "▅": "=",
    "▆": "+",
    "▇": "*",
    "█": "#",
    "→": "->",
    "←": "<-",
    "×": "x",
    "·": "*",
    "•": "*",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "√": "sqrt",
    "Δ": "D",
    "²": "^2",
    "µ": "u",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u00a0": " ",
    "\u202f": " ",
}
"""What our own lines hold beyond ASCII, for terminals without."""
HANDLER = "distillery.fitting"


def settle() -> None:
    """Keep proxies from loopback, for this process and its children, and print what can be shown.

    Call it first: clients look at the environment when they are made.
    """
    spare_loopback(os.environ)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a caller of `main` put there
            stream.reconfigure(errors=HANDLER)


def spare_loopback(environment: MutableMapping[str, str]) -> None:
    """Add loopback to those that no proxy is asked for; what the user has there stays.

    Both spellings are set, each from its own value or else the other's: clients differ in which one
    they ask first.
    """
    set_values = {name: environment[name] for name in NO_PROXY if environment.get(name)}
    for name in NO_PROXY:
        value = set_values.get(name) or next(iter(set_values.values()), "")
        hosts = [host.strip() for host in value.split(",") if host.strip()]
        if ALL not in hosts:  # which Python's own client knows alone, not in a list
            environment[name] = ",".join([*hosts, *(x for x in LOOPBACK if x not in hosts)])


def fitting(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for characters that a stream cannot encode; see `codecs.register_error`.

    Typographic ones have stand-ins, bytes of a file name that is no text stay as they are, and
    others become escapes, such as `\\xe9`, that say which they were.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    stand_in = STAND_INS.get(character)
    if stand_in is None:
        stand_in = character.encode("ascii", "backslashreplace").decode("ascii")
    return stand_in, error.start + 1


codecs.register_error(HANDLER, fitting)
