import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distillery.errors import CacheError
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import Entry, locked
from distillery.teacher_cache.store import TeacherCache
from distillery.teacher_cache.upkeep.collection import collect
from distillery.teacher_cache.upkeep.records import namespace_folders
from distillery.teacher_cache.upkeep.rewriting import compact
from distillery.teacher_cache.upkeep.statistics import statistics
from distillery.teacher_cache.upkeep.verification import verify

SHIFT_SECONDS = 0.5
TOKENS = ("<blank>", "|", "a")


def namespace(**changes) -> Namespace:
    fields = {
        "teacher": {"weights": "w", "fingerprint": "f"},
        "tokens": TOKENS,
        "frame_shift_seconds": SHIFT_SECONDS,
        "payload": {"kind": "f16"},
    }
    return Namespace(**{**fields, **changes})


def key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def entry(name: str, frames: int = 4, take: int = 0, width: int = 0) -> Entry:
    random = np.random.default_rng([take, *name.encode()])
    scores = random.normal(0, 2, (frames, len(TOKENS))).astype(np.float32)
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    hidden = {"top": random.normal(size=(frames, width))} if width else {}
    return Entry(key(name), log_probs, f"text {name}", 0.5, hidden=hidden)


def add(cache: TeacherCache, *entries: Entry) -> str:
    """Write one shard and return its name."""
    before = {shard.name for shard in cache.shards}
    with cache.writing() as writer:
        for item in entries:
            writer.add(item)
    cache.reload()
    (name,) = {shard.name for shard in cache.shards} - before
    return name


def filled(root: Path, *shards: list[str], **changes) -> TeacherCache:
    cache = TeacherCache.create(root, namespace(**changes))
    for names in shards:
        add(cache, *map(entry, names))
    return cache


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def greedy(cache: TeacherCache, *names: str) -> list[str]:
    return cache.greedy_texts(cache.rows([key(name) for name in names]))


# --- stats ----------------------------------------------------------------------------------------


def test_statistics_count_each_key_once_and_every_byte(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, namespace())
    # The first token is the blank: it wins in 2 of 3 frames.
    one = np.log(np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32))
    for texts in (["a", "b"], ["b", "c"]):
        add(cache, *(Entry(key(text), one, "", 1.0) for text in texts))
    found = statistics(cache.folder)
    assert (found.num_utterances, found.num_shards) == (3, 2)
    assert (found.num_frames, found.num_blank_frames) == (9, 6)
    assert found.audio_seconds == 4.5
    assert found.num_bytes == sum(len(content) for content in state(cache.folder).values())
    assert found.data_bytes == 4 * 3 * 3 * 2  # records, frames, tokens, bytes
    assert found.index_bytes == sum(p.stat().st_size for p in cache.folder.glob("*.arrow"))
    assert (found.payload, found.compute_dtype, found.teacher) == ("f16", "float32", "f")
    assert found.damaged is None


