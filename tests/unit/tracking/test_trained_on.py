"""Which audio a version learnt from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from distillery.errors import ModelError
from distillery.tracking.trained_on import TRAINED_ON_FILE, are_among, pack_keys, read_keys

KEYS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(20)]


def test_keys_are_found_again_in_any_order_and_once(tmp_path: Path) -> None:
    content = pack_keys(KEYS[:10])
    assert content == pack_keys([*KEYS[9::-1], KEYS[3]])
    assert len(content) < 128 + 10 * 8 + 1
    (tmp_path / TRAINED_ON_FILE).write_bytes(content)
    heard = read_keys(tmp_path)
    assert heard is not None
    assert are_among(KEYS, heard).tolist() == [True] * 10 + [False] * 10
    (tmp_path / TRAINED_ON_FILE).write_bytes(pack_keys(KEYS[10:12], heard))
    more = read_keys(tmp_path)
    assert more is not None
    assert are_among(KEYS, more).sum() == 12


def test_nothing_to_learn_from_and_no_file(tmp_path: Path) -> None:
    assert read_keys(tmp_path) is None
    (tmp_path / TRAINED_ON_FILE).write_bytes(pack_keys([]))
    heard = read_keys(tmp_path)
    assert heard is not None
    assert not are_among(KEYS, heard).any()
    assert are_among([], heard).tolist() == []


@pytest.mark.parametrize("damage", [b"", b"nonsense", "floats"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes | str) -> None:
    path = tmp_path / TRAINED_ON_FILE
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        np.save(path, np.zeros(3))
    with pytest.raises(ModelError, match=r"trained_on\.npy: .*register the model again"):
        read_keys(tmp_path)
