import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import (
    COLUMNS,
    LEVELS,
    MANIFEST_FILE,
    PreparedData,
    audio_key,
    shard_name,
)
from distillery.data.scoring import SeedsResult
from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.distill.filtering import ConfidenceCounts, FilterReport
from distillery.errors import CorpusError, ModelError, StageError
from distillery.evaluate import listening
from distillery.evaluate.comparison import compare, verdict
from distillery.evaluate.curves import read_curves
from distillery.evaluate.dvc_metrics import dvc_metrics
from distillery.evaluate.listening import batches, labelled_test_rows, speed_clip
from distillery.evaluate.models import find_models
from distillery.evaluate.predictions import UNKNOWN_SPEAKER, by_duration, per_speaker, rows_of
from distillery.evaluate.records import Estimate
from distillery.evaluate.summary import ModelRow, Summary, TestData
from distillery.evaluate.tables import (
    complaint,
    drops_line,
    markdown_table,
    remarks,
    render_table,
)
from distillery.files import write_json
from distillery.models.recogniser import Recogniser
from distillery.params.evaluate import EvaluateParams
from distillery.params.models import CRNNParams, FeatureParams
from distillery.register.metrics import model_metrics
from distillery.register.run_page import ReportInputs, render_page
from distillery.serve.onnx_recogniser import OnnxRecogniser
from distillery.serve.streaming import can_stream
from tasks.evaluate import evaluate
from tests.tiny import tiny_params, write_params
from tests.tiny_students import streaming_student as student
from tests.unit.data.test_manifest import SUMMARY

RATE_HZ = 8000
VOCABULARY = Vocabulary.from_alphabet("abc")
# utterance, speaker, split, transcript, seconds
UTTERANCES = (
    ("t1", "ann", "test", "a", 0.5),
    ("t2", "ann", "test", "a b", 0.7),
    ("t3", "bob", "test", "b", 0.4),
    ("t4", None, "test", "c c a", 0.9),
    ("t5", "bob", "test", None, 0.6),
    ("u1", "cid", "train", "a", 0.5),
    ("v1", "dan", "valid", "b", 0.5),
)
OLD_COLUMNS = [name for name in COLUMNS if name not in LEVELS]
PARAMS = EvaluateParams(num_resamples=200, speed_seconds=0.5, speed_repeats=2)


def write_prepared(folder: Path, utterances: Any = UTTERANCES) -> PreparedData:
    """Write a prepared folder of seeded noise by hand."""
    folder.mkdir(parents=True)
    rows, parts, offset = [], [], 0
    for seed, (name, speaker, split, text, seconds) in enumerate(utterances):
        noise = np.random.default_rng(seed).normal(0, 2000, round(seconds * RATE_HZ))
        samples = noise.astype("<i2")  # (samples,)
        values = (
            name,
            speaker,
            split,
            text,
            text,
            f"{name}.wav",
            0,
            offset,
            len(samples),
            seconds,
            audio_key(samples),
        )
        rows.append(dict(zip(OLD_COLUMNS, values, strict=True)))
        parts.append(samples)
        offset += len(samples)
    pd.DataFrame(rows, columns=OLD_COLUMNS).to_parquet(folder / MANIFEST_FILE)
    (folder / shard_name(0)).write_bytes(np.concatenate(parts).tobytes())
    summary = replace(SUMMARY, sample_rate_hz=RATE_HZ, alphabet="abc")
    write_json(folder / "summary.json", summary.entries)
    return PreparedData.open(folder)


def recogniser(seed: int, says: str | None = None, rate_hz: int = RATE_HZ) -> Recogniser:
    """Return a small network with random weights, or one that hears the same letter everywhere."""
    torch.manual_seed(seed)
    architecture = CRNNParams(type="crnn", conv_channels=4, hidden_size=8)
    features = FeatureParams(num_mels=16)
    network = ARCHITECTURES["crnn"](architecture, features.num_mels, len(VOCABULARY)).eval()
    if says is not None:
        with torch.no_grad():
            network.output.weight.zero_()
            network.output.bias.zero_()
            network.output.bias[VOCABULARY.encode(says)[0]] = 5.0
    return Recogniser(network, architecture, features, VOCABULARY, rate_hz)


def babbler(seed: int, data: PreparedData) -> Recogniser:
    """Return a random network whose outputs are centred, so that it hears something of all."""
    model = recogniser(seed)
    waveforms = [data.waveform(row) for row in data.split("test").itertuples()]
    mean = np.concatenate(model.log_probs(waveforms)).mean(axis=0)  # (vocab,)
    with torch.no_grad():
        model.network.output.bias -= torch.from_numpy(mean)
    return model


def save_model(root: Path, key: str, model: Recogniser, valid_wers: tuple[float, ...]) -> None:
    """Save under models/ and curves/ what a stage would leave there."""
    folder, curves = root / "models" / key, root / "curves" / f"{key}.jsonl"
    folder.mkdir(parents=True)
    curves.parent.mkdir(parents=True, exist_ok=True)
    model.save(folder)
    lines = [
        {"key": key, "value": value, "step": 10 * step, "timestamp": 1}
        for step, wer in enumerate(valid_wers, 1)
        for key, value in (("train/loss", 1.0 / step), ("valid/wer", wer))
    ]
    curves.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace after `distill`."""
    return write_workspace(tmp_path)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A workspace after `evaluate`, to look at."""
    root = write_workspace(tmp_path_factory.mktemp("evaluated"))
    evaluate(root)
    return root


def write_workspace(root: Path) -> Path:
    """Write a workspace: most models hear one letter everywhere, student `rand` babbles."""
    data = write_prepared(root / "data/prepared")
    params = tiny_params(
        evaluate={"num_resamples": 200, "speed_seconds": 0.5, "speed_repeats": 2},
    )
    conv = params["distill"]["students"]["conv"]
    params["distill"]["students"] = {"conv": conv, "rand": conv}
    write_params(root, params)
    save_model(root, "teacher", recogniser(0, "a"), (0.9, 0.3, 0.4))
    save_model(root, "students/conv/seed-0", recogniser(1, "b"), (0.8, 0.6))
    save_model(root, "controls/conv/seed-0", recogniser(1, "c"), (0.8, 0.7))
    save_model(root, "students/rand/seed-0", babbler(2, data), (1.5,))
    save_model(root, "students/retired/seed-0", recogniser(3), (0.1,))
    empty = root / "models/controls/rand/seed-0"  # what `distill` leaves without a control
    empty.mkdir(parents=True)
    (empty / "none.txt").write_text("no control was trained\n")
    (root / "curves/controls/rand").mkdir()
    (root / "curves/controls/rand/seed-0.jsonl").write_text("")
    return root


