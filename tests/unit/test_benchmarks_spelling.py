"""The rows of the benchmark of spelling, from texts that nobody needed to hear."""

from __future__ import annotations

import math

from benchmarks.spelling import Heard, Hypothesis, rows_of


def heard(reference: str, text: str, confidence: float, *more: str) -> Heard:
    forms = [
        Hypothesis(form, math.log(confidence**2 / (1 + len(more))), 2) for form in (text, *more)
    ]
    return Heard(f"u-{text}", reference, 1.0, text, confidence, forms)


def test_rows_tell_errors_by_rule_and_what_the_filter_drops() -> None:
    rows = rows_of(
        [
            heard("enter three nine", "Enter 39.", 0.9),
            heard("go", "Go!", 0.7, "go"),  # each form has 0.49 a token, both 0.7
            heard("a b", "XB", 0.9),
        ]
    )
    values = {row["name"].split(", ", 1)[-1]: row["value"] for row in rows}
    assert values["as written"] == 66.67  # 4 of 6 words
    assert values["numbers digits, letters spell, language en"] == 16.67
    assert values["numbers cardinals, letters spell, language en"] == 33.33
    assert values["without time-stamps"] == 50.0
    assert values["without time-stamps, of all forms of a spelling"] == 0.0
