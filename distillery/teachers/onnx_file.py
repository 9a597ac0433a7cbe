"""A CTC model in an ONNX file as the teacher, run by onnxruntime.

The file takes waveforms `(batch, samples)`, and lengths or a mask if it wants them, and gives
`(batch, frames, tokens)`: logits, log-probabilities or probabilities. Distance and reach of its
frames are found by running it. The saved teacher holds the file itself.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from distillery.errors import ModelError
from distillery.files import digest_of_file, read_json, read_text
from distillery.models.base import Teacher
from distillery.models.recogniser import CONFIG_FILE
from distillery.params.teacher import OnnxTeacherParams
from distillery.teachers.adapting import adapt
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.pretrained import PretrainedTeacher, SavedTeacher
from distillery.teachers.token_map import TokenTable

KIND = "onnx"
VARIANCE_FLOOR = 1e-7


def take_onnx(params: OnnxTeacherParams, place: Workplace) -> ReadyTeacher:
    """Return the model in an ONNX file as the teacher.

    Raises:
        ModelError: a file is missing or damaged, needs code or data that it does not bring, takes
            or gives something else than expected, or its tokens are another model's.
    """
    # A second for their libraries, which other kinds do without.
    from distillery.teachers.onnx_backend import OnnxBackend, open_session
    from distillery.teachers.onnx_probe import find_names, measure

    file = place.root / params.model
    table = read_table(place.root / params.tokens, params.blank)
    session = open_session(file, "cpu")
    backend = OnnxBackend(
        file,
        session,
        table,
        params.sample_rate_hz,
        VARIANCE_FLOOR if params.normalise else None,
        find_names(file, session, params),
    )
    measure(backend)
    source = {
        "model": params.model,
        "sha256": digest_of_file(file),
        "tokens_sha256": digest_of_file(place.root / params.tokens),
    }
    return adapt(KIND, backend, params, place, source)


def load(folder: Path, device: str) -> Teacher:
    """Load a saved teacher of this kind.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    from distillery.teachers.onnx_backend import (
        MODEL_FILE,
        OnnxArchitecture,
        OnnxBackend,
        open_session,
    )

    path = folder / CONFIG_FILE
    try:
        saved = read_json(path, SavedTeacher)
        backend = OnnxBackend(
            folder / MODEL_FILE,
            open_session(folder / MODEL_FILE, device),
            TokenTable(tuple(saved.tokens), saved.blank),
            saved.model.sample_rate_hz,
            saved.model.variance_floor,
            OnnxArchitecture(**saved.architecture),
            saved.model.samples_per_frame,
            saved.model.window_samples,
            saved.model.masks_padding,
        )
        return PretrainedTeacher.restore(folder, saved, backend, device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None


def read_table(path: Path, blank: int | str) -> TokenTable:
    """Return the tokens of a model.

    Args:
        path: one token a line, in the order of the outputs; lines of token and index; or JSON,
            an object from token to index.
        blank: the CTC blank, its index or the token.

    Raises:
        ModelError: it is missing or no such file, or has no such blank.
    """
    try:
        text = read_text(path, ModelError)
        tokens = _tokens_of(text, path.suffix == ".json")
    except FileNotFoundError:
        raise ModelError(
            f"{path}: no such file; set teacher.tokens to the model's tokens"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: cannot be read ({error}); expected one token a line, or JSON that gives "
            "every token an index, from 0 on without gaps"
        ) from None
    index = tokens.index(blank) if blank in tokens else blank
    if not isinstance(index, int) or not 0 <= index < len(tokens):
        raise ModelError(
            f"teacher.blank: {blank!r}, but {path.name} holds {len(tokens)} tokens, such as "
            f"{', '.join(map(repr, tokens[:4]))}; give the blank's index or its token"
        )
    return TokenTable(tokens, index)


def _tokens_of(text: str, is_json: bool) -> tuple[str, ...]:
    if not is_json:
        lines = text.splitlines()
        numbered = [re.fullmatch(r"(\S+)[ \t]+(\d+)", line) for line in lines]
        if not lines or not all(numbered):
            return tuple(lines)
        indices = {match[1]: int(match[2]) for match in numbered if match}
    else:
        indices = {str(token): int(index) for token, index in json.loads(text).items()}
    by_index = {index: token for token, index in indices.items()}
    return tuple(by_index[index] for index in range(len(indices)))
