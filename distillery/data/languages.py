"""Codes of languages, which libraries write in several ways: ISO 639-1, BCP 47, Whisper's own."""

from __future__ import annotations

WHISPER = {"nb": "no", "jv": "jw"}
"""Languages that Whisper has under another code than ISO 639-1."""
MACROLANGUAGES = {"nb": "no", "nn": "no", "jw": "jv"}
"""Codes that others do not tell apart."""


def plain(code: str) -> str:
    """Return a language without country or script, under one code: `pt_BR` is `pt`."""
    bare = code.lower().replace("-", "_").split("_")[0]
    return MACROLANGUAGES.get(bare, bare)


def of_whisper(code: str | None) -> str | None:
    """Return a language as Whisper calls it; None stays None."""
    return code if code is None else WHISPER.get(code, code)
