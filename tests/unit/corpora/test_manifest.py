from __future__ import annotations

import csv
import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from distillery.corpora.base import UTTERANCE_ID_PATTERN, Recording
from distillery.corpora.manifest import derive_id, read_manifest
from distillery.errors import AudioError, CorpusError, ManifestError
from distillery.params.prepare import PrepareParams


@pytest.fixture
def source(tmp_path: Path, write_recording) -> Path:
    for name in ("a", "b", "sub/c"):
        write_recording(tmp_path / "corpus" / f"{name}.wav", 0.5)
    return tmp_path / "corpus"


Read = Callable[..., list[Recording]]


@pytest.fixture
def read(source: Path, params) -> Read:
    """Write rows as a manifest of some kind and read it."""

    def read(*rows: dict[str, Any], name: str = "manifest.csv") -> list[Recording]:
        path = source / name
        if path.suffix == ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        elif path.suffix == ".parquet":
            pd.DataFrame(list(rows)).to_parquet(path)
        else:
            delimiter = "," if path.suffix == ".csv" else "\t"
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
                writer.writeheader()
                writer.writerows(rows)
        return list(read_manifest(params("manifest", manifest=name), source))

    return read


KINDS = ["m.csv", "m.tsv", "m.jsonl", "m.parquet"]


def test_a_csv_of_a_spreadsheet_with_decimal_commas_has_semicolons(source: Path) -> None:
    (source / "m.csv").write_text("\ufeffpath;text\na.wav;one, two\n", "utf-8")
    (found,) = read_manifest(PrepareParams(corpus="manifest", source="x", manifest="m.csv"), source)
    assert (found.source_path, found.text) == ("a.wav", "one, two")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_read_alike(read: Read, name: str) -> None:
    first, second = read(
        {
            "path": "a.wav",
            "text": "Ünï",
            "speaker": "anna",
            "split": "test",
            "utterance_id": "x",
        },
        {
            "path": "sub/c.wav",
            "text": "",
            "speaker": "",
            "split": "",
            "utterance_id": "y.z-1",
        },
        name=name,
    )
    assert (
        first.utterance_id,
        first.text,
        first.speaker,
        first.split,
        first.source_path,
    ) == (
        "x",
        "Ünï",
        "anna",
        "test",
        "a.wav",
    )
    assert (second.utterance_id, second.text, second.speaker, second.split) == (
        "y.z-1",
        None,
        None,
        None,
    )
    assert len(second.decode()[0]) == 8000


@pytest.mark.parametrize("name", KINDS)
def test_words_that_look_like_nothing_stay_words(read: Read, name: str) -> None:
    words = ["nan", "null", "None", "NA", "007", "true", "-inf"]
    rows = [
        {"path": "a.wav", "text": word, "utterance_id": f"u{index}"}
        for index, word in enumerate(words)
    ]
    assert [recording.text for recording in read(*rows, name=name)] == words


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_null_means_unlabelled(read: Read, name: str) -> None:
    (_, second) = read({"path": "a.wav", "text": "go"}, {"path": "b.wav", "text": None}, name=name)
    assert second.text is None


@pytest.mark.parametrize(
    ("cell", "phrases"),
    [
        ('["two shots", "large"]', ("two shots", "large")),
        ("two shots; large", ("two shots", "large")),
        ("large;", ("large",)),
        ('{"size": "large", "drink": "latte"}', ("large", "latte")),
        ("", ()),
        ("[]", ()),
        ('{"size": "large", "milk": null, "sugar": ""}', ("large",)),
    ],
)
@pytest.mark.parametrize("name", ["manifest.csv", "manifest.jsonl", "manifest.parquet"])
def test_expected_phrases_are_read(
    read: Read, name: str, cell: str, phrases: tuple[str, ...]
) -> None:
    (recording,) = read({"path": "a.wav", "text": "", "expected": cell}, name=name)
    assert tuple(phrase.strip() for phrase in recording.expected) == phrases