def read_summary(root: Path) -> Summary:
    return Summary.read(root / "reports/evaluation")


def summary_of(root: Path) -> dict[str, Any]:
    """Return what summary.json holds, as other programs see it."""
    summary: dict[str, Any] = json.loads((root / "reports/evaluation/summary.json").read_text())
    return summary


def test_the_stage_scores_every_model_as_counted_by_hand(evaluated: Path) -> None:
    summary = summary_of(evaluated)
    assert summary["data"] == {
        "utterances": 4,
        "words": 7,
        "hours": pytest.approx(2.5 / 3600),
        "speakers": 2,
    }
    assert summary["confidence"] == 0.95
    rows = {row["model"]: row for row in summary["models"]}
    assert list(rows) == ["teacher", "controls/conv", "students/conv", "students/rand"]
    # transcripts: "a", "a b", "b", "c c a"; hypothesis "a" each: right; one deletion; one
    # substitution; two deletions. "c" each: substitution; substitution and deletion; substitution;
    # two words missing, of which one is heard as right: two deletions
    expected = {"teacher": (1, 3, 0), "students/conv": (2, 3, 0), "controls/conv": (3, 3, 0)}
    for key, counts in expected.items():
        row = rows[key]
        assert (row["substitutions"], row["deletions"], row["insertions"]) == counts
        assert row["words"] == 7
        assert row["wer"] == pytest.approx(sum(counts) / 7)
        assert 0 <= row["wer_low"] <= row["wer"] <= row["wer_high"] <= 1
    assert rows["teacher"]["cer"] == pytest.approx(7 / 10)  # "a b": 2, "b": 1, "c c a": 4
    assert rows["teacher"]["valid_wer"] == 0.3
    assert rows["students/rand"]["valid_wer"] == 1.5


def test_size_and_speed_are_those_of_the_saved_model(evaluated: Path) -> None:
    loaded = Recogniser.load(evaluated / "models/teacher", ARCHITECTURES)
    row = summary_of(evaluated)["models"][0]
    assert row["parameters"] == sum(p.numel() for p in loaded.network.parameters())
    assert row["bytes"] == len((evaluated / "models/teacher/model.safetensors").read_bytes())
    assert 0 < row["real_time_factor"] < 10
    assert row["device"].endswith(", 1 thread")


def test_gains_are_differences_of_the_word_error_rates(evaluated: Path) -> None:
    figures = summary_of(evaluated)["comparisons"]["conv"]
    assert figures["gain_wer"] == pytest.approx(1 / 7)  # 6 errors without the teacher, 5 with it
    assert figures["excess_wer"] == pytest.approx(1 / 7)  # the teacher makes 4
    assert figures["gap_closed"] == pytest.approx(0.5)
    assert figures["gain_wer_low"] <= 1 / 7 <= figures["gain_wer_high"]
    assert figures["excess_wer_low"] <= 1 / 7 <= figures["excess_wer_high"]
    assert not figures["gain_significant"]
    assert figures["verdict"].startswith("no significant gain: 14.3 points of WER (")


def test_a_student_without_control_has_no_gain(evaluated: Path) -> None:
    figures = summary_of(evaluated)["comparisons"]["rand"]
    for name in ("gain_wer", "gain_wer_low", "gain_wer_high", "gap_closed"):
        assert figures[name] is None
    assert figures["gain_significant"] is False
    assert figures["verdict"] == "no control was trained: what distillation gained is unknown"
    assert figures["excess_wer"] is not None


def test_predictions_hold_what_the_models_say_one_by_one(evaluated: Path) -> None:
    predictions = pd.read_parquet(evaluated / "reports/evaluation/predictions.parquet")
    assert len(predictions) == 4 * 4
    own = predictions[predictions["model"] == "students/rand"]
    assert list(own["utterance_id"]) == ["t1", "t2", "t3", "t4"]
    data = PreparedData.open(evaluated / "data/prepared")
    model = Recogniser.load(evaluated / "models/students/rand/seed-0", ARCHITECTURES)
    rows = labelled_test_rows(data).itertuples()
    alone = [model.transcribe([data.waveform(row)])[0] for row in rows]
    assert list(own["hypothesis"]) == alone
    assert len(set(alone)) > 1
    assert any(" " in text for text in alone)
    errors = jiwer.process_words(list(own["text"]), list(own["hypothesis"]))
    found = own[["substitutions", "deletions", "insertions", "words"]].sum().tolist()
    assert found == [errors.substitutions, errors.deletions, errors.insertions, 7]
    cer = jiwer.cer(list(own["text"]), list(own["hypothesis"]))
    assert own["character_errors"].sum() / own["characters"].sum() == pytest.approx(cer)


def test_speakers_are_scored_apart_and_unknown_ones_together(evaluated: Path) -> None:
    table = pd.read_csv(evaluated / "reports/evaluation/per_speaker.csv")
    teacher = table[table["model"] == "teacher"].set_index("speaker")
    assert teacher.loc["ann", ["utterances", "words"]].tolist() == [2, 3]
    assert teacher.loc["ann", "wer"] == pytest.approx(1 / 3)
    assert teacher.loc["bob", "wer"] == 1.0
    assert teacher.loc[UNKNOWN_SPEAKER, "wer"] == pytest.approx(2 / 3)


def test_durations_are_binned_by_quantile(evaluated: Path) -> None:
    table = pd.read_csv(evaluated / "reports/evaluation/by_duration.csv")
    teacher = table[table["model"] == "teacher"]
    assert teacher["utterances"].tolist() == [1, 1, 1, 1]
    # quartiles of 0.4, 0.5, 0.7, 0.9 by linear interpolation
    assert teacher["seconds_from"].tolist() == pytest.approx([0.4, 0.475, 0.6, 0.75])
    assert teacher["seconds_to"].tolist() == pytest.approx([0.475, 0.6, 0.75, 0.9])
    assert teacher["wer"].tolist() == pytest.approx([1.0, 0.0, 0.5, 2 / 3])


