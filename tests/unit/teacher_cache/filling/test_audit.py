"""The cache against the live teacher; an untrained teacher is as good as any here."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distillery.architectures.known import TEACHERS
from distillery.data.manifest import PreparedData
from distillery.errors import CacheMismatch, ModelError
from distillery.models.fingerprint import fingerprint
from distillery.models.recogniser import Recogniser
from distillery.params.cache import CacheParams
from distillery.params.models import ConvBiLSTMParams, FeatureParams
from distillery.teacher_cache.filling import audit as auditing
from distillery.teacher_cache.filling.audit import (
    Audited,
    audit,
    audit_before_training,
    check_audit,
    divergence,
    tolerance,
)
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.payload import Targets
from distillery.teacher_cache.shards import Entry
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from tasks.cache import cache as cache_stage
from tasks.prepare import prepare
from tests.tiny import RATE_HZ, tiny_params, write_corpus, write_params

KINDS = ("u8", "f16", "f32", "sparse")


@dataclass
class Workspace:
    places: Places
    data: PreparedData
    teacher: Recogniser


def make_teacher(vocabulary, seed: int = 0) -> Recogniser:
    torch.manual_seed(seed)
    architecture = ConvBiLSTMParams(
        type="conv_bilstm", conv_channels=4, hidden_size=8, num_layers=1
    )
    network = TEACHERS["conv_bilstm"](architecture, 16, len(vocabulary)).eval()
    with torch.no_grad():  # scores of an untrained network are all but equal
        for parameter in network.parameters():
            parameter.mul_(3)
    return Recogniser(network, architecture, FeatureParams(num_mels=16), vocabulary, RATE_HZ)


def save(teacher: Recogniser, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    teacher.save(folder)
    fingerprint(teacher).save(folder)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("audit")
    write_corpus(root / "corpus", num_speakers=6, per_speaker=2)
    write_params(root, tiny_params())
    prepare(root)
    places = Places.in_workspace(root)
    data = PreparedData.open(places.data)
    teacher = make_teacher(data.vocabulary)
    save(teacher, places.teacher)
    return Workspace(places, data, teacher)


def settings(kind: str = "f32", **changes) -> CacheParams:
    values = {"payload": {"log_probs": kind}, "num_threads": 1, "batch_seconds": 8.0, **changes}
    return CacheParams.model_validate(values)


def fill(workspace: Workspace, cache: Path, kind: str = "f32", **changes) -> TeacherCache:
    places = Places(workspace.places.data, workspace.places.teacher, cache)
    fill_cache(places, load_teacher, settings(kind, **changes))
    return TeacherCache.open_current(cache)


Outputs = Callable[[np.ndarray], np.ndarray]


def forge(workspace: Workspace, root: Path, change: Outputs, name: str) -> TeacherCache:
    """Fill the right namespace with the teacher's outputs, those of one utterance changed."""
    namespace = expected_namespace(workspace.places, settings())
    cache = TeacherCache.create(root, namespace)
    with cache.writing() as writer:
        for row in workspace.data.split("train").itertuples():
            (live,) = workspace.teacher.log_probs([workspace.data.waveform(row)])
            changed = change(live) if row.utterance_id == name else live
            writer.add(Entry(row.audio_key, changed, "", 0.5))
    cache.reload()
    return cache


def a_name(workspace: Workspace) -> str:
    return str(workspace.data.split("train")["utterance_id"].iloc[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_teacher_passes(workspace: Workspace, tmp_path: Path, kind: str) -> None:
    cache = fill(workspace, tmp_path, kind)
    found = audit(cache, workspace.data, workspace.teacher, count=100)
    assert len(found) == len(cache) == 4  # speakers 4 and 5, two takes each
    assert max(item.divergence for item in found) <= tolerance(cache)
    check_audit(cache, found)


def test_half_precision_arithmetic_is_tolerated_and_named_in_the_tolerance(
    workspace: Workspace, tmp_path: Path
) -> None:
    cache = fill(workspace, tmp_path, "f32", precision="bf16")
    found = audit(cache, workspace.data, workspace.teacher, count=100)
    assert max(item.divergence for item in found) > auditing.TOLERANCE["f32"]
    check_audit(cache, found)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: np.ascontiguousarray(values[:, ::-1]),
        lambda values: values[:-1],
        lambda values: np.log(np.exp(values) * 0.99 + 0.01 / values.shape[1]),
    ],
    ids=["tokens swapped", "a frame less", "a little smoother"],
)
def test_other_outputs_under_the_right_name_are_found(
    workspace: Workspace, tmp_path: Path, change: Outputs
) -> None:
    name = a_name(workspace)
    cache = forge(workspace, tmp_path, change, name)
    found = audit(cache, workspace.data, workspace.teacher, count=100)
    assert [item.utterance_id for item in found if item.divergence > tolerance(cache)] == [name]
    with pytest.raises(
        CacheMismatch,
        match=rf"utterance '{name}' .*; 1 of 4 .* gc --all --delete`, then make cache",
    ):
        check_audit(cache, found)


