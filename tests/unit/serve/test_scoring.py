"""What a model hears in somebody's own recordings, whatever their list looks like."""

from __future__ import annotations

import json
from pathlib import Path

import jiwer
import pytest
import soundfile

from distillery.data.spelling import SpellingRule
from distillery.data.text import Vocabulary, case_of
from distillery.data.units import Unit
from distillery.errors import CorpusError, ManifestError
from distillery.evaluate.rates import rates
from distillery.models.recogniser import Recogniser
from distillery.params.evaluate import EvaluateParams
from distillery.serve.scoring import (
    Scored,
    by_speaker,
    find_labelled,
    references,
    score,
)
from tests.tiny import RATE_HZ, speak
from tests.unit.tracking.test_fetched import recogniser

PARAMS = EvaluateParams(num_resamples=100)
TEXTS = {"a.wav": "ab ba", "b.wav": "cab", "c.wav": "cc ab abc"}


@pytest.fixture(scope="module")
def model() -> Recogniser:
    return recogniser(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three recordings without a list."""
    for seed, (name, text) in enumerate(TEXTS.items()):
        soundfile.write(tmp_path / name, speak(text, seed), RATE_HZ)
    return tmp_path


def heard(model: Recogniser, place: Path) -> Scored:
    return score(model, model.vocabulary, find_labelled(place))


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    (folder / name).write_text(text, encoding)
    return folder / name


def test_errors_are_those_of_the_models_own_texts(model: Recogniser, folder: Path) -> None:
    rows = [f"{name},{text},s{index % 2}" for index, (name, text) in enumerate(TEXTS.items())]
    write(folder, "manifest.csv", "\n".join(["path,text,speaker", *rows]))
    scored = heard(model, folder)
    table = scored.predictions
    waveforms = [soundfile.read(folder / name, dtype="float32")[0] for name in TEXTS]
    assert list(table["hypothesis"]) == model.transcribe(waveforms)
    assert list(table["text"]) == list(TEXTS.values())
    expected = jiwer.process_words(list(TEXTS.values()), list(table["hypothesis"]))
    assert rates(table, PARAMS).wer.value == pytest.approx(expected.wer)
    speakers = dict(by_speaker(table, PARAMS))
    assert {name: (item.utterances, item.words) for name, item in speakers.items()} == {
        "s0": (2, 5),
        "s1": (1, 1),
    }
    for item in speakers.values():
        assert item.wer.low <= item.wer.value <= item.wer.high
    assert (scored.failed, scored.num_empty, len(scored.keys)) == ((), 0, 3)


@pytest.mark.parametrize(
    ("name", "lines", "encoding"),
    [
        ("manifest.tsv", ["path\ttext", *("\t".join(item) for item in TEXTS.items())], "utf-8"),
        ("manifest.csv", ["path,text", *(",".join(item) for item in TEXTS.items())], "utf-8-sig"),
        ("transcripts.tsv", ["path\ttext", *("\t".join(i) for i in TEXTS.items())], "utf-8"),
        (
            "manifest.jsonl",
            [json.dumps({"audio_filepath": n, "text": t}) for n, t in TEXTS.items()],
            "utf-8",
        ),
        ("my list.csv", ["path,text", *(",".join(item) for item in TEXTS.items())], "utf-8"),
    ],
    ids=["tsv", "byte-order mark", "transcripts.tsv", "NeMo's lines", "another name"],
)
def test_every_list_that_prepare_reads_is_read(
    model: Recogniser, folder: Path, name: str, lines: list[str], encoding: str
) -> None:
    file = write(folder, name, "\n".join(lines), encoding)
    place = file if name == "my list.csv" else folder
    scored = heard(model, place)
    assert sorted(scored.predictions["text"]) == sorted(TEXTS.values())
    (nobody,) = by_speaker(scored.predictions, PARAMS)
    assert nobody[0] == "(unknown)"


def test_equal_recordings_have_one_digest_whatever_their_names(
    model: Recogniser, folder: Path
) -> None:
    write(folder, "manifest.csv", "path,text\na.wav,ab ba\nb.wav,cab\n")
    first = heard(model, folder).digest
    (folder / "a.wav").rename(folder / "z.wav")
    write(folder, "manifest.csv", "path,text\nb.wav,cab\nz.wav,ab ba\n")
    assert heard(model, folder).digest == first
    write(folder, "manifest.csv", "path,text\nb.wav,cab\nz.wav,ab\n")
    assert heard(model, folder).digest != first


def test_what_cannot_be_scored_is_left_out_and_counted(model: Recogniser, folder: Path) -> None:
    (folder / "bad.wav").write_bytes(b"no sound at all")
    write(
        folder,
        "manifest.csv",
        'path,text\na.wav,"AB, ba!"\nb.wav,\nbad.wav,ab\nc.wav,…\n',
    )
    labelled = find_labelled(folder)
    assert labelled.num_unlabelled == 1
    scored = score(model, model.vocabulary, labelled)
    assert list(scored.predictions["text"]) == ["ab ba"]  # as the model's own transcripts
    assert scored.num_empty == 1
    (failed,) = scored.failed
    assert "bad.wav" in failed


def test_characters_that_the_model_cannot_write_are_counted(
    model: Recogniser, folder: Path
) -> None:
    write(folder, "manifest.csv", "path,text\na.wav,axe é\nb.wav,x\n")
    assert heard(model, folder).unknown == {"x": 2, "e": 1, "é": 1}


def test_where_no_spaces_are_written_characters_are_counted(
    model: Recogniser, folder: Path
) -> None:
    write(folder, "manifest.csv", "path,text\na.wav,今日は 雨\nb.wav,雨\n")
    scored = heard(model, folder)
    assert (scored.unit, int(scored.predictions["words"].sum())) == (Unit.CHARACTER, 5)
    assert rates(scored.predictions, PARAMS).wer.value >= 1


def test_a_segment_and_another_rate_are_heard_as_prepare_hears_them(
    model: Recogniser, folder: Path
) -> None:
    soundfile.write(folder / "fast.wav", speak("ab", 5).repeat(2), 2 * RATE_HZ)
    rows = [
        {"path": "a.wav", "text": "ab", "offset": 0.1, "duration": 0.3},
        {"path": "fast.wav", "text": "ab"},
    ]
    write(folder, "manifest.jsonl", "\n".join(map(json.dumps, rows)))
    seconds = sorted(heard(model, folder).predictions["duration_seconds"])
    assert seconds[0] == pytest.approx(0.3)
    assert seconds[1] == pytest.approx(len(speak("ab", 5)) / RATE_HZ)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("path,text\na.wav,\n", "lists 1 recordings and no transcript"),
        ("path,text\na.wav,…\n", "none of 1 recordings could be scored"),
        ("path,text\nbad.wav,ab\n", "none of 1 recordings could be scored, the first: bad.wav"),
        ("path,text\ngone.wav,ab\n", "1 of 1 audio files do not exist"),
    ],
)
def test_a_list_of_no_use_is_refused(
    model: Recogniser, folder: Path, text: str, fault: str
) -> None:
    (folder / "bad.wav").write_bytes(b"no sound at all")
    write(folder, "manifest.csv", text)
    with pytest.raises(CorpusError, match=fault):
        heard(model, folder)


def test_a_place_without_a_list_says_what_is_expected(folder: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no manifest, expected manifest.csv"):
        find_labelled(folder)
    with pytest.raises(CorpusError, match="no such folder or manifest"):
        find_labelled(folder / "nowhere")
    write(folder, "manifest.csv", "file,words\na.wav,ab\n")
    with pytest.raises(ManifestError, match="columns"):
        find_labelled(folder)


@pytest.mark.parametrize(("alphabet", "case"), [("ab'", "lower"), ("AB", "upper"), ("aB", "keep")])
def test_transcripts_take_the_letter_case_of_the_model(alphabet: str, case: str) -> None:
    assert case_of(Vocabulary.from_alphabet(alphabet)) == case


# --- phrases, numbers and letters ----------------------------------------------------------------


def test_expected_phrases_count_where_more_recordings_have_them(
    model: Recogniser, folder: Path
) -> None:
    rows = ["a.wav||ab; ba", 'b.wav||["cab", "no such", "AB"]', "c.wav|cc ab abc|cc"]
    write(folder, "manifest.tsv", "\n".join(["path|text|expected", *rows]).replace("|", "\t"))
    scored = heard(model, folder)
    assert scored.unit is Unit.PHRASE
    table = scored.predictions
    assert list(table["text"]) == ["ab; ba", "cab; no such; ab", "cc"]
    for row in table.itertuples():
        absent = [f" {p} " not in f" {row.hypothesis} " for p in row.text.split("; ")]
        assert (row.word_errors, row.words) == (sum(absent), len(absent))
    assert set(scored.unknown) == set("nosuh")


def test_transcripts_count_where_as_many_recordings_have_them(
    model: Recogniser, folder: Path
) -> None:
    write(folder, "manifest.csv", "path,text,expected\na.wav,ab ba,ab\nb.wav,cab,\nc.wav,,cc\n")
    labelled = find_labelled(folder)
    assert (labelled.by_phrases, labelled.num_unlabelled) == (False, 1)
    assert heard(model, folder).unit is Unit.WORD


def test_references_are_spelt_as_the_models_texts_are(folder: Path) -> None:
    write(folder, "manifest.csv", "path,text\na.wav,Room 21\nb.wav,TV on\nc.wav,ab\n")
    vocabulary = Vocabulary.from_alphabet("abcdefghijklmnopqrstuvwxyz'")
    labelled = find_labelled(folder)
    assert references(labelled, vocabulary) == ["room 21", "tv on", "ab"]
    rule = SpellingRule("digits", "spell", "en")
    assert references(labelled, vocabulary, rule) == ["room two one", "t v on", "ab"]
    write(folder, "manifest.csv", "path,expected\na.wav,12 ounce; 2 %\n")
    rule = SpellingRule("cardinals", "spell", "en")
    phrases = references(find_labelled(folder), vocabulary, rule)
    assert phrases == ["twelve ounce; two percent"]