def test_equally_long_utterances_share_one_bin() -> None:
    predictions = pd.DataFrame(
        {
            "model": "teacher",
            "seed": None,
            "utterance_id": ["x", "y"],
            "duration_seconds": [1.5, 1.5],
            "words": [2, 3],
            "word_errors": [1, 0],
        }
    )
    table = by_duration(predictions)
    assert table.to_dict("records") == [
        {
            "model": "teacher",
            "seconds_from": 1.5,
            "seconds_to": 1.5,
            "utterances": 2,
            "words": 5,
            "wer": 0.2,
        }
    ]


def test_a_speaker_without_words_has_no_wer() -> None:
    predictions = pd.DataFrame(
        {
            "model": "teacher",
            "seed": None,
            "speaker": ["ann", "bob"],
            "utterance_id": ["x", "y"],
            "words": [0, 2],
            "word_errors": [1, 1],
        }
    )
    wers = per_speaker(predictions)["wer"]
    assert np.isnan(wers[0])
    assert wers[1] == 0.5


def test_metrics_are_numbers_by_group_and_name(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "reports/metrics.json").read_text())
    assert set(metrics) == {"teacher", "students", "controls", "exports"}
    assert set(metrics["exports"]["rand"]) == {"onnx", "onnx-int8"}
    assert metrics["exports"]["conv"]["onnx"]["wer"] == metrics["students"]["conv"]["wer"]
    assert set(metrics["students"]) == {"conv", "rand"}
    assert set(metrics["controls"]) == {"conv"}
    assert metrics["teacher"]["wer"] == pytest.approx(4 / 7)
    assert metrics["students"]["conv"]["gain_wer"] == pytest.approx(1 / 7)
    assert "gain_wer" not in metrics["students"]["rand"]
    assert "gain_wer" not in metrics["controls"]["conv"]
    for numbers in (metrics["teacher"], *metrics["students"].values()):
        assert all(type(value) in (int, float) for value in numbers.values())


def test_all_pictures_are_drawn(evaluated: Path) -> None:
    names = {path.name for path in (evaluated / "reports/evaluation/plots").iterdir()}
    assert names == {
        "learning_curves.png",
        "wer_against_size.png",
        "wer_against_speed.png",
        "error_counts.png",
        "wer_by_speaker.png",
    }


def without_speed(summary: dict[str, Any]) -> dict[str, Any]:
    for row in summary["models"]:
        for run in row.get("by_seed", [row]):
            del run["real_time_factor"]
        row.pop("real_time_factor", None)
    for export in summary["exports"].values():
        for figures in export["formats"].values():
            del figures["real_time_factor"]
    return summary


def test_a_second_run_gives_the_same_results_but_for_the_speed(workspace: Path) -> None:
    evaluate(workspace)
    folder = workspace / "reports/evaluation"
    same = (
        "predictions.parquet",
        "exported.parquet",
        "per_speaker.csv",
        "by_duration.csv",
        "plots/error_counts.png",
    )
    first = without_speed(summary_of(workspace)), [(folder / name).read_bytes() for name in same]
    (folder / "stale.txt").write_text("from an older version")
    evaluate(workspace)
    second = without_speed(summary_of(workspace)), [(folder / name).read_bytes() for name in same]
    assert first == second
    assert not (folder / "stale.txt").exists()


@pytest.fixture(scope="module")
def streamed(tmp_path_factory) -> Path:
    """A workspace after `evaluate` in which student `rand` and its control stream."""
    root = write_workspace(tmp_path_factory.mktemp("streamed"))
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings["distill"]["students"]["rand"] = {
        "architecture": {"type": "causal_conv"},
        "features": {"num_mels": 16, "normalise": "running"},
    }
    settings["evaluate"]["stream_chunk_seconds"] = 0.1
    write_params(root, settings)
    for kind, lookahead in (("students", 3), ("controls", 1)):
        folder = root / "models" / kind / "rand"
        shutil.rmtree(folder)
        save_model(root, f"{kind}/rand/seed-0", student(lookahead), (0.7,))
    with pytest.MonkeyPatch.context() as patch:
        forward = Recogniser.forward
        patch.setattr(
            Recogniser,
            "forward",
            lambda self, features, lengths: (
                pytest.fail("one batch")
                if can_stream(self) and len(lengths) > 1
                else forward(self, features, lengths)
            ),
        )
        evaluate(root)
    return root


def test_students_that_stream_are_scored_chunk_by_chunk(streamed: Path) -> None:
    """The fixture fails if one is given a batch of them; the texts are the same."""
    predictions = pd.read_parquet(streamed / "reports/evaluation/predictions.parquet")
    data = PreparedData.open(streamed / "data/prepared")
    for kind in ("students", "controls"):
        model = Recogniser.load(streamed / "models" / kind / "rand/seed-0", ARCHITECTURES)
        own = predictions[predictions["model"] == f"{kind}/rand"]
        rows = labelled_test_rows(data).itertuples()
        whole = [model.transcribe([data.waveform(row)])[0] for row in rows]
        assert list(own["hypothesis"]) == whole
        assert len(set(whole)) > 1


def test_students_that_stream_report_their_latency(streamed: Path) -> None:
    rows = {row["model"]: row for row in summary_of(streamed)["models"]}
    assert {key for key, row in rows.items() if "latency_ms" in row} == {
        "students/rand",
        "controls/rand",
    }
    figures = rows["students/rand"]["latency_ms"]
    assert figures["algorithmic"] == pytest.approx(40 + 3 * 40 + 12.5)
    assert rows["controls/rand"]["latency_ms"]["algorithmic"] == pytest.approx(92.5)
    assert figures["chunk"] == 100
    assert 0 < figures["compute_median"] <= figures["compute_p95"]
    assert figures["final_median"] > 0
    metrics = json.loads((streamed / "reports/metrics.json").read_text())
    assert metrics["students"]["rand"]["latency_ms"]["chunk"] == 100
    assert "latency_ms" not in metrics["students"]["conv"]