@pytest.mark.parametrize(
    "cell", ['{"size": "large", "n": "two"}', '"{""size"": ""large"", ""n"": ""two""}"']
)
def test_cells_of_a_tsv_hold_json_with_or_without_quotation_marks(source: Path, cell: str) -> None:
    (source / "m.tsv").write_text(f"path\tsplit\ttext\texpected\na.wav\ttest\t\t{cell}\n")
    (found,) = read_manifest(PrepareParams(corpus="manifest", source="x", manifest="m.tsv"), source)
    assert (found.split, found.text, found.expected) == ("test", None, ("large", "two"))


def test_expected_phrases_may_be_a_list_in_json_lines(read: Read) -> None:
    rows = {"path": "a.wav", "text": None, "expected": ["large"]}
    assert read(rows, name="manifest.jsonl")[0].expected == ("large",)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ('["large"', r"row 2: expected is no JSON.*write a list of phrases"),
        ('["large", 2]', r"row 2: expected holds 2, which is no phrase"),
        ("large; !!", r"row 2: expected holds ' !!', which is no phrase"),
    ],
)
def test_expected_that_holds_no_phrases_is_refused(read: Read, cell: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        read({"path": "a.wav", "text": "", "expected": cell})


def test_two_columns_are_enough(read: Read) -> None:
    (recording,) = read({"path": "sub/c.wav", "text": "go"})
    assert re.fullmatch(UTTERANCE_ID_PATTERN, recording.utterance_id)
    assert recording.utterance_id.startswith("sub-c-")
    assert (recording.speaker, recording.split) == (None, None)


def test_derived_ids_depend_on_the_row_alone_and_differ() -> None:
    paths = ["a/b.wav", "a-b.wav", "a/b.flac", "é.wav", "è.wav", f"{'long' * 60}.wav"]
    ids = [derive_id(path) for path in paths]
    assert len(set(ids)) == len(paths)
    assert all(re.fullmatch(UTTERANCE_ID_PATTERN, name) for name in ids)
    assert derive_id("a/b.wav", (0.0, 1.0)) != derive_id("a/b.wav", (1.0, 1.0))


def test_a_byte_order_mark_and_commas_in_quotes_are_read(source: Path, params) -> None:
    (source / "m.csv").write_bytes('\ufeffpath,text\na.wav,"go, now"\n'.encode())
    (recording,) = read_manifest(params("manifest", manifest="m.csv"), source)
    assert recording.text == "go, now"


def test_tsv_takes_quotation_marks_literally(source: Path, params) -> None:
    (source / "m.tsv").write_text('path\ttext\na.wav\t"go\nb.wav\tnow"\n')
    texts = [r.text for r in read_manifest(params("manifest", manifest="m.tsv"), source)]
    assert texts == ['"go', 'now"']


# --- NeMo --------------------------------------------------------------------------------------


def test_nemo_lines_without_offset_are_whole_files(read: Read) -> None:
    (recording,) = read({"audio_filepath": "a.wav", "text": "go", "duration": 0.49}, name="m.jsonl")
    assert len(recording.decode()[0]) == 8000


def test_nemo_offset_and_duration_cut_a_segment(source: Path, read: Read, write_recording) -> None:
    whole = write_recording(source / "long.wav", 2.0, seed=5)
    line = {"audio_filepath": "long.wav", "text": "go"}
    first, second, third = read(
        line | {"offset": 0.0, "duration": 0.5},
        line | {"offset": 0.5, "duration": 1.0},
        line | {"offset": 1.5},
        name="m.jsonl",
    )
    np.testing.assert_array_equal(first.decode()[0], whole[:8000])
    np.testing.assert_array_equal(second.decode()[0], whole[8000:24000])
    np.testing.assert_array_equal(third.decode()[0], whole[24000:])
    assert len({first.utterance_id, second.utterance_id, third.utterance_id}) == 3


def test_a_segment_may_end_a_rounding_after_the_file(read: Read) -> None:
    line = {"audio_filepath": "a.wav", "text": "go", "offset": 0.25}
    (recording,) = read(line | {"duration": 0.26}, name="m.jsonl")
    assert len(recording.decode()[0]) == 4000


@pytest.mark.parametrize(("offset", "duration"), [(0.25, 0.5), (0.5, 0.1), (9.0, None)])
def test_a_segment_past_the_end_is_refused_when_decoded(
    read: Read, offset: float, duration: float | None
) -> None:
    line = {
        "audio_filepath": "a.wav",
        "text": "go",
        "offset": offset,
        "duration": duration,
    }
    (recording,) = read(line, name="m.jsonl")
    with pytest.raises(AudioError, match=r"a\.wav: the segment covers .* the file holds 0\.500 s"):
        recording.decode()


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"offset": -1}, "offset is -1, expected seconds from 0 up"),
        ({"offset": "soon"}, "offset is 'soon'"),
        ({"offset": 0, "duration": float("inf")}, "duration is inf"),
        ({"offset": 0, "duration": 0}, "duration is 0, expected seconds above 0"),
        ({"offset": [1]}, r"offset is \[1\]"),
    ],
)
def test_a_segment_that_is_none_is_refused(read: Read, cells: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError, match=f"row 1: {words}"):
        read({"audio_filepath": "a.wav", "text": "go"} | cells, name="m.jsonl")


