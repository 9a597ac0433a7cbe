"""The stage `cache`: what is stored, in which batches, under which name, and what it cost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import MANIFEST_FILE, PreparedData, shard_name
from distillery.errors import CacheError, CacheMismatch
from distillery.files import write_json
from distillery.models.decoding import score_texts
from distillery.models.fingerprint import digest_of, fingerprint
from distillery.models.recogniser import Recogniser
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.filling.forward import run_partition
from distillery.teacher_cache.filling.plan import (
    OpenShard,
    Partition,
    PartitionReport,
    partition_batches,
    plan_batches,
)
from distillery.teacher_cache.filling.progress import AudioBar
from distillery.teacher_cache.filling.report import PassReport, describe, read_report
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from tests.tiny_workspaces import put_teacher

LAYERS = ("recurrent.0", "project")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared audio and a teacher: 32 utterances of training audio."""
    return put_teacher(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def places(root: Path, tmp_path: Path) -> Places:
    """The same workspace, with an empty cache of the test's own."""
    return replace(Places.in_workspace(root), cache=tmp_path / "cache")


def cache_params(**changes: Any) -> CacheParams:
    """Return small shards and batches on one thread."""
    small = {"batch_seconds": 4.0, "shard_seconds": 6.0, "num_threads": 1, "device": "cpu"}
    return CacheParams.model_validate({**small, **changes})


def load(places: Places) -> tuple[Recogniser, PreparedData]:
    return Recogniser.load(places.teacher, ARCHITECTURES), PreparedData.open(places.data)


def everything(cache: TeacherCache, keys: list[str]) -> list[Any]:
    """Return all that is cached for some keys, as plain values."""
    rows = cache.rows(keys)
    numbers = [cache.log_probs(rows).values, cache.confidences(rows)]
    numbers += [cache.hidden(rows, layer).values for layer in cache.namespace.hidden]
    return [*(n.tobytes() for n in numbers), cache.greedy_texts(rows), cache.hypotheses(rows)]


# --- what is stored -------------------------------------------------------------------------------


def test_hidden_layers_are_those_of_a_live_forward(places: Places) -> None:
    payload = {"log_probs": "f32", "hidden_layers": LAYERS}
    params = cache_params(payload=payload, batch_seconds=0.1)  # every utterance alone
    fill_cache(places, load_teacher, params)
    cache = TeacherCache.open_current(places.cache)
    assert cache.namespace.hidden == {"recurrent.0": 48, "project": 24}
    model, data = load(places)
    for row in data.split("train").itertuples():
        live = model.forward(*model.extract([data.waveform(row)]), LAYERS)
        here = cache.rows([row.audio_key])
        np.testing.assert_allclose(cache.log_probs(here).values, live.log_probs, atol=1e-6)
        for layer in LAYERS:
            np.testing.assert_allclose(
                cache.hidden(here, layer).values, live.hidden[layer], rtol=1e-3, atol=1e-3
            )


def test_the_best_texts_are_stored_with_falling_scores(places: Places) -> None:
    payload = {"log_probs": "f32", "num_hypotheses": 3}
    fill_cache(places, load_teacher, cache_params(payload=payload))
    cache = TeacherCache.open_current(places.cache)
    vocabulary = load(places)[0].vocabulary
    found = cache.hypotheses(cache.all_rows)
    batch = cache.log_probs(cache.all_rows)
    assert max(map(len, found)) == 3
    for row, items in enumerate(found):
        frames = int(batch.num_frames[row])
        texts = [item.text for item in items]
        scores = [item.score for item in items]
        assert len(set(texts)) == len(texts) <= 3
        assert scores == sorted(scores, reverse=True)
        (wanted,) = score_texts(batch.values[row : row + 1, :frames], [frames], [texts], vocabulary)
        np.testing.assert_allclose(scores, wanted, atol=1e-3)
        assert all(score < 0 for score in scores)  # logarithms of probabilities


def test_one_hypothesis_is_the_best_path(places: Places) -> None:
    fill_cache(places, load_teacher, cache_params())
    cache = TeacherCache.open_current(places.cache)
    texts = cache.greedy_texts(cache.all_rows)
    assert [[item.text for item in items] for items in cache.hypotheses(cache.all_rows)] == [
        [text] for text in texts
    ]


def test_the_batch_an_utterance_was_in_does_not_show(places: Places) -> None:
    payload = {"log_probs": "f32", "hidden_layers": LAYERS}
    params = cache_params(payload=payload, batch_seconds=60.0)  # one batch of all
    fill_cache(places, load_teacher, params)
    cache = TeacherCache.open_current(places.cache)
    model, data = load(places)
    for row in data.split("train").itertuples():
        live = model.forward(*model.extract([data.waveform(row)]), LAYERS)
        here = cache.rows([row.audio_key])
        np.testing.assert_allclose(cache.log_probs(here).values, live.log_probs, atol=1e-3)
        for layer in LAYERS:
            np.testing.assert_allclose(
                cache.hidden(here, layer).values, live.hidden[layer], rtol=1e-3, atol=1e-3
            )


def test_the_content_does_not_depend_on_shards_and_partitions(
    places: Places, tmp_path: Path
) -> None:
    """Shorter shards make more partitions, too."""
    payload = {"hidden_layers": LAYERS, "num_hypotheses": 2}
    digests, contents, num_shards = set(), [], set()
    for seconds in (1.0, 6.0, 3600.0):
        here = replace(places, cache=tmp_path / f"{seconds}")
        report = fill_cache(
            here, load_teacher, cache_params(payload=payload, shard_seconds=seconds)
        )
        cache = TeacherCache.open_current(here.cache)
        digests.add(report.manifest_sha256)
        contents.append(everything(cache, sorted(cache.keys(cache.all_rows))))
        num_shards.add(len(cache.shards))
    assert len(digests) == 1
    assert contents[0] == contents[1] == contents[2]
    assert len(num_shards) == 3


def test_bfloat16_is_another_namespace_with_nearly_the_same_content(places: Places) -> None:
    fill_cache(places, load_teacher, cache_params(precision="fp32"))
    exact = TeacherCache.open_current(places.cache)
    fill_cache(places, load_teacher, cache_params(precision="bf16"))
    rough = TeacherCache.open_current(places.cache)
    assert rough.folder != exact.folder
    keys = exact.keys(exact.all_rows)
    found = rough.log_probs(rough.rows(keys)).values
    np.testing.assert_allclose(
        np.exp(found), np.exp(exact.log_probs(exact.rows(keys)).values), atol=0.05
    )


# --- what is done ---------------------------------------------------------------------------------


def test_only_what_is_missing_meets_the_teacher(places: Places) -> None:
    first = fill_cache(places, load_teacher, cache_params())
    assert (first.num_utterances, first.num_hits, first.num_teacher_forwards) == (32, 0, 32)
    shards = sorted(places.cache.glob("*/*.arrow"))
    shards[0].unlink()  # a shard without index does not exist
    lost = 32 - len(TeacherCache.open_current(places.cache))
    second = fill_cache(places, load_teacher, cache_params(), first)
    assert (second.num_hits, second.num_teacher_forwards) == (32 - lost, lost)
    assert 0 < lost < 32
    third = fill_cache(places, load_teacher, cache_params(), second)
    assert (third.num_hits, third.num_teacher_forwards, third.teacher_seconds) == (32, 0, 0)
    assert third.teacher_seconds_per_audio_second == second.teacher_seconds_per_audio_second
    assert fill_cache(places, load_teacher, cache_params()).teacher_seconds_per_audio_second is None


def test_a_partition_that_is_run_again_does_the_rest_alone(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Dask does when the worker that had it dies, though it be done with it."""
    num_partitions = 0

    def twice(partition: Partition, progress: Any) -> PartitionReport:
        nonlocal num_partitions
        num_partitions += 1
        first = run_partition(partition, progress)
        heard: list[float] = []
        with monkeypatch.context() as patch:
            patch.setattr(Recogniser, "forward", None)  # nothing is heard again
            second = run_partition(partition, heard.append)
        assert sum(heard) == pytest.approx(partition.audio_seconds) and sum(heard) > 0
        assert second == first  # what the dead one had heard counts
        return second

    monkeypatch.setattr("distillery.teacher_cache.filling.workers.run_partition", twice)
    report = fill_cache(places, load_teacher, cache_params(shard_seconds=2.0))
    assert report.num_teacher_forwards == 32
    assert report.teacher_seconds > 0
    assert num_partitions > 1
    assert not list(places.cache.glob("*/.*"))


def test_a_worker_that_only_seems_dead_doubles_nothing_and_what_it_heard_is_counted(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its link is cut: another one runs its partition, and then it goes on."""
    forward, again = Recogniser.forward, []

    def cut_off(partition: Partition, progress: Any) -> PartitionReport:
        if len(partition.batches) < 4:
            return run_partition(partition, progress)
        heard, reports = [], []

        def in_the_middle(*arguments: Any) -> Any:
            outputs = forward(*arguments)
            heard.append(len(outputs.num_frames))
            if len(heard) == 4:  # and 3 of them are noted
                cache = TeacherCache(places.cache / partition.namespace)
                missing = cache.missing(partition.rows["audio_key"])
                again.append(3 - (len(partition.rows) - len(missing)))
                reports.append(run_partition(partition))
            return outputs

        with monkeypatch.context() as patch:
            patch.setattr(Recogniser, "forward", in_the_middle)
            with pytest.raises(CacheError, match="another worker or pass has taken over"):
                run_partition(partition, progress)
        return reports[0]

    monkeypatch.setattr("distillery.teacher_cache.filling.workers.run_partition", cut_off)
    params = cache_params(batch_seconds=0.1, shard_seconds=3.0)  # one in a batch, two in a shard
    report = fill_cache(places, load_teacher, params)
    cache = TeacherCache.open_current(places.cache)
    assert sum(len(shard.table) for shard in cache.shards) == len(cache) == 32
    assert report.num_teacher_forwards == 32 + sum(again)
    assert 0 < sum(again) < 3 * len(again), "some shards were finished before"
    assert not list(places.cache.glob("*/.*"))


def test_what_a_killed_pass_left_running_adds_nothing_to_the_next(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its driver is killed: a Dask worker goes on."""
    left: list[Partition] = []

    def killed(partition: Partition, _progress: Any) -> PartitionReport:
        left.append(partition)
        folder = places.cache / partition.namespace
        (of_pass,) = folder.glob(".pass-*.tmp")
        kept = of_pass.read_bytes()

        def next_pass(*arguments: Any) -> Any:
            monkeypatch.undo()
            report = fill_cache(places, load_teacher, cache_params())
            assert report.num_teacher_forwards == 32
            assert not of_pass.exists() and kept
            return Recogniser.forward(*arguments)

        monkeypatch.setattr(Recogniser, "forward", next_pass)
        return run_partition(partition)

    monkeypatch.setattr("distillery.teacher_cache.filling.workers.run_partition", killed)
    with pytest.raises(CacheError, match="another worker or pass has taken over"):
        fill_cache(places, load_teacher, cache_params())
    cache = TeacherCache.open_current(places.cache)
    assert sum(len(shard.table) for shard in cache.shards) == len(cache) == 32
    with pytest.raises(CacheError, match=r"^host .*not the one of this pass\. Workers of a Dask"):
        run_partition(left[0])


def test_a_partition_reads_neither_the_manifest_nor_what_others_cached(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker does for one must not grow with the corpus: it brings its rows along."""
    data = places.data.parent / "elsewhere"
    shutil.copytree(places.data, data)
    manifest = (data / MANIFEST_FILE).read_bytes()
    opened: list[Path] = []

    def alone(partition: Partition, progress: Any) -> PartitionReport:
        (data / MANIFEST_FILE).unlink()
        with monkeypatch.context() as patch:
            patch.setattr(TeacherCache, "reload", lambda cache: opened.append(cache.folder))
            report = run_partition(partition, progress)
        (data / MANIFEST_FILE).write_bytes(manifest)
        assert len(partition.rows) == report.num_utterances < 32
        return report

    monkeypatch.setattr("distillery.teacher_cache.filling.workers.run_partition", alone)
    here = replace(places, data=data)
    params = cache_params(shard_seconds=2.0, speed_factors=[1.1])
    assert fill_cache(here, load_teacher, params).num_teacher_forwards == 64
    assert not opened


@pytest.mark.parametrize("factors", [[], [1.1]])
def test_audio_that_changed_since_the_plan_is_refused(
    places: Places, tmp_path: Path, factors: list[float]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(places.data, data)
    row = next(PreparedData.open(data).split("train").itertuples())
    with open(data / shard_name(row.shard), "r+b") as file:
        file.seek(2 * row.offset_samples)
        file.write(b"\x11")
    with pytest.raises(
        CacheError, match=rf"samples from \d+ on have the key .*{row.audio_key[:6]}"
    ):
        fill_cache(replace(places, data=data), load_teacher, cache_params(speed_factors=factors))


def test_a_teacher_that_gives_nan_is_refused_with_the_utterance(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Recogniser.forward

    def broken(*arguments: Any) -> Any:
        outputs = forward(*arguments)
        outputs.log_probs[:] = np.nan
        return outputs

    monkeypatch.setattr(Recogniser, "forward", broken)
    with pytest.raises(CacheError, match=r"utterance [0-9a-f]{12}: the teacher gave NaN"):
        fill_cache(places, load_teacher, cache_params())
    assert not list(places.cache.glob("*/shard-*"))


# --- batches, partitions, shards ------------------------------------------------------------------


def manifest(durations: list[float]) -> pd.DataFrame:
    """Return rows of a manifest; the keys are spread evenly."""
    step = 2**32 // max(1, len(durations))
    return pd.DataFrame(
        {
            "audio_key": [f"{(7 * i % len(durations)) * step:08x}" for i in range(len(durations))],
            "num_samples": [round(8000 * d) for d in durations],
            "duration_seconds": durations,
        }
    )


def test_batches_hold_each_utterance_once_in_bounded_padded_audio() -> None:
    durations = np.random.default_rng(3).uniform(0.5, 9.0, 500).tolist()
    batches = plan_batches(manifest(durations), batch_seconds=8.0)
    assert sorted(np.concatenate(batches)) == list(range(500))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(durations[i] for i in batch) <= 8.0
    assert any(durations[batch[0]] > 8.0 for batch in batches)


def test_batches_go_from_short_to_long() -> None:
    """By hand: 1 + 1 + 1 pad to 3 s, a fourth of 2 s would make 8 s; 2 + 3 pad to 6 s."""
    batches = plan_batches(manifest([3.0, 1.0, 9.0, 1.0, 2.0, 1.0]), batch_seconds=6.0)
    assert [sorted(batch) for batch in batches] == [[1, 3, 5], [0, 4], [2]]


def test_positions_of_batches_are_those_of_the_manifest_whatever_is_cached() -> None:
    rows = manifest([3.0, 1.0, 2.0])
    assert [list(b) for b in plan_batches(rows[rows.index != 1], 60.0)] == [[2, 0]]
    assert plan_batches(rows[:0], 60.0) == []


def test_partitions_keep_batches_whole_and_lose_none() -> None:
    rows = manifest([1.0] * 64)
    batches = plan_batches(rows, batch_seconds=4.0)
    for count in (1, 3, 16):
        heads = [rows["audio_key"][batch[0]] for batch in batches]
        shares = partition_batches(batches, heads, count)
        assert 1 <= len(shares) <= count
        together = [tuple(batch) for share in shares for batch in share]
        assert sorted(together) == sorted(tuple(batch) for batch in batches)


def test_shards_hold_about_so_much_audio_and_one_batch_at_least() -> None:
    shards = [OpenShard(4.0, 60.0)]
    for seconds in (2.0, 2.0, 2.0, 9.0, 1.0):
        if not shards[-1].takes(seconds):
            shards.append(OpenShard(4.0, 60.0))
        shards[-1].add(seconds)
    assert [shard.audio_seconds for shard in shards] == [4.0, 2.0, 9.0, 1.0]


def test_a_shard_is_closed_before_a_batch_would_take_it_beyond_its_time() -> None:
    now = [0.0]
    shard = OpenShard(3600.0, 120.0, clock=lambda: now[0])
    for now[0] in (30.0, 60.0, 80.0):
        assert shard.takes(1.0)
        shard.add(1.0)
    assert shard.takes(1.0)  # at 80 s, and no batch took more than 30 s
    now[0] = 91.0
    assert not shard.takes(1.0)


def test_a_slow_teacher_closes_its_shards_by_time_and_says_the_same(
    places: Places, tmp_path: Path
) -> None:
    digests, counts = set(), []
    for minutes in (1e-9, 2.0):
        here = replace(places, cache=tmp_path / f"{minutes}")
        params = cache_params(shard_seconds=3600.0, shard_minutes=minutes)
        digests.add(fill_cache(here, load_teacher, params).manifest_sha256)
        counts.append(len(TeacherCache.open_current(here.cache).shards))
    assert len(digests) == 1
    assert counts[0] > counts[1] == 1  # one batch at least in each


def test_the_bar_shows_hours_of_audio_their_rate_and_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with AudioBar(7200.0, "teacher pass") as bar:
        bar.start_t -= 100.0  # it began so long ago
        bar.last_print_t -= 100.0
        bar.add_seconds(sum([0.1] * 10) - 1.0)  # below 0 by a rounding: nothing was done before
        assert bar.n == 0
        bar.add_seconds(1800.0)
        bar.refresh()
    said = capsys.readouterr().err.split("\r")[-1]
    assert "teacher pass:  25%" in said
    assert "0:30:00 of 2:00:00 h of audio, 18.0 x real time, 05:00 left" in said


# --- what it cost ---------------------------------------------------------------------------------


def report(**changes: Any) -> PassReport:
    """Return the report of 100 s of audio, of which 40 s were cached; the teacher took 30 s."""
    fields = {
        "namespace": "n",
        "num_utterances": 10,
        "num_hits": 4,
        "num_teacher_forwards": 6,
        "audio_seconds": 60.0,
        "hit_audio_seconds": 40.0,
        "teacher_seconds": 30.0,
        "wall_seconds": 33.0,
        "read_seconds": 10.0,
        "teacher_seconds_per_audio_second": 0.5,
        "manifest_sha256": "m",
    }
    return PassReport(**{**fields, **changes})


def test_hits_save_what_the_teacher_would_have_taken() -> None:
    assert report().seconds_saved == 20.0  # 0.5 x 40 s
    assert report(teacher_seconds_per_audio_second=None).seconds_saved is None


def test_the_break_even_is_where_reading_and_one_pass_cost_less() -> None:
    """By hand: a whole pass costs 50 s, 55 s with its writing; reading saves 40 s an epoch.

    1 epoch: 50 s against 65 s. 2 epochs: 100 s against 75 s.
    """
    assert report().break_even_epochs == 2
    # 45 s to read: 55 + 45 E < 50 E from E = 12 on; at 11 the two are equal.
    assert report(read_seconds=45.0).break_even_epochs == 12
    # Nothing ran now, so no overhead is known: 50 + 10 E < 50 E from E = 2 on.
    idle = report(teacher_seconds=0.0, wall_seconds=0.0, audio_seconds=0.0, hit_audio_seconds=100.0)
    assert idle.break_even_epochs == 2


def test_there_is_no_break_even_where_reading_is_no_faster_or_nothing_was_measured() -> None:
    assert report(read_seconds=50.0).break_even_epochs is None
    assert report(teacher_seconds_per_audio_second=None).break_even_epochs is None
    assert report(audio_seconds=0.0, hit_audio_seconds=0.0).break_even_epochs is None


def test_the_lines_for_a_person_say_what_was_measured() -> None:
    lines = describe(report())
    assert (
        "10 utterances, 4 already there, 6 through the teacher (60 s of audio in 30.0 s)"
        in lines[0]
    )
    assert lines[1] == "hits saved 20.0 s of the teacher's time"
    assert lines[2].startswith("break-even: from 2 epochs x students on")
    assert len(describe(report(teacher_seconds_per_audio_second=None))) == 1


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_report_that_cannot_be_read_is_as_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "cache.json"
    if content is not None:
        path.write_text(content)
    assert read_report(path) is None
    write_json(path, report().to_json())
    assert read_report(path) == report()


SAVED_REPORT = """{
  "audio_seconds": 1343.9353125000002,
  "break_even_epochs": 2,
  "hit_audio_seconds": 0.0,
  "manifest_sha256": "24723ac28fbaaf3e455f122945493fb0d32d84d1dd87c0b778208ba0602e2594",
  "namespace": "0a54dd82dd87664a",
  "num_hits": 0,
  "num_teacher_forwards": 759,
  "num_utterances": 759,
  "read_seconds": 0.009895441746002653,
  "seconds_saved": 0.0,
  "teacher_seconds": 3.7908342969997193,
  "teacher_seconds_per_audio_second": 0.0028206969946700604,
  "wall_seconds": 5.0440632229999665
}
"""
"""As an earlier Distillery wrote it."""


def test_a_saved_report_is_read_and_written_alike(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    path.write_text(SAVED_REPORT)
    saved = read_report(path)
    assert saved is not None
    assert (saved.num_teacher_forwards, saved.break_even_epochs) == (759, 2)
    write_json(path, saved.to_json())
    assert path.read_text() == SAVED_REPORT


# --- under which name -----------------------------------------------------------------------------


def teacher_with(places: Places, folder: Path, change: str) -> Path:
    """Save the teacher again with one thing changed."""
    folder.mkdir()
    model = load(places)[0]
    if change == "weights":
        next(model.network.parameters()).data.view(-1)[0] += 1e-6
    elif change == "mels":
        model.features = model.features.model_copy(update={"window_seconds": 0.03})
    elif change == "rate":
        model.sample_rate_hz = 16000
    model.save(folder)
    fingerprint(model).save(folder)
    if change == "token":
        content = json.loads((folder / "fingerprint.json").read_text())
        content["tokens"] = digest_of("other tokens")
        fields = {name: value for name, value in content.items() if name != "fingerprint"}
        write_json(folder / "fingerprint.json", {**fields, "fingerprint": digest_of(fields)})
    return folder


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("weights", "teacher.weights"),
        ("token", "teacher.tokens"),
        ("mels", "teacher.preprocessing.features.window_seconds"),
        ("rate", "teacher.preprocessing.sample_rate_hz"),
    ],
)
def test_another_teacher_is_another_namespace_and_the_field_is_named(
    places: Places, tmp_path: Path, change: str, field: str
) -> None:
    mine = expected_namespace(places, cache_params())
    other = expected_namespace(
        replace(places, teacher=teacher_with(places, tmp_path / "teacher", change)), cache_params()
    )
    assert other.folder_name != mine.folder_name
    with pytest.raises(CacheMismatch, match=f"was made with {field} = .*run make cache"):
        mine.check(other)


def test_the_same_teacher_saved_elsewhere_is_the_same_namespace(
    places: Places, tmp_path: Path
) -> None:
    again = replace(places, teacher=teacher_with(places, tmp_path / "teacher", "nothing"))
    mine = expected_namespace(places, cache_params())
    mine.check(expected_namespace(again, cache_params()))
    assert expected_namespace(again, cache_params()).folder_name == mine.folder_name


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"precision": "bf16"}, "compute_dtype"),
        ({"payload": {"log_probs": "f16"}}, "payload.kind"),
        ({"payload": {"hidden_layers": ["project"]}}, "hidden.project"),
        ({"payload": {"num_hypotheses": 3}}, "num_hypotheses"),
    ],
)
def test_another_setting_is_another_namespace_and_the_field_is_named(
    places: Places, changes: dict[str, Any], field: str
) -> None:
    mine = expected_namespace(places, cache_params())
    other = expected_namespace(places, cache_params(**changes))
    assert other.folder_name != mine.folder_name
    with pytest.raises(CacheMismatch, match=f"was made with {field} = "):
        mine.check(other)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("top_k", 8), ("top_p", 0.9), ("near_frames", 2), ("temperatures", [3.0])],
)
def test_a_sparse_setting_counts_where_the_layout_is_sparse_alone(
    places: Places, setting: str, value: Any
) -> None:
    def name(kind: str, sparse: dict[str, Any]) -> str:
        payload = {"log_probs": kind, "sparse": sparse}
        return expected_namespace(places, cache_params(payload=payload)).folder_name

    assert name("sparse", {setting: value}) != name("sparse", {})
    assert name("u8", {setting: value}) == name("u8", {}) == name("auto", {})


def test_settings_that_change_no_output_change_no_name(places: Places) -> None:
    mine = expected_namespace(places, cache_params())
    other = cache_params(batch_seconds=9.0, shard_seconds=9.0, workers=2, audit_utterances=0)
    assert expected_namespace(places, other) == mine


def test_a_layer_that_the_teacher_lacks_is_refused_with_those_it_has(places: Places) -> None:
    with pytest.raises(
        CacheError, match=r"has no layer 'x', expected some of \['last', 'project', 'rec"
    ):
        expected_namespace(places, cache_params(payload={"hidden_layers": ["x"]}))
