"""Damaged files, full disks, forbidden folders, crowds and odd utterances."""

import io
import os
import pickle
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from distillery.errors import CacheError
from distillery.teacher_cache import store
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import Entry, leftovers, locked, remove_leftovers
from distillery.teacher_cache.store import TeacherCache
from tests.attacks import Payload
from tests.unit.teacher_cache.test_crash import (
    NAMESPACE,
    ROOT,
    check_content,
    content_of,
    entry,
    go,
    key_of,
    start_writer,
    write_many,
    write_shard,
)

NOBODY = 65534
REPAIR = "run `distillery cache verify --repair`, then make cache"
SPARSE = {"kind": "sparse", "top_k": 2, "top_p": 0.9, "near_frames": 1, "temperatures": [2.0]}
U8 = replace(NAMESPACE, payload={"kind": "u8"})


@pytest.fixture
def cache(tmp_path: Path) -> TeacherCache:
    """A namespace with the utterances 4 to 6 in one shard and 11 to 13 in another."""
    made = TeacherCache.create(tmp_path / "cache", U8)
    write_shard(made, range(4, 7))
    write_shard(made, range(11, 14))
    made.make_current()
    return TeacherCache(made.folder)


def flips(path: Path, step: int = 1) -> Iterator[int]:
    """Flip one bit of every `step`-th byte in turn; yield its position while it is flipped."""
    content = path.read_bytes()
    for position in range(0, len(content), step):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        yield position
    path.write_bytes(content)


def read_all(cache: TeacherCache, row: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array([row])
    return cache.log_probs(rows).values, cache.hidden(rows, "layer").values


# --- flipped bits ---------------------------------------------------------------------------------


def test_a_flipped_bit_in_the_data_is_an_error_that_names_shard_and_utterance(
    cache: TeacherCache,
) -> None:
    """And spoils no other utterance."""
    wanted = {int(row): read_all(cache, row) for row in cache.all_rows}
    for shard in cache.shards:
        offsets = shard.column("offset_bytes")
        keys = [bytes(key).hex() for key in shard.keys]
        path = cache.folder / f"{shard.name}.bin"
        for position in flips(path):
            hit = keys[int(np.searchsorted(offsets, position, side="right")) - 1]
            opened = TeacherCache(cache.folder)
            expected = f"{path}: utterance {hit[:12]} does not match its checksum; {REPAIR}"
            for row, key in zip(opened.all_rows, opened.keys(opened.all_rows), strict=True):
                if key == hit:
                    with pytest.raises(CacheError, match=re.escape(expected)):
                        read_all(opened, row)
                else:
                    for found, value in zip(read_all(opened, row), wanted[row], strict=True):
                        np.testing.assert_array_equal(found, value)


def test_a_damaged_hidden_state_leaves_the_log_probabilities_readable(cache: TeacherCache) -> None:
    path = cache.folder / f"{cache.shards[0].name}.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the last utterance's hidden states end the file
    path.write_bytes(content)
    opened = TeacherCache(cache.folder)
    last = np.array([len(opened.shards[0].table) - 1])
    opened.log_probs(last)
    with pytest.raises(CacheError, match="does not match its checksum"):
        opened.hidden(last, "layer")


def test_a_flipped_bit_in_an_index_is_an_error_that_names_it(cache: TeacherCache) -> None:
    path = cache.folder / f"{cache.shards[1].name}.arrow"
    for _ in flips(path, step=5):
        with pytest.raises(CacheError, match=re.escape(f"{path}: does not match")) as caught:
            TeacherCache(cache.folder)
        assert str(caught.value).endswith(REPAIR)
    assert len(TeacherCache(cache.folder)) == 6


def test_code_in_place_of_any_file_is_refused_and_not_run(
    cache: TeacherCache, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    attacks = [io.BytesIO() for _ in range(3)]
    pickle.dump(Payload(witness), attacks[0])
    np.save(attacks[1], np.array([Payload(witness)]), allow_pickle=True)
    torch.save(Payload(witness), attacks[2])
    files = [path for path in cache.folder.parent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".arrow", ".bin", ".json"}
    for path in files:
        content = path.read_bytes()
        for attack in attacks:
            path.write_bytes(attack.getvalue())
            with pytest.raises(CacheError):
                opened = TeacherCache.open_current(cache.folder.parent)
                for row in opened.all_rows:
                    read_all(opened, row)
        path.write_bytes(content)
    assert not witness.exists()
    for attack, load in zip(attacks, (pickle.load, np_load, torch_load), strict=True):
        attack.seek(0)
        load(attack)  # the attack is a real one
        witness.rmdir()


def np_load(file: io.BytesIO) -> None:
    np.load(file, allow_pickle=True)


def torch_load(file: io.BytesIO) -> None:
    torch.load(file, weights_only=False)


def test_an_index_whose_schema_holds_code_is_read_without_running_it(
    cache: TeacherCache, tmp_path: Path
) -> None:
    """Arrow once ran the pickles of extension types; the index bears its right checksum here."""
    witness = tmp_path / "witness"
    path = next(cache.folder.glob("*.arrow"))
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    trap = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(witness)),
    }
    schema = pa.schema([field.with_metadata(trap) for field in table.schema])
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.table(list(table.columns), schema=schema))
    name = f"{path.stem.rpartition('-')[0]}-{zlib.crc32(sink.getvalue()):08x}"
    path.with_name(f"{name}.arrow").write_bytes(sink.getvalue())
    path.with_suffix(".bin").rename(path.with_name(f"{name}.bin"))
    path.unlink()
    opened = TeacherCache(cache.folder)
    assert name in [shard.name for shard in opened.shards]
    for row in opened.all_rows:
        read_all(opened, row)
    assert not witness.exists()


