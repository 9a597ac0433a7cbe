"""Passwords in URLs: found in any text, and what is none left alone."""

from __future__ import annotations

import pytest

from distillery.credentials import line_with_credentials, without_credentials


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:secret@host:5000/x", "http://host:5000/x"),
        ("failed: HTTPS://u:p@h/ went away", "failed: HTTPS://h/ went away"),
        ("https://token@host", "https://host"),
        ("http://u:p@ss@host", "http://host"),
        ("postgresql://u:p@db/x", "postgresql://u@db/x"),
        ("postgresql+psycopg2://u:p/w@db/x", "postgresql+psycopg2://u@db/x"),
        ("mysql://u:p@w@db/x", "mysql://u@db/x"),
        ("postgresql://db/x?user=u&password=p&y=1", "postgresql://db/x?user=u&password=***&y=1"),
        ("https://h/x?token=a&api_key=b", "https://h/x?token=***&api_key=***"),
        ("s3://b/k?X-Amz-Signature=abc", "s3://b/k?X-Amz-Signature=***"),
    ],
)
def test_what_is_secret_goes(text: str, expected: str) -> None:
    assert without_credentials(text) == expected
    assert without_credentials(expected) == expected
    assert line_with_credentials(f"a: 1\nb: {text}\n") == 2
    assert line_with_credentials(f"a: 1\nb: {expected}\n") is None


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////a@b/mlflow.db",
        "http://host:5000/#/models/x@champion",
        "models:/NAME@champion",
        "postgresql://user@db:5432/x",
        "ask me@example.org, see https://example.org/?tokens",
        "tcp://10.0.0.1:8786",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_credentials(text) == text
