"""What all candidates of `make teachers` have in common: settings, data, code, and their folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import pandas as pd

from distillery.data.manifest import PreparedData, labelled
from distillery.errors import CorpusError
from distillery.studies import data_curve
from distillery.training.curves import run_digest
from tasks.code import code_of_architecture, digests
from tasks.studies.made_from import Study, inputs_of, rows_of

FOLDER = "scratch/teachers"


class TeacherStudy(Study):
    """The inputs of a comparison of teachers."""

    @property
    def folder(self) -> Path:
        """Where candidates lie, one folder each."""
        return self.root / FOLDER

    @cached_property
    def valid_rows(self) -> pd.DataFrame:
        """The utterances that everybody is measured on."""
        return labelled(self.data, "valid")

    @cached_property
    def share(self) -> PreparedData:
        """The data with the pilot's share of the training split.

        Raises:
            CorpusError: the share holds nothing that is transcribed.
        """
        fraction = self.settings.teacher_candidates.pilot.fraction
        share = data_curve.draw(self.data, fraction)
        if not share.split("train")["text"].notna().any():
            raise CorpusError(
                f"teacher_candidates.pilot.fraction: {fraction:g} draws no transcribed utterance "
                f"of the {len(self.data.split('train'))} in the training split, expected one at "
                "least; raise it"
            )
        return share

    @cached_property
    def code(self) -> Mapping[str, object]:
        """Content of all code that teachers and the pilot's student are made by.

        But for what one kind of teacher has to itself, see `Trial.code`.
        """
        student = self.settings.pilot_student
        states = {
            **inputs_of(self.root, "teacher"),
            **inputs_of(self.root, "cache"),
            **inputs_of(self.root, "distill", student, "0"),
        }
        architecture = self.settings.distill.students[student].architecture.type
        own = digests(self.root, code_of_architecture(self.root, architecture))
        return {name: state for name, state in states.items() if name.endswith(".py")} | own

    def rows_digest(self, data: PreparedData, *splits: str) -> str:
        """Return a digest of some splits: audio and transcripts."""
        return run_digest(rows_of(data, *splits), data.sample_rate_hz)