@pytest.mark.parametrize("table_of", [render_table, markdown_table])
def test_tables_say_below_how_long_a_stream_makes_one_wait(streamed: Path, table_of) -> None:
    text = " ".join(table_of(read_summary(streamed)).split())
    assert "rand: streams, 172.5 ms of latency, in chunks of 100 ms computed in" in text
    assert "conv: streams" not in text
    content = summary_of(streamed)
    (row,) = [row for row in content["models"] if row["model"] == "students/rand"]
    row["latency_ms"]["emission_delay"] = None
    assert "behind the teacher's" not in table_of(Summary.model_validate(content))
    row["latency_ms"]["emission_delay"] = 81.7
    late = Summary.model_validate(content)
    assert "tokens 82 ms behind the teacher's" in " ".join(table_of(late).split())


def test_mlflow_is_told_the_latencies(streamed: Path) -> None:
    summary = read_summary(streamed)
    for row, written in zip(summary.models, summary_of(streamed)["models"], strict=True):
        metrics = model_metrics(row, summary)
        latencies = {name for name in metrics if name.startswith("latency_ms/")}
        known = {name for name, value in written.get("latency_ms", {}).items() if value is not None}
        assert latencies == {f"latency_ms/{name}" for name in known}
        assert bool(latencies) == (row.name == "rand")


def test_a_failed_run_leaves_the_former_report(workspace: Path, monkeypatch) -> None:
    evaluate(workspace)
    before = (workspace / "reports/evaluation/summary.json").read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("distillery.evaluate.plots.plot_error_counts", fail)
    with pytest.raises(OSError, match="disk full"):
        evaluate(workspace)
    assert (workspace / "reports/evaluation/summary.json").read_bytes() == before
    assert [path.name for path in (workspace / "reports").iterdir() if "tmp" in path.name] == []


def test_a_model_for_another_rate_is_refused_with_both_rates(workspace: Path) -> None:
    recogniser(1, "b", rate_hz=16000).save(workspace / "models/students/conv/seed-0")
    with pytest.raises(ModelError, match="16000 Hz, the audio has 8000 Hz"):
        evaluate(workspace)


def test_a_missing_student_is_named(workspace: Path) -> None:
    (workspace / "models/students/rand/seed-0/config.json").unlink()
    with pytest.raises(ModelError, match=r"students/rand/seed-0: holds no config\.json"):
        evaluate(workspace)


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        ([u for u in UTTERANCES if u[2] != "test"], "'test': 0 utterances, 0 with a transcript"),
        ([u for u in UTTERANCES if u[3] is None], "'test': 1 utterances, 0 with a transcript"),
        ([("t1", "ann", "test", "", 0.5)], "'test': 1 utterances, 1 with a transcript, none of"),
    ],
    ids=["no test split", "no transcript", "no word"],
)
def test_a_test_split_without_words_is_refused(tmp_path: Path, utterances, message) -> None:
    spoken = utterances or [("u1", "cid", "train", "a", 0.5)]
    data = write_prepared(tmp_path / "prepared", spoken)
    with pytest.raises(CorpusError, match=message):
        labelled_test_rows(data)


def test_curves_that_are_missing_are_named(workspace: Path) -> None:
    (workspace / "curves/controls/conv/seed-0.jsonl").unlink()
    with pytest.raises(
        StageError, match=r"controls/conv/seed-0\.jsonl: no such file; run the stage"
    ):
        evaluate(workspace)


@pytest.mark.parametrize("line", ["{", "[1]", '{"key": "train/loss", "step": 3}', "7"])
def test_a_damaged_curve_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"key": "valid/wer", "value": 0.5, "step": 1, "timestamp": 0}\n' + line)
    with pytest.raises(StageError, match=r"a\.jsonl: line 2 is .*expected an object with key"):
        read_curves(path)


def test_models_come_in_the_order_of_the_table_and_others_are_ignored(workspace: Path) -> None:
    found = find_models(workspace / "models", ["rand", "conv"], [0])
    assert [c.key for c in found] == ["teacher", "students/rand", "controls/conv", "students/conv"]


def test_batches_hold_everything_once_within_their_length(monkeypatch) -> None:
    monkeypatch.setattr(listening, "BATCH_SECONDS", 10.0)
    seconds = np.array([4.0, 1.0, 12.0, 3.0, 3.0, 2.0])
    # sorted: 1, 2, 3 | 3 x 3 = 9 fits, a fourth 3 makes 12; then 3, 4 -> 8; then 12 alone
    assert list(batches(seconds)) == [[1, 5, 3], [4, 0], [2]]
    assert list(batches(np.array([]))) == []


def test_the_clip_is_test_audio_that_starts_again_when_it_is_too_short(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "prepared")
    rows = labelled_test_rows(data)
    audio = np.concatenate([data.waveform(row) for row in rows.itertuples()])
    assert len(audio) == 2.5 * RATE_HZ
    np.testing.assert_array_equal(speed_clip(data, rows, 0.8), audio[: int(0.8 * RATE_HZ)])
    np.testing.assert_array_equal(speed_clip(data, rows, 5.0), np.concatenate([audio, audio]))


def predictions_of(**word_errors: Any) -> pd.DataFrame:
    """Return predictions of models with these errors in utterances of ten words.

    A model's errors are a list, or a dict from seed to list.
    """
    keys = {"teacher": "teacher", "student": "students/x", "control": "controls/x"}
    return pd.concat(
        [
            pd.DataFrame({"model": keys[role], "seed": seed, "word_errors": errors, "words": 10})
            for role, runs in word_errors.items()
            for seed, errors in (
                runs if isinstance(runs, dict) else {None if role == "teacher" else 0: runs}
            ).items()
        ]
    )


def test_a_clear_gain_is_called_one() -> None:
    predictions = predictions_of(teacher=[1] * 9, control=[5] * 9, student=[2] * 9)
    figures = compare("x", predictions, PARAMS)
    assert figures.gain_wer is not None
    assert figures.gain_wer.value == pytest.approx(0.3)
    assert figures.gain_significant is True
    assert figures.gap_closed == pytest.approx(0.75)
    assert figures.verdict == "distillation gained 30.0 points of WER (30.0 to 30.0)"