# --- the file is unfit -------------------------------------------------------------------------


def test_a_missing_manifest_is_named(source: Path, params) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.csv does not exist; put a CSV, TSV, JSONL"):
        list(read_manifest(params("manifest"), source))


def test_an_unknown_kind_of_file_is_named(source: Path, params) -> None:
    (source / "m.xlsx").touch()
    with pytest.raises(ManifestError, match=r"ends in '\.xlsx', expected one of"):
        list(read_manifest(params("manifest", manifest="m.xlsx"), source))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", b"path,text\n", "holds no rows"),
        ("m.csv", b"", "holds no rows"),
        ("m.jsonl", b"\n\n", "holds no rows"),
        ("m.csv", b"path,text\na.wav,caf\xe9\n", "cannot be read.*UTF-8"),
        ("m.csv", b'path,text\na.wav,"go\n', "cannot be read"),
        ("m.parquet", b"PAR1 but no more", "cannot be read"),
        (
            "m.csv",
            b"path,text\na.wav,go\nb.wav,go,now\n",
            "row 3: holds 3 cells; expected 2",
        ),
        ("m.csv", b"path,text\na.wav\n", "row 2: holds 1 cells; expected 2"),
        (
            "m.csv",
            b"path,text\na.wav\nb.wav,go\nc.wav,a,b\n",
            "2 rows cannot be used, the first: row 2: holds 1 cells; row 4: holds 3 cells; "
            "expected 2",
        ),
        (
            "m.jsonl",
            b'{"path": "a.wav", "text": "go"}\n{"path"\n',
            "row 2: not valid JSON",
        ),
        ("m.jsonl", b'["a.wav", "go"]\n', "row 1: holds list, expected an object"),
    ],
)
def test_an_unfit_file_is_refused(
    source: Path, params, name: str, content: bytes, words: str
) -> None:
    (source / name).write_bytes(content)
    with pytest.raises(ManifestError, match=words):
        list(read_manifest(params("manifest", manifest=name), source))


def test_missing_columns_are_named_with_those_found(read: Read) -> None:
    with pytest.raises(
        ManifestError, match=r"'path' is missing, found columns \['file', 'words'\], exp"
    ):
        read({"file": "a.wav", "words": "go"})


