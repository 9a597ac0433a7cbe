"""The benchmarks of the cache run, at sizes that say nothing about speed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import (
    common,
    language_model,
    teacher_cache_open,
    teacher_cache_read,
    teacher_cache_size,
    teacher_cache_write,
    teacher_pass,
    whisper_library,
)
from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import PreparedData
from distillery.models.recogniser import Recogniser
from distillery.params.models import ConvBiLSTMParams, FeatureParams
from tasks.prepare import prepare
from tests.tiny import RATE_HZ, tiny_params, write_corpus, write_params
from tests.tiny_whisper import write_converted

FIELDS = {"name", "value", "unit", "goal", "holds", "against", "machine", "commit"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared audio and a teacher that nobody trained."""
    root = tmp_path_factory.mktemp("workspace")
    write_corpus(root / "corpus")
    write_params(root, tiny_params())
    prepare(root)
    vocabulary = PreparedData.open(root / "data/prepared").vocabulary
    architecture = ConvBiLSTMParams(
        type="conv_bilstm", conv_channels=4, hidden_size=8, num_layers=1
    )
    network = ARCHITECTURES["conv_bilstm"](architecture, 16, len(vocabulary)).eval()
    teacher = Recogniser(network, architecture, FeatureParams(num_mels=16), vocabulary, RATE_HZ)
    (root / "models/teacher").mkdir(parents=True)
    teacher.save(root / "models/teacher")
    return root


