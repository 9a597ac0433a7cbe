import hashlib
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.errors import CacheError
from distillery.teacher_cache.payload import payload_of
from distillery.teacher_cache.shards import (
    Entry,
    Hypothesis,
    Index,
    ShardWriter,
    check_size,
    key_bytes,
    leftovers,
    locked,
    read_index,
    remove_leftovers,
    shard_name,
)

HIDDEN = {"project": 2}
BLANK = 0
PROBABILITIES = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.7, 0.2, 0.1]])


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def entry(name: str = "u", frames: int = 3, hidden: dict[str, int] | None = None) -> Entry:
    widths = HIDDEN if hidden is None else hidden
    states = {layer: np.full((frames, width), 0.5) for layer, width in widths.items()}
    text, scores = f"text {name}", [Hypothesis(f"text {name}", -1.0), Hypothesis("tet", -2.0)]
    return Entry(key_of(name), np.log(PROBABILITIES[:frames]), text, 0.5, scores, states)


def writer(folder: Path) -> ShardWriter:
    return ShardWriter(folder, payload_of({"kind": "f16"}, 3, BLANK), HIDDEN, BLANK)


def write(folder: Path, *entries: Entry) -> Index:
    shard = writer(folder)
    for item in entries:
        shard.add(item)
    return read_index(folder / f"{shard.finish()}.arrow")


@given(st.binary(min_size=32, max_size=32))
def test_a_key_goes_to_bytes_and_back(raw: bytes) -> None:
    assert key_bytes(raw.hex()) == raw
    assert key_bytes(raw.hex().upper()) == raw


@pytest.mark.parametrize("key", ["", "k1", "0" * 63, "0" * 66, "g" * 64])
def test_what_is_no_sha256_is_refused_as_a_key(key: str) -> None:
    with pytest.raises(CacheError, match=f"audio key '{key}': expected 64 hexadecimal digits"):
        key_bytes(key)


def test_a_row_says_where_the_record_lies_and_what_was_heard(tmp_path: Path) -> None:
    index = write(tmp_path, entry("a"), entry("b", frames=1))
    data = (tmp_path / f"{index.name}.bin").read_bytes()
    first, second = index.table.to_pylist()
    assert len(data) == (3 + 1) * (2 * 3 + 2 * 2)  # half precision: 3 tokens, 2 states a frame
    assert (first["offset_bytes"], first["num_bytes"]) == (0, 18)
    assert (second["offset_bytes"], second["num_bytes"]) == (30, 6)
    assert first["crc32"] == zlib.crc32(data[:18])
    assert first["hidden_crc32"] == zlib.crc32(data[18:30])
    assert [first["num_frames"], first["num_blank_frames"]] == [3, 2]
    assert [first["greedy_text"], first["confidence"]] == ["text a", 0.5]
    assert first["hypotheses"] == [{"text": "text a", "score": -1}, {"text": "tet", "score": -2}]
    assert index.keys.tobytes().hex() == key_of("a") + key_of("b")


def test_a_shard_is_named_by_its_keys_and_the_checksum_of_its_index(tmp_path: Path) -> None:
    index = write(tmp_path, entry("a"), entry("b"))
    checksum = zlib.crc32((tmp_path / f"{index.name}.arrow").read_bytes())
    keys = hashlib.sha256(bytes.fromhex(key_of("a") + key_of("b"))).hexdigest()
    assert index.name == f"shard-{keys[:12]}-{checksum:08x}"
    assert index.name == shard_name([key_bytes(key_of("a")), key_bytes(key_of("b"))], checksum)


def test_equal_content_gives_equal_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, entry("a"), entry("b"))
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("one", "two")
    )
    assert one == two
    assert len(one) == 2


def test_content_that_differs_in_one_text_has_another_name(tmp_path: Path) -> None:
    one = write(tmp_path, entry("a"))
    other = write(tmp_path, replace(entry("a"), greedy_text="text A"))
    assert one.name.rpartition("-")[0] == other.name.rpartition("-")[0]
    assert one.name != other.name


def test_a_shard_of_nothing_is_not_written(tmp_path: Path) -> None:
    assert writer(tmp_path).finish() is None
    assert not list(tmp_path.iterdir())


def test_an_abandoned_shard_leaves_nothing(tmp_path: Path) -> None:
    shard = writer(tmp_path)
    shard.add(entry())
    assert len(shard) == 1
    shard.abandon()
    assert not list(tmp_path.iterdir())