@pytest.mark.parametrize("name", KINDS)
def test_recordings_for_a_teacher_need_no_column_of_texts(
    read: Read, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with caplog.at_level(logging.INFO):
        found = read({"path": "a.wav", "pred_text": "go"}, {"path": "b.wav", "pred_text": "no"})
    assert [item.text for item in found] == [None, None]
    assert "no column text: none of its recordings has a transcript" in caplog.text
    (told,) = read({"path": "a.wav", "expected": '["large"]'}, name=name)
    assert (told.text, told.expected) == (None, ("large",))


@pytest.mark.parametrize(
    "column", ["txt", "Text", " text", "TEXT ", "texts", "transcript", "Sentence", "raw text"]
)
def test_a_column_that_looks_like_the_text_is_named(read: Read, column: str) -> None:
    words = rf"'text' is missing, found columns .*'{column}'\], of which '{column}' looks like"
    with pytest.raises(ManifestError, match=words):
        read({"path": "a.wav", column: "go"})
    assert read({"path": "a.wav", column: "go", "text": "no"})[0].text == "no"


@pytest.mark.parametrize(
    ("column", "meant"),
    [("Speaker", "speaker"), ("speaker_id", "speaker"), ("splits", "split"), ("slots", "expected")],
)
def test_other_columns_that_look_like_ours_are_told(
    read: Read, caplog: pytest.LogCaptureFixture, column: str, meant: str
) -> None:
    read({"path": "a.wav", "text": "go", "notes": "x", column: "large"})
    assert f"column {column!r} is not read; if it is {meant}, call it so" in caplog.text
    assert "notes" not in caplog.text


# --- a row is unfit ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../a.wav", "sub/../../a.wav", "/etc/passwd", "sub/../a.wav"])
def test_a_path_that_leaves_the_folder_is_named_with_its_row(read: Read, path: str) -> None:
    with pytest.raises(ManifestError, match=rf"row 3: path '{re.escape(path)}' leaves the folder"):
        read({"path": "a.wav", "text": "go"}, {"path": path, "text": "go"})


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../../etc/passwd", "leaves the folder"),
        ("a.wav/../../../etc/passwd", "leaves the folder"),
        ("a.wav\0.wav", r"'a\.wav\\x00\.wav' cannot be one: embedded null"),
        ("\ud800.wav", r"path holds half a character \('\\ud800\.wav'\)"),
        ("x" * 1_000_000, r"path 'x{80}…' cannot be one: File name too long; correct it$"),
        ("loop.wav", "cannot be one: Too many levels of symbolic links"),
        ("linked/passwd", "leaves the folder"),
        ("sub", "1 of 1 audio files do not exist"),
        ("pipe.wav", "1 of 1 audio files do not exist"),
        ("a.wav/x", "1 of 1 audio files do not exist"),
        ("$(touch witness).wav", r"1 of 1 audio files do not exist, the first: row 1: \$\(touch"),
    ],
)
def test_a_hostile_path_is_refused_with_its_row(
    source: Path, read: Read, path: str, words: str
) -> None:
    (source / "loop.wav").symlink_to("loop.wav")
    (source / "linked").symlink_to("/etc")
    os.mkfifo(source / "pipe.wav")  # reading it would wait for ever
    with pytest.raises((ManifestError, CorpusError), match=words) as caught:
        read({"path": path, "text": "go"}, name="m.jsonl")
    assert "row 1" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name", ["$(touch witness)", "`id`", "a;b", "a\n", "../a", "a\0", "-" * 129]
)
def test_an_id_that_a_shell_would_run_is_refused(read: Read, name: str) -> None:
    with pytest.raises(ManifestError, match="row 1: utterance_id"):
        read({"path": "a.wav", "text": "go", "utterance_id": name}, name="m.jsonl")


def test_a_link_that_leaves_the_folder_is_refused(source: Path, read: Read) -> None:
    (source / "out.wav").symlink_to("/etc/hostname")
    with pytest.raises(ManifestError, match=r"path 'out\.wav' leaves the folder"):
        read({"path": "out.wav", "text": "go"})


def test_a_link_inside_the_folder_is_read(source: Path, read: Read) -> None:
    (source / "in.wav").symlink_to("sub/c.wav")
    (recording,) = read({"path": "in.wav", "text": "go"})
    assert len(recording.decode()[0]) == 8000


@pytest.mark.parametrize("kind", ["m.csv", "m.jsonl"])
def test_an_empty_path_is_refused(read: Read, kind: str) -> None:
    with pytest.raises(ManifestError, match="path is empty"):
        read({"path": "", "text": "go"}, name=kind)


