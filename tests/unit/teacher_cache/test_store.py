import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.data.manifest import PreparedData, audio_key
from distillery.errors import CacheError, CacheMismatch
from distillery.params.prepare import PrepareParams
from distillery.prepare.prepare import prepare
from distillery.teacher_cache import store
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import Entry, Hypothesis, read_index
from distillery.teacher_cache.store import TeacherCache, all_namespaces
from tests.tiny import LETTERS, RATE_HZ, write_corpus

HIDDEN = {"late": 2, "early": 3}  # stored by name, so the other way round
SPARSE = {"kind": "sparse", "top_k": 3, "top_p": 0.9, "near_frames": 1, "temperatures": [2.0]}
PAYLOADS = [{"kind": "u8"}, {"kind": "f16"}, {"kind": "f32"}, SPARSE]
quick = settings(max_examples=25, deadline=None)
payloads = pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: p["kind"])


def namespace(vocab: int = 3, **changes: Any) -> Namespace:
    fields = {
        "teacher": {"weights": "w1"},
        "tokens": tuple(f"t{i}" for i in range(vocab)),
        "frame_shift_seconds": 0.04,
        "payload": {"kind": "f32"},
    }
    return Namespace(**{**fields, **changes})


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def entry(key: str, frames: int = 5, vocab: int = 3, hidden: dict[str, int] | None = None) -> Entry:
    """Return what a teacher says about this key, the same whenever it is asked."""
    random = np.random.default_rng([int(key, 16) % 2**32, frames])
    scores = random.normal(0, 3, (frames, vocab))
    return Entry(
        key,
        (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32),
        f"text {key}",
        float(np.float32(random.random())),
        [Hypothesis(f"text {key}", -0.5), Hypothesis(key[:3], -frames)],
        {layer: random.normal(size=(frames, width)) for layer, width in (hidden or {}).items()},
    )


def add(cache: TeacherCache, entries: Sequence[Entry]) -> None:
    """Write one shard."""
    with cache.writing() as writer:
        for item in entries:
            writer.add(item)
    cache.reload()


def filled(root: Path, *shards: Sequence[str], **changes: Any) -> TeacherCache:
    """Return a cache with a shard for each list of names."""
    cache = TeacherCache.create(root, namespace(**changes))
    for names in shards:
        add(cache, [entry(key_of(name)) for name in names])
    return cache


# --- keys ----------------------------------------------------------------------------------------


@given(samples=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=40), place=st.integers(0, 39))
def test_the_key_depends_on_every_sample_and_on_nothing_else(
    samples: list[int], place: int
) -> None:
    waveform = np.array(samples, np.int16)
    assert audio_key(waveform) == audio_key(np.array(samples, ">i2"))
    assert audio_key(waveform) == audio_key(np.repeat(waveform, 3)[::3])
    assert audio_key(waveform) != audio_key(np.append(waveform, np.int16(0)))
    if samples:
        changed = waveform.copy()
        changed[place % len(samples)] ^= 1
        assert audio_key(waveform) != audio_key(changed)


def test_audio_under_other_names_in_another_order_and_split_has_the_same_keys(
    tmp_path: Path,
) -> None:
    corpus = write_corpus(tmp_path / "corpus", num_speakers=7, per_speaker=2)
    before = prepared(corpus, tmp_path / "before")
    table = pd.read_csv(corpus / "manifest.csv", keep_default_na=False)
    renamed = [f"z{99 - i}.wav" for i in range(len(table))]
    for old, new in zip(table["path"], renamed, strict=True):
        (corpus / old).rename(corpus / new)
    table["path"] = renamed
    table["speaker"] = [f"other {speaker}" for speaker in table["speaker"]]
    table["split"] = table["split"].replace({"test": "train", "train": "test"})
    table.iloc[::-1].to_csv(corpus / "manifest.csv", index=False)
    after = prepared(corpus, tmp_path / "after")
    assert set(before["utterance_id"]).isdisjoint(after["utterance_id"])
    assert [sum(rows["split"] == "train") for rows in (before, after)] == [6, 4]
    assert len(before) == 14
    assert sorted(before["audio_key"]) == sorted(after["audio_key"])
    cache = TeacherCache.create(tmp_path / "cache", namespace())
    add(cache, [entry(key) for key in before["audio_key"]])
    assert cache.missing(after["audio_key"]) == []


def prepared(corpus: Path, folder: Path) -> pd.DataFrame:
    params = PrepareParams(
        corpus="manifest", source=str(corpus), sample_rate_hz=RATE_HZ, alphabet=LETTERS
    )
    prepare(params, corpus, folder, folder.with_name("reports"))
    return PreparedData.open(folder).frame


