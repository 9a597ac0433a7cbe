"""Which hidden layers are kept: those that students learn from, or what is cached already."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from distillery.errors import CacheError, CacheMismatch
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import (
    Places,
    describe_layers,
    expected_namespace,
    settled,
)
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.filling.report import PassReport
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from tests.tiny_workspaces import put_teacher

AUTO = CacheParams(num_threads=1, device="cpu")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A workspace with prepared audio and a teacher."""
    return Places.in_workspace(put_teacher(tmp_path_factory.mktemp("workspace")))


def filled(places: Places, *learnt: str, params: CacheParams = AUTO) -> PassReport:
    """Return what the stage does for students that learn from these layers."""
    return fill_cache(places, load_teacher, settled(places, params, learnt))


def kept(places: Places) -> Sequence[str]:
    return list(TeacherCache.open_current(places.cache).namespace.hidden)


def test_a_layer_is_cached_when_an_objective_learns_from_it_and_never_twice(
    places: Places, tmp_path: Path
) -> None:
    places = replace(places, cache=tmp_path / "cache")
    whole = filled(places)
    assert (kept(places), whole.num_hits) == ([], 0)
    assert filled(places, "last").num_hits == 0
    assert kept(places) == ["last"]
    for learnt in (["last"], []):  # the objective goes, and what is cached serves on
        again = filled(places, *learnt)
        assert (again.num_teacher_forwards, again.num_hits) == (0, whole.num_utterances)
        assert kept(places) == ["last"]
    assert filled(places, "project").num_hits == 0
    assert kept(places) == ["project"]
    for learnt in ("last", "project"):  # another namespace's turn
        assert filled(places, learnt).num_teacher_forwards == 0
        assert kept(places) == [learnt]
    none = AUTO.keeping([])
    assert filled(places, params=none).num_teacher_forwards == 0
    assert kept(places) == []


def test_what_was_cached_for_other_settings_is_not_taken(places: Places, tmp_path: Path) -> None:
    places = replace(places, cache=tmp_path / "cache")
    for namespace in (
        expected_namespace(places, AUTO.model_copy(update={"precision": "bf16"}).keeping(["last"])),
        replace(
            expected_namespace(places, AUTO.keeping(["last"])), teacher={"fingerprint": "other"}
        ),
    ):
        TeacherCache.create(places.cache, namespace).make_current()
    assert settled(places, AUTO, []).payload.named_layers == ()
    damaged = places.cache / "damaged"
    damaged.mkdir()
    (damaged / "namespace.json").write_text("{")
    assert settled(places, AUTO, ["last"]).payload.named_layers == ("last",)


def test_a_cache_without_a_layer_is_refused_where_students_learn_from_it(
    places: Places, tmp_path: Path
) -> None:
    places = replace(places, cache=tmp_path / "cache")
    TeacherCache.create(places.cache, expected_namespace(places, AUTO)).make_current()
    cache = TeacherCache.open_current(places.cache)
    cache.namespace.check(expected_namespace(places, settled(places, AUTO, [])))
    with pytest.raises(CacheMismatch, match=r"hidden\.last = .*run make cache"):
        cache.namespace.check(expected_namespace(places, settled(places, AUTO, ["last"])))
    with pytest.raises(CacheError, match="hidden.layers of an objective: the teacher has no layer"):
        settled(places, AUTO, ["fron"])


def test_names_stay_whatever_is_learnt_from(places: Places) -> None:
    named = AUTO.keeping(["project"])
    assert settled(places, named, ["last"]) is named


@pytest.mark.parametrize(
    ("params", "layers", "learnt", "told"),
    [
        (AUTO, [], [], "none is kept, no objective of a student learns from any"),
        (AUTO, ["last"], ["last"], "last (32 bytes a frame), which students learn from"),
        (AUTO, ["last"], [], "no student learns from last, but it is cached already"),
        (AUTO.keeping(["last"]), ["last"], ["last"], "as cache.payload.hidden_layers says"),
        (AUTO.keeping(["last"]), ["last"], [], "says; no student learns from last"),
    ],
)
def test_what_is_kept_is_told_with_its_reason(
    params: CacheParams, layers: list[str], learnt: list[str], told: str
) -> None:
    line = describe_layers(params, dict.fromkeys(layers, 16), learnt)
    assert line.startswith("hidden layers: ")
    assert told in line
