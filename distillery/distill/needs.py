"""Who needs transcripts, asked before a teacher or student costs hours."""

from __future__ import annotations

from collections.abc import Collection

from distillery.data.judged import splits_without_truth
from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError
from distillery.params.decoder import DecoderParams
from distillery.params.distill import DistillParams
from distillery.params.language_model import LanguageModelParams
from distillery.params.rules import needs_transcripts, transcript_needs
from distillery.params.teacher import TeacherParams


def check_transcripts(
    data: PreparedData,
    teacher: TeacherParams | None,
    distill: DistillParams,
    language_model: LanguageModelParams,
    students: Collection[str] | None = None,
    decoder: DecoderParams | None = None,
) -> None:
    """Refuse settings that need transcripts which the prepared data do not have.

    Args:
        data: prepared data.
        teacher: settings of the teacher; None where it is there already.
        distill: settings of the students.
        language_model: settings of the language model.
        students: those that are to be trained; None: all.
        decoder: settings of what they are served with; None where that is not asked.

    Raises:
        CorpusError: some do; the message names each of them and what to set in its place.
    """
    rows = data.split("train")
    if students is not None:
        chosen = {name: item for name, item in distill.students.items() if name in students}
        distill = distill.model_copy(update={"students": chosen})
    needs = transcript_needs(teacher, distill, language_model, decoder)
    if needs and not rows["text"].notna().any():
        raise CorpusError(
            f"split train: {len(rows)} utterances, none of them transcribed, but some settings "
            f"need transcripts; add some, or change these: {'; '.join(needs)}"
        )
    if teacher is None or not needs_transcripts(teacher):
        return
    if bare := splits_without_truth(data):
        raise CorpusError(
            f"split {' and '.join(bare)}: neither transcripts nor expected phrases, but a teacher "
            f"of kind {teacher.kind} is judged by them while it is trained; add some, or take a "
            "teacher that others trained: docs/teachers.md"
        )
