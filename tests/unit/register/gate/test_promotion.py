"""Students at the gate: a real registry, real champions, a test split that all of them hear."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distillery.data.manifest import PreparedData
from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.errors import StageError, TrackingError
from distillery.evaluate.listening import labelled_test_rows, predict
from distillery.evaluate.models import TrainedModel
from distillery.models.recogniser import Recogniser
from distillery.params.evaluate import EvaluateParams
from distillery.params.register import GateParams, RegisterParams
from distillery.params.whole import Params
from distillery.register.aliases import (
    WITHDRAWN_TAG,
    Aliases,
    moves,
    promote,
    read_aliases,
    rollback,
    set_champion,
)
from distillery.register.gate.formats import LoadedFormat, TestSplit
from distillery.register.gate.promotion import FORMAT_TAG, Entry, Terms, decide
from distillery.register.gate.verdict import Verdict, read_verdict, render
from distillery.register.pipeline_results import PipelineResults
from distillery.register.register import _trained_on
from distillery.serve.export import export_student
from distillery.tracking.fetched import REGISTERED, put_model
from distillery.tracking.store import Tracking
from distillery.tracking.trained_on import TRAINED_ON_FILE, are_among, pack_keys, read_keys
from distillery.tracking.versions import (
    checked_folder,
    register_version,
    stored_aliases,
    version_folder,
)
from tasks.prepare import prepare
from tests.stores import put_mlflow
from tests.tiny import tiny_params, write_corpus, write_params
from tests.unit.tracking.test_fetched import recogniser
from tests.unit.tracking.test_versions import candidate

EVALUATE = EvaluateParams(num_resamples=200, speed_seconds=0.2, speed_repeats=1)
GATE = GateParams(max_wer=50.0, max_slowdown_factor=None, min_utterances=0)


@dataclass
class Place:
    """A workspace whose registry students are brought to."""

    root: Path
    tracking: Tracking
    data: PreparedData
    exported: pd.DataFrame
    name: str = "m"

    def register(
        self, seed: int, model: Recogniser, trained_on: bytes | None = None
    ) -> tuple[Path, str]:
        """Return a student's folder and its version."""
        folder = self.root / f"{self.name}-{seed}"
        folder.mkdir(exist_ok=True)
        model.save(folder)
        found = candidate(self.tracking, folder, f"{seed}" * 32, trained_on=trained_on)
        return folder, register_version(self.tracking, self.name, found)

    def bring(
        self,
        seed: int,
        errors: int | pd.Series | None = None,
        gate: GateParams = GATE,
        control: int | None = None,
        **changes: Any,
    ) -> Verdict:
        """Register a student and take it to the gate.

        Args:
            seed: which student.
            errors: of each utterance; None: those that it makes.
            gate: the rules' limits.
            control: errors of the control in each utterance, if it has one.
            changes: of the recogniser.
        """
        model = recogniser(seed, **changes)
        folder, number = self.register(seed, model)
        mine = self.heard(model) if errors is None else self.heard(model, word_errors=errors)
        mine = mine.assign(model="students/conv")
        parts = [mine]
        if control is not None:
            parts.append(mine.assign(model="controls/conv", word_errors=control))
        predictions = pd.concat(parts).assign(seed=0)
        entry = Entry(self.name, number, "conv", 0, folder, "a student")
        return decide(
            self.tracking, entry, Terms(self.data, predictions, self.exported, EVALUATE, gate)
        )

    def heard(self, model: Recogniser, **changes: Any) -> pd.DataFrame:
        """Return what a model makes of the test split."""
        if model.sample_rate_hz != self.data.sample_rate_hz:
            model = recogniser()
        rows = labelled_test_rows(self.data)
        found, _ = predict(self.data, rows, {TrainedModel("x", None): model}, 1.0)
        return found.assign(**changes)

    @property
    def aliases(self) -> Aliases:
        return read_aliases(self.tracking, self.name)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A workspace with prepared data and an empty registry."""
    root = put_mlflow(tmp_path_factory.mktemp("workspace"))
    write_corpus(root / "corpus", num_speakers=6, per_speaker=2)
    write_params(root, tiny_params())
    prepare(root)
    tracking = Tracking(RegisterParams(experiment="tests"), root)
    not_exported = pd.DataFrame(columns=["model", "format"])
    return Place(root, tracking, PreparedData.open(root / "data/prepared"), not_exported)


@pytest.fixture
def place(workshop: Place) -> Place:
    """The workspace, its students registered as versions 1 to 3, none of which has an alias."""
    client = workshop.tracking.client
    for seed in (1, 2, 3):
        workshop.register(seed, recogniser(seed))
    for alias in client.get_registered_model(workshop.name).aliases:
        client.delete_registered_model_alias(workshop.name, alias)
    for name in client.get_registered_model(workshop.name).tags:
        client.delete_registered_model_tag(workshop.name, name)
    for version in ("1", "2", "3"):
        if WITHDRAWN_TAG in client.get_model_version(workshop.name, version).tags:
            client.delete_model_version_tag(workshop.name, version, WITHDRAWN_TAG)
    return workshop


@pytest.fixture
def new_place(workshop: Place, request: pytest.FixtureRequest) -> Place:
    """The workspace, with a registered model that no other test sees."""
    return replace(workshop, name=re.sub(r"\W+", "_", request.node.name))


def test_the_first_is_champion_if_it_is_any_good(place: Place) -> None:
    refused = place.bring(1, errors=1, gate=GateParams(max_wer=0.01))
    assert refused.alias == "challenger"
    assert refused.reason.startswith("sanity (torch): WER ")
    assert place.aliases == Aliases(None, None, "1")
    first = place.bring(2, errors=0)
    assert (first.alias, first.reason, first.against) == ("champion", "the first champion", None)
    assert [item.rule for item in first.rulings] == ["real_time_factor", "sanity"]
    assert place.aliases == Aliases("2", None, "1")
    again = place.bring(2, errors=0)
    assert again == replace(first, changed=False)
    assert read_verdict(place.root, place.name) == again
    assert read_verdict(place.root, "another model") is None


def test_a_champion_keeps_its_verdict_when_it_comes_again(place: Place) -> None:
    place.bring(1)
    better = place.bring(2, errors=0)
    worse = place.heard(recogniser(2))["word_errors"] + 1
    place.bring(3, errors=worse)
    again = place.bring(2, errors=0)  # gate.json is about version 3 by now
    assert again == Verdict("2", "champion", better.reason)
    promote(place.tracking, place.name, "3")
    description = place.tracking.client.get_model_version(place.name, "3").description
    by_hand = place.bring(3, errors=worse)
    assert by_hand.reason.startswith("it is the champion already, not by the gate, which said: wer")
    assert place.bring(3, errors=worse) == by_hand
    version = place.tracking.client.get_model_version(place.name, "3")
    assert (version.tags["gate.alias"], version.description) == ("challenger", description)


def test_a_better_one_takes_the_place_and_a_worse_one_does_not(place: Place) -> None:
    place.bring(1)
    better = place.bring(2, errors=0)
    assert (better.alias, better.against, better.changed) == ("champion", "1", True)
    assert better.reason.startswith("all rules passed, WER 0.00% against the ")
    assert better.wer == 0
    assert better.against_wer is not None
    assert better.against_wer > 0
    assert place.aliases == Aliases("2", "1", None)
    heard = place.heard(recogniser(2))["word_errors"]
    worse = place.bring(3, errors=heard + 1)
    assert (worse.alias, worse.against) == ("challenger", "2")
    assert [item.rule for item in worse.failed] == ["wer", "wer_interval"]
    assert place.aliases == Aliases("2", "1", "3")
    assert read_verdict(place.root) == worse
    version = place.tracking.client.get_model_version(place.name, "3")
    assert version.tags["gate.failed"] == "wer (torch), wer_interval (torch)"
    assert version.tags["gate.against"] == "2"
    assert version.description.startswith("Gate: version 3 is challenger: wer")
    assert "| &nbsp;&nbsp;torch | &nbsp;&nbsp;+" in version.description
    assert version.description.endswith("\na student")


class PowerCut(BaseException):
    """Nothing catches it, so nothing is tidied up."""


def test_a_gate_killed_before_any_of_its_writes_is_made_up_for_by_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = place.tracking.client
    place.bring(1)
    # Within the verdict, between both aliases, before the champion is recorded, and within that.
    for number in (3, 6, 7, 9):
        writes = iter(range(number))
        with monkeypatch.context() as patch:
            for name in (
                "set_registered_model_alias",
                "set_model_version_tag",
                "set_registered_model_tag",
                "update_model_version",
            ):
                patch.setattr(client, name, counted(getattr(client, name), writes))
            with pytest.raises(PowerCut):
                place.bring(2, errors=0)
        assert place.aliases == Aliases("2" if number > 6 else "1", "1" if number > 5 else None)
        place.bring(2, errors=0)
        assert place.aliases == Aliases("2", "1", None)
        last = moves(place.tracking, place.name)[0]
        assert (last.version, last.former) == ("2", "1")
        version = client.get_model_version(place.name, "2")
        assert version.tags["gate.alias"] == "champion"
        assert version.tags["gate.against"] == "1"
        assert version.tags["champion.since"] == last.time
        assert version.description.startswith("Gate: version 2 is champion: all rules")
        set_champion(place.tracking, place.name, "1", place.aliases, "me", "to begin anew")
        client.delete_registered_model_alias(place.name, "previous")
        for name in version.tags:
            if name.startswith(("gate.", "champion.")):
                client.delete_model_version_tag(place.name, "2", name)
        client.update_model_version(place.name, "2", "a student")


def counted(write: Any, writes: Iterator[int]) -> Any:
    """Return a write that the power is cut before, once the number of writes is used up."""

    def instead(*arguments: Any, **options: Any) -> Any:
        if next(writes, None) is None:
            raise PowerCut
        return write(*arguments, **options)

    return instead


def test_a_tie_changes_nothing(place: Place) -> None:
    place.bring(1)
    tie = place.bring(2, errors=place.heard(recogniser(1))["word_errors"])
    assert (tie.alias, tie.failed) == ("challenger", [])
    assert tie.reason.startswith("a tie: every utterance has as many errors as with version 1")
    assert place.aliases == Aliases("1", None, "2")


def test_a_tie_is_one_of_the_forms_that_are_served(new_place: Place) -> None:
    place = new_place
    place.bring(1)
    folder = place.root / "models/exported/conv"
    folder.mkdir(parents=True)
    recogniser(1).save(folder)
    export_student(recogniser(1), place.data, folder)
    same = place.heard(recogniser(1)).assign(model="students/conv")
    better = same.assign(format="onnx", word_errors=same["word_errors"] - 1)
    place = replace(place, exported=better)
    place.register(2, recogniser(2))
    place.tracking.client.set_model_version_tag(place.name, "2", FORMAT_TAG, "torch")
    tie = place.bring(2, errors=same["word_errors"])
    assert tie.reason.startswith("a tie: every utterance has as many errors as with version 1")
    place.tracking.client.set_model_version_tag(place.name, "2", FORMAT_TAG, "onnx")
    assert place.bring(2, errors=same["word_errors"]).alias == "champion"
    shutil.rmtree(folder)


def test_a_student_whose_control_is_clearly_better_is_held_back(place: Place) -> None:
    place.bring(1)
    held = place.bring(2, errors=2, control=1, gate=GATE.model_copy(update={"wer_margin": 1.0}))
    assert "gain" in [item.rule for item in held.failed]
    assert place.bring(3, errors=0, control=0).alias == "champion"


def test_the_form_that_is_served_must_pass_and_others_are_shown(place: Place) -> None:
    place.bring(1)
    folder = place.root / "models/exported/conv"
    folder.mkdir(parents=True)
    recogniser(2).save(folder)
    export_student(recogniser(2), place.data, folder)
    poor = place.heard(recogniser(2), word_errors=50).assign(model="students/conv")
    good = poor.assign(word_errors=0)
    exported = pd.concat([good.assign(format="onnx"), poor.assign(format="onnx-int8")])
    place = replace(place, exported=exported)
    client = place.tracking.client
    client.set_model_version_tag(place.name, "2", FORMAT_TAG, "onnx-int8")
    held = place.bring(2, errors=0)
    assert held.alias == "challenger"
    assert {item.form for item in held.failed} == {"onnx-int8"}
    assert "wer (onnx-int8): WER " in held.reason
    client.set_model_version_tag(place.name, "2", FORMAT_TAG, "onnx")
    try:
        served = place.bring(2, errors=0)
    finally:
        client.delete_model_version_tag(place.name, "2", FORMAT_TAG)
    assert served.alias == "champion"
    assert {item.form for item in served.rulings} == {"torch", "onnx", "onnx-int8"}
    (row,) = (
        line for line in render(served).splitlines() if line.startswith("wer ") and "int8" in line
    )
    assert row.endswith("failed, not served")


def test_one_that_was_rolled_back_waits_for_a_person(place: Place) -> None:
    place.bring(1)
    place.bring(2, errors=0)
    rollback(place.tracking, place.name)
    again = place.bring(2, errors=0)
    assert (again.alias, again.changed) == ("previous", False)
    assert again.reason.startswith("it was rolled back, ")
    assert "make promote VERSION=2" in again.reason
    assert place.aliases == Aliases("1", "2", None)
    promote(place.tracking, place.name, "2")
    assert place.aliases == Aliases("2", "1", None)


def test_without_the_gate_the_newest_is_champion(place: Place) -> None:
    off = GateParams(enabled=False)
    place.bring(1, gate=off)
    second = place.bring(2, errors=9, gate=off)
    assert (second.alias, second.reason) == ("champion", "register.gate.enabled is false")
    assert place.aliases == Aliases("2", "1", None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sample_rate_hz": 16000}, "it takes 16000 Hz and the test split has 8000 Hz"),
        (
            {"vocabulary": Vocabulary.from_alphabet("ab")},
            "it has no token for ['c'], which the test split holds",
        ),
    ],
)
def test_a_champion_that_cannot_hear_this_data_stays(
    new_place: Place, changes: dict[str, Any], reason: str
) -> None:
    place = new_place
    place.bring(1, errors=0, **changes)
    other = place.bring(2, errors=0)
    assert other.alias == "challenger"
    assert reason in other.reason
    assert other.reason.endswith("make promote VERSION=2")  # there is none to roll back to
    assert place.aliases == Aliases("1", None, "2")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: shutil.rmtree(folder), "cannot be compared with the champion, version 1"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"),
            "model.safetensors: SHA-256",
        ),
    ],
    ids=["gone", "damaged"],
)
def test_a_champion_whose_files_are_not_what_was_registered_stays_and_it_is_said(
    new_place: Place, damage: Any, reason: str
) -> None:
    place = new_place
    place.bring(1)
    folder, _ = version_folder(place.tracking, f"models:/{place.name}/1")
    damage(folder)
    other = place.bring(2, errors=0)
    assert other.alias == "challenger"
    assert reason in other.reason
    assert "make promote VERSION=2" in other.reason
    assert place.aliases == Aliases("1", None, "2")


def test_a_champion_is_not_judged_on_what_it_learnt_from(new_place: Place) -> None:
    place = new_place
    rows = labelled_test_rows(place.data)
    heard = list(rows["audio_key"][:3])
    place.register(1, recogniser(1), pack_keys([*heard, "f" * 64]))
    place.bring(1)
    own = place.heard(recogniser(1))["word_errors"]
    # Worse on what the champion learnt from, better on all else.
    errors = own.where(~rows["audio_key"].isin(heard), own + 5).where(rows.index < 3, 0)
    better = place.bring(2, errors=errors, control=0)
    assert (better.alias, better.num_left_out) == ("champion", 3)
    assert better.num_utterances == len(rows) - 3
    assert better.wer == 0.0
    assert f"on the same {len(rows) - 3} utterances" in better.reason
    assert "3 test utterances were left out, for version 1 was trained or vali" in render(better)
    assert better.metrics["gate/left_out"] == 3.0
    assert read_verdict(place.root, place.name) == better


def test_a_champion_that_learnt_from_too_much_of_the_test_split_stays(new_place: Place) -> None:
    place = new_place
    keys = list(labelled_test_rows(place.data)["audio_key"])
    place.register(1, recogniser(1), pack_keys(keys[1:]))
    place.bring(1)
    gate = GATE.model_copy(update={"min_utterances": 2})
    refused = place.bring(2, errors=0, gate=gate)
    assert (refused.alias, refused.against) == ("challenger", "1")
    assert (
        f"it was trained or validated on {len(keys) - 1} of the {len(keys)} test utterances, so 1 "
        "are left to judge it on, expected 2 or more (register.gate.min_utterances)"
    ) in refused.reason
    assert place.bring(2, errors=0).alias == "champion"  # with GATE, one suffices
    place.register(3, recogniser(3), pack_keys(keys))
    promote(place.tracking, place.name, "3")
    nothing_left = place.bring(4, errors=0)
    assert "so 0 are left to judge it on, expected 1 or more" in nothing_left.reason


def test_a_version_of_old_that_does_not_say_what_it_learnt_from_is_judged_and_it_is_said(
    new_place: Place,
) -> None:
    place = new_place
    place.bring(1)
    better = place.bring(2, errors=0)
    assert (better.alias, better.num_left_out) == ("champion", None)
    assert "Version 1 does not say what it was trained on" in render(better)
    assert "gate/left_out" not in better.metrics


def test_a_student_learnt_from_what_the_version_it_began_with_learnt_from(
    new_place: Place,
) -> None:
    place = new_place
    _, version = place.register(1, recogniser(1), pack_keys(["f" * 64]))
    model = f"models:/{place.name}/{version}"
    changed = tiny_params()
    changed["distill"]["students"]["conv"]["init"] = model
    params = Params.model_validate(changed)
    results = PipelineResults(place.root, params, None, {}, {}, [])  # type: ignore[arg-type]
    folder = place.root / REGISTERED / "students/conv"
    put_model(checked_folder(place.tracking, model), folder, model, (place.name, version), "0" * 64)
    packed = _trained_on(place.tracking, results, "conv", place.data)
    assert packed is not None
    (place.root / TRAINED_ON_FILE).write_bytes(packed)
    heard = read_keys(place.root)
    assert heard is not None
    frame = place.data.frame
    assert are_among(["f" * 64, "e" * 64], heard).tolist() == [True, False]
    assert are_among(list(frame["audio_key"]), heard).tolist() == list(frame["split"] != "test")
    _, silent = place.register(2, recogniser(2))
    put_model(
        checked_folder(place.tracking, f"models:/{place.name}/{silent}"),
        folder,
        model,
        (place.name, silent),
        "0" * 64,
    )
    assert _trained_on(place.tracking, results, "conv", place.data) is None


def test_where_the_champion_was_deleted_the_previous_one_is_the_measure(
    new_place: Place,
) -> None:
    place = new_place
    place.bring(1)
    place.bring(2, errors=0)
    place.tracking.client.delete_model_version(place.name, "2")
    heard = place.heard(recogniser(1))["word_errors"]
    worse = place.bring(3, errors=heard + 1)
    assert (worse.alias, worse.against) == ("challenger", "1")
    assert place.aliases == Aliases(None, "1", "3")
    better = place.bring(4, errors=0)
    assert better.alias == "champion"
    assert "of the previous version 1, for no champion is left" in better.reason
    for version in ("1", "4"):
        place.tracking.client.delete_model_version(place.name, version)
    alone = place.bring(5, errors=9)
    assert alone.reason == "the first champion since version 4 was deleted"
    assert place.aliases == Aliases("5", None, "3")


@pytest.mark.parametrize(
    ("victim", "errors", "expected"),
    [
        ("2", 0, Aliases("3", "1", None)),  # the champion: judged again, by the previous one
        ("3", 0, Aliases("2", "1", None)),
        ("3", 9, Aliases("2", "1", None)),
    ],
)
def test_versions_may_be_deleted_while_the_gate_is_at_work(
    workshop: Place,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
    errors: int,
    expected: Aliases,
) -> None:
    place = replace(workshop, name=f"deleted-{victim}-{errors}")
    place.bring(1)
    place.bring(2, errors=1)
    score = TestSplit.score

    def score_while_somebody_deletes(*arguments: Any) -> Any:
        monkeypatch.undo()
        place.tracking.client.delete_model_version(place.name, victim)
        return score(*arguments)

    monkeypatch.setattr(TestSplit, "score", score_while_somebody_deletes)
    if victim == "3":
        with pytest.raises(TrackingError, match=f"models:/{place.name}/3: not in the registry"):
            place.bring(3, errors=errors)
    else:
        place.bring(3, errors=errors)
    assert place.aliases == expected
    stored = stored_aliases(place.tracking, place.name)
    assert stored == {name: v for name, v in asdict(expected).items() if v is not None}


def test_results_of_another_test_split_are_refused(place: Place) -> None:
    rows = place.heard(recogniser(1)).iloc[1:].assign(model="students/conv", seed=0)
    entry = Entry(place.name, "1", "conv", 0, place.root / f"{place.name}-1", "")
    with pytest.raises(StageError, match=r"scored on 3 utterances, data/prepared has 4.*evaluate"):
        decide(place.tracking, entry, Terms(place.data, rows, place.exported, EVALUATE, GATE))


def test_the_gate_counts_what_the_data_are_counted_in(workshop: Place) -> None:
    data = workshop.data
    rows = labelled_test_rows(data)
    heard = {data.waveform(row).tobytes(): row.text.replace(" ", "") for row in rows.itertuples()}
    says = LoadedFormat("torch", lambda clips: [heard[clip.tobytes()] for clip in clips], 10)
    replaced = replace(data, summary=replace(data.summary, unit=Unit.CHARACTER))
    of_characters, of_words = (
        TestSplit(item, EVALUATE)._predictions(says) for item in (replaced, data)
    )
    assert of_characters["words"].sum() == sum(map(len, heard.values()))
    assert of_characters["word_errors"].sum() == 0  # spaces do not count
    assert of_words["words"].sum() == sum(len(text.split()) for text in rows["text"])
    assert of_words["word_errors"].sum() > 0


def test_the_verdict_says_that_nothing_but_the_teachers_texts_was_the_measure(
    new_place: Place,
) -> None:
    place, data = new_place, new_place.data
    truth = labelled_test_rows(data)
    said = dict(zip(truth["audio_key"], truth["text"], strict=True))
    frame = data.frame.assign(text=None)
    place.data = replace(data, frame=frame, teacher_texts=said)
    assert list(labelled_test_rows(place.data)["text"]) == list(truth["text"])
    first = place.bring(1)
    assert first.unit is Unit.TEACHER_WORD
    assert "judged against the teacher's texts, so what both get wrong is unknown" in first.note
    assert "judged against the teacher's texts" in render(first)