# --- what was put in comes out -------------------------------------------------------------------


@st.composite
def caches(draw) -> list[list[tuple[str, int]]]:
    """Draw shards of (key, frames), keys all different."""
    lengths = draw(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4), max_size=4))
    numbers = iter(range(99))
    return [[(key_of(f"{next(numbers)}"), frames) for frames in shard] for shard in lengths]


@payloads
@quick
@given(shards=caches(), vocab=st.integers(2, 60), seed=st.integers(0, 99))
def test_what_was_put_in_comes_out_in_any_order_and_batch(
    tmp_path_factory: pytest.TempPathFactory, payload, shards, vocab: int, seed: int
) -> None:
    cache = TeacherCache.create(
        tmp_path_factory.mktemp("cache"), namespace(vocab, payload=payload, hidden=HIDDEN)
    )
    given = {}
    for shard in shards:
        entries = [entry(key, frames, vocab, HIDDEN) for key, frames in shard]
        given.update({item.key: item for item in entries})
        add(cache, entries)
    cache = TeacherCache(cache.folder)
    keys = list(np.random.default_rng(seed).permutation(sorted(given)))
    rows = cache.rows(keys)
    assert len(cache) == len(given)
    assert cache.keys(rows) == keys
    assert cache.num_frames(rows).tolist() == [len(given[key].log_probs) for key in keys]
    assert cache.greedy_texts(rows) == [given[key].greedy_text for key in keys]
    assert cache.confidences(rows).tolist() == [given[key].confidence for key in keys]
    assert cache.hypotheses(rows) == [list(given[key].hypotheses) for key in keys]
    together = cache.targets(rows, 2.0)
    for layer in HIDDEN:
        states, lengths = cache.hidden(rows, layer)
        for row, key in enumerate(keys):
            wanted = given[key].hidden[layer].astype(np.float16)
            np.testing.assert_array_equal(states[row, : lengths[row]], wanted)
            assert not states[row, lengths[row] :].any()
    for row, key in enumerate(keys):
        alone = cache.targets(rows[row : row + 1], 2.0).log_probs[0]
        frames, places = alone.shape
        np.testing.assert_array_equal(together.log_probs[row, :frames, :places], alone)
        if payload["kind"] == "f32":
            found = cache.log_probs(rows[row : row + 1]).values[0]
            np.testing.assert_array_equal(found, given[key].log_probs)


@payloads
def test_no_rows_give_an_empty_batch(tmp_path: Path, payload) -> None:
    cache = filled(tmp_path, ["a"], payload=payload)
    assert cache.rows([]).shape == (0,)
    assert cache.targets(cache.rows([])).log_probs.shape[:2] == (0, 0)
    assert cache.greedy_texts(cache.rows([])) == []
    assert cache.keys(cache.rows([])) == []


def test_a_batch_of_log_probs_holds_zeros_behind_each_utterance(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, namespace(payload={"kind": "u8"}))
    add(cache, [entry(key_of("short"), 2), entry(key_of("long"), 4)])
    values, num_frames = cache.log_probs(cache.rows([key_of("short"), key_of("long")]))
    assert values.shape == (2, 4, 3)
    assert values.dtype == np.float32
    assert num_frames.tolist() == [2, 4]
    assert not values[0, 2:].any()
    assert values[1].all()


def test_a_layer_that_is_not_stored_is_refused(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"])
    with pytest.raises(CacheError, match=r"layer 'late' is not stored, only none; add it to cache"):
        cache.hidden(cache.rows([key_of("a")]), "late")
    cache = TeacherCache.create(tmp_path, namespace(hidden=HIDDEN))
    with pytest.raises(CacheError, match="layer 'other' is not stored, only early, late; add it"):
        cache.hidden(cache.rows([]), "other")


# --- look-ups against a plain dict ---------------------------------------------------------------

HEADS = [bytes(8), b"\xff" * 8, b"\x00" * 7 + b"\x01", b"\x01" + b"\x00" * 7]
crafted_keys = st.builds(
    lambda head, tail: (head + bytes(23) + bytes([tail])).hex(),
    st.sampled_from(HEADS),
    st.integers(0, 5),
)


@quick
@given(
    shards=st.lists(st.lists(crafted_keys, min_size=1, max_size=6), max_size=4),
    asked=st.lists(crafted_keys, max_size=20),
)
def test_keys_that_share_their_first_bytes_or_repeat_are_found(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[str]], asked: list[str]
) -> None:
    cache = TeacherCache.create(tmp_path_factory.mktemp("cache"), namespace())
    for shard in shards:
        add(cache, [entry(key) for key in shard])
    plain = {key: entry(key).log_probs for shard in shards for key in shard}
    assert len(cache) == len(plain)
    assert sorted(cache.keys(cache.all_rows)) == sorted(plain)
    assert [key in cache for key in asked] == [key in plain for key in asked]
    absent = [key for key in dict.fromkeys(asked) if key not in plain]
    assert cache.missing(asked) == absent
    if absent:
        with pytest.raises(CacheMismatch, match=f"{len(absent)} utterances are not in it"):
            cache.rows(asked)
    else:
        cache.require(asked)
    present = [key for key in asked if key in plain]
    rows = cache.rows(present)
    assert cache.keys(rows) == present
    assert len(set(rows.tolist())) == len(set(present))
    for key, row in zip(present, rows, strict=True):
        np.testing.assert_array_equal(cache.log_probs(np.array([row])).values[0], plain[key])


