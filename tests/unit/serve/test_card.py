"""The model card: front matter that hubs read, figures, and what is not known."""

import numpy as np
import pandas as pd
import pytest
import yaml

from distillery.params.evaluate import EvaluateParams
from distillery.params.package import CardParams
from distillery.serve.card import model_card
from distillery.tracking.facts import Facts

INTERVALS = EvaluateParams(num_resamples=200)
FILES = {"model.onnx": 1000, "decoder.lm": 50, "decoder.json": 7, "browser/index.html": 3}


def predictions(num: int = 24) -> pd.DataFrame:
    random = np.random.default_rng(0)
    words = random.integers(2, 6, num)
    errors = random.integers(0, 2, num)
    return pd.DataFrame(
        {
            "utterance_id": [f"u{n}" for n in range(num)],
            "speaker": [("Ada Lovelace", "Alan Turing", None)[n % 3] for n in range(num)],
            "duration_seconds": np.linspace(1, 8, num),
            "text": "a b",
            "hypothesis": "a",
            "substitutions": errors,
            "deletions": 0,
            "insertions": 0,
            "word_errors": errors,
            "words": words,
            "character_errors": errors,
            "characters": 3 * words,
            "hypothesis_lm": "a b",
            "word_errors_lm": 0,
        }
    )


def facts(**changes: object) -> Facts:
    values: dict[str, object] = {
        "name": "ours",
        "number": "7",
        "tags": {"unit": "word", "role": "student", "git.commit": "abc123"},
        "own": {"data.corpus": "/home/ada/calls", "objective.teacher_share": "0.5"},
        "settings": {"teacher.kind": "whisper", "teacher.model": "/home/ada/models/whisper-base"},
        "metrics": {"onnx/wer": 0.1, "model/parameters": 137117.0},
        "splits": {"train": {"num_rows": 900, "seconds": 3600.0, "speakers": 12}},
        "predictions": predictions(),
    }
    return Facts(**{**values, **changes})


def front(card: str) -> dict[str, object]:
    _, matter, _ = card.split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(matter)
    return found


def test_hubs_read_the_front_matter() -> None:
    settings = CardParams(license="cc-by-4.0", language="en", title="Calls")
    card = model_card(facts(), settings, INTERVALS, FILES)
    matter = front(card)
    assert (matter["license"], matter["language"], matter["metrics"]) == (
        "cc-by-4.0",
        ["en"],
        ["wer"],
    )
    assert matter["pipeline_tag"] == "automatic-speech-recognition"
    hub = pytest.importorskip("huggingface_hub", reason="extra transformers brings it")
    read = hub.ModelCard(card).data
    (result,) = read.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("wer", 0.0, "test")
    assert read.model_name == "Calls"


def test_a_student_with_its_controls_weights_has_no_teacher() -> None:
    plain = facts()
    own = {**plain.own, "objective.name": "T2-share0.5", "training.num_epochs": "80"}
    fallen = facts(own=own, tags={**plain.tags, "fell_back": "yes"})
    card = model_card(fallen, CardParams(), INTERVALS, FILES)
    assert "- Teacher: none, it learnt from transcripts alone" in card
    assert "- Objective `control`, 80 epochs" in card
    assert "- Teacher: `whisper` (whisper-base)" in model_card(plain, CardParams(), INTERVALS, {})


def test_a_licence_in_words_is_another_one() -> None:
    matter = front(model_card(facts(), CardParams(license="Ask us."), INTERVALS, FILES))
    assert (matter["license"], matter["license_name"]) == ("other", "Ask us.")


def test_what_nobody_said_stands_there_as_a_question() -> None:
    card = model_card(facts(), CardParams(), INTERVALS, FILES)
    for name in ("author", "contact", "license", "data_license", "teacher_license", "language"):
        assert f"**not stated** – whoever hands this on must say it: `package.{name}`" in card
    assert "license" not in front(card)
    said = CardParams(author="Ada", data_license="CC0", teacher_license="MIT")
    card = model_card(facts(), said, INTERVALS, FILES)
    assert "Trained by: Ada" in card and "transcripts: CC0" in card and "teacher: MIT" in card


def test_rates_stand_by_speaker_and_duration_with_intervals() -> None:
    table = predictions().assign(word_errors_lm=1)
    card = model_card(facts(predictions=table), CardParams(), INTERVALS, FILES)
    rows = [line.split(" | ") for line in card.splitlines() if " [" in line and "|" in line]
    assert [row[0].strip("| ") for row in rows][:4] == [
        "all",
        "speaker 1",
        "speaker 2",
        "speaker 3",
    ]
    assert len(rows) == 1 + 3 + 4 and rows[5][0].endswith(" s")
    rate = 100 * 24 / table["words"].sum()
    assert rows[0][3].startswith(f"{rate:.1f} [")


def test_people_and_folders_are_not_named() -> None:
    card = model_card(facts(), CardParams(), INTERVALS, FILES)
    assert "Lovelace" not in card and "/home" not in card
    assert "Recordings: calls" in card and "`whisper` (whisper-base)" in card
    assert "Ada Lovelace" in model_card(facts(), CardParams(name_speakers=True), INTERVALS, FILES)


def test_without_a_run_the_card_says_what_is_not_known() -> None:
    card = model_card(Facts("ours", "7", {}), CardParams(), INTERVALS, {"model.onnx": 9})
    assert "Not known: the run that made it holds no predictions." in card
    assert "model-index" not in front(card)
    assert "In a browser" not in card and "best path" in card


def test_of_characters_the_rate_is_another() -> None:
    card = model_card(facts(tags={"unit": "character"}), CardParams(), INTERVALS, FILES)
    assert front(card)["metrics"] == ["cer"] and "CER %" in card
