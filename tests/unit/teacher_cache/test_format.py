"""What docs/teacher-cache.md says is enough to read a shard, and the package stands alone."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distillery.teacher_cache
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import INDEX_SCHEMA, Entry, Hypothesis
from distillery.teacher_cache.store import TeacherCache

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "teacher-cache.md"
HIDDEN = {"project": 3, "blocks.1": 5}  # not in the order of their names
NUM_FRAMES = {"first": 9, "none": 0, "one": 1, "last": 30}
SPARSE = {"kind": "sparse", "top_k": 4, "top_p": 0.8, "near_frames": 1, "temperatures": [2.0, 4.0]}
DENSE = [{"kind": "u8"}, {"kind": "f16"}, {"kind": "f32"}]

ReadShard = Callable[[Path], Any]


@pytest.fixture(scope="module")
def read_shard() -> ReadShard:
    """The documentation's own function; the code around it may import nothing of ours."""
    code = code_blocks()[0]
    assert imported(code) == {"json", "zlib", "pathlib", "numpy", "pyarrow"}
    names: dict[str, Any] = {}
    exec(code, names)
    return names["read_shard"]


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)


def imported(code: str) -> set[str]:
    """Return the modules that a source imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module comes from"
            found.add(str(node.module))
    return found


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def entry(name: str, vocab: int, hidden: dict[str, int]) -> Entry:
    frames = NUM_FRAMES[name]
    random = np.random.default_rng(frames)
    scores = random.normal(0, 4, (frames, vocab)).astype(np.float32)
    return Entry(
        key_of(name),
        scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)),
        f"grüße {name}",
        0.75,
        [Hypothesis(f"grüße {name}", -1.5), Hypothesis("", -8.0)],
        {layer: random.normal(size=(frames, width)) for layer, width in hidden.items()},
    )


def fill(root: Path, payload: dict[str, Any], vocab: int, hidden: dict[str, int]) -> TeacherCache:
    """Write two shards of two utterances each."""
    tokens = tuple(f"t{i}" for i in range(vocab))
    cache = TeacherCache.create(
        root, Namespace({"weights": "w"}, tokens, 0.04, payload, 0, hidden=hidden)
    )
    names = list(NUM_FRAMES)
    for part in (names[:2], names[2:]):
        with cache.writing() as writer:
            for name in part:
                writer.add(entry(name, vocab, hidden))
    cache.reload()
    return cache


def read_all(cache: TeacherCache, read_shard: ReadShard) -> dict[str, tuple[Any, Any, Any]]:
    shards = sorted(cache.folder.glob("shard-*.arrow"))
    assert len(shards) == 2
    return {item[0]["key"].hex(): item for shard in shards for item in read_shard(shard)}


@pytest.mark.parametrize("hidden", [{}, HIDDEN], ids=["bare", "hidden"])
@pytest.mark.parametrize("payload", DENSE, ids=lambda p: p["kind"])
def test_the_documented_reader_reads_dense_shards(
    tmp_path: Path, read_shard: ReadShard, payload: dict[str, Any], hidden: dict[str, int]
) -> None:
    cache = fill(tmp_path, payload, 29, hidden)
    found = read_all(cache, read_shard)
    assert set(found) == {key_of(name) for name in NUM_FRAMES}
    for key, (row, log_probs, states) in found.items():
        wanted = cache.log_probs(cache.rows([key])).values[0]
        assert log_probs.shape == wanted.shape == (row["num_frames"], 29)
        np.testing.assert_allclose(log_probs, wanted, rtol=1e-6, atol=1e-6)
        check_row_and_states(cache, key, row, states)


@pytest.mark.parametrize("vocab", [50, 70_000])
@pytest.mark.parametrize("hidden", [{}, HIDDEN], ids=["bare", "hidden"])
def test_the_documented_reader_reads_sparse_shards(
    tmp_path: Path, read_shard: ReadShard, hidden: dict[str, int], vocab: int
) -> None:
    cache = fill(tmp_path, SPARSE, vocab, hidden)
    for key, (row, (frame, ids, log_probs), states) in read_all(cache, read_shard).items():
        assert list(log_probs) == [1.0, 2.0, 4.0]
        for temperature, values in log_probs.items():
            wanted = cache.targets(cache.rows([key]), temperature)
            assert wanted.ids is not None and wanted.num_kept is not None
            kept = np.arange(wanted.ids.shape[2]) < wanted.num_kept[0][:, None]
            np.testing.assert_array_equal(np.bincount(frame, minlength=len(kept)), kept.sum(1))
            np.testing.assert_array_equal(ids, wanted.ids[0][kept])
            np.testing.assert_allclose(values, wanted.log_probs[0][kept], rtol=1e-5)
        check_row_and_states(cache, key, row, states)


def check_row_and_states(
    cache: TeacherCache, key: str, row: dict[str, Any], states: dict[str, np.ndarray]
) -> None:
    rows = cache.rows([key])
    assert [row["greedy_text"]] == cache.greedy_texts(rows)
    assert [row["confidence"]] == cache.confidences(rows).tolist()
    assert [[Hypothesis(**item) for item in row["hypotheses"]]] == cache.hypotheses(rows)
    assert row["greedy_text"].startswith("grüße ")
    assert list(states) == sorted(cache.namespace.hidden)
    (name,) = [name for name in NUM_FRAMES if key_of(name) == key]
    given = entry(name, len(cache.namespace.tokens), dict(cache.namespace.hidden)).log_probs
    assert row["num_blank_frames"] == (given[:, 0] > np.log(0.5)).sum()
    for layer, values in states.items():
        np.testing.assert_array_equal(values, cache.hidden(rows, layer).values[0])


def test_the_documented_way_to_use_the_package_works(tmp_path: Path) -> None:
    said = {key_of(name): entry(name, 5, {}).log_probs for name in NUM_FRAMES}
    names: dict[str, Any] = {
        "root": tmp_path,
        "tokens": ("-", "a", "b", "c", "d"),
        "keys": list(said),
        "run_teacher": said.__getitem__,
    }
    (_, code) = code_blocks()
    exec(code, names)
    assert len(TeacherCache(names["cache"].folder)) == 4
    exec(code, {**names, "run_teacher": None})  # all are there: the teacher is not asked


def test_hidden_states_are_those_that_were_given(tmp_path: Path) -> None:
    cache = fill(tmp_path, {"kind": "u8"}, 5, HIDDEN)
    given = entry("last", 5, HIDDEN).hidden
    for layer, width in HIDDEN.items():
        batch = cache.hidden(cache.rows([key_of("one"), key_of("last")]), layer)
        assert batch.values.shape == (2, 30, width)
        np.testing.assert_array_equal(batch.values[1], given[layer].astype(np.float16))
        assert not batch.values[0, 1:].any()


def test_the_documented_columns_are_those_of_the_index() -> None:
    section = DOCUMENT.read_text("utf-8").split("### The index")[1].split("###")[0]
    documented = re.findall(r"^\| `(\w+)` \| ([\w\[\]]+)", section, re.MULTILINE)
    wanted = [(field.name, str(field.type).split("<")[0]) for field in INDEX_SCHEMA]
    assert documented == wanted


def test_the_package_needs_nothing_of_distillery_but_errors_and_files() -> None:
    (folder,) = distillery.teacher_cache.__path__
    ours, others = set(), set()
    for path in Path(folder).glob("*.py"):
        for module in imported(path.read_text("utf-8")):
            top, _, rest = module.partition(".")
            (ours if top == "distillery" else others).add(rest if top == "distillery" else top)
    outside = {name for name in ours if not name.startswith("teacher_cache.")}
    assert outside == {"errors", "files"}
    assert others - sys.stdlib_module_names == {"numpy", "pyarrow", "isal"}


def test_importing_the_store_does_not_bring_pytorch() -> None:
    code = "import distillery.teacher_cache.store, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
