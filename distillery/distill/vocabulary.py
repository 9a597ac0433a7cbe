"""What a student and its control write in: characters, or pieces of words."""

from __future__ import annotations

from pathlib import Path

from distillery.data.manifest import PreparedData
from distillery.data.subwords import SubwordVocabulary, load_vocabulary
from distillery.data.text import SPACE, Vocabulary
from distillery.distill.kept_texts import kept_texts
from distillery.models.recogniser import TOKENS_FILE
from distillery.params.distill import DistillParams
from distillery.params.models import SubwordTokens
from distillery.teacher_cache.store import TeacherCache


def vocabulary_of(
    name: str, params: DistillParams, data: PreparedData, cache: TeacherCache, models: Path
) -> Vocabulary:
    """Return a student's tokens.

    Characters are those of the teacher's tokens. Subwords are learnt from what students read:
    transcripts, and the teacher's texts of what has none; a student that goes on from a registered
    one has its.

    Args:
        name: under distill.students.
        params: settings of all.
        data: prepared data.
        cache: what the teacher said, and no earlier generation of the student.
        models: folder of all models.

    Raises:
        ModelError: there is no text to learn subwords from, or the registered one is damaged.
        CacheMismatch: an utterance is not cached.
    """
    student, characters = params.students[name], Vocabulary(cache.namespace.tokens)
    if not characters.is_of_characters:  # a registered student of subwords is the teacher
        characters = Vocabulary.from_alphabet(characters.characters - {SPACE})
    if not isinstance(student.tokens, SubwordTokens):
        return characters
    if student.registered_init is not None:
        return load_vocabulary(models / "registered/students" / name / TOKENS_FILE)
    texts = kept_texts(data, lambda: cache, params.filter)
    return SubwordVocabulary.learn(texts, student.tokens.size, characters.characters)
