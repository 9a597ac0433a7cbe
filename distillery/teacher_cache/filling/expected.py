"""Where a workspace keeps what the cache is made from, and which namespace that makes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from distillery.data.text import Vocabulary
from distillery.data.workspace import PREPARED, TEACHER, TEACHER_CACHE
from distillery.errors import CacheError
from distillery.files import Json
from distillery.language_model.settings import read_decoder
from distillery.models.fingerprint import read_fingerprint
from distillery.params.cache import AUTO, CacheParams
from distillery.teacher_cache.namespace import NAMESPACE_FILE, Namespace
from distillery.teacher_cache.payload import PayloadSettings
from distillery.teacher_cache.store import CURRENT_FILE, TeacherCache, current_namespace

DECODER_FOLDER = "decoder"
LANGUAGE_MODEL = "language_model"
"""Field of a namespace's teacher that describes the decoder of its texts, if there is one."""
AUTO_U8_TOKENS = 256
BYTES_PER_STATE = 2  # half precision
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
        params: settings of the stage `cache`, see `settled`.
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
    if unknown := [name for name in payload.named_layers if name not in layers]:
        raise CacheError(
            "cache.payload.hidden_layers, or hidden.layers of an objective: the teacher has no "
            f"layer {unknown[0]!r}, expected some of {sorted(layers)}"
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
        hidden={name: layers[name] for name in payload.named_layers},
        num_hypotheses=payload.num_hypotheses,
        beam_size=beam_size,
    )


def settled(
    places: Places,
    params: CacheParams,
    learnt: Collection[str],
    tokens: tuple[str, ...] | None = None,
) -> CacheParams:
    """Return settings that name the hidden layers that are kept.

    Named ones stay. With `auto` they are those that are learnt from, unless a namespace of the same
    teacher and settings is there that holds these among others: what is cached is not cached again.
    The current one is preferred, for it is complete, then the smallest.

    Args:
        places: the teacher's folder, of which fingerprint.json is needed, and the cache.
        params: settings of the stage `cache`.
        learnt: the teacher's layers that students learn from.
        tokens: the teacher's; None: as its folder has them.

    Raises:
        ModelError: the teacher's files are missing or damaged.
        CacheError: the teacher has no such hidden layer.
    """
    if params.payload.hidden_layers != AUTO:
        return params
    wanted = params.keeping(learnt)
    namespace = expected_namespace(places, wanted, tokens)
    current = current_namespace(places.cache) if (places.cache / CURRENT_FILE).exists() else None
    enough = [
        found
        for found in _readable(places.cache)
        if set(learnt) <= set(found.hidden)
        and replace(found, hidden={}).digest == replace(namespace, hidden={}).digest
    ]
    if not enough:
        return wanted
    best = min(
        enough,
        key=lambda it: (it.folder_name != current, sum(it.hidden.values()), it.folder_name),
    )
    return params.keeping(best.hidden)


def open_expected(places: Places, params: CacheParams, learnt: Collection[str]) -> TeacherCache:
    """Open the cache, which must be the present teacher's; of the teacher no model is read.

    Args:
        places: the teacher's folder, of which fingerprint.json is needed, and the cache.
        params: settings of the stage `cache`.
        learnt: the teacher's layers that students learn from.

    Raises:
        CacheMismatch: it is another teacher's, or of other settings.
        CacheError: there is none, it is damaged, or the teacher has no such hidden layer.
        ModelError: the teacher's fingerprint is missing or damaged.
    """
    cache = TeacherCache.open_current(places.cache)
    tokens = cache.namespace.tokens
    params = settled(places, params, learnt, tokens)
    cache.namespace.check(expected_namespace(places, params, tokens))
    return cache


def _readable(cache: Path) -> Iterator[Namespace]:
    """Yield the namespaces that lie in a cache, but for damaged ones."""
    for path in sorted(cache.glob(f"*/{NAMESPACE_FILE}")):
        with suppress(CacheError):
            yield Namespace.read(path.parent)


def describe_layers(params: CacheParams, kept: Mapping[str, int], learnt: Collection[str]) -> str:
    """Return which hidden layers a namespace holds and why, in a line for a person.

    Args:
        params: settings of the stage `cache`, as they stand.
        kept: widths of the layers by name.
        learnt: the teacher's layers that students learn from.
    """
    names = ", ".join(f"{name} ({BYTES_PER_STATE * kept[name]} bytes a frame)" for name in kept)
    unread = ", ".join(sorted(set(kept) - set(learnt)))
    if not kept:
        return "hidden layers: none is kept, no objective of a student learns from any"
    if params.payload.hidden_layers != AUTO:
        rest = f"; no student learns from {unread}" if unread else ""
        return f"hidden layers: {names}, as cache.payload.hidden_layers says{rest}"
    if not unread:
        return f"hidden layers: {names}, which students learn from"
    return (
        f"hidden layers: {names}; no student learns from {unread}, but it is cached already. To be "
        f"rid of it set cache.payload.hidden_layers to [{', '.join(sorted(learnt))}], which is "
        "another teacher pass, and run make cache-gc"
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