SEEDS = {"teacher": [1] * 9, "control": {0: [5] * 9, 4: [6] * 9}}


def test_a_gain_over_seeds_is_the_mean_of_pairs_with_its_spread() -> None:
    predictions = predictions_of(**SEEDS, student={0: [2] * 9, 4: [4] * 9})
    figures = compare("x", predictions, PARAMS)
    assert figures.gain_wer is not None
    assert figures.gain_wer.value == pytest.approx(0.25)  # 0.3 and 0.2
    assert figures.gain_wer.sd == pytest.approx(0.05 * 2**0.5)
    assert figures.excess_wer.value == pytest.approx(0.2)  # 0.1 and 0.3 above the teacher
    assert figures.gap_closed == pytest.approx(45 / 81)  # not the mean of 27/36 and 18/45
    assert figures.gap_closed_sd == pytest.approx(0.35 / 2**0.5)
    assert [row.seed for row in figures.by_seed] == [0, 4]
    assert [row.gain_wer.value for row in figures.by_seed] == pytest.approx([0.3, 0.2])
    assert [row.gap_closed for row in figures.by_seed] == pytest.approx([0.75, 0.4])
    assert figures.verdict == (
        "distillation gained 25.0 points of WER (25.0 to 25.0), mean of 2 seeds, sd 7.1"
    )


def test_models_whose_seeds_take_turns_are_compared_as_those_that_stand_together() -> None:
    together = predictions_of(**SEEDS, student={0: [2] * 9, 4: [4] * 9})
    in_turns = pd.concat(
        [together[together["model"] == "teacher"]]
        + [
            together[(together["model"] == model) & (together["seed"] == seed)]
            for seed in (0, 4)
            for model in ("students/x", "controls/x")
        ],
        ignore_index=True,
    )
    assert list(rows_of(in_turns, "students/x")["word_errors"]) == [2] * 9 + [4] * 9
    assert compare("x", in_turns, PARAMS) == compare("x", together, PARAMS)


def test_utterances_are_resampled_with_their_errors_averaged_over_the_seeds() -> None:
    # Each seed gains on the other half of the utterances: alone neither is sure, together they are.
    student = {0: [3, 5] * 2, 1: [5, 3] * 2}
    figures = compare(
        "x",
        predictions_of(teacher=[1] * 4, control={0: [5] * 4, 1: [5] * 4}, student=student),
        PARAMS,
    )
    assert figures.gain_wer is not None
    assert (figures.gain_wer.low, figures.gain_wer.high) == pytest.approx((0.1, 0.1))
    assert figures.gain_significant
    for row in figures.by_seed:
        assert row.gain_wer.low == pytest.approx(0.0, abs=0.05)
        assert row.gain_wer.high == pytest.approx(0.2, abs=0.05)


def test_no_gap_on_average_is_none_whatever_single_seeds_say() -> None:
    predictions = predictions_of(
        teacher=[5] * 3, control={0: [4] * 3, 1: [6] * 3}, student={0: [4] * 3, 1: [5] * 3}
    )
    figures = compare("x", predictions, PARAMS)
    assert figures.gap_closed is figures.gap_closed_sd is None
    assert [row.gap_closed for row in figures.by_seed] == [None, 1.0]


@pytest.mark.parametrize("teacher", [5, 6])
def test_no_gap_can_be_closed_behind_a_control_as_good_as_the_teacher(teacher: int) -> None:
    predictions = predictions_of(teacher=[teacher] * 9, control=[5] * 9, student=[2] * 9)
    assert compare("x", predictions, PARAMS).gap_closed is None


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [
        (
            SeedsResult((0.031,), 0.012, 0.05),
            "distillation gained 3.1 points of WER (1.2 to 5.0)",
        ),
        (
            SeedsResult((0.004,), -0.01, 0.018),
            "no significant gain: 0.4 points of WER (-1.0 to 1.8)",
        ),
        (
            SeedsResult((-0.02,), -0.031, -0.005),
            "distillation made it significantly worse, by 2.0 points of WER (0.5 to 3.1)",
        ),
        (
            SeedsResult((0.01, 0.02, 0.06), 0.012, 0.05),
            "distillation gained 3.0 points of WER (1.2 to 5.0), mean of 3 seeds, sd 2.6",
        ),
        (
            SeedsResult((0.0, 0.01), -0.01, 0.02),
            "no significant gain: 0.5 points of WER (-1.0 to 2.0), mean of 2 seeds, sd 0.7",
        ),
        (
            SeedsResult((-0.01, -0.02), -0.02, -0.01),
            "distillation made it significantly worse, by 1.5 points of WER (1.0 to 2.0), mean of "
            "2 seeds, sd 0.7",
        ),
    ],
)
def test_the_verdict_is_one_plain_sentence(gain: SeedsResult, sentence: str) -> None:
    assert verdict(gain) == sentence


@pytest.mark.parametrize(
    ("gain", "wer", "sentence"),
    [
        (
            SeedsResult((-0.29,), -0.38, -0.2),
            1.0,
            "the student learnt nothing, its WER is 100.0%: distillation made it significantly "
            "worse, by 29.0 points of WER (20.0 to 38.0)",
        ),
        (
            SeedsResult((-0.29,), -0.6, 0.01),
            0.71,
            "no gain but a loss of 29.0 points of WER, which may be chance (-1.0 to 60.0)",
        ),
        (
            SeedsResult((0.0,), 0.0, 0.0),
            1.0,
            "the student learnt nothing, its WER is 100.0%: no significant gain: 0.0 points of WER "
            "(0.0 to 0.0)",
        ),
        (SeedsResult((0.02,), 0.01, 0.03), 0.96, "distillation gained 2.0 points of WER"),
        (SeedsResult((-0.02,), -0.03, -0.01), 0.5, "distillation made it significantly worse, by"),
    ],
)
def test_a_student_that_learnt_nothing_or_less_is_called_so(
    gain: SeedsResult, wer: float, sentence: str
) -> None:
    assert verdict(gain, rate=wer).startswith(sentence)


def test_a_student_that_says_nothing_beside_a_control_that_hears_is_no_small_matter() -> None:
    predictions = predictions_of(teacher=[1] * 9, control=[7] * 9, student=[10] * 9)
    found = compare("x", predictions, PARAMS).verdict
    assert "learnt nothing" in found and "significantly worse, by 30.0 points" in found


