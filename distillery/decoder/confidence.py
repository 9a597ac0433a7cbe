"""How sure a student is of a word, as a probability that one can count on.

    confidence = 1 / (1 + exp(-(offset + slope · evidence)))
    evidence   = ln(p / (1 - p)), p the geometric mean of the probabilities of the word's tokens,
                 each in that of its frames in which it is likeliest

Networks trained by CTC are surer than they are right, so offset and slope come from words of the
validation split that were right or wrong (`distillery.evaluate.confidence`); they lie beside the
student as confidence.json.

Source: Platt (1999), "Probabilistic outputs for support vector machines", section 2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distillery.errors import ModelError
from distillery.files import write_json

CONFIDENCE_FILE = "confidence.json"
MIN_LOG_PROB, MAX_LOG_PROB = math.log(1e-6), math.log(1 - 1e-4)
"""ln p beyond these tells nothing more."""
MAX_LOG_ODDS = 30.0
"""Log-odds beyond these either way are as good as certain; `exp` ends at 709."""


@dataclass(frozen=True)
class Confidence:
    """What confidence.json holds."""

    offset: float
    slope: float
    num_words: int
    """Of the validation split, on which both were chosen."""
    expected_error: float
    """Expected calibration error on these words; see `distillery.studies.calibration`."""

    def of(self, evidence: float) -> float:
        """Return the probability that a word is right."""
        odds = self.offset + self.slope * evidence
        return 1 / (1 + math.exp(-min(max(odds, -MAX_LOG_ODDS), MAX_LOG_ODDS)))

    def save(self, folder: Path) -> None:
        """Write confidence.json."""
        write_json(folder / CONFIDENCE_FILE, asdict(self))

    @classmethod
    def find(cls, folder: Path) -> Confidence | None:
        """Read a folder's confidence.json; None where it holds none.

        Raises:
            ModelError: it is not what this Distillery writes.
        """
        path = folder / CONFIDENCE_FILE
        try:
            found = cls(**json.loads(path.read_text("utf-8")))
            found.of(0.0)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, OverflowError) as error:
            raise ModelError(
                f"{path}: cannot be used ({error}); register the model again"
            ) from None
        return found


def evidence_of(log_probs: Sequence[float]) -> float:
    """Return the log-odds of the geometric mean of a word's token probabilities.

    Args:
        log_probs: of each token, natural logarithms; one at least.
    """
    mean = min(max(sum(log_probs) / len(log_probs), MIN_LOG_PROB), MAX_LOG_PROB)
    return mean - math.log1p(-math.exp(mean))