def test_indexes_that_swapped_names_are_errors(cache: TeacherCache) -> None:
    one, two = sorted(cache.folder.glob("*.arrow"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    with pytest.raises(CacheError, match="does not match the checksum in its name"):
        TeacherCache(cache.folder)


def test_a_lost_data_file_is_an_error_that_names_it(cache: TeacherCache) -> None:
    path = cache.folder / f"{cache.shards[1].name}.bin"
    path.unlink()
    with pytest.raises(CacheError, match=re.escape(f"{path}: holds 0 bytes")):
        TeacherCache(cache.folder)


def test_a_flipped_bit_in_the_description_is_an_error_that_make_cache_mends(
    cache: TeacherCache,
) -> None:
    path = cache.folder / "namespace.json"
    num_errors = 0
    for _ in flips(path):
        try:
            assert Namespace.read(cache.folder) == U8  # 1e-5 and 1E-5 are one number
        except CacheError as error:
            num_errors += 1
            assert str(error).startswith(f"{path}: ")
            assert "run make cache" in str(error)
    assert num_errors > 0.9 * path.stat().st_size
    path.write_text("{")
    assert len(TeacherCache.create(cache.folder.parent, U8)) == 6  # as the stage does
    assert len(TeacherCache(cache.folder)) == 6


def test_a_flipped_bit_in_the_pointer_is_an_error_that_make_cache_mends(
    cache: TeacherCache,
) -> None:
    root = cache.folder.parent
    path = root / "current.json"
    num_errors = 0
    for _ in flips(path):
        try:
            assert TeacherCache.open_current(root).folder == cache.folder
        except CacheError as error:
            num_errors += 1
            assert "missing or unreadable; run make cache" in str(error)
    assert num_errors > 0.9 * path.stat().st_size
    path.write_text("{")
    cache.make_current()
    assert TeacherCache.open_current(root).folder == cache.folder


# --- no room, no right ----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_a_clear_error_and_loses_nothing(small_disk: Path) -> None:
    cache = TeacherCache.create(small_disk, NAMESPACE)
    folder = cache.folder
    with pytest.raises(CacheError, match=r"No space left on device.*finished shards .* stay"):
        write_many(folder, 0, 10_000, 50)
    finished = content_of(folder)
    reached = check_content(TeacherCache(folder))
    assert reached == set(range(len(reached)))
    assert len(reached) >= 50
    remove_leftovers(folder)
    assert not leftovers(folder)
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    write_many(folder, 0, len(reached) // 50 + 3, 50)
    assert len(check_content(TeacherCache(folder))) == len(reached) + 150
    assert finished.items() <= content_of(folder).items()


def test_a_quota_at_any_byte_is_a_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    """A child may write files of so many bytes only, a few more each time."""
    folder = TeacherCache.create(tmp_path, NAMESPACE).folder
    write_many(folder, 0, 1, 20)
    finished = content_of(folder)
    largest = max(map(len, finished.values()))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from distillery.errors import CacheError\n"
        "from tests.unit.teacher_cache.test_crash import write_many\n"
        "folder, largest = Path(sys.argv[1]), int(sys.argv[2])\n"
        "_, most = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "for limit in range(0, largest, 97):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))\n"
        "    try:\n"
        "        write_many(folder, 20, 1, 20)\n"
        "        sys.exit('no error')\n"
        "    except CacheError as error:\n"
        "        assert 'cannot be written (File too large)' in str(error), error\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(largest - 200)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert content_of(folder) == finished
    assert check_content(TeacherCache(folder)) == set(range(20))
    remove_leftovers(folder)
    assert not leftovers(folder)
    write_many(folder, 0, 2, 20)
    assert check_content(TeacherCache(folder)) == set(range(40))


@contextmanager
def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a path to a folder in which this process may read alone."""
    everything = [folder, *folder.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.chdir(folder)  # others may not walk through the folders above
    is_root = os.geteuid() == 0
    if is_root:  # whom no mode hinders
        os.seteuid(NOBODY)
    try:
        yield Path()
    finally:
        if is_root:
            os.seteuid(0)
        for path in everything:
            path.chmod(0o755)


def test_a_cache_that_may_only_be_read_is_read(
    cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with read_only(cache.folder.parent, monkeypatch) as root:
        opened = TeacherCache.open_current(root)
        assert len(read_all(opened, 0)[0]) == 1
        # What the stage does when nothing is missing:
        same = TeacherCache.create(root, U8)
        assert not same.missing([key_of(4), key_of(13)])
        same.make_current()


def test_a_cache_that_may_only_be_read_refuses_writers_clearly(
    cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache.folder / ".open-dead.tmp").touch()
    refusal = r"cannot be written \(Permission denied\).*give the right to write, then run make"
    with read_only(cache.folder.parent, monkeypatch) as root:
        opened = TeacherCache.open_current(root)
        remove_leftovers(opened.folder)  # it cannot, which is not what the user needs to hear
        with pytest.raises(CacheError, match=refusal):
            write_shard(opened, [1])
        with pytest.raises(CacheError, match=refusal):
            TeacherCache.create(root, NAMESPACE)
    assert len(TeacherCache(cache.folder)) == 6


# --- several at once ------------------------------------------------------------------------------


def test_two_processes_that_write_at_once_give_the_union(tmp_path: Path) -> None:
    folder = TeacherCache.create(tmp_path, NAMESPACE).folder
    writers = [start_writer(folder, 0, 60, 5), start_writer(folder, 200, 50, 6)]
    for writer in writers:
        go(writer)
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    cache = TeacherCache(folder)
    assert check_content(cache) == set(range(500))
    assert len(cache) == 500
    assert not leftovers(folder)


def test_keys_that_two_writers_added_are_there_once(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, NAMESPACE)
    with cache.writing() as one, cache.writing() as two:
        for number in (1, 2, 3):
            one.add(entry(number))
        for number in (2, 3, 4):
            two.add(entry(number))
    cache.reload()
    assert len(cache) == 4
    assert check_content(cache) == {1, 2, 3, 4}
    single = TeacherCache.create(tmp_path / "single", NAMESPACE)
    write_shard(single, [4, 3, 2, 1])
    single.reload()
    assert cache.manifest_digest == single.manifest_digest


def test_a_writer_is_refused_while_files_are_being_deleted(
    cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_WAIT_SECONDS", 0.1)
    with (
        locked(cache.folder, alone=True),
        pytest.raises(CacheError, match="gc, compact or a repair is at work; wait for that to end"),
    ):
        write_shard(cache, [1])
    write_shard(cache, [1])
    assert len(TeacherCache(cache.folder)) == 7


def test_nothing_is_deleted_while_somebody_writes(cache: TeacherCache) -> None:
    with cache.writing() as writer:
        writer.add(entry(1))
        with (
            pytest.raises(CacheError, match="somebody writes to it; wait for that to end"),
            locked(cache.folder, alone=True),
        ):
            pass
    with locked(cache.folder, alone=True):
        pass


# --- odd utterances -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [{"kind": "u8"}, {"kind": "f16"}, {"kind": "f32"}, SPARSE], ids=lambda p: p["kind"]
)
def test_utterances_of_no_frame_and_of_one_go_through(tmp_path: Path, payload) -> None:
    made = TeacherCache.create(tmp_path, replace(NAMESPACE, payload=payload))
    probabilities = np.array([[0.5, 0.3, 0.2]], np.float32)
    hidden = np.array([[1.0, -2.0]], np.float32)
    with made.writing() as writer:
        for number, frames in enumerate((0, 1, 0)):
            part = {"layer": hidden[:frames]}
            writer.add(Entry(key_of(number), np.log(probabilities[:frames]), "", 0.5, (), part))
    cache = TeacherCache(made.folder)
    rows = cache.rows([key_of(0), key_of(1), key_of(2)])
    for some, longest in [(rows, 1), (rows[:1], 0), (rows[[0, 2]], 0), (rows[:0], 0)]:
        targets = cache.targets(some, temperature=2.0)
        assert targets.log_probs.shape[:2] == (len(some), longest)
        assert targets.num_frames.tolist() == [int(row == rows[1]) for row in some]
        assert cache.hidden(some, "layer").values.shape == (len(some), longest, 2)
    np.testing.assert_array_equal(cache.hidden(rows, "layer").values[1], hidden)
    # By hand: the square roots .7071, .5477 and .4472 sum to 1.7020.
    softened = cache.targets(rows, temperature=2.0)
    found = np.exp(softened.log_probs[1, 0])
    np.testing.assert_allclose(found[:2], [0.41545, 0.32181], atol=2e-3)
    if softened.ids is None:
        plain = np.exp(cache.log_probs(rows).values[1, 0])
        np.testing.assert_allclose(plain, [0.5, 0.3, 0.2], atol=2e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_refused(cache: TeacherCache, value: float) -> None:
    log_probs = np.full((3, 3), -1.0, np.float32)
    log_probs[1, 2] = value
    hidden = {"layer": np.zeros((3, 2), np.float32)}
    wanted = "utterance 0000000b0000: the teacher gave NaN or infinity"
    with pytest.raises(CacheError, match=wanted), cache.writing() as writer:
        writer.add(entry(7))
        writer.add(Entry(key_of(11), log_probs, "", 0.5, (), hidden))
    assert len(TeacherCache(cache.folder)) == 6
    assert not leftovers(cache.folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4, -7e4])
def test_hidden_states_that_half_precision_cannot_hold_are_refused(
    cache: TeacherCache, value: float
) -> None:
    """Half precision ends at 65504."""
    hidden = {"layer": np.array([[0.0, value]], np.float32)}
    wanted = "utterance 0000000b0000: layer 'layer' gave NaN, or values beyond half precision"
    with pytest.raises(CacheError, match=wanted), cache.writing() as writer:
        writer.add(Entry(key_of(11), np.zeros((1, 3), np.float32), "", 0.5, (), hidden))


@pytest.mark.parametrize(
    ("log_probs", "hidden", "message"),
    [
        ((2, 4), (2, 2), r"the teacher gave an array \(2, 4\), expected \(frames, 3\)"),
        ((6,), (2, 2), r"the teacher gave an array \(6,\), expected \(frames, 3\)"),
        ((2, 3), (1, 2), r"layer 'layer' gave an array \(1, 2\), expected \(2, 2\)"),
    ],
)
def test_outputs_of_another_shape_are_refused(cache: TeacherCache, log_probs, hidden, message):
    outputs = np.zeros(log_probs, np.float32)
    wanted = f"utterance {key_of(1)[:12]}: {message}"
    with pytest.raises(CacheError, match=wanted), cache.writing() as writer:
        writer.add(Entry(key_of(1), outputs, "", 0.5, (), {"layer": np.zeros(hidden)}))