def test_another_teacher_is_found_before_anything_runs(workspace: Workspace, tmp_path) -> None:
    cache = fill(workspace, tmp_path / "cache")
    other = make_teacher(workspace.data.vocabulary)
    with torch.no_grad():
        next(other.network.parameters()).view(-1)[0] += 0.5
    with pytest.raises(CacheMismatch, match="weights hash to .* run make teacher, then make cache"):
        audit(cache, workspace.data, other, count=1)
    save(other, tmp_path / "teacher")
    with pytest.raises(CacheMismatch, match="was made with teacher.weights"):
        cache.namespace.check(
            expected_namespace(replace(workspace.places, teacher=tmp_path / "teacher"), settings())
        )


def test_an_audit_draws_as_many_as_asked_and_the_same_for_one_seed(
    workspace: Workspace, tmp_path: Path
) -> None:
    cache = fill(workspace, tmp_path)

    def names(seed: int) -> list[str]:
        found = audit(cache, workspace.data, workspace.teacher, count=2, seed=seed)
        return [item.utterance_id for item in found]

    assert len(names(0)) == 2
    assert names(0) == names(0)
    assert len({tuple(names(seed)) for seed in range(8)}) > 1


def test_a_cache_without_prepared_utterances_cannot_be_audited(
    workspace: Workspace, tmp_path: Path
) -> None:
    namespace = expected_namespace(workspace.places, settings())
    empty = TeacherCache.create(tmp_path, namespace)
    with pytest.raises(CacheMismatch, match="holds none of the 12 prepared utterances"):
        audit(empty, workspace.data, workspace.teacher, count=1)


def test_a_teacher_for_another_rate_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    cache = fill(workspace, tmp_path)
    other = make_teacher(workspace.data.vocabulary)
    other.sample_rate_hz = 16000
    with pytest.raises(ModelError, match="made for 16000 Hz, the audio has 8000 Hz"):
        audit(cache, workspace.data, other, count=1)


def test_before_training_as_many_are_audited_as_the_settings_say(
    workspace: Workspace, tmp_path: Path
) -> None:
    cache = fill(workspace, tmp_path)
    folder = workspace.places.teacher

    def said(count: int, teacher: Path) -> list[str]:
        params = settings(audit_utterances=count)
        return audit_before_training(cache, workspace.data, teacher, load_teacher, params)

    assert said(0, folder) == []
    assert said(3, folder)[0].startswith("audit: 3 utterances, at most ")
    assert said(3, tmp_path) == [f"audit: skipped, {tmp_path / 'config.json'} is not here"]
    forged = forge(workspace, tmp_path / "forged", lambda x: x[:, ::-1], a_name(workspace))
    with pytest.raises(CacheMismatch, match=a_name(workspace)):
        audit_before_training(
            forged, workspace.data, folder, load_teacher, settings(audit_utterances=4)
        )


