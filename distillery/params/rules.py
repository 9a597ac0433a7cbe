"""What sections must not contradict each other in.

A stage checks what concerns its own sections, the whole of params.yaml all of it; so each rule is a
function of the sections that it compares, which raises a ValueError, as pydantic's validators do.
"""

from __future__ import annotations

from distillery.data.kaldi_filters import empty_filters, most_mels
from distillery.data.languages import plain
from distillery.params.base import INIT_TEACHER
from distillery.params.cache import AUTO, CacheParams
from distillery.params.decoder import DecoderParams
from distillery.params.distill import DistillParams
from distillery.params.evaluate import EvaluateParams
from distillery.params.language_model import LanguageModelParams
from distillery.params.models import KALDI_FBANK
from distillery.params.objective import lowest
from distillery.params.prepare import PrepareParams
from distillery.params.teacher import (
    EndpointTeacherParams,
    EnsembleTeacherParams,
    FasterWhisperTeacherParams,
    FineTunedTeacherParams,
    TeacherParams,
    TextsTeacherParams,
    TrainedTeacherParams,
    TransformersTeacherParams,
)


def check_students(
    distill: DistillParams,
    teacher: TeacherParams,
    cache: CacheParams,
    language_model: LanguageModelParams,
) -> None:
    """Refuse students that cannot learn from this teacher, or not from what the cache keeps."""
    check_disagreement(distill, cache, language_model)
    check_first_weights(distill, teacher)
    check_frame_rates(distill, teacher)
    check_cached_outputs(distill, cache)
    check_texts_of_copies(teacher, cache)
    check_speeds(distill, cache)
    check_texts_alone(distill, teacher)


def check_decoder(decoder: DecoderParams | None) -> None:
    """Refuse n-grams of nothing."""
    if decoder is not None:
        source = decoder.language_model
        if source.learns_from == "files" and not source.files:
            raise ValueError(
                "register.decoder.language_model: learns_from is files, and files names none; name "
                "text files of the domain, or take transcripts, teacher or both"
            )


def check_languages(prepare: PrepareParams, teacher: TeacherParams) -> None:
    """Refuse a teacher that writes in another language than the data."""
    spelling = prepare.spelling
    own = prepare.language or (None if spelling.numbers == "keep" else spelling.language)
    members = teacher.members if isinstance(teacher, EnsembleTeacherParams) else (teacher,)
    for number, member in enumerate(members):
        setting, spoken, translates = _language_of(member)
        written = "en" if translates else spoken
        if own is None or written is None or plain(written) == plain(own):
            continue
        where = "teacher" if member is teacher else f"teacher.members.{number}"
        named = "prepare.language" if prepare.language else "prepare.spelling.language"
        how = "task is translate, which writes en" if translates else f"language is {spoken!r}"
        raise ValueError(
            f"{where}.{setting}{how}, but {named} is {own!r}: the teacher would write in another "
            f"language than the data's texts; set {named} to {plain(written)}, or correct the "
            "teacher"
        )


def _language_of(teacher: TeacherParams) -> tuple[str, str | None, bool]:
    """Return where a teacher's language stands, which it is, and whether it is translated."""
    if isinstance(teacher, FasterWhisperTeacherParams):
        return "", teacher.language, teacher.task == "translate"
    if isinstance(teacher, TransformersTeacherParams):
        whisper = teacher.whisper
        return "whisper.", whisper.language, whisper.task == "translate"
    if isinstance(teacher, EndpointTeacherParams) and len(teacher.language or "") in (2, 3):
        return "", teacher.language, False
    return "", None, False


def needs_transcripts(teacher: TeacherParams) -> bool:
    """Return whether a teacher, or a member of it, learns from transcripts."""
    if isinstance(teacher, EnsembleTeacherParams):
        return any(needs_transcripts(member) for member in teacher.members)
    return isinstance(teacher, TrainedTeacherParams | FineTunedTeacherParams)