def one_model(role: str, name: str, wer: float, empty_fraction: float = 0.0) -> ModelRow:
    """Return the figures of a model that was never trained here."""
    rate = Estimate(value=wer, sd=None, low=wer, high=wer)
    return ModelRow(
        model=name,
        role=role,
        name=name,
        wer=rate,
        cer=rate,
        substitutions=1,
        deletions=0,
        insertions=0,
        words=2,
        empty_fraction=empty_fraction,
        parameters=3,
        bytes=4,
        valid_wer=None,
        real_time_factor=0.5,
        device="ACME 9000, 1 thread",
    )


def test_the_untrained_have_no_validation_wer() -> None:
    summary = Summary(
        confidence=0.95,
        seeds=(0,),
        data=TestData(utterances=1, words=2, hours=0.1, speakers=1),
        models=(one_model("teacher", "teacher", 0.5),),
        exports={},
        comparisons={},
        filters={},
        language_models={},
    )
    assert dvc_metrics(summary)["teacher"] == {
        **dict.fromkeys(("wer", "wer_low", "wer_high", "cer", "cer_low", "cer_high"), 0.5),
        "substitutions": 1,
        "deletions": 0,
        "insertions": 0,
        "words": 2,
        "empty_fraction": 0.0,
        "parameters": 3,
        "bytes": 4,
        "real_time_factor": 0.5,
    }


@pytest.mark.parametrize(
    ("empty", "wer", "sentence"),
    [
        (0.97, 0.98, "student conv gives no text for 97 % of the utterances: it needs more data, "),
        (0.1, 1.25, "student conv makes more errors than there are words (125 %): it needs more "),
        (0.5, 1.0, None),
    ],
)
def test_a_model_of_no_use_is_called_so(empty: float, wer: float, sentence: str | None) -> None:
    found = complaint(one_model("student", "conv", wer, empty))
    assert found is None if sentence is None else (found or "").startswith(sentence)


@pytest.mark.parametrize("count", [1, 3])
def test_the_advice_to_models_of_no_use_stands_once(count: int) -> None:
    models = tuple(one_model("student", f"m{number}", 0.98, 0.9) for number in range(count))
    summary = Summary.model_construct(
        data=TestData.model_construct(unit=Unit.WORD),
        models=models,
        comparisons={},
        filters={},
        language_models={},
    )
    text = "\n".join(remarks(summary))
    assert text.count("gives no text") == count
    assert text.count("more data, longer training") == 1


def test_what_was_filtered_is_one_line() -> None:
    report = FilterReport(
        num_hypotheses=400,
        num_kept=388,
        dropped={"low_confidence": 8, "word_errors": 4},
        hours=0.5,
        hours_kept=0.484,
        confidence=ConfidenceCounts(edges=[0, 1], kept=[388], dropped=[12]),
    )
    assert drops_line(report) == (
        "the filter dropped 12 of 400 teacher texts (8 low_confidence, 4 word_errors); "
        "0.48 of 0.50 hours kept"
    )


TableOf = Callable[[Summary], str]


@pytest.mark.parametrize("table_of", [render_table, markdown_table])
def test_tables_show_every_model_with_its_figures(evaluated: Path, table_of: TableOf) -> None:
    summary = summary_of(evaluated)
    text = table_of(read_summary(evaluated))
    lines = text.splitlines()
    assert lines[0].startswith("Test split: 4 utterances, 7 words by 2 speakers")
    names = ("teacher", "control conv", "student conv", "student rand")
    starts = [n for n, line in enumerate(lines) if line.lstrip("| ").startswith(names)]
    # A row may take two lines; its intervals then stand on the second.
    order = ["".join(lines[n : n + 2]) for n in starts[: len(names)]]
    for line, name, row in zip(order, names, summary["models"], strict=True):
        assert name in line
        assert f"{row['parameters']:,}" in line
        assert f"{100 * row['wer']:.1f}" in line
        assert f"[{100 * row['wer_low']:.1f}, {100 * row['wer_high']:.1f}]" in line
    assert "57.1" in order[0]  # 4 of 7
    assert "1/3/0" in order[0]
    assert "14.3" in order[2]
    assert "50 %" in order[2]  # of the gap
    assert "14.3" not in order[0]
    assert "conv: no significant gain: 14.3 points of WER (" in text
    assert "rand: no control was trained" in text


FILTERED = {
    "num_hypotheses": 8,
    "num_kept": 6,
    "dropped": {"word_errors": 2},
    "hours": 0.02,
    "hours_kept": 0.01,
    "confidence": {
        "edges": [0.1 * edge for edge in range(11)],
        "kept": [0] * 9 + [6],
        "dropped": [2] + [0] * 9,
    },
}


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory) -> Path:
    """A workspace in which one student was trained from the seeds 0 and 3, and evaluated."""
    root = tmp_path_factory.mktemp("two-seeds")
    write_prepared(root / "data/prepared")
    params = tiny_params(
        evaluate={"num_resamples": 200, "speed_seconds": 0.5, "speed_repeats": 2},
        distill={"seeds": [0, 3]},
    )
    write_params(root, params)
    save_model(root, "teacher", recogniser(0, "a"), (0.3,))
    for seed, says, valid_wer in ((0, "b", 0.4), (3, "a", 0.5)):
        save_model(root, f"students/conv/seed-{seed}", recogniser(1, says), (valid_wer,))
        save_model(root, f"controls/conv/seed-{seed}", recogniser(1, "c"), (0.7,))
        report = root / f"models/students/conv/seed-{seed}/filter.json"
        report.write_text(json.dumps(FILTERED))
    evaluate(root)
    return root