def test_the_stage_refuses_other_outputs_although_nothing_was_missing(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Or every student would be trained on them: `distill` asks no teacher."""
    root = tmp_path / "copy"
    shutil.copytree(workspace.places.teacher.parents[1], root)
    for folder in ("data/prepared", "models/teacher"):
        assert (root / folder).is_dir()
    write_params(root, tiny_params(cache={"payload": {"log_probs": "f32"}}))
    forge(workspace, root / "data/teacher_cache", lambda x: x[:, ::-1], a_name(workspace))
    with pytest.raises(CacheMismatch, match=rf"utterance '{a_name(workspace)}' .*; 1 of 4 aud"):
        cache_stage(root)
    report = json.loads((root / "reports/cache.json").read_text())
    assert report["num_teacher_forwards"] == 0
    shutil.rmtree(root / "data/teacher_cache")
    cache_stage(root)


# --- the distance ---------------------------------------------------------------------------------


def dense(probabilities: list[list[float]]) -> Targets:
    values = np.log(np.array([probabilities], np.float32))
    return Targets(values, None, None, np.array([len(probabilities)]))


def sparse(ids: list[int], probabilities: list[float], empty: int = 0) -> Targets:
    """One frame."""
    values = [*np.log(probabilities), *[-1e4] * empty]
    return Targets(
        np.array([[values]], np.float32),
        np.array([[[*ids, *[0] * empty]]]),
        np.array([[len(ids)]], np.uint8),
        np.array([1]),
    )


def test_the_divergence_is_the_mean_over_frames() -> None:
    """KL((1/2, 1/2) ‖ (1/4, 3/4)) = ln 2 - ln(3)/2 = 0.1438; the second frame is equal."""
    live = np.log(np.array([[0.5, 0.5], [0.9, 0.1]]))
    cached = dense([[0.25, 0.75], [0.9, 0.1]])
    assert divergence(live, cached) == pytest.approx((np.log(2) - np.log(3) / 2) / 2, abs=1e-6)


def test_a_common_factor_from_rounding_does_not_count() -> None:
    live = np.log(np.array([[0.5, 0.5]]))
    assert divergence(live, dense([[0.501, 0.501]])) == pytest.approx(0, abs=1e-12)


def test_impossible_tokens_have_terms_of_zero_and_finite_costs() -> None:
    with np.errstate(divide="ignore"):
        certain = np.log(np.array([[1.0, 0.0]]))
        cached = dense([[1.0, 0.0]])
    assert divergence(certain, cached) == 0
    half = np.log(np.array([[0.5, 0.5]]))
    assert 30 < divergence(half, cached) < 40  # 1/2 ln(1/2 / 1e-30) + 1/2 ln(1/2) = 33.8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_distribution_are_infinitely_far(value: float) -> None:
    broken = np.full((1, 2), value, np.float32)
    fine = np.log(np.array([[0.5, 0.5]], np.float32))
    assert divergence(broken, dense([[0.5, 0.5]])) == np.inf
    assert divergence(fine, Targets(broken[None], None, None, np.array([1]))) == np.inf


def test_no_frames_are_equal_and_another_number_of_frames_is_not() -> None:
    nothing = np.zeros((0, 2), np.float32)
    assert divergence(nothing, Targets(nothing[None], None, None, np.array([0]))) == 0
    assert divergence(nothing, dense([[0.5, 0.5]])) == np.inf


def test_tokens_that_sparse_leaves_out_count_as_one() -> None:
    """Live (.5, .3, .1, .1) is (.5, .3, .2) with the last two as one: as cached, so 0.

    Against cached (.25, .55, rest .2): .5 ln 2 + .3 ln(.3/.55) = 0.1647.
    """
    live = np.log(np.array([[0.1, 0.5, 0.1, 0.3]]))
    assert divergence(live, sparse([1, 3], [0.5, 0.3])) == pytest.approx(0, abs=1e-6)
    assert divergence(live, sparse([1, 3], [0.5, 0.3], empty=2)) == pytest.approx(0, abs=1e-6)
    expected = 0.5 * np.log(2) + 0.3 * np.log(0.3 / 0.55)
    assert divergence(live, sparse([1, 3], [0.25, 0.55])) == pytest.approx(expected, abs=1e-6)


def test_the_rounding_of_what_sparse_keeps_is_no_difference() -> None:
    """Two likely tokens rounded up leave nothing where the live teacher leaves 1e-4."""
    live = np.log(np.array([[0.5, 0.4999, 0.0001]]))
    assert divergence(live, sparse([0, 1], [0.5002, 0.5])) < 1e-5


def test_the_worst_is_named_also_when_it_has_no_value(workspace: Workspace, tmp_path) -> None:
    cache = fill(workspace, tmp_path)
    found = [Audited("fine", "k1", 3, 0.0), Audited("bad", "k2", 3, float("inf"))]
    with pytest.raises(CacheMismatch, match="utterance 'bad' .* lies inf nat a frame"):
        check_audit(cache, found)
    check_audit(cache, [])
