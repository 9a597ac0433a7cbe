from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distillery.corpora.commands import (
    ACCENTS,
    VARIANTS,
    draw_sentences,
    load_grammar,
    read_commands,
    voices,
)
from distillery.errors import CorpusError

pytest.importorskip("espeakng_loader", reason="the extra `demo` is not installed")

GRAMMAR = Path(__file__).resolve().parents[3] / "examples" / "commands-grammar.yaml"
SIZES = {"num_train_speakers": 6, "num_test_speakers": 3, "sentences_per_speaker": 5}


@pytest.fixture
def grammar_file(tmp_path: Path) -> Path:
    path = tmp_path / "grammar.yaml"
    path.write_text(
        'sentence: ["go {where}", "{number} and {number}"]\n'
        'where: ["home", "to {where_else}"]\n'
        "where_else: [london, rome, oslo, paris]\n"
        "number: [one, two, three, four, five, six]\n"
    )
    return path


def test_speakers_and_sentences_are_as_many_as_asked(params) -> None:
    found = list(read_commands(params("commands", commands=SIZES), GRAMMAR))
    assert len(found) == (6 + 3) * 5
    by_split = {
        split: {r.speaker for r in found if r.split == split} for split in ("train", "test")
    }
    assert [len(by_split["train"]), len(by_split["test"])] == [6, 3]
    assert len({recording.utterance_id for recording in found}) == len(found)
    samples, rate = found[0].decode()
    assert rate == 22050
    assert len(samples) > 0.3 * rate


def test_voices_and_sentences_of_the_test_split_are_nowhere_in_training(params) -> None:
    found = list(read_commands(params("commands"), GRAMMAR))
    variants, sentences = (
        {split: {value(r) for r in found if r.split == split} for split in ("train", "test")}
        for value in (lambda r: r.audio.args[0].variant, lambda r: r.text)
    )
    assert not variants["train"] & variants["test"]
    assert not sentences["train"] & sentences["test"]
    assert len(variants["train"]) == 24
    assert len(variants["test"]) == 8
    words = {split: set(" ".join(texts).split()) for split, texts in sentences.items()}
    assert words["test"] <= words["train"]


def test_larger_settings_keep_the_former_recordings(params) -> None:
    small = read_commands(params("commands", commands=SIZES), GRAMMAR)
    large = read_commands(params("commands"), GRAMMAR)
    kept = {(r.utterance_id, r.source_path, r.text, r.split) for r in large}
    assert {(r.utterance_id, r.source_path, r.text, r.split) for r in small} <= kept


def test_the_seed_changes_the_sentences_and_not_the_speakers(params) -> None:
    first, second = (
        list(read_commands(params("commands", commands=SIZES | {"seed": seed}), GRAMMAR))
        for seed in (0, 1)
    )
    assert [r.speaker for r in first] == [r.speaker for r in second]
    assert [r.text for r in first] != [r.text for r in second]


def test_every_speaker_is_another_voice() -> None:
    everyone = voices("train", 200) + voices("test", 100)
    assert len({(voice.variant, voice.accent) for voice in everyone}) == 300
    assert {voice.accent for voice in everyone} == set(ACCENTS)
    assert {voice.variant for voice in everyone} == set(VARIANTS)


def test_more_speakers_than_voices_are_refused(params) -> None:
    settings = params("commands", commands=SIZES | {"num_test_speakers": 1000})
    words = r"1000 test speakers are required, there are \d+; lower .*num_test_speakers"
    with pytest.raises(CorpusError, match=words):
        list(read_commands(settings, GRAMMAR))


def test_sentences_follow_the_grammar(grammar_file: Path) -> None:
    grammar = load_grammar(grammar_file)
    found = {
        sentence
        for split in ("train", "test")
        for seed in "ab"
        for sentence in draw_sentences(grammar, split, 5, seed, grammar_file)
    }
    numbers = set(grammar["number"])
    for sentence in found:
        first, *rest = sentence.split()
        if first == "go":
            assert rest == ["home"] or (rest[0] == "to" and rest[1] in grammar["where_else"])
        else:
            assert first in numbers
            assert rest[0] == "and"
            assert rest[1] in numbers


def test_a_grammar_with_too_few_sentences_is_refused(grammar_file: Path) -> None:
    # 1 + 4 + 36 sentences in all
    words = r"\d+ different train sentences were found, expected 42; add alternatives"
    with pytest.raises(CorpusError, match=words):
        draw_sentences(load_grammar(grammar_file), "train", 42, "0", grammar_file)


def test_a_missing_grammar_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\.yaml: no such grammar; set prepare\.source"):
        load_grammar(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sentence: [", "not valid YAML"),
        ("- go", "has no rule 'sentence'"),
        ("start: [go]", "has no rule 'sentence'"),
        ("sentence: go", "rule 'sentence' is 'go', expected a list of texts"),
        ("sentence: []", "expected a list of texts"),
        ("sentence: [turn, on]", r"rule 'sentence' is \['turn', True\].*quote words"),
        ('sentence: ["go {home}"]', "refers to 'home', which does not exist"),
        ('sentence: ["{a}"]\na: ["{b}"]\nb: ["x", "{a}"]', "sentence → a → b → a"),
    ],
)
def test_a_broken_grammar_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "grammar.yaml").write_text(content)
    with pytest.raises(CorpusError, match=words):
        load_grammar(tmp_path / "grammar.yaml")


def test_a_missing_extra_is_noticed_before_anything_is_made(
    params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(CorpusError, match="espeak-ng, which speaks this corpus, is not installed"):
        list(read_commands(params("commands"), GRAMMAR))