def test_a_model_of_several_seeds_has_their_mean_and_spread(two_seeds: Path) -> None:
    summary = summary_of(two_seeds)
    teacher, control, student = summary["models"]
    assert [row["model"] for row in (control, student)] == ["controls/conv", "students/conv"]
    assert student["wer"] == pytest.approx(4.5 / 7)  # seed 0 makes 5 errors, seed 3 makes 4
    assert student["wer_sd"] == pytest.approx(1 / 7 / 2**0.5)
    assert (student["substitutions"], student["deletions"], student["words"]) == (1.5, 3, 7)
    assert control["wer_sd"] == 0
    assert student["valid_wer"] == pytest.approx(0.45)
    assert [row["model"] for row in student["by_seed"]] == [
        "students/conv/seed-0",
        "students/conv/seed-3",
    ]
    assert [row["wer"] for row in student["by_seed"]] == pytest.approx([5 / 7, 4 / 7])
    assert teacher["wer_sd"] is None
    figures = summary["comparisons"]["conv"]
    assert figures["gain_wer"] == pytest.approx(1.5 / 7)
    assert figures["gap_closed"] == pytest.approx(0.75)  # 6 errors, then 4.5, with 4 in reach


def test_the_best_seed_is_chosen_on_the_validation_split(two_seeds: Path) -> None:
    student = summary_of(two_seeds)["models"][2]
    assert student["best_seed"] == 0  # although seed 3 makes fewer errors in the test


def test_metrics_of_several_seeds_stand_beside_their_mean(two_seeds: Path) -> None:
    metrics = json.loads((two_seeds / "reports/metrics.json").read_text())
    assert metrics["students"]["conv"]["wer"] == pytest.approx(4.5 / 7)
    assert metrics["students"]["conv"]["gap_closed_sd"] == pytest.approx(0.5 / 2**0.5)
    third = metrics["students"]["conv"]["seeds"]["3"]
    assert third == pytest.approx(
        {"wer": 4 / 7, "valid_wer": 0.5, "fell_back": 0.0, "gain_wer": 2 / 7, "gap_closed": 1.0}
    )
    assert metrics["controls"]["conv"]["seeds"]["0"] == {
        "wer": pytest.approx(6 / 7),
        "valid_wer": 0.7,
    }


def test_speakers_are_counted_once_whatever_the_number_of_seeds(two_seeds: Path) -> None:
    folder = two_seeds / "reports/evaluation"
    table = pd.read_csv(folder / "per_speaker.csv").set_index(["model", "speaker"])
    assert table.loc[("students/conv", "bob")].tolist() == [1, 1, 0.5]  # one of two seeds is right
    durations = pd.read_csv(folder / "by_duration.csv")
    assert durations["utterances"].tolist() == [1] * 12
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert predictions["seed"].isna().sum() == 4
    assert sorted(predictions["seed"].dropna().unique()) == [0, 3]


def test_the_table_of_several_seeds_shows_means_spread_and_the_filter(two_seeds: Path) -> None:
    text = render_table(read_summary(two_seeds))
    assert "by 2 speakers; means ± standard deviations over 2 seeds" in text
    student, training = [line for line in text.splitlines() if line.startswith("student conv")]
    assert training.split() == ["student", "conv", "1", "-", "0", "of", "2"]
    for cell in ("64.3 ± 10.1", "2/3/0", "21.4 ± 10.1", "75 ± 35 %"):
        assert cell in student
    assert ", mean of 2 seeds, sd 10.1" in text
    assert "conv: the filter dropped 2 of 8 teacher texts (2 word_errors)" in text
    assert max(map(len, text.splitlines())) <= 100
    markdown = markdown_table(read_summary(two_seeds))
    assert "| 64.3 ± 10.1 [" in markdown
    assert {row.count("|") for row in first_table(markdown)} == {13}
    assert "| conv, seed " in markdown  # as it was exported
    assert markdown.splitlines()[0].endswith("; in brackets 95 % intervals")


def of_trainings(root: Path, **converged: float | None) -> Summary:
    """Return a summary in which these shares of a role's trainings had converged."""
    summary = read_summary(root)
    models = tuple(
        row.model_copy(
            update={
                "num_epochs": 80.0,
                "cpu_seconds": 104.4,
                "converged": converged.get(row.role, 1.0),
            }
        )
        for row in summary.models
    )
    return summary.model_copy(update={"models": models})


@pytest.mark.parametrize(
    ("converged", "words"),
    [
        ({}, None),
        ({"control": 0.0}, "conv's control was still improving: part of the gain may be speed"),
        ({"student": 0.0}, "conv was still improving: more epochs may make it better"),
        (
            {"control": 0.0, "student": 0.0},
            "conv's control and conv were still improving: part of the gain may be speed",
        ),
    ],
)
def test_below_the_table_stands_whose_training_had_not_converged(
    evaluated: Path, converged: dict[str, float], words: str | None
) -> None:
    summary = of_trainings(evaluated, **converged)
    about_conv = [line for line in remarks(summary) if "improving" in line and "conv" in line]
    assert about_conv == ([] if words is None else [words])
    told = {0.0: "no", 1.0: "yes"}
    for row in summary.models:
        expected = f"| 80 | 104 | {told[converged.get(row.role, 1.0)]} |"
        lines = [line for line in first_table(markdown_table(summary)) if row.label in line]
        assert [line for line in lines if line.endswith(expected)], row.label
        metrics = model_metrics(row, summary)
        assert metrics["valid/converged"] == converged.get(row.role, 1.0)
        assert (metrics["train/epochs"], metrics["train/cpu_seconds"]) == (80.0, 104.4)
    rows = render_table(summary).split("trained")[1].splitlines()
    assert rows[2].split() == ["teacher", "80", "104", "yes"]


def test_the_report_says_whose_training_had_not_converged(evaluated: Path) -> None:
    summary = of_trainings(evaluated, control=0.0)
    predictions = pd.read_parquet(evaluated / "reports/evaluation/predictions.parquet")
    page = render_page(ReportInputs("run", "fine", summary, predictions, "students/conv", 0))
    assert "<th>epochs</th><th>CPU s</th><th>converged</th>" in page
    assert "<td>80</td><td>104</td><td>no</td>" in page
    assert "control was still improving: part of the gain may be speed</li>" in page


def test_of_several_seeds_it_is_told_how_many_had_converged(two_seeds: Path) -> None:
    summary = of_trainings(two_seeds, control=0.5)
    (line,) = [line for line in remarks(summary) if "improving" in line and "conv" in line]
    assert line == (
        "conv's control (1 of 2 seeds had converged) was still improving: part of the gain may be "
        "speed"
    )
    assert "| 1 of 2 |" in markdown_table(summary)


