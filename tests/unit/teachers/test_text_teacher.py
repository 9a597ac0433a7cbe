"""A teacher that gives texts and hidden states but no frames in the students' tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import PreparedData
from distillery.errors import CacheError, CacheMismatch, ModelError
from distillery.files import write_json
from distillery.models.base import Teacher
from distillery.models.fingerprint import fingerprint
from distillery.models.recogniser import CONFIG_FILE, Recogniser
from distillery.teacher_cache.filling.audit import audit, check_audit
from distillery.teacher_cache.shards import Hypothesis
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers import kinds
from tasks.cache import cache
from tasks.distill import distill
from tasks.teacher import teacher
from tests.tiny import tiny_params, write_params
from tests.tiny_tellers import Hypotheses, Teller

KIND = "teller"


class Counter(Teller):
    """Says two texts of each utterance, by the number of its frames."""

    sure = 0.75

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "kind": KIND}

    def texts_of(self, num_frames: Sequence[int]) -> Sequence[Hypotheses]:
        return [[(f"ab {'c' * (1 + n % 2)}", -1.0), ("ba", -2.0)] for n in num_frames]


def load_teller(folder: Path, device: str) -> Teacher:
    plain = Recogniser.load(folder, ARCHITECTURES, device)
    return Counter(
        plain.network,
        plain.architecture,
        plain.features,
        plain.vocabulary,
        plain.sample_rate_hz,
        device,
    )


@pytest.fixture
def root(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a teacher of that kind, and what the cache keeps of it."""
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, KIND: kinds.Kind(load=load_teller)})
    settings = tiny_params(
        cache={"payload": {"hidden_layers": ["last"], "num_hypotheses": 2}, "audit_utterances": 2}
    )
    settings["distill"]["objective"] = {
        "frame": {"weight": 0.0},
        "hidden": {"layers": {"last": "last"}},
    }
    write_params(prepared, settings)
    teacher(prepared)
    folder = prepared / "models/teacher"
    teller = load_teller(folder, "cpu")
    write_json(folder / CONFIG_FILE, teller.config)
    fingerprint(teller).save(folder)
    cache(prepared)
    return prepared


def test_texts_and_hidden_states_are_cached_without_frames(root: Path) -> None:
    store = TeacherCache.open_current(root / "data/teacher_cache")
    assert store.namespace.payload == {"kind": "none"}
    rows = store.all_rows
    assert set(store.greedy_texts(rows)) <= {"ab c", "ab cc"}
    assert all(
        items == [Hypothesis(text, -1.0), Hypothesis("ba", -2.0)]
        for items, text in zip(store.hypotheses(rows), store.greedy_texts(rows), strict=True)
    )
    assert set(store.confidences(rows)) == {0.75}
    assert store.hidden(rows, "last").values.shape[-1] == 48
    assert (store.num_frames(rows) > 0).all()
    with pytest.raises(CacheError, match="payload none: keeps no token distributions"):
        store.targets(rows)


def test_students_learn_texts_and_hidden_states(root: Path) -> None:
    distill(root, "conv", 0)  # audits before it trains
    points = (root / "curves/students/conv/seed-0.jsonl").read_text()
    assert "train/sequence" in points
    assert "train/hidden" in points
    assert "train/frame" not in points


def test_frames_are_refused_with_what_works_instead(root: Path) -> None:
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings["distill"]["objective"] = {}
    write_params(root, settings)
    with pytest.raises(CacheMismatch, match=r"set frame\.weight to 0: sequence learns .* hidden"):
        distill(root, "conv", 0)


def test_an_audit_compares_texts(root: Path) -> None:
    store = TeacherCache.open_current(root / "data/teacher_cache")
    data = PreparedData.open(root / "data/prepared")
    live = load_teller(root / "models/teacher", "cpu")
    same = audit(store, data, live, 3)
    assert [item.divergence for item in same] == [0.0, 0.0, 0.0]
    check_audit(store, same)
    other = audit(store, data, Recogniser.load(root / "models/teacher", ARCHITECTURES), 3)
    with pytest.raises(CacheMismatch, match="lies inf nat a frame from the live teacher"):
        check_audit(store, other)


def test_layers_of_a_pretrained_teacher_start_no_student(root: Path) -> None:
    class Stranger:
        """A teacher that is no network of ours."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "KINDS", {KIND: kinds.Kind(load=lambda *_: Stranger())})
        settings = yaml.safe_load((root / "params.yaml").read_text())
        settings["distill"]["students"] = {
            "sliced": {
                "architecture": settings["teacher"]["architecture"],
                "features": settings["teacher"]["features"],
                "init": "teacher",
            }
        }
        settings["cache"]["audit_utterances"] = 0
        write_params(root, settings)
        with pytest.raises(
            ModelError, match="holds a pre-trained one, expected a teacher that was"
        ):
            distill(root, "sliced", 0)


def test_a_kind_that_nobody_knows_is_named(root: Path) -> None:
    folder = root / "models/teacher"
    write_json(folder / CONFIG_FILE, {"kind": "oracle"})
    with pytest.raises(
        ModelError, match=r"kind 'oracle', expected one of .*'recogniser'.*'teller'"
    ):
        kinds.load_teacher(folder)
    (folder / CONFIG_FILE).write_text("[]")
    with pytest.raises(ModelError, match="cannot be used"):
        kinds.load_teacher(folder)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(ModelError, match="holds no config.json; expected a saved teacher"):
        kinds.load_teacher(folder)
