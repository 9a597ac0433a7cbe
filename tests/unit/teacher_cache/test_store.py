import os
from pathlib import Path

import numpy as np
import pytest

from distillery.errors import CacheError, CacheMismatch
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import Entry
from distillery.teacher_cache.store import TeacherCache

TEACHER = {
    "weights": "w1",
    "tokens": "t1",
    "preprocessing": {"mels": 8},
    "fingerprint": "f1",
}


def namespace(**changes) -> Namespace:
    fields = {
        "teacher": TEACHER,
        "tokens": ("<blank>", "|", "a"),
        "frame_shift_seconds": 0.04,
        "log_probs": "f16",
    }
    return Namespace(**{**fields, **changes})


def entry(key: str, frames: int = 5) -> Entry:
    random = np.random.default_rng(len(key) + frames)
    scores = random.normal(0, 2, (frames, 3)).astype(np.float32)
    return Entry(key, scores - np.log(np.exp(scores).sum(1, keepdims=True)), f"text {key}", 0.9)


def filled(root: Path, keys: list[str]) -> TeacherCache:
    cache = TeacherCache.create(root, namespace())
    with cache.writing() as writer:
        for key in keys:
            writer.add(entry(key))
    return cache


def test_what_was_put_in_comes_out(tmp_path: Path) -> None:
    filled(tmp_path, ["k1", "k2"])
    cache = TeacherCache.create(tmp_path, namespace())
    assert len(cache) == 2
    assert "k1" in cache
    assert cache.greedy_text("k2") == "text k2"
    np.testing.assert_allclose(cache.log_probs("k1"), entry("k1").log_probs, atol=5e-3)


def test_missing_keys_are_named_once_in_order(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["k1"])
    assert cache.missing(["k3", "k1", "k2", "k3"]) == ["k3", "k2"]
    with pytest.raises(
        CacheMismatch, match=r"2 utterances are not in it .*k3, k2.* run make cache"
    ):
        cache.require(["k3", "k1", "k2"])
    with pytest.raises(CacheMismatch, match="1 utterances are not in it"):
        cache.log_probs("k9")


def test_a_second_shard_adds_and_leaves_the_first_alone(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["k1"])
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in cache.folder.iterdir()}
    with cache.writing() as writer:
        writer.add(entry("k2"))
    assert len(cache) == 2
    for name, state in before.items():
        path = cache.folder / name
        assert (path.stat().st_mtime_ns, path.read_bytes()) == state


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["k1"])
    names = {p.name for p in cache.folder.iterdir()}
    with pytest.raises(RuntimeError, match="teacher died"), cache.writing() as writer:
        writer.add(entry("k2"))
        raise RuntimeError("teacher died")
    assert {p.name for p in cache.folder.iterdir()} == names
    assert len(TeacherCache(cache.folder)) == 1


def test_a_shard_without_index_does_not_exist(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["k1"])
    next(cache.folder.glob("*.parquet")).unlink()
    assert len(TeacherCache(cache.folder)) == 0


def test_leftovers_of_a_dead_writer_are_removed_and_a_living_ones_kept(
    tmp_path: Path,
) -> None:
    cache = filled(tmp_path, ["k1"])
    dead = cache.folder / ".open-999999999.tmp"
    alive = cache.folder / f".open-{os.getppid()}.tmp"
    dead.touch(), alive.touch()
    with cache.writing() as writer:
        writer.add(entry("k2"))
    assert not dead.exists()
    assert alive.exists()


def test_a_flipped_bit_is_found_and_named(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["k1", "k2"])
    data = next(cache.folder.glob("*.bin"))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    fresh = TeacherCache(cache.folder)
    fresh.log_probs("k1")
    with pytest.raises(CacheError, match=rf"{data.name}: utterance k2 does not match its checksum"):
        fresh.log_probs("k2")


def test_a_shard_cut_short_is_found_when_opened(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["k1"])
    data = next(cache.folder.glob("*.bin"))
    os.truncate(data, data.stat().st_size - 1)
    with pytest.raises(CacheError, match="holds 29 bytes, its index points at 30"):
        TeacherCache(cache.folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": {**TEACHER, "weights": "w2"}},
        {"tokens": ("<blank>", "|", "b")},
        {"frame_shift_seconds": 0.02},
        {"log_probs": "u8"},
        {"schema_version": 2},
    ],
    ids=lambda c: next(iter(c)),
)
def test_any_changed_field_is_another_namespace(tmp_path: Path, changes) -> None:
    filled(tmp_path, ["k1"])
    other = namespace(**changes)
    assert other.folder_name != namespace().folder_name
    assert len(TeacherCache.create(tmp_path, other)) == 0


def test_another_teacher_is_refused_with_the_field_that_differs() -> None:
    namespace().check_teacher(TEACHER)
    with pytest.raises(CacheMismatch, match='weights is "w1", the present one\'s is "w2"'):
        namespace().check_teacher({**TEACHER, "weights": "w2"})


def test_the_manifest_digest_depends_on_content_not_on_shards(tmp_path: Path) -> None:
    together = filled(tmp_path / "a", ["k1", "k2"])
    apart = filled(tmp_path / "b", ["k2"])
    assert apart.manifest_digest != together.manifest_digest
    with apart.writing() as writer:
        writer.add(entry("k1"))
    assert apart.manifest_digest == together.manifest_digest


def test_the_current_namespace_is_the_one_made_current(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="current.json: missing or unreadable; run make cache"):
        TeacherCache.open_current(tmp_path)
    filled(tmp_path, ["k1"]).make_current()
    assert len(TeacherCache.open_current(tmp_path)) == 1


@pytest.mark.parametrize("content", [None, "{", '{"digest": "x"}'])
def test_a_namespace_without_a_readable_description_is_an_error(tmp_path: Path, content) -> None:
    cache = filled(tmp_path, ["k1"])
    path = cache.folder / "namespace.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(CacheError, match="namespace.json: missing or unreadable"):
        TeacherCache(cache.folder)


def test_a_changed_description_is_an_error(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["k1"])
    path = cache.folder / "namespace.json"
    path.write_text(path.read_text().replace("0.04", "0.02"))
    with pytest.raises(CacheError, match="its fields do not give the hash it names"):
        TeacherCache(cache.folder)