def test_an_unknown_split_is_named(read: Read) -> None:
    words = r"row 2: split 'dev', expected one of \['train', 'valid', 'test'\]"
    with pytest.raises(ManifestError, match=words):
        read({"path": "a.wav", "text": "go", "split": "dev"})


def test_all_unfit_rows_are_told_at_once(read: Read) -> None:
    with pytest.raises(ManifestError) as caught:
        read(
            {"path": "../a.wav", "text": "go", "split": "", "utterance_id": ""},
            {"path": "a.wav", "text": "go", "split": "dev", "utterance_id": ""},
            {"path": "a.wav", "text": "go", "split": "test", "utterance_id": "x"},
            {"path": "b.wav", "text": "go", "split": "test", "utterance_id": "x"},
            *({"path": "a.wav", "text": "", "split": "?", "utterance_id": ""},) * 20,
        )
    first, *lines = str(caught.value).splitlines()
    assert first.endswith(".csv: 23 rows cannot be used:")
    assert len(lines) == 21
    assert lines[0].startswith("  row 2: path '../a.wav' leaves the folder")
    assert lines[1].startswith("  row 3: split 'dev', expected one of")
    assert lines[2].startswith("  row 5: utterance 'x' (b.wav) is already in row 4")
    assert lines[-1] == "  and 3 more"


def test_all_speakers_on_both_sides_are_told_at_once(source: Path, read: Read) -> None:
    (source / "d.wav").write_bytes((source / "a.wav").read_bytes())
    rows = [
        {"path": f"{name}.wav", "text": "go", "speaker": speaker, "split": split}
        for name, speaker, split in (
            ("a", "anna", "test"),
            ("b", "anna", "train"),
            ("sub/c", "ben", "valid"),
            ("d", "ben", "test"),
        )
    ]
    with pytest.raises(CorpusError) as caught:
        read(*rows)
    assert "2 rows cannot be used" in str(caught.value)
    assert "speaker 'anna'" in str(caught.value)
    assert "speaker 'ben'" in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "x/y", "é", "x" * 129])
def test_an_unfit_utterance_id_is_named(read: Read, name: str) -> None:
    with pytest.raises(ManifestError, match=f"row 2: utterance_id '{name}', expected"):
        read({"path": "a.wav", "text": "go", "utterance_id": name})


def test_a_cell_that_is_no_text_is_refused(read: Read) -> None:
    with pytest.raises(ManifestError, match=r"row 1: text is 7 \(int\), expected text; quote it"):
        read({"path": "a.wav", "text": 7}, name="m.jsonl")


def test_repeated_ids_are_named_with_both_rows(read: Read) -> None:
    words = r"row 3: utterance 'x' \(b\.wav\) is already in row 2"
    with pytest.raises(ManifestError, match=words):
        read(
            {"path": "a.wav", "text": "go", "utterance_id": "x"},
            {"path": "b.wav", "text": "go", "utterance_id": "x"},
        )


def test_the_same_file_twice_is_a_repeated_id(read: Read) -> None:
    with pytest.raises(ManifestError, match="is already in row 2"):
        read({"path": "a.wav", "text": "go"}, {"path": "a.wav", "text": "stop"})


def test_missing_audio_is_counted_and_the_first_rows_are_named(read: Read) -> None:
    rows = [{"path": f"gone{index}.wav", "text": "go"} for index in range(5)]
    words = r"5 of 6 audio files do not exist, the first: row 3: gone0\.wav; .*gone2\.wav; put"
    with pytest.raises(CorpusError, match=words):
        read({"path": "a.wav", "text": "go"}, *rows)


@pytest.mark.parametrize("other", ["train", "valid"])
def test_a_speaker_on_both_sides_is_named(read: Read, other: str) -> None:
    words = rf"row 2: speaker 'anna' is in split {other} here and in split test in row 3"
    with pytest.raises(CorpusError, match=words):
        read(
            {"path": "a.wav", "text": "go", "speaker": "anna", "split": other},
            {"path": "b.wav", "text": "go", "speaker": "anna", "split": "test"},
        )


