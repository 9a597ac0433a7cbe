import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.errors import CacheError, CacheMismatch
from distillery.params.cache import CacheParams, PayloadParams
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.namespace import NAMESPACE_FILE, Namespace, flatten

TEACHER = {
    "weights": "w1",
    "preprocessing": {"features": {"num_mels": 40}, "sample_rate_hz": 16000},
    "fingerprint": "f1",
}
BASE = Namespace(
    teacher=TEACHER,
    tokens=("<blank>", "|", "a"),
    frame_shift_seconds=0.04,
    payload={"kind": "sparse", "top_k": 4, "temperatures": [2.0, 4.0]},
    hidden={"project": 8},
)
CHANGES = {
    "teacher": {**TEACHER, "weights": "w2"},
    "tokens": ("<blank>", "a", "|"),
    "frame_shift_seconds": 0.02,
    "payload": {"kind": "sparse", "top_k": 4, "temperatures": [2.0]},
    "blank": 2,
    "compute_dtype": "bfloat16",
    "hidden": {"project": 9},
    "num_hypotheses": 3,
    "beam_size": 20,
    "schema_version": 3,
}


def saved(folder: Path, namespace: Namespace = BASE) -> Path:
    path = folder / NAMESPACE_FILE
    path.write_text(json.dumps(namespace.to_json()), "utf-8")
    return path


def test_every_field_has_a_change_below() -> None:
    assert set(CHANGES) == {field.name for field in fields(Namespace)}


@pytest.mark.parametrize("name", CHANGES)
def test_each_field_changes_the_folder(name: str) -> None:
    assert replace(BASE, **{name: CHANGES[name]}).folder_name != BASE.folder_name


@pytest.mark.parametrize("name", sorted(CHANGES.keys() - {"schema_version"}))
def test_each_field_is_named_when_it_differs(name: str) -> None:
    other = replace(BASE, **{name: CHANGES[name]})
    with pytest.raises(CacheMismatch, match=rf"was made with {name}\b.*; run make cache"):
        BASE.check(other)
    other.check(replace(BASE, **{name: CHANGES[name]}))


VALUES = st.recursive(
    st.integers() | st.text(max_size=5) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def reordered(value):
    """Return equal settings whose dicts were filled in another order."""
    if not isinstance(value, dict):
        return value
    return {name: reordered(value[name]) for name in reversed(value)}


@settings(max_examples=60, deadline=None)
@given(teacher=st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_the_order_of_settings_changes_nothing(teacher: dict) -> None:
    namespace = replace(BASE, teacher=teacher)
    other = replace(BASE, teacher=reordered(teacher), payload=reordered(dict(BASE.payload)))
    assert other.digest == namespace.digest
    namespace.check(other)


@settings(max_examples=60, deadline=None)
@given(teacher=st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_a_namespace_that_went_through_its_file_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, teacher: dict
) -> None:
    namespace = replace(BASE, teacher=teacher)
    folder = tmp_path_factory.mktemp("namespace")
    saved(folder, namespace)
    assert Namespace.read(folder).digest == namespace.digest
    Namespace.read(folder).check(namespace)


def test_the_digest_is_the_sha256_of_sorted_json() -> None:

    content = {name: value for name, value in BASE.to_json().items() if name != "digest"}
    text = json.dumps(content, sort_keys=True)
    assert BASE.to_json()["digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert BASE.folder_name == BASE.digest[:16]


def test_a_nested_field_is_named_by_its_path_with_both_values() -> None:
    features = {"features": {"num_mels": 80}, "sample_rate_hz": 16000}
    other = replace(BASE, teacher={**TEACHER, "preprocessing": features})
    with pytest.raises(
        CacheMismatch,
        match=r"with teacher\.preprocessing\.features\.num_mels = 40, the present teacher and "
        r"settings have 80; run make cache",
    ):
        BASE.check(other)


def test_a_fingerprints_own_hash_is_named_only_when_nothing_else_differs() -> None:
    other = replace(BASE, teacher={**TEACHER, "fingerprint": "f2", "weights": "w2"})
    with pytest.raises(CacheMismatch, match=r'teacher\.weights = "w1".*have "w2"; run'):
        BASE.check(other)
    with pytest.raises(CacheMismatch, match=r'teacher\.fingerprint = "f1"'):
        BASE.check(replace(BASE, teacher={**TEACHER, "fingerprint": "f2"}))


def test_fields_of_one_side_alone_and_several_at_once_are_named() -> None:
    other = replace(BASE, payload={"kind": "u8"}, hidden={})
    with pytest.raises(
        CacheMismatch,
        match=r'payload\.kind = "sparse", .* have "u8" \(and 3 more: payload\.top_k, '
        r"payload\.temperatures, hidden\.project\)",
    ):
        BASE.check(other)


def test_settings_are_flattened_under_dotted_names() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [2, 3]}, "e": None}
    assert dict(flatten(nested)) == {"a.b.c": 1, "a.d": (2, 3), "e": None}


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", '{"digest": "x"}', '{"digest": "x", "schema_version": 2, "tokens": []}'],
    ids=str,
)
def test_a_missing_or_unreadable_description_is_an_error(tmp_path: Path, content) -> None:
    if content is not None:
        (tmp_path / NAMESPACE_FILE).write_text(content)
    with pytest.raises(CacheError, match="namespace.json: missing or unreadable; run make cache"):
        Namespace.read(tmp_path)