@pytest.mark.parametrize(
    ("fell_back", "words"),
    [
        (0.0, None),
        (None, None),
        (
            0.5,
            "for 1 of 2 seeds, so it has the control's weights there; distillation gained nothing "
            "there",
        ),
        (
            1.0,
            "for all 2 seeds, so the student has the control's weights; distillation gained "
            "nothing",
        ),
    ],
)
def test_of_several_seeds_it_is_told_how_many_have_their_controls_weights(
    two_seeds: Path, fell_back: float | None, words: str | None
) -> None:
    summary = read_summary(two_seeds)
    models = tuple(
        row.model_copy(update={"fell_back": fell_back if row.role == "student" else None})
        for row in summary.models
    )
    told = remarks(summary.model_copy(update={"models": models}))
    about_conv = [line for line in told if line.startswith("conv: its control was better")]
    whole = f"conv: its control was better on validation {words}"
    assert about_conv == ([] if words is None else [whole])


def test_a_summary_of_before_trainings_were_told_has_no_such_columns(evaluated: Path) -> None:
    summary = read_summary(evaluated)
    models = tuple(row.model_copy(update={"converged": None}) for row in summary.models)
    old = summary.model_copy(update={"models": models})
    assert "converged" not in render_table(old) + markdown_table(old)
    assert not [line for line in remarks(old) if "improving" in line]


def test_the_filter_is_drawn_where_there_was_one(two_seeds: Path) -> None:
    assert (two_seeds / "reports/evaluation/plots/filter.png").stat().st_size > 5000


def test_the_plain_table_is_at_most_100_columns_wide(evaluated: Path) -> None:
    assert max(map(len, render_table(read_summary(evaluated)).splitlines())) <= 100


def test_the_markdown_table_has_equally_many_cells_in_every_row(evaluated: Path) -> None:
    table = markdown_table(read_summary(evaluated))
    rows = first_table(table)
    assert len(rows) == 2 + 4
    assert {row.count("|") for row in rows} == {13}
    exports = [line for line in table.splitlines() if line.startswith("|")][len(rows) :]
    assert len(exports) == 2 + 2 * 3
    assert {row.count("|") for row in exports} == {9}


def first_table(markdown: str) -> list[str]:
    lines = markdown.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|"))
    return lines[start : lines.index("", start)]


def test_every_student_is_exported_and_scored_in_every_format(evaluated: Path) -> None:
    summary = summary_of(evaluated)
    predictions = pd.read_parquet(evaluated / "reports/evaluation/exported.parquet")
    eager = pd.read_parquet(evaluated / "reports/evaluation/predictions.parquet")
    for name in ("conv", "rand"):
        folder = evaluated / "models/exported" / name
        export = summary["exports"][name]
        assert export["seed"] == 0
        for form in ("onnx", "onnx-int8"):
            figures = export["formats"][form]
            model = OnnxRecogniser(folder, form)
            assert figures["bytes"] == model.num_bytes
            rows = predictions[
                (predictions["model"] == f"students/{name}") & (predictions["format"] == form)
            ]
            assert rows["utterance_id"].tolist() == ["t1", "t2", "t3", "t4"]
            errors = rows[["substitutions", "deletions", "insertions"]].sum()
            assert errors.to_dict() == {kind: figures[kind] for kind in errors.index}
            assert figures["wer"] == pytest.approx(errors.sum() / 7)
            assert figures["real_time_factor"] > 0
        floats, integers = export["formats"]["onnx"], export["formats"]["onnx-int8"]
        assert floats["same_texts_fraction"] == 1
        assert floats["max_log_prob_difference"] < 1e-3
        if name == "rand":  # the other says the same whatever it hears
            assert 1e-3 < integers["max_log_prob_difference"] < 1
        mine = predictions[
            (predictions["model"] == f"students/{name}") & (predictions["format"] == "onnx")
        ]
        theirs = eager[eager["model"] == f"students/{name}"]
        assert mine["hypothesis"].tolist() == theirs["hypothesis"].tolist()
    table = render_table(read_summary(evaluated))
    assert (
        f"{summary['exports']['conv']['formats']['onnx']['max_log_prob_difference']:.1g}" in table
    )


# --- languages without spaces --------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_characters(tmp_path_factory) -> Path:
    """A workspace after `evaluate`, whose sentences have no spaces; models hear one letter."""
    root = write_workspace(tmp_path_factory.mktemp("characters"))
    shutil.rmtree(root / "data/prepared")
    joined = [(*row[:3], row[3] and row[3].replace(" ", ""), row[4]) for row in UTTERANCES]
    data = write_prepared(root / "data/prepared", joined)
    summary = replace(data.summary, unit=Unit.CHARACTER)
    write_json(root / "data/prepared/summary.json", summary.entries)
    evaluate(root)
    return root


def test_errors_are_counted_in_the_unit_of_the_data(in_characters: Path) -> None:
    summary = read_summary(in_characters)
    assert summary.data.unit is Unit.CHARACTER
    assert summary.data.words == 7  # a, ab, b, cca
    teacher = summary.teacher  # hears "a" in each
    assert (teacher.words, teacher.substitutions, teacher.deletions) == (7, 1, 3)
    assert teacher.wer.value == teacher.cer.value == 4 / 7
    (onnx,) = {export.formats["onnx"].wer.value for export in [summary.exports["conv"]]}
    assert onnx == summary.students["conv"].wer.value == 5 / 7  # "b" in each


def test_tables_say_what_was_counted(in_characters: Path) -> None:
    summary = read_summary(in_characters)
    for shown in (render_table(summary), markdown_table(summary)):
        assert "7 characters" in shown and "CER %" in shown and "points of CER" in shown
        assert "WER" not in shown and "words" not in shown
        assert shown.count("CER %") == 2  # of all models, and of all formats; none twice
    metrics = model_metrics(summary.students["conv"], summary)
    assert metrics["asr/CER_percent"] == pytest.approx(500 / 7)
    assert metrics["test/wer"] == pytest.approx(5 / 7)
    assert not any("WER" in name for name in metrics)


def test_a_report_of_words_names_no_unit(evaluated: Path) -> None:
    assert "unit" not in summary_of(evaluated)["data"]
    assert read_summary(evaluated).data.unit is Unit.WORD