def test_of_two_entries_for_one_key_that_of_the_first_shard_counts(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, namespace())
    add(cache, [entry(key_of("a"), frames=1)])
    add(cache, [entry(key_of("b")), entry(key_of("a"), frames=2)])
    first = min(cache.folder.glob("*.arrow"), key=lambda path: path.name)
    wanted = 2 if len(read_index(first).table) == 2 else 1
    assert cache.num_frames(cache.rows([key_of("a")])).tolist() == [wanted]
    assert len(cache) == 2


def test_missing_keys_are_counted_and_named_and_the_command_is_said(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"])
    absent = [key_of(name) for name in "bcde"]
    assert cache.missing([absent[1], key_of("a"), absent[0], absent[1]]) == absent[1::-1]
    named = ", ".join(key[:12] for key in absent[:3])
    with pytest.raises(
        CacheMismatch,
        match=rf"4 utterances are not in it \(audio keys {named} …\), expected all; run make cache",
    ):
        cache.require([*absent, key_of("a")])
    with pytest.raises(CacheMismatch, match=rf"1 utterances .*\(audio keys {absent[0][:12]}\)"):
        cache.rows([key_of("a"), absent[0]])


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="audio key 'u1': expected 64 hexadecimal digits"):
        filled(tmp_path, ["a"]).missing(["u1"])


# --- shards and content --------------------------------------------------------------------------


@quick
@given(data=st.data(), shards=caches())
def test_the_content_digest_does_not_depend_on_order_and_shards(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, shards
) -> None:
    items = [item for shard in shards for item in shard]
    cache = TeacherCache.create(tmp_path_factory.mktemp("one"), namespace(hidden=HIDDEN))
    for shard in shards:
        add(cache, [entry(key, frames, 3, HIDDEN) for key, frames in shard])
    other = TeacherCache.create(tmp_path_factory.mktemp("two"), namespace(hidden=HIDDEN))
    shuffled = data.draw(st.permutations(items))
    cut = data.draw(st.integers(0, len(items)))
    for part in (shuffled[:cut], shuffled[cut:]):
        add(other, [entry(key, frames, 3, HIDDEN) for key, frames in part])
    assert other.manifest_digest == cache.manifest_digest
    if items:
        add(other, [entry(key_of("another"), 1, 3, HIDDEN)])
        assert other.manifest_digest != cache.manifest_digest


def test_the_content_digest_is_that_of_the_documentation(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, namespace(hidden=HIDDEN))
    for name in ("b", "a", "c"):
        add(cache, [entry(key_of(name), 2, 3, HIDDEN)])
    lines = []
    for shard in cache.shards:
        for row in shard.table.to_pylist():
            checksums = np.array([row["crc32"], row["hidden_crc32"]], "<u4").tobytes()
            lines.append(row["key"] + checksums)
    content = cache.namespace.digest.encode() + b"".join(sorted(lines))
    assert cache.manifest_digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("changed", ["log_probs", "hidden", "namespace"])
def test_other_content_has_another_digest(tmp_path: Path, changed: str) -> None:
    item = entry(key_of("a"), 2, 3, HIDDEN)
    cache = TeacherCache.create(tmp_path / "one", namespace(hidden=HIDDEN))
    add(cache, [item])
    fields = namespace(hidden=HIDDEN)
    if changed == "log_probs":
        item.log_probs[0, 0] += 1e-3
    elif changed == "hidden":
        item.hidden["late"][0, 0] += 1
    else:
        fields = namespace(hidden=HIDDEN, compute_dtype="bfloat16")
    other = TeacherCache.create(tmp_path / "two", fields)
    add(other, [item])
    assert other.manifest_digest != cache.manifest_digest


