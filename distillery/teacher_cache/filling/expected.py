"""Where a workspace keeps what the cache is made from, and which namespace that makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from distillery.data.text import Vocabulary
from distillery.data.workspace import PREPARED, TEACHER, TEACHER_CACHE
from distillery.errors import CacheError
from distillery.files import Json
from distillery.language_model.settings import read_decoder
from distillery.models.fingerprint import read_fingerprint
from distillery.params.cache import CacheParams
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.payload import PayloadSettings

DECODER_FOLDER = "decoder"
LANGUAGE_MODEL = "language_model"
"""Field of a namespace's teacher that describes the decoder of its texts, if there is one."""
AUTO_U8_TOKENS = 256
COMPUTE_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Places:
    """The three folders that a teacher pass needs."""

    data: Path
    teacher: Path
    cache: Path

    @classmethod
    def in_workspace(cls, root: Path) -> Places:
        """Return where a workspace has them."""
        return cls(root / PREPARED, root / TEACHER, root / TEACHER_CACHE)

    @property
    def decoder(self) -> Path:
        """Where the teacher's language model lies, if its texts are decoded with one."""
        return self.cache / DECODER_FOLDER


def expected_namespace(
    places: Places, params: CacheParams, tokens: tuple[str, ...] | None = None
) -> Namespace:
    """Return the namespace that a saved teacher's outputs belong to, its weights not loaded.

    Args:
        places: the teacher's folder, of which fingerprint.json is needed, and the cache with the
            decoder of the teacher's texts.
        params: settings of the stage `cache`.
        tokens: a token table to use in place of the one in the folder; the fingerprint holds the
            hash of the right one, so another one shows in `Namespace.check`.

    Raises:
        ModelError: the teacher's files are missing or damaged.
        CacheError: the teacher has no such hidden layer.
    """
    fingerprint = read_fingerprint(places.teacher)
    tokens = tokens or Vocabulary.load(places.teacher / "tokens.txt").tokens
    payload = params.payload
    layers = fingerprint.layers
    if unknown := [name for name in payload.hidden_layers if name not in layers]:
        raise CacheError(
            f"cache.payload.hidden_layers: the teacher has no layer {unknown[0]!r}, expected "
            f"some of {sorted(layers)}"
        )
    teacher: Json = asdict(fingerprint)
    beam_size = payload.beam_size if payload.num_hypotheses > 1 else None
    if places.decoder.exists():
        decoder = read_decoder(places.decoder)
        teacher = {**teacher, LANGUAGE_MODEL: decoder.fields}
        beam_size = decoder.settings.beam_size
    return Namespace(
        teacher=teacher,
        tokens=tokens,
        frame_shift_seconds=fingerprint.frame_shift_seconds,
        payload=payload_settings(params, len(tokens), gives_frames=fingerprint.gives_frames),
        compute_dtype=COMPUTE_DTYPES[params.precision],
        hidden={name: layers[name] for name in payload.hidden_layers},
        num_hypotheses=payload.num_hypotheses,
        beam_size=beam_size,
    )


def payload_settings(
    params: CacheParams, num_tokens: int, *, gives_frames: bool = True
) -> PayloadSettings:
    """Return the layout's kind and what that kind needs, no more: the rest changes nothing.

    Args:
        params: settings of the stage `cache`.
        num_tokens: size of the vocabulary.
        gives_frames: whether the teacher has distributions to keep.
    """
    kind = params.payload.log_probs if gives_frames else "none"
    if kind == "auto":
        kind = "u8" if num_tokens <= AUTO_U8_TOKENS else "sparse"
    if kind != "sparse":
        return {"kind": kind}
    sparse = params.payload.sparse
    return {
        "kind": kind,
        "top_k": sparse.top_k,
        "top_p": sparse.top_p,
        "near_frames": sparse.near_frames,
        "temperatures": sorted({t for t in sparse.temperatures if t != 1.0}),
    }