def test_a_copied_record_is_the_same_in_its_new_place(tmp_path: Path) -> None:
    old = write(tmp_path, entry("a"), entry("b"))
    data = np.fromfile(tmp_path / f"{old.name}.bin", np.uint8)
    row = old.table.to_pylist()[1]
    shard = writer(tmp_path)
    shard.copy(list(row.values()), data[30:])
    new = read_index(tmp_path / f"{shard.finish()}.arrow")
    assert new.table.to_pylist() == [{**row, "offset_bytes": 0}]
    assert (tmp_path / f"{new.name}.bin").read_bytes() == data[30:].tobytes()


@pytest.mark.parametrize("shape", [(3,), (3, 2), (1, 3, 3)])
def test_outputs_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    bad = Entry(key_of("u"), np.zeros(shape), "", 0.5, (), entry().hidden)
    with pytest.raises(CacheError, match=rf"utterance {key_of('u')[:12]}: the teacher gave an arr"):
        writer(tmp_path).add(bad)


def test_an_entry_without_a_layer_that_is_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="layer 'project' is missing, the namespace stores it"):
        writer(tmp_path).add(entry(hidden={}))


def test_states_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CacheError, match=r"layer 'project' gave an array \(3, 4\), expected \(3, 2\)"
    ):
        writer(tmp_path).add(entry(hidden={"project": 4}))


def test_a_refused_utterance_leaves_the_others_whole(tmp_path: Path) -> None:
    shard = writer(tmp_path)
    shard.add(entry("a"))
    with pytest.raises(CacheError, match="layer 'project'"):
        shard.add(entry("b", hidden={"project": 4}))
    shard.add(entry("c"))
    index = read_index(tmp_path / f"{shard.finish()}.arrow")
    assert index.column("offset_bytes").tolist() == [0, 30]
    assert check_size(index, tmp_path, 60) == 60


def test_an_index_with_other_columns_is_refused(tmp_path: Path) -> None:

    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"key": ["k"]})
    with pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    content = sink.getvalue().to_pybytes()
    path = tmp_path / f"shard-0-{zlib.crc32(content):08x}.arrow"
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"columns \['key'\], expected \['key', 'offset_bytes'"):
        read_index(path)


def test_an_index_that_does_not_fit_its_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{write(tmp_path, entry()).name}.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(CacheError, match=rf"{path.name}: does not match the checksum in its name"):
        read_index(path)


@pytest.mark.parametrize(("size", "held"), [(29, 29), (None, 0)], ids=["short", "missing"])
def test_data_that_lack_bytes_are_refused(tmp_path: Path, size: int | None, held: int) -> None:
    index = write(tmp_path, entry())
    path = tmp_path / f"{index.name}.bin"
    path.unlink() if size is None else os.truncate(path, size)
    with pytest.raises(CacheError, match=f"holds {held} bytes, its index points at 30; run `dist"):
        check_size(index, tmp_path, 30)


def test_writers_share_the_lock_and_nobody_deletes_meanwhile(tmp_path: Path) -> None:
    with (
        locked(tmp_path, alone=False),
        locked(tmp_path, alone=False),
        pytest.raises(CacheError, match="somebody writes to it; wait"),
        locked(tmp_path, alone=True),
    ):
        pass
    with locked(tmp_path, alone=True):
        pass


def test_nobody_writes_while_files_are_deleted(tmp_path: Path) -> None:
    with (
        locked(tmp_path, alone=True),
        pytest.raises(CacheError, match="gc, compact or a repair is at work; wait"),
        locked(tmp_path, alone=False),
    ):
        pass


def test_leftovers_are_removed_unless_somebody_writes(tmp_path: Path) -> None:
    shard = write(tmp_path, entry("whole"))
    orphan = tmp_path / f"{write(tmp_path, entry('orphan')).name}.bin"
    orphan.with_suffix(".arrow").unlink()
    opened = tmp_path / ".open-1.tmp"
    opened.touch()
    assert leftovers(tmp_path) == [opened, orphan]
    with locked(tmp_path, alone=False):
        remove_leftovers(tmp_path)
    assert leftovers(tmp_path) == [opened, orphan]
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{shard.name}.bin",
        f"{shard.name}.arrow",
    }