def test_statistics_of_a_damaged_namespace_give_the_reason(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"])
    (cache.folder / "namespace.json").write_text("{")
    found = statistics(cache.folder)
    assert "namespace.json: missing or unreadable" in found.damaged
    assert found.num_bytes > 0


def test_statistics_of_an_empty_namespace_are_zero(tmp_path: Path) -> None:
    found = statistics(filled(tmp_path).folder)
    assert (found.num_utterances, found.num_shards, found.num_frames) == (0, 0, 0)


def test_only_folders_named_as_namespaces_are_looked_at(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="holds no namespace; run make cache"):
        namespace_folders(tmp_path)
    cache = filled(tmp_path, ["a"])
    (tmp_path / "my own notes").mkdir()
    assert namespace_folders(tmp_path) == [cache.folder]


# --- verify ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, 2])
def test_a_sound_cache_has_no_damage(tmp_path: Path, width: int) -> None:
    hidden = {"top": width} if width else {}
    cache = TeacherCache.create(tmp_path, namespace(hidden=hidden))
    add(cache, entry("a", 4, width=width), entry("none", 0, width=width))
    add(cache, entry("b", 1, width=width))
    sizes = []
    found = verify(cache.folder, progress=sizes.append)
    assert (found.num_utterances, found.num_shards, list(found.damages)) == (3, 2, [])
    shards = [path for path in cache.folder.iterdir() if path.name.startswith("shard-")]
    assert found.num_bytes == sum(sizes) == sum(path.stat().st_size for path in shards)


@pytest.mark.parametrize("position", [0, 24, 39, 40, 64, 79])
def test_a_flipped_bit_names_its_utterance_alone(tmp_path: Path, position: int) -> None:
    """A record is 4 frames x 3 tokens x 2 bytes, then 4 x 2 x 2 of hidden states: 40 bytes."""
    cache = TeacherCache.create(tmp_path, namespace(hidden={"top": 2}))
    name = add(cache, *(entry(text, width=2) for text in "abc"))
    flip(cache.folder / f"{name}.bin", position)
    (damage,) = verify(cache.folder).damages
    assert damage.file == f"{name}.bin"
    assert damage.key == key("a" if position < 40 else "b")
    assert damage.found == "does not match its checksum"


def test_repair_loses_the_damaged_utterance_alone(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a", "b", "c"], ["d"])
    whole = next(shard.name for shard in cache.shards if len(shard.table) == 3)
    wanted = cache.log_probs(cache.rows([key(n) for n in "acd"])).values
    flip(cache.folder / f"{whole}.bin", 30)  # a record is 24 bytes: in b's
    found = verify(cache.folder, repair=True)
    assert found.repaired
    assert [damage.key for damage in found.damages] == [key("b")]
    assert not verify(cache.folder).damages
    mended = TeacherCache(cache.folder)
    assert mended.missing(map(key, "abcd")) == [key("b")]
    np.testing.assert_array_equal(
        mended.log_probs(mended.rows([key(n) for n in "acd"])).values, wanted
    )
    assert f"{whole}.bin" not in names_in(cache.folder)
    assert greedy(mended, "a", "c", "d") == ["text a", "text c", "text d"]


def test_a_damaged_index_costs_its_shard_and_no_other(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"], ["b"])
    (name,) = (s.name for s in cache.shards if s.keys[0].tobytes().hex() == key("a"))
    flip(cache.folder / f"{name}.arrow", 100)
    with pytest.raises(CacheError, match="verify --repair"):
        TeacherCache(cache.folder)
    found = verify(cache.folder)
    assert [(d.file, d.key) for d in found.damages] == [(f"{name}.arrow", None)]
    assert found.damages[0].found == "does not match the checksum in its name"
    assert f"{name}.arrow" in names_in(cache.folder)
    verify(cache.folder, repair=True)
    assert TeacherCache(cache.folder).missing([key("a"), key("b")]) == [key("a")]
    assert not [entry for entry in names_in(cache.folder) if entry.startswith(name)]


@pytest.mark.parametrize("content", [b"", b"no arrow"])
def test_an_index_of_other_content_is_damage(tmp_path: Path, content: bytes) -> None:
    cache = filled(tmp_path, ["a"])
    (cache.folder / f"{cache.shards[0].name}.arrow").write_bytes(content)
    assert [damage.key for damage in verify(cache.folder).damages] == [None]


def test_data_cut_short_keep_what_is_whole(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a", "b", "c"])
    data = cache.folder / f"{cache.shards[0].name}.bin"
    data.write_bytes(data.read_bytes()[:50])  # of 72: c starts at 48
    found = verify(cache.folder, repair=True)
    assert [d.found for d in found.damages] == [
        "holds 50 bytes, its index points at 72",
        "does not match its checksum",
    ]
    assert TeacherCache(cache.folder).missing(map(key, "abc")) == [key("c")]


def test_data_that_are_gone_are_lost_and_the_cache_opens_again(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a", "b"], ["c"])
    name = next(shard.name for shard in cache.shards if len(shard.table) == 2)
    (cache.folder / f"{name}.bin").unlink()
    found = verify(cache.folder, repair=True)
    assert {damage.key for damage in found.damages} == {None, key("a"), key("b")}
    assert TeacherCache(cache.folder).missing(map(key, "abc")) == [key("a"), key("b")]


def test_surplus_bytes_are_damage_and_cost_no_utterance(tmp_path: Path) -> None:
    """The repaired shard has the same name as the damaged one: it must not be deleted with it."""
    cache = filled(tmp_path, ["a", "b"])
    digest = cache.manifest_digest
    with open(cache.folder / f"{cache.shards[0].name}.bin", "ab") as file:
        file.write(b"more")
    (damage,) = verify(cache.folder, repair=True).damages
    assert damage.found == "holds 52 bytes, its index points at 48"
    assert not verify(cache.folder).damages
    assert TeacherCache(cache.folder).manifest_digest == digest


def test_a_description_that_cannot_be_read_is_damage_and_stays(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"])
    (cache.folder / "namespace.json").unlink()
    before = state(cache.folder)
    found = verify(cache.folder, repair=True)
    assert [damage.file for damage in found.damages] == ["namespace.json"]
    assert not found.repaired
    assert state(cache.folder) == before


def test_verify_alone_changes_nothing(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a", "b"])
    flip(cache.folder / f"{cache.shards[0].name}.bin", 0)
    before = state(cache.folder)
    assert verify(cache.folder).damages
    assert state(cache.folder) == before


def test_repair_and_compact_wait_for_no_writer(tmp_path: Path) -> None:
    cache = filled(tmp_path, ["a"], ["b"])
    with locked(cache.folder, alone=False):
        verify(cache.folder)
        with pytest.raises(CacheError, match="somebody writes to it"):
            verify(cache.folder, repair=True)
        with pytest.raises(CacheError, match="somebody writes to it"):
            compact(cache.folder, 1.0)
        assert compact(cache.folder, 1.0, dry_run=True).shards_after == 1


# --- compact --------------------------------------------------------------------------------------


def test_small_shards_become_one_with_the_same_content(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, namespace(hidden={"top": 2}))
    for text in "abcd":
        add(cache, entry(text, 3, width=2), entry(f"none {text}", 0, width=2))
    digest = cache.manifest_digest
    hidden = cache.hidden(cache.rows([key("c")]), "top").values
    done = []
    found = compact(cache.folder, 1.0, progress=done.append)
    assert (found.shards_before, found.shards_after, found.num_repeats) == (4, 1, 0)
    assert done == [8]
    cache = TeacherCache(cache.folder)
    assert len(cache.shards) == 1
    assert cache.manifest_digest == digest
    np.testing.assert_array_equal(cache.hidden(cache.rows([key("c")]), "top").values, hidden)
    assert len(list(cache.folder.iterdir())) == 3  # namespace.json, data, index
    assert not verify(cache.folder).damages
    assert not compact(cache.folder, 1.0).changed


def test_shards_are_put_together_up_to_the_hours_asked_for(tmp_path: Path) -> None:
    """Ten frames of half a second are 5 s each; 15 s hold three of them."""
    cache = TeacherCache.create(tmp_path, namespace())
    for number in range(7):
        add(cache, entry(f"u{number}", 10))
    compact(cache.folder, 15 / 3600)
    sizes = sorted(len(shard.table) for shard in TeacherCache(cache.folder).shards)
    assert sizes == [1, 3, 3]
    assert not compact(cache.folder, 15 / 3600).changed


def test_a_shard_of_half_the_hours_is_left_alone(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, namespace())
    large = add(cache, entry("large", 20))
    add(cache, entry("s1", 2))
    add(cache, entry("s2", 2))
    compact(cache.folder, 20 / 3600)
    names = {shard.name for shard in TeacherCache(cache.folder).shards}
    assert large in names
    assert len(names) == 2


def repeating(root: Path) -> TeacherCache:
    """Make three shards; u4 stands in all of them, in other words each time."""
    cache = TeacherCache.create(root, namespace())
    for take in range(3):
        texts = ["u4", f"own{take}"]
        add(cache, *(entry(text, 4, take) for text in texts))
    return cache


def test_of_a_repeated_key_what_readers_saw_stays(tmp_path: Path) -> None:
    cache = repeating(tmp_path)
    digest = cache.manifest_digest
    seen = cache.log_probs(cache.rows([key("u4")])).values
    assert compact(cache.folder, 1.0).num_repeats == 2
    cache = TeacherCache(cache.folder)
    assert cache.manifest_digest == digest
    np.testing.assert_array_equal(cache.log_probs(cache.rows([key("u4")])).values, seen)
    assert sum(len(shard.table) for shard in cache.shards) == 4


class Killed(BaseException):
    """Stands for a SIGKILL: from it on, nothing changes on disk."""


def steps_until_kill(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the n-th change of the file system, and all after it, not happen."""
    left = [number]

    def dying(real):
        def step(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*args, **kwargs)

        return step

    monkeypatch.setattr("os.replace", dying(os.replace))
    monkeypatch.setattr("os.fsync", dying(os.fsync))
    monkeypatch.setattr("pathlib.Path.unlink", dying(Path.unlink))


@pytest.mark.parametrize(
    ("hours", "steps"),
    [(1.0, 6 + 6), (2 / 3600, 2 * 6 + 4)],
    ids=["three shards become one", "two shards lose a record"],
)
def test_compacting_killed_at_any_step_leaves_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float, steps: int
) -> None:
    """Each new shard takes four syncs and two renames, each old one two deletions."""
    source = repeating(tmp_path / "source")
    digest = source.manifest_digest
    finished, step = False, 0
    while not finished:
        root = Path(shutil.copytree(tmp_path / "source", tmp_path / f"killed-{step}"))
        folder = root / source.folder.name
        with monkeypatch.context() as patch:
            steps_until_kill(patch, step)
            try:
                compact(folder, hours)
                finished = True
            except Killed:
                pass
        assert TeacherCache(folder).manifest_digest == digest, step
        compact(folder, hours)
        again = TeacherCache(folder)
        assert again.manifest_digest == digest, step
        assert sum(len(shard.table) for shard in again.shards) == 4
        step += 1
    assert step == steps + 1


def test_a_full_disk_leaves_the_content_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = filled(tmp_path, ["a"], ["b"])
    before = state(cache.folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(CacheError, match="No space left on device"):
            compact(cache.folder, 1.0)
    assert state(cache.folder) == before


# --- gc -------------------------------------------------------------------------------------------


def test_gc_lists_other_namespaces_and_leftovers_and_deletes_nothing(tmp_path: Path) -> None:
    mine = filled(tmp_path, ["a"])
    other = filled(tmp_path, ["a"], payload={"kind": "f32"})
    (mine.folder / ".open-1.tmp").write_bytes(b"12345")
    before = state(mine.folder), state(other.folder)
    found = collect(tmp_path, {mine.folder.name})
    assert {(item.what, item.path) for item in found} == {
        ("namespace", other.folder.name),
        ("leftover", f"{mine.folder.name}/.open-1.tmp"),
    }
    sizes = {item.what: item.num_bytes for item in found}
    assert sizes["leftover"] == 5
    assert sizes["namespace"] == sum(map(len, state(other.folder).values()))
    assert (state(mine.folder), state(other.folder)) == before


def test_gc_deletes_what_it_listed_and_nothing_else(tmp_path: Path) -> None:
    mine = filled(tmp_path, ["a"])
    other = filled(tmp_path, ["a"], payload={"kind": "f32"})
    before = state(mine.folder)
    (mine.folder / ".open-1.tmp").write_bytes(b"12345")
    (mine.folder / "shard-0.bin").write_bytes(b"its index was never written")
    assert len(collect(tmp_path, {mine.folder.name}, delete=True)) == 3
    assert not other.folder.exists()
    assert state(mine.folder) == before
    assert collect(tmp_path, {mine.folder.name}) == []


def test_gc_of_unused_utterances_keeps_the_others_and_untouched_shards(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, namespace())
    mixed, gone, used = (add(cache, *map(entry, names)) for names in ("ab", "cd", "ef"))
    untouched = (cache.folder / f"{used}.bin").stat().st_ino
    keys = set(map(key, ["a", "e", "f", "never cached"]))
    (listed,) = collect(tmp_path, {cache.folder.name}, keys)
    assert (listed.what, listed.num_utterances) == ("unused utterances", 3)
    assert listed.num_bytes == 3 * 24  # 4 frames x 3 tokens x 2 bytes each
    assert len(TeacherCache(cache.folder)) == 6
    assert collect(tmp_path, {cache.folder.name}, keys, delete=True) == [listed]
    cache = TeacherCache(cache.folder)
    assert cache.missing(map(key, "abcdef")) == [key("b"), key("c"), key("d")]
    assert (cache.folder / f"{used}.bin").stat().st_ino == untouched
    assert not {f"{mixed}.bin", f"{gone}.bin"} & names_in(cache.folder)
    assert collect(tmp_path, {cache.folder.name}, keys) == []


def test_gc_refuses_while_somebody_writes_and_deletes_nothing(tmp_path: Path) -> None:
    mine = filled(tmp_path, ["a"])
    other = filled(tmp_path, ["a"], payload={"kind": "f32"})
    last = max(mine.folder, other.folder)
    with locked(last, alone=False), pytest.raises(CacheError, match="somebody writes to it"):
        collect(tmp_path, set(), delete=True)
    assert (len(TeacherCache(mine.folder)), len(TeacherCache(other.folder))) == (1, 1)


def test_gc_of_a_damaged_namespace_that_is_kept_deletes_nothing(tmp_path: Path) -> None:
    mine = filled(tmp_path, ["a"])
    other = filled(tmp_path, ["a"], payload={"kind": "f32"})
    flip(mine.folder / f"{mine.shards[0].name}.arrow", 100)
    with pytest.raises(CacheError, match="verify --repair"):
        collect(tmp_path, {mine.folder.name}, set(), delete=True)
    assert other.folder.exists()


def test_maintenance_needs_no_model_code_and_no_settings() -> None:
    code = (
        "import sys;"
        "from distillery.teacher_cache.upkeep import collection, rewriting;"
        "from distillery.teacher_cache.upkeep import statistics, verification;"
        "assert not {'torch', 'pandas'} & set(sys.modules);"
        "assert not [name for name in sys.modules if name.startswith('distillery.params')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