def test_a_second_shard_adds_and_leaves_the_first_alone(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"])
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in cache.folder.iterdir()}
    add(cache, [entry(key_of("b"))])
    assert len(cache) == 2
    assert len(list(cache.folder.iterdir())) == len(before) + 2
    for name, state in before.items():
        path = cache.folder / name
        assert (path.stat().st_mtime_ns, path.read_bytes()) == state


def test_new_shards_become_visible_with_reload(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"])
    other = TeacherCache(cache.folder)
    add(other, [entry(key_of("b"))])
    assert key_of("b") not in cache
    cache.reload()
    assert cache.keys(cache.rows([key_of("b")])) == [key_of("b")]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"])
    names = {path.name for path in cache.folder.iterdir()}
    with pytest.raises(RuntimeError, match="teacher died"), cache.writing() as writer:
        writer.add(entry(key_of("b")))
        raise RuntimeError("teacher died")
    assert {path.name for path in cache.folder.iterdir()} == names


def test_a_shard_without_index_does_not_exist(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"])
    next(cache.folder.glob("*.arrow")).unlink()
    assert len(TeacherCache(cache.folder)) == 0


def test_a_flipped_bit_is_found_when_its_utterance_is_read(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a", "b"])
    data = next(cache.folder.glob("*.bin"))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    fresh = TeacherCache(cache.folder)
    fresh.log_probs(fresh.rows([key_of("a")]))
    with pytest.raises(
        CacheError,
        match=rf"{data.name}: utterance {key_of('b')[:12]} does not match its checksum; "
        r"run `distillery cache verify --repair`, then make cache",
    ):
        fresh.targets(fresh.rows([key_of("a"), key_of("b")]))


def test_damaged_states_are_found_when_they_are_read(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, namespace(hidden=HIDDEN))
    add(cache, [entry(key_of("a"), hidden=HIDDEN)])
    data = next(cache.folder.glob("*.bin"))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    fresh = TeacherCache(cache.folder)
    rows = fresh.rows([key_of("a")])
    fresh.log_probs(rows)
    for layer in HIDDEN:  # one checksum covers all layers
        with pytest.raises(CacheError, match="does not match its checksum"):
            fresh.hidden(rows, layer)


def test_data_deleted_under_an_open_cache_are_an_error_that_says_so(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"])
    next(cache.folder.glob("*.bin")).unlink()
    with pytest.raises(CacheError, match="cannot be read .* by gc or compact. Start again"):
        cache.log_probs(cache.rows([key_of("a")]))


# --- namespaces ----------------------------------------------------------------------------------


def test_another_namespace_starts_empty_beside_the_first(tmp_path: Path) -> None:
    first = filled(tmp_path, ["a"])
    second = TeacherCache.create(tmp_path, namespace(teacher={"weights": "w2"}))
    assert len(second) == 0
    assert all_namespaces(tmp_path) == sorted([first.folder, second.folder])
    assert len(TeacherCache.create(tmp_path, namespace())) == 1


def test_the_current_namespace_is_the_one_made_current(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="current.json: missing or unreadable; run make cache"):
        TeacherCache.open_current(tmp_path)
    filled(tmp_path, ["a"]).make_current()
    TeacherCache.create(tmp_path, namespace(teacher={"weights": "w2"}))
    assert len(TeacherCache.open_current(tmp_path)) == 1


def test_keys_are_looked_up_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEYS_AT_ONCE", 3)
    cache = filled(tmp_path, ["a", "b", "c", "d"], ["e"])
    names = ["e", "x", "a", "d", "y", "x", "b"]
    keys = pd.Series([key_of(name) for name in names])
    assert cache.holds(keys).tolist() == [True, False, True, True, False, False, True]
    assert cache.missing(iter(keys)) == [key_of("x"), key_of("y")]
    present = keys[cache.holds(keys)]
    assert cache.keys(cache.rows(present)) == list(present)


def test_texts_of_rows_in_any_order_are_their_own(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a", "b"], ["c"], ["d", "e", "f"])
    keys = [key_of(name) for name in "fabdceaf"]
    rows = cache.rows(keys)
    assert cache.greedy_texts(rows) == [f"text {key}" for key in keys]
    wanted = [entry(key).confidence for key in keys]
    assert cache.confidences(rows).tolist() == pytest.approx(wanted)
    assert [items[1].text for items in cache.hypotheses(rows)] == [key[:3] for key in keys]