def checked(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return rows by name, after a look at what every row must have."""
    for row in rows:
        assert set(row) == FIELDS
        assert np.isfinite(row["value"])
        assert (row["goal"] is None) == (row["holds"] is None)
    json.dumps(rows)
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


def test_a_row_keeps_four_digits_of_small_and_large_numbers() -> None:
    values = [
        common.row("n", value, "u", None, None, "a")["value"] for value in (1.23456e-5, 98764)
    ]
    assert values == [1.235e-5, 98760]


def test_generated_posteriors_are_as_peaky_as_they_claim() -> None:
    log_probs = common.posteriors(np.random.default_rng(0), 20_000, 40)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-5)
    blank = np.exp(log_probs[:, 0])
    assert np.mean(blank > 1 - 10**-2.4) == pytest.approx(0.65, abs=0.015)
    assert np.mean(blank > 0.49) == pytest.approx(0.8, abs=0.015)


def test_a_synthetic_cache_is_cut_into_shards_of_an_hour(tmp_path: Path) -> None:
    values = np.full((1500, 2), np.log(0.5), np.float32)  # a minute at 40 ms
    entries = (common.Entry(common.key(index), values, "", 1.0) for index in range(61))
    namespace = common.synthetic_namespace({"kind": "u8"}, 2)
    cache = common.fill(tmp_path, namespace, entries)
    assert sorted(len(shard.table) for shard in cache.shards) == [1, 60]


def test_reading(tmp_path: Path) -> None:
    rows = checked(teacher_cache_read.measure(tmp_path, num_small=40, num_large=33, rounds=1))
    assert len(rows) == 5 + 3 + 4


def test_the_limit_and_the_cache_read_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    base = common.posteriors(random, 1000, 5).astype(np.float16)
    corpus = teacher_cache_read.Corpus.generate(base, random.integers(1, 30, 40))
    cache, cached_rows = teacher_cache_read.filled(tmp_path, "f16", corpus)
    assert sum(map(len, corpus.batches())) == 40
    for batch in corpus.batches():
        limit = corpus.reader(np.float32)(batch)
        np.testing.assert_array_equal(cache.log_probs(cached_rows[batch]).values, limit)


def test_writing(tmp_path: Path) -> None:
    rows = checked(teacher_cache_write.measure(tmp_path, count=12, rounds=1))
    assert len(rows) == 4


def test_the_flat_files_hold_what_the_shards_hold(tmp_path: Path) -> None:
    items = teacher_cache_write.utterances(400)
    shards = teacher_cache_write.shards_of(items)
    assert sum(map(len, shards)) == 400
    namespace = common.synthetic_namespace({"kind": "f32"}, teacher_cache_write.VOCAB)
    cache = common.fill(tmp_path / "cache", namespace, teacher_cache_write.entries(items))
    teacher_cache_write.write_flat(tmp_path / "flat", [[[v] for v in shard] for shard in shards])
    flat = [path.stat().st_size for path in (tmp_path / "flat").iterdir()]
    assert (len(flat), sum(flat)) == (len(cache.shards), sum(cache.data_bytes))


def test_opening_and_an_idle_pass(tmp_path: Path) -> None:
    rows = checked(teacher_cache_open.measure(tmp_path, counts=[800], idle=30, rounds=1))
    assert "opening 800 utterances in 2 shards of 1 h" in rows
    assert (
        "PyTorch is not imported"
        in rows["a pass with nothing to do, 30 cached utterances"]["against"]
    )


def test_the_projection_scales_what_one_utterance_costs() -> None:
    found = {
        "count": 720,  # an hour
        "hours": 1,
        "index_bytes": 100.0,
        "open_ms": 2.0,
        "anonymous_mib": 0.5,
        "resident_mib": 1.0,
    }
    row = teacher_cache_open.projection(found)
    # 7.2 million utterances of 125 frames of 33 bytes, and 100 bytes of index each
    assert row["value"] == pytest.approx(29.7 + 0.72, rel=1e-3)
    assert "10,000 shards, opened in 20.0 s with 5,000 MiB" in row["against"]


def test_sizes(workspace: Path, tmp_path: Path) -> None:
    rows = checked(teacher_cache_size.measure(workspace, tmp_path, seconds=10, num_frames=250))
    size = rows["size, V = 5, u8, a trained teacher"]  # blank, space and three letters
    assert (size["value"], size["holds"]) == (9, True)


def test_divergence_of_a_known_pair() -> None:
    halves, quarters = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75) = 0.5 ln(4 / 3)
    assert teacher_cache_size.divergences(halves, quarters) == pytest.approx([0.5 * np.log(4 / 3)])


def test_a_teacher_pass(workspace: Path, tmp_path: Path) -> None:
    rows = checked(teacher_pass.measure(workspace, tmp_path, seconds=8, rounds=1, sweep=True))
    largest = rows["batches against one by one, largest difference of a probability"]
    assert largest["value"] < 1e-3


def test_a_workspace_without_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run make teacher, or give --workspace"):
        common.copied_workspace(tmp_path, tmp_path / "copy", 10)


def test_decoding_with_a_language_model(workspace: Path) -> None:
    rows = {row["name"]: row for row in language_model.measure([workspace], rounds=1)}
    name = workspace.name
    assert len(rows) == 5
    for split in ("validation", "test"):
        assert rows[f"WER of {name}, {split}, best path"]["value"] > 0
        assert rows[f"WER of {name}, {split}, language model"]["value"] > 0
    # pyctcdecode is no dependency: without it the goal is told, and why it was not measured.
    speed = rows[f"utterances of {name} decoded per CPU second, language model, 10 beams"]
    assert (speed["value"], speed["holds"], speed["goal"]) == (None, None, "at least 4")
    assert "see --packages" in speed["against"]


def test_whisper_is_measured_against_its_library(tmp_path: Path, write_recording) -> None:
    for seed in range(2):
        write_recording(tmp_path / f"audio/{seed}.flac", seed=seed)
    model = write_converted(tmp_path / "model", tmp_path / "hub")
    audio = whisper_library.read_audio(tmp_path / "audio", seconds=2.0)
    rows = whisper_library.measure(model, audio, rounds=1)
    assert [set(row) for row in rows] == [FIELDS] * 4
    assert all(row["value"] > 0 for row in rows)
    with pytest.raises(SystemExit, match="holds 2 s at 16 kHz, fewer than asked"):
        whisper_library.read_audio(tmp_path / "audio", seconds=3.0)