def transcript_needs(
    teacher: TeacherParams | None,
    distill: DistillParams,
    language_model: LanguageModelParams,
    decoder: DecoderParams | None = None,
) -> list[str]:
    """Return which settings need training transcripts, each with what to set in its place."""
    needs = []
    if teacher is not None and needs_transcripts(teacher):
        needs.append(
            f"teacher.kind {teacher.kind} is trained on transcripts: take a teacher that others "
            "trained, docs/teachers.md names some"
        )
    for name in distill.students:
        if (objective := distill.objective_of(name)).uses_transcripts:
            own = distill.students[name].objective is not None
            where = f"distill.students.{name}.objective" if own else "distill.objective"
            share = lowest(objective.teacher_share)
            needs.append(f"{where}.teacher_share is {share:g}: set it to 1")
            if not own:
                break
    if distill.control is True:
        needs.append("distill.control is true, and controls learn from transcripts: set it to auto")
    if decoder is not None and decoder.language_model.learns_from == "transcripts":
        needs.append(
            "register.decoder.language_model.learns_from is transcripts: set it to both, teacher "
            "or files"
        )
    if language_model.for_teacher:
        needs.append(
            "language_model.for_teacher is true, and nothing but transcripts could teach it before "
            "the teacher writes: set it to false"
        )
    return needs


def check_hidden_transcripts(
    prepare: PrepareParams,
    teacher: TeacherParams,
    distill: DistillParams,
    language_model: LanguageModelParams,
    decoder: DecoderParams | None = None,
) -> None:
    """Refuse settings that need the transcripts that others take away."""
    needs = transcript_needs(teacher, distill, language_model, decoder)
    if prepare.labelled_fraction == 0 and needs:
        raise ValueError(
            "prepare.labelled_fraction is 0, so there are no training transcripts, but some "
            "settings need them; raise it, or change these: " + "; ".join(needs)
        )


def check_disagreement(
    distill: DistillParams, cache: CacheParams, language_model: LanguageModelParams
) -> None:
    """Refuse a filter by disagreement where no two decodings can disagree."""
    limit = distill.filter.max_disagreement
    if limit is None:
        return
    if cache.payload.num_hypotheses == 1:
        raise ValueError(
            f"distill.filter.max_disagreement is {limit:g}, but the cache keeps one decoding; "
            "set cache.payload.num_hypotheses to 2 or more, or max_disagreement to null"
        )
    if language_model.for_teacher:
        raise ValueError(
            "distill.filter.max_disagreement compares the best path with the best of several "
            "hypotheses, but with language_model.for_teacher both are what the language model "
            "chose; set one of them to null or false"
        )


def check_first_weights(distill: DistillParams, teacher: TeacherParams) -> None:
    """Refuse students that start from layers of a teacher whose layers do not fit."""
    for name, student in distill.students.items():
        if student.init != INIT_TEACHER or not isinstance(teacher, TrainedTeacherParams):
            continue
        own, theirs = student.architecture.type, teacher.architecture.type
        if own != theirs:
            raise ValueError(
                f"distill.students.{name}: init is {INIT_TEACHER!r}, but the student is a "
                f"{own} and the teacher a {theirs}; give both one architecture, or remove init"
            )
        if distill.features_of(name) != teacher.features:
            raise ValueError(
                f"distill.students.{name}: init is {INIT_TEACHER!r}, but the student's "
                "features differ from the teacher's; copy teacher.features into the student's "
                "features, or remove init"
            )


def check_frame_rates(distill: DistillParams, teacher: TeacherParams) -> None:
    """Refuse losses by frame where a student's frames are no whole number of the teacher's."""
    if not isinstance(teacher, TrainedTeacherParams):
        return  # training compares with the cache
    teacher_shift = teacher.features.hop_seconds * teacher.architecture.time_reduction
    for name, student in distill.students.items():
        shift = distill.features_of(name).hop_seconds * student.architecture.time_reduction
        ratio = shift / teacher_shift
        objective = distill.objective_of(name)
        faces_frames = objective.uses_frames or objective.uses_hidden
        if faces_frames and (ratio < 1 - 1e-6 or abs(ratio - round(ratio)) > 1e-6):
            raise ValueError(
                f"distill.students.{name}: one frame per {shift * 1000:g} ms is no whole "
                f"multiple of the teacher's {teacher_shift * 1000:g} ms; losses by frame need "
                "one. Change time_reduction, or set frame.weight and hidden.weight to 0"
            )