def test_a_speaker_in_train_and_valid_is_the_users_choice(read: Read) -> None:
    splits = [
        recording.split
        for recording in read(
            {"path": "a.wav", "text": "go", "speaker": "anna", "split": "train"},
            {"path": "b.wav", "text": "go", "speaker": "anna", "split": "valid"},
        )
    ]
    assert splits == ["train", "valid"]


@pytest.mark.parametrize("name", KINDS)
def test_absolute_paths_inside_the_folder_are_taken_as_relative(
    read: Read, source: Path, name: str
) -> None:
    through = source.parent / "link"
    through.symlink_to(source)
    given = [source / "a.wav", through / "b.wav", source / "sub/../sub/c.wav"]
    found = read(*({"audio_filepath": str(path), "text": "x"} for path in given), name=name)
    assert [item.source_path for item in found] == ["a.wav", "b.wav", "sub/c.wav"]
    relative = read(*({"path": item.source_path, "text": "x"} for item in found), name=name)
    assert [item.utterance_id for item in relative] == [item.utterance_id for item in found]
    assert all(len(item.decode()[0]) == 8000 for item in found)


def test_absolute_paths_of_a_folder_reached_by_a_link(read: Read, source: Path, params) -> None:
    (source.parent / "link").symlink_to(source)
    (source / "m.jsonl").write_text(
        json.dumps({"audio_filepath": str(source / "a.wav"), "text": "x"}) + "\n"
    )
    settings = params("manifest", manifest="m.jsonl")
    for folder in (source.parent / "link", source.parent / "x/../link"):
        (source.parent / "x").mkdir(exist_ok=True)
        (found,) = read_manifest(settings, folder)
        assert found.source_path == "a.wav"


@pytest.mark.parametrize(
    "path", ["{}/../a.wav", "{}", ".", "./", "{}/sub/../../secret.wav", "{}x/a.wav"]
)
def test_absolute_paths_outside_or_of_no_file_are_refused(
    read: Read, source: Path, path: str
) -> None:
    with pytest.raises(
        (ManifestError, CorpusError), match="leaves the folder|is the folder|do not exist"
    ):
        read({"path": path.format(source), "text": "x"})


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_is_found_however_its_name_is_composed(
    read: Read, source: Path, write_recording, forms: tuple[str, str]
) -> None:
    on_disk, listed = (unicodedata.normalize(form, "José/Zoë.wav") for form in forms)
    write_recording(source / on_disk, 0.5)
    (found,) = read({"path": listed, "text": "x"})
    assert found.source_path == listed
    assert len(found.decode()[0]) == 8000
    (segment,) = read({"path": listed, "text": "x", "offset": "0.1", "duration": "0.2"})
    assert len(segment.decode()[0]) == 3200


def test_blank_cells_are_empty_and_blanks_around_are_nothing(read: Read) -> None:
    first, second = read(
        {"path": "a.wav", "text": " ", "speaker": "\t", "split": " train"},
        {"path": " b.wav ", "text": "\u00a0", "speaker": "anna", "split": "  "},
    )
    assert (first.text, first.speaker, first.split) == (None, None, "train")
    assert (second.source_path, second.text, second.split) == ("b.wav", None, None)


@pytest.mark.parametrize(("one", "other"), [("s00", "S00 "), ("José", "Jose\u0301")])
def test_spellings_of_one_speaker_in_test_and_train_are_refused(
    read: Read, one: str, other: str
) -> None:
    with pytest.raises(CorpusError, match=r"row 3: speaker '.*' is in split train here and in"):
        read(
            {"path": "a.wav", "text": "x", "speaker": one, "split": "test"},
            {"path": "b.wav", "text": "x", "speaker": other, "split": "train"},
        )


def test_rows_that_name_macos_notes_are_left_out_and_counted(
    read: Read, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source / "._a.wav").write_bytes(b"\0\5\26\7")
    found = read(*({"path": path, "text": "x"} for path in ("._a.wav", "a.wav", "sub/._c.wav")))
    assert [item.source_path for item in found] == ["a.wav"]
    assert "2 rows name files ._… of macOS" in caplog.text
