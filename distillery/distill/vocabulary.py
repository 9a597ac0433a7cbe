"""What a student and its control write in: characters, or pieces of words."""

from __future__ import annotations

from pathlib import Path

from distillery.data.manifest import PreparedData
from distillery.data.subwords import SubwordVocabulary, load_vocabulary
from distillery.data.text import SPACE, Vocabulary
from distillery.distill.kept_texts import kept_texts
from distillery.errors import CacheMismatch
from distillery.models.recogniser import TOKENS_FILE
from distillery.params.distill import DistillParams
from distillery.params.models import CharacterTokens, TeacherTokens
from distillery.teacher_cache.store import TeacherCache


def vocabulary_of(
    name: str, params: DistillParams, data: PreparedData, cache: TeacherCache, models: Path
) -> Vocabulary:
    """Return a student's tokens.

    Characters are those of the teacher's tokens. Subwords are learnt from what students read:
    transcripts, and the teacher's texts of what has none; or they are the teacher's. A student that
    goes on from a registered one has its.

    Args:
        name: under distill.students.
        params: settings of all.
        data: prepared data.
        cache: what the teacher said, and no earlier generation of the student.
        models: folder of all models.

    Raises:
        ModelError: there is no text to learn subwords from, or the registered one, or the teacher,
            is damaged.
        CacheMismatch: an utterance is not cached, or the cache is another teacher's.
    """
    student, characters = params.students[name], Vocabulary(cache.namespace.tokens)
    if not characters.is_of_characters:
        characters = Vocabulary.from_alphabet(characters.characters - {SPACE})
    if isinstance(student.tokens, CharacterTokens):
        return characters
    if student.registered_init is not None:
        return load_vocabulary(models / "registered/students" / name / TOKENS_FILE)
    if isinstance(student.tokens, TeacherTokens):
        teachers = load_vocabulary(models / "teacher" / TOKENS_FILE)
        if teachers.tokens != cache.namespace.tokens:
            raise CacheMismatch(
                f"student {name!r}: writes in the teacher's tokens, of which models/teacher has "
                f"{len(teachers)}, the cache {len(cache.namespace.tokens)}, not the same ones; "
                "run make cache"
            )
        return teachers
    texts = kept_texts(data, lambda: cache, params.filter)
    return SubwordVocabulary.learn(texts, student.tokens.size, characters.characters)
