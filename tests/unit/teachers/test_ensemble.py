"""Several teachers as one: what they say together, and how the stages make one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from torch import Tensor

from distillery.data.manifest import PreparedData
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.models.fingerprint import fingerprint, read_fingerprint
from distillery.models.recogniser import Outputs, Recogniser
from distillery.params.models import FeatureParams
from distillery.params.teacher import EnsembleTeacherParams
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.ensemble import Ensemble, common_frames
from distillery.teachers.joined import choose_way
from distillery.teachers.kinds import load_teacher
from distillery.tracking.fetched import read_source
from distillery.training.trainer import Trainer
from tasks.cache import cache
from tasks.distill import distill
from tasks.fetch import fetch
from tasks.teacher import teacher
from tests.tiny import copy_code, speak, tiny_params, write_params
from tests.tiny_tellers import Hypotheses, Teller
from tests.unit.tracking.test_fetched import CRNN, MODEL, put, recogniser, wanted

ABC = Vocabulary.from_alphabet("abc")
CLIPS = [speak("ab", 1), speak("cab ba", 2)]
SLOW = CRNN.model_copy(update={"time_reduction": 2})


class Told(Teller):
    """Says what it is told to."""

    says: Sequence[Hypotheses] = ()

    def texts_of(self, num_frames: Sequence[int]) -> Sequence[Hypotheses]:
        return self.says


CODE = "models/code/teacher.json"


def teller(*texts: str, sure: float = 0.5, **changes: Any) -> Told:
    plain = recogniser(**changes)
    found = Told(
        plain.network, plain.architecture, plain.features, plain.vocabulary, plain.sample_rate_hz
    )
    found.says, found.sure = [[(text, -1.0), ("a", -3.0)] for text in texts], sure
    return found


def ensemble(*members: Any, combine: str = "auto", weights: Sequence[float] = ()) -> Ensemble:
    return Ensemble(
        members,
        combine=combine,
        weights=weights or (1.0,) * len(members),
        count_share=0.5,
        vocabulary=ABC,
    )


# --- posteriors -----------------------------------------------------------------------------------


def test_posteriors_are_the_weighted_mean_of_the_members_probabilities() -> None:
    first, second = recogniser(1), recogniser(2)
    joined = ensemble(first, second, weights=(3.0, 1.0))
    assert joined.way == "posteriors" and joined.gives_frames
    outputs = joined.forward(*joined.extract(CLIPS))
    for row, (own, other) in enumerate(
        zip(first.log_probs(CLIPS), second.log_probs(CLIPS), strict=True)
    ):
        expected = 0.75 * np.exp(own) + 0.25 * np.exp(other)
        assert outputs.items[row].shape == expected.shape
        assert np.allclose(np.exp(outputs.items[row]), expected, atol=1e-6)


def test_equal_members_say_what_one_of_them_says() -> None:
    one = recogniser(1)
    joined = ensemble(one, recogniser(1), weights=(0.2, 5.0))
    for own, theirs in zip(
        one.log_probs(CLIPS), joined.forward(*joined.extract(CLIPS)).items, strict=True
    ):
        assert np.allclose(own, theirs, atol=1e-5)
    assert joined.transcribe(CLIPS) == one.transcribe(CLIPS)


def test_members_may_hear_other_features() -> None:
    joined = ensemble(recogniser(1), recogniser(2, features=FeatureParams(num_mels=24)))
    assert np.allclose(
        np.exp(joined.forward(*joined.extract(CLIPS)).items[1]).sum(-1), 1, atol=1e-5
    )


def test_a_frame_more_or_less_is_cut_and_more_is_refused() -> None:
    assert common_frames([[5, 7], [6, 7]], 2) == [5, 7]
    assert common_frames([], 2) == [0, 0]
    with pytest.raises(ModelError, match=r"cut utterance 1 of a batch into \[7, 9\] frames"):
        common_frames([[5, 7], [6, 9]], 2)


def test_posteriors_that_cannot_be_averaged_are_refused_with_the_reason() -> None:
    plain = recogniser()
    for other, reason in [
        (teller("ab"), "member 1 gives texts"),
        (recogniser(vocabulary=Vocabulary.from_alphabet("abcd")), "members 0 and 1 have other tok"),
        (recogniser(architecture=SLOW), "member 0 has a frame every 40 ms, member 1 every 20 ms"),
    ]:
        with pytest.raises(ModelError, match=f"posteriors cannot be averaged, for {reason}"):
            ensemble(plain, other, combine="posteriors")
        assert ensemble(plain, other).way == "rover"


def test_hidden_layers_bear_their_members_number() -> None:
    first, second = recogniser(1), recogniser(2)
    joined = ensemble(first, second)
    assert joined.layer_widths["members.1.last"] == second.layer_widths["last"]
    outputs = joined.forward(*joined.extract(CLIPS), layers=["members.1.last"])
    own = second.forward(*second.extract(CLIPS), layers=["last"])
    assert list(outputs.hidden) == ["members.1.last"]
    assert np.array_equal(outputs.hidden["members.1.last"], own.hidden["last"])
    with pytest.raises(ModelError, match="layer 'last': unknown to this teacher, expected one of"):
        joined.forward(*joined.extract(CLIPS), layers=["last"])


def test_members_of_another_rate_offer_no_layers() -> None:
    joined = ensemble(recogniser(1), recogniser(2, architecture=SLOW), recogniser(3))
    assert {name.split(".")[1] for name in joined.layer_widths} == {"0", "2"}
    assert joined.frame_shift_seconds == pytest.approx(0.04)


# --- texts ----------------------------------------------------------------------------------------


def test_texts_are_put_to_the_vote() -> None:
    joined = ensemble(teller("ab cab", "a"), teller("ab ba", "b"), teller("b ba", "b"))
    outputs = joined.forward(*joined.extract(CLIPS))
    assert joined.way == "rover" and outputs.log_probs is None
    assert [items[0][0] for items in outputs.hypotheses] == ["ab ba", "b"]
    for items, sure in zip(outputs.hypotheses, outputs.confidences, strict=True):
        scores = [score for _, score in items]
        assert scores == sorted(scores, reverse=True) and scores[0] < 0
        assert 0 < sure < 0.5  # less than each member's, for they disagree
    assert joined.transcribe(CLIPS) == ["ab ba", "b"]
    assert outputs.num_frames == [0, 0]


def test_the_surest_members_texts_may_be_taken() -> None:
    quiet, sure = teller("ab", "a", sure=0.3), teller("ba", "b", sure=0.9)
    joined = ensemble(quiet, sure, combine="best")
    outputs = joined.forward(*joined.extract(CLIPS), layers=["members.0.last"])
    assert outputs.hypotheses == [[("ba", -1.0), ("a", -3.0)], [("b", -1.0), ("a", -3.0)]]
    assert outputs.confidences == [0.9, 0.9]
    assert min(outputs.num_frames) > 0  # of the hidden states
    assert ensemble(quiet, sure, combine="best", weights=(4.0, 1.0)).transcribe(CLIPS) == [
        "ab",
        "a",
    ]


def test_members_with_frames_vote_with_their_best_path() -> None:
    plain = recogniser(5)
    joined = ensemble(plain, teller("ab", "ab", sure=0.001), combine="best")
    assert joined.transcribe(CLIPS) == plain.transcribe(CLIPS)
    (item, *_), *_ = joined.forward(*joined.extract(CLIPS)).hypotheses
    assert item[1] < 0


def test_texts_are_spelt_in_the_corpus_tokens() -> None:
    joined = ensemble(teller("AB!", "a"), teller("ab d", "a"))
    assert joined.transcribe(CLIPS) == ["ab", "a"]


# --- saved, described -----------------------------------------------------------------------------


def test_it_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    joined = ensemble(recogniser(1), recogniser(2), weights=(2.0, 1.0))
    joined.save(tmp_path)
    again = load_teacher(tmp_path)
    assert fingerprint(again) == fingerprint(joined)
    own, theirs = (item.forward(*item.extract(CLIPS)).log_probs for item in (joined, again))
    assert np.array_equal(own, theirs)
    assert again.num_parameters == 2 * recogniser().num_parameters
    (tmp_path / "members/1/model.safetensors").unlink()
    with pytest.raises(ModelError, match="members/1/model.safetensors: no such file"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "ensemble"}')
    with pytest.raises(ModelError, match="cannot be used: architecture: Field required; run make"):
        load_teacher(tmp_path)


def test_what_decides_its_outputs_is_in_its_fingerprint() -> None:
    first, second = recogniser(1), recogniser(2)
    joined = [
        ensemble(first, second),
        ensemble(second, first),
        ensemble(first, second, weights=(2.0, 1.0)),
        ensemble(first, second, combine="rover"),
        ensemble(first, second, combine="best"),
        ensemble(first, recogniser(3)),
    ]
    assert len({fingerprint(item).fingerprint for item in joined}) == len(joined)


def test_a_member_of_another_sample_rate_is_refused() -> None:
    with pytest.raises(ModelError, match="made for 16000 Hz, the audio has 8000 Hz"):
        ensemble(recogniser(), recogniser(sample_rate_hz=16000))
    with pytest.raises(ModelError, match="made for 8000 Hz, the audio has 16000 Hz"):
        ensemble(recogniser(1), recogniser(2)).check_sample_rate(16000)


# --- settings -------------------------------------------------------------------------------------


def test_settings_that_count_a_teacher_twice_are_refused() -> None:
    member = {"kind": "trained", "training": {"seed": 1}}
    EnsembleTeacherParams(kind="ensemble", members=[member, {}])
    with pytest.raises(ValidationError, match="members 0 and 2 are equal, which would count one"):
        EnsembleTeacherParams(kind="ensemble", members=[{}, member, {"kind": "trained"}])
    with pytest.raises(ValidationError, match="weights holds 1 numbers for 2 members"):
        EnsembleTeacherParams(kind="ensemble", members=[member, {}], weights=[1.0])
    with pytest.raises(ValidationError, match="at least 2 items"):
        EnsembleTeacherParams(kind="ensemble", members=[member])
    with pytest.raises(ValidationError, match="kind should be"):
        EnsembleTeacherParams(
            kind="ensemble", members=[{}, {"kind": "ensemble", "members": [member, {}]}]
        )


class Spiky(Recogniser):
    """Says `ab`, whatever it hears, each letter in one frame of its choice."""

    frames = (1, 4)

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        layers: Sequence[str] = (),
        precision: str = "fp32",
    ) -> Outputs:
        probabilities = np.full((len(lengths), 8, len(ABC)), 0.01, np.float32)
        probabilities[:, :, 0] = 0.96
        for frame, letter in zip(self.frames, "ab", strict=True):
            probabilities[:, frame, 0] = 0.02
            probabilities[:, frame, ABC.tokens.index(letter)] = 0.95
        return Outputs(np.log(probabilities), [8] * len(lengths), {})


def spiky(*frames: int) -> Spiky:
    plain = recogniser()
    found = Spiky(
        plain.network, plain.architecture, plain.features, plain.vocabulary, plain.sample_rate_hz
    )
    found.frames = (frames[0], frames[1])
    return found


def test_posteriors_are_averaged_only_where_that_errs_no_more_than_the_vote(
    prepared: Path,
) -> None:
    data = PreparedData.open(prepared / "data/prepared")
    params = EnsembleTeacherParams(
        kind="ensemble", members=[{}, {"kind": "trained", "speed_factors": [0.9]}]
    )
    agreed = choose_way([spiky(1, 4), spiky(1, 4)], params, data)
    assert (agreed.way, agreed.transcribe(CLIPS)) == ("posteriors", ["ab", "ab"])
    apart = choose_way([spiky(1, 4), spiky(2, 5)], params, data)
    assert (apart.way, apart.transcribe(CLIPS)) == ("rover", ["ab", "ab"])
    forced = params.model_copy(update={"combine": "posteriors"})
    assert choose_way(apart.members, forced, data).transcribe(CLIPS) == ["", ""]
    bare = replace(data, frame=data.frame.assign(text=None))
    assert choose_way([spiky(1, 4), spiky(1, 4)], params, bare).way == "rover"  # nothing decides


# --- stages ---------------------------------------------------------------------------------------


def settings(*members: dict[str, Any], combine: str = "auto", **changes: Any) -> dict[str, Any]:
    plain = tiny_params(**changes)
    trained = plain["teacher"]
    plain["teacher"] = {
        "kind": "ensemble",
        "combine": combine,
        "members": [item if "kind" in item else {**trained, **item} for item in members],
    }
    return plain


def seeded(seed: int) -> dict[str, Any]:
    return {"training": {**tiny_params()["teacher"]["training"], "seed": seed, "num_epochs": 2}}


@pytest.fixture
def root(prepared: Path) -> Path:
    """Where the stages make one."""
    return prepared


def points_of(root: Path) -> list[tuple[str, float]]:
    lines = (root / "curves/teacher.jsonl").read_text().splitlines()
    return [
        (row["key"], row["value"])
        for row in map(json.loads, lines)
        if not row["key"].endswith("cpu_seconds")  # the clock's
    ]


def test_trained_members_become_one_teacher_that_students_learn_from(root: Path) -> None:
    plain = settings(
        seeded(1),
        seeded(2),
        combine="posteriors",
        cache={"payload": {"hidden_layers": ["members.1.last"]}},
    )
    plain["distill"]["objective"] = {"hidden": {"layers": {"last": "members.1.last"}}}
    write_params(root, plain)
    teacher(root)
    folder = root / "models/teacher"
    assert (folder / "members/1/model.safetensors").exists()
    assert read_fingerprint(folder).gives_frames is True
    keys = [key for key, _ in points_of(root)]
    assert keys.count("members/0/valid/wer") == keys.count("members/1/valid/wer") == 2
    wer = json.loads((folder / "validation.json").read_text())["wer"]
    assert points_of(root)[-1] == ("valid/wer", wer)
    assert list(root.glob("scratch/teacher-*.pt")) == []
    cache(root)
    distill(root, "conv", 0)
    assert "train/hidden" in (root / "curves/students/conv/seed-0.jsonl").read_text()


def test_members_whose_texts_are_combined_teach_texts(root: Path) -> None:
    plain = settings(seeded(1), seeded(2), combine="rover")
    plain["distill"]["objective"] = {
        "teacher_share": 1.0,
        "frame": {"weight": 0.0},
        "sequence": {"weight": 1.0},
    }
    write_params(root, plain)
    teacher(root)
    cache(root)
    store = TeacherCache.open_current(root / "data/teacher_cache")
    assert store.namespace.payload == {"kind": "none"}
    distill(root, "conv", 0)
    assert "train/sequence" in (root / "curves/students/conv/seed-0.jsonl").read_text()


def test_a_killed_run_goes_on_with_the_member_that_it_was_training(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(root, settings(seeded(1), seeded(2)))
    steps: list[int] = []
    train = Trainer._train_step

    def counted(self: Trainer, *rest: Any) -> Any:
        steps.append(self.params.seed)
        if len(steps) == limit:
            raise KeyboardInterrupt
        return train(self, *rest)

    monkeypatch.setattr(Trainer, "_train_step", counted)
    limit = 0
    teacher(root)
    whole, unbroken = len(steps), read_fingerprint(root / "models/teacher")
    curves = points_of(root)
    steps.clear()
    limit = whole  # in the last step of the second member
    with pytest.raises(KeyboardInterrupt):
        teacher(root)
    steps.clear()
    limit = 0
    teacher(root)
    assert set(steps) == {2} and len(steps) == whole // 4  # the second member's second epoch
    assert read_fingerprint(root / "models/teacher") == unbroken
    assert points_of(root) == curves


def test_a_registered_student_may_be_a_member(root: Path) -> None:
    copy_code(root)
    plain = settings(seeded(1), {"kind": "registry", "model": MODEL})
    write_params(root, plain)
    place = root / "models/registered/teacher"
    place.mkdir(parents=True)
    (place / "none.txt").write_text("from before")
    put(recogniser(4), place / "members/1", root)
    shutil.copytree(place / "members/1", place / "members/7")  # of settings from before
    fetch(root)
    assert [path.relative_to(place).as_posix() for path in sorted(place.glob("**/*.json"))] == [
        "members/1/config.json",
        "members/1/source.json",
    ]
    assert not (place / "none.txt").exists()
    assert [Path(file).stem for file in json.loads((root / CODE).read_text())] == [
        *("conv_bilstm", "crnn"),  # of the members
        *("base", "ensemble", "joined", "launch", "registered", "rover", "token_map", "trained"),
    ]
    teacher(root)
    folder = root / "models/teacher"
    assert json.loads((folder / "source.json").read_text())["members"][1]["version"] == "3"
    assert read_source(folder) is None  # no registered version as a whole
    keys = [key for key, _ in points_of(root)]
    assert keys[-2:] == ["members/1/valid/wer", "valid/wer"]
    write_params(root, tiny_params())
    fetch(root)
    assert [path.name for path in place.rglob("*")] == ["none.txt"]


def test_registered_members_are_wanted_by_their_numbers() -> None:
    plain = settings(seeded(1), {"kind": "registry", "model": MODEL})
    assert wanted(plain) == {
        "teacher/members/1": MODEL,
        "students/conv": None,
    }
    assert wanted(settings(seeded(1), seeded(2)))["teacher"] is None