def check_cached_outputs(distill: DistillParams, cache: CacheParams) -> None:
    """Refuse students that learn what the cache does not keep."""
    payload = cache.payload
    for name in distill.students:
        objective = distill.objective_of(name)
        wanted = objective.sequence.num_hypotheses
        if objective.uses_sequence and wanted > payload.num_hypotheses:
            raise ValueError(
                f"distill.students.{name}: learns from {wanted} hypotheses, the cache keeps "
                f"{payload.num_hypotheses}; set cache.payload.num_hypotheses to {wanted} or "
                "more, or sequence.num_hypotheses to less"
            )
        if objective.uses_frames and payload.log_probs == "none":
            raise ValueError(
                f"distill.students.{name}: learns frames of the teacher, but "
                "cache.payload.log_probs is 'none'; set it to auto, or frame.weight to 0"
            )
        for layer in objective.teacher_layers if payload.hidden_layers != AUTO else ():
            if layer not in payload.named_layers:
                kept = [*payload.named_layers, layer]
                raise ValueError(
                    f"distill.students.{name}: learns hidden layer {layer!r} of the teacher, "
                    f"which the cache does not keep; set cache.payload.hidden_layers to "
                    f"auto or [{', '.join(kept)}], or remove it from hidden.layers"
                )


def check_texts_alone(distill: DistillParams, teacher: TeacherParams) -> None:
    """Refuse students of frames or hidden states where the teacher is known to give texts alone."""
    members = teacher.members if isinstance(teacher, EnsembleTeacherParams) else (teacher,)
    if not all(isinstance(m, TextsTeacherParams | EndpointTeacherParams) for m in members):
        return  # what others give shows once they are here
    for name in distill.students:
        objective = distill.objective_of(name)
        for term, used in (("frame", objective.uses_frames), ("hidden", objective.uses_hidden)):
            if used:
                raise ValueError(
                    f"distill.students.{name}: learns by {term}, but a teacher of kind "
                    f"{members[0].kind} gives texts alone; set {term}.weight to 0 in its "
                    "objective, sequence learns them"
                )


def check_texts_of_copies(teacher: TeacherParams, cache: CacheParams) -> None:
    """Refuse an ensemble of which some members hear copies at other speeds and others do not."""
    if not isinstance(teacher, EnsembleTeacherParams) or not cache.speed_factors:
        return
    deaf = (TextsTeacherParams, EndpointTeacherParams)
    kinds = [member.kind for member in teacher.members]
    some = [member.kind for member in teacher.members if isinstance(member, deaf)]
    if some and len(some) < len(kinds):
        raise ValueError(
            f"cache.speed_factors: teacher.members are {', '.join(kinds)}; {some[0]} has texts of "
            "recordings, not of copies at other speeds, which the others hear. Set "
            "cache.speed_factors to []"
        )


def check_speeds(distill: DistillParams, cache: CacheParams) -> None:
    """Refuse a copy that the teacher hears and does not hear."""
    for factor in distill.augmentation.speed_factors:
        if factor in cache.speed_factors:
            raise ValueError(
                f"distill.augmentation.speed_factors: {factor:g} stands in cache.speed_factors, "
                "too, expected in one of them; remove it from the former, and the copy has "
                "teacher outputs of its own, or from the latter, and it costs the teacher nothing"
            )


def check_mel_bands(prepare: PrepareParams, distill: DistillParams, teacher: TeacherParams) -> None:
    """Refuse more bands of `kaldi_fbank` than the sample rate tells apart."""
    heard = {
        f"distill.students.{name}" if student.features else "distill": distill.features_of(name)
        for name, student in distill.students.items()
    }
    if isinstance(teacher, TrainedTeacherParams):
        heard["teacher"] = teacher.features
    rate = prepare.sample_rate_hz
    for section, features in heard.items():
        if features.type != KALDI_FBANK:
            continue
        window, bands = features.window_seconds, features.num_mels
        if num_empty := empty_filters(bands, window, rate):
            raise ValueError(
                f"{section}.features: {num_empty} of {bands} mel bands of {KALDI_FBANK} would be "
                f"empty at {rate} Hz, which sherpa-onnx refuses; expected num_mels up to "
                f"{most_mels(window, rate, bands)}"
            )


def check_streaming(evaluate: EvaluateParams, distill: DistillParams) -> None:
    """Refuse a length of chunks where no student streams."""
    chunk = evaluate.stream_chunk_seconds
    default = EvaluateParams.model_fields["stream_chunk_seconds"].default
    types = [student.architecture.type for student in distill.students.values()]
    if chunk != default and "causal_conv" not in types:
        raise ValueError(
            f"evaluate.stream_chunk_seconds is {chunk:g}, but no student streams; remove it, "
            "or add a student of architecture causal_conv"
        )