def test_a_changed_description_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_text(path.read_text().replace("0.04", "0.02"))
    with pytest.raises(CacheError, match="its fields do not give the hash it names; run make"):
        Namespace.read(tmp_path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, replace(BASE, schema_version=1))
    with pytest.raises(CacheError, match="schema 1, this Distillery reads 2; run make cache"):
        Namespace.read(tmp_path)


SAVED_TEACHER = {
    "architecture": {
        "conv_channels": 32,
        "dropout": 0.2,
        "hidden_size": 192,
        "num_layers": 2,
        "time_reduction": 4,
        "type": "conv_bilstm",
    },
    "fingerprint": "e66261776d3c21d3405a6c8f26bc4988ce51245cf06a5bae9b22a12fff8b6d58",
    "frame_shift_seconds": 0.04,
    "gives_frames": True,
    "layers": {"last": 384, "project": 192, "recurrent.0": 384, "recurrent.1": 384},
    "preprocessing": {
        "features": {
            "hop_seconds": 0.01,
            "normalise": "bands",
            "num_mels": 64,
            "window_seconds": 0.025,
        },
        "sample_rate_hz": 16000,
    },
    "tokens": "8dd3431a452d05613a28e7c47ba0d6371099a8f5fb4089db7fb4cb35dfa8de79",
    "weights": "9cc8f836180c0081a1bf37b2f30f1a63aba61c9c2587bc3477dbe4fb2c779b7d",
}
SAVED_NAMESPACE = {
    "beam_size": None,
    "blank": 0,
    "compute_dtype": "float32",
    "digest": "0a54dd82dd87664a5b9af7abbef196dc2eb5c4e99a22698036f561f776fa9798",
    "frame_shift_seconds": 0.04,
    "hidden": {"last": 384},
    "num_hypotheses": 1,
    "payload": {"kind": "u8"},
    "schema_version": 2,
    "teacher": SAVED_TEACHER,
    "tokens": ["<blank>", "|", "'", *"abcdefghijklmnopqrstuvwxyz"],
}
"""As an earlier Distillery wrote it."""


def test_a_saved_namespace_is_the_one_that_its_teacher_has_today(tmp_path: Path) -> None:
    (tmp_path / NAMESPACE_FILE).write_text(json.dumps(SAVED_NAMESPACE))
    saved = Namespace.read(tmp_path)
    assert saved.folder_name == "0a54dd82dd87664a"
    assert saved.to_json() == SAVED_NAMESPACE
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "fingerprint.json").write_text(json.dumps(SAVED_TEACHER))
    places = Places(tmp_path, teacher, tmp_path / "cache")
    payload = PayloadParams(hidden_layers=("last",))
    present = expected_namespace(places, CacheParams(payload=payload), saved.tokens)
    assert present == saved
    saved.check(present)
