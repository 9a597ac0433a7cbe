"""The commands on a workspace; what they do inside a namespace is tested in test_maintenance."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distillery.architectures.known import TEACHERS
from distillery.commands import main as cli
from distillery.commands.cache import size_text
from distillery.data.manifest import PreparedData
from distillery.models.fingerprint import fingerprint
from distillery.models.recogniser import Recogniser
from distillery.params.models import ConvBiLSTMParams, FeatureParams
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.shards import Entry, locked
from distillery.teacher_cache.store import TeacherCache
from tasks.cache import cache as run_cache
from tasks.prepare import prepare
from tests.tiny import RATE_HZ, tiny_params, write_corpus, write_params


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared data, an untrained teacher and a cache of several shards."""
    root = tmp_path_factory.mktemp("workspace")
    write_corpus(root / "corpus", num_speakers=6)
    params = tiny_params()
    params["cache"]["shard_seconds"] = 2.0
    params["cache"]["batch_seconds"] = 2.0
    write_params(root, params)
    prepare(root)
    vocabulary = PreparedData.open(root / "data/prepared").vocabulary
    torch.manual_seed(0)
    architecture = ConvBiLSTMParams(
        type="conv_bilstm", conv_channels=4, hidden_size=8, num_layers=1
    )
    network = TEACHERS["conv_bilstm"](architecture, 16, len(vocabulary)).eval()
    teacher = Recogniser(network, architecture, FeatureParams(num_mels=16), vocabulary, RATE_HZ)
    folder = root / "models/teacher"
    folder.mkdir(parents=True)
    teacher.save(folder)
    fingerprint(teacher).save(folder)
    run_cache(root)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change; commands run in it."""
    copy = Path(shutil.copytree(original, tmp_path / "copy"))
    monkeypatch.chdir(copy)
    return copy


def opened(root: Path) -> TeacherCache:
    return TeacherCache.open_current(root / "data/teacher_cache")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(["cache", *arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    status, text, _ = run(capsys, *arguments, "--json")
    return status, json.loads(text)


def add_namespace(root: Path, **changes) -> Path:
    """Make a second namespace, as an earlier teacher would have left it."""
    from dataclasses import replace

    store = opened(root)
    other = TeacherCache.create(store.folder.parent, replace(store.namespace, **changes))
    with other.writing() as writer:
        writer.add(Entry("ab" * 32, np.log(np.full((2, 5), 0.2, np.float32)), "", 1.0))
    return other.folder


def damage(root: Path) -> str:
    """Flip the first bit of the first shard and return the utterance whose it is."""
    store = opened(root)
    shard = store.shards[0]
    path = store.folder / f"{shard.name}.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    frame = PreparedData.open(root / "data/prepared").frame
    mine = frame[frame["audio_key"] == shard.keys[0].tobytes().hex()]
    return str(mine["utterance_id"].iloc[0])


def test_stats_say_what_the_cache_holds(root: Path, capsys) -> None:
    store = opened(root)
    other = add_namespace(root, compute_dtype="bfloat16")
    (other / "namespace.json").unlink()
    status, content = run_json(capsys, "stats")
    mine, theirs = sorted(content["namespaces"], key=lambda item: item["current"], reverse=True)
    assert status == 0
    assert mine["namespace"] == store.folder.name
    assert mine["num_utterances"] == len(store) == 8
    frames = int(store.num_frames(store.all_rows).sum())
    size = sum(path.stat().st_size for path in store.folder.glob("shard-*"))
    assert mine["bytes_per_frame"] == pytest.approx(size / frames)
    assert mine["audio_seconds"] == pytest.approx(frames * store.namespace.frame_shift_seconds)
    assert mine["bytes_per_audio_second"] == pytest.approx(size / mine["audio_seconds"])
    assert 0 <= mine["blank_fraction"] <= 1
    assert "missing or unreadable" in theirs["damaged"]
    assert content["total"]["num_utterances"] == 8
    assert content["total"]["num_bytes"] == mine["num_bytes"] + theirs["num_bytes"]
    status, text, _ = run(capsys, "stats")
    assert status == 0
    (line,) = (line for line in text.splitlines() if line.startswith(f"{store.folder.name} *"))
    assert line.split()[-3:] == ["u8", "float32", store.namespace.teacher["fingerprint"][:8]]
    assert f"damaged: {Path('data/teacher_cache') / other.name}/namespace.json" in text
    assert max(map(len, text.splitlines()[:6])) <= 100


def test_stats_load_no_model_code(root: Path) -> None:
    code = (
        "import sys; from distillery.commands import main as cli;"
        "assert cli.main(['cache', 'stats', '--root', sys.argv[1]]) == 0;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, root], check=True, cwd=Path(__file__).parents[3], timeout=60
    )


def test_verify_names_the_utterance_and_repair_loses_it_alone(root: Path, capsys) -> None:
    assert run(capsys, "verify")[0] == 0
    name = damage(root)
    status, text, _ = run(capsys, "verify")
    assert status == 1
    assert f"utterance {name!r}" in text
    assert "does not match its checksum" in text
    assert "distillery cache verify --repair" in text
    status, content = run_json(capsys, "verify", "--current")
    assert (status, content["sound"]) == (1, False)
    assert [d["utterance_id"] for d in content["namespaces"][0]["damages"]] == [name]
    status, text, _ = run(capsys, "verify", "--repair")
    assert status == 0
    assert "make cache" in text
    assert run(capsys, "verify")[0] == 0
    run_cache(root)
    report = json.loads((root / "reports/cache.json").read_text())
    assert (report["num_hits"], report["num_teacher_forwards"]) == (7, 1)


def test_verify_finds_a_lost_description_and_a_lost_pointer(root: Path, capsys) -> None:
    store = opened(root)
    (store.folder / "namespace.json").write_text("{}")
    status, text, _ = run(capsys, "verify", "--repair")
    assert status == 1
    assert f"{store.folder.name}/namespace.json: missing or unreadable" in text
    run_cache(root)
    assert run(capsys, "verify")[0] == 0
    (root / "data/teacher_cache/current.json").unlink()
    status, text, _ = run(capsys, "verify")
    assert status == 1
    assert "current.json: missing" in text
    run_cache(root)
    assert run(capsys, "verify")[0] == 0


def test_audit_shows_every_utterance_and_fails_where_one_is_off(root: Path, capsys) -> None:
    status, content = run_json(capsys, "audit", "--count", "3")
    assert (status, content["ok"]) == (0, True)
    assert len(content["utterances"]) == 3
    assert all(0 <= item["divergence"] <= content["tolerance"] for item in content["utterances"])
    store = opened(root)
    keys, frames = store.keys(store.all_rows), store.num_frames(store.all_rows)
    shutil.rmtree(store.folder)
    store = TeacherCache.create(store.folder.parent, store.namespace)
    with store.writing() as writer:
        for key, count in zip(keys, frames, strict=True):
            wrong = np.full((count, len(store.namespace.tokens)), -30.0, np.float32)
            wrong[:, 1] = 0.0
            writer.add(Entry(key, wrong if key != keys[0] else wrong[:-1], "", 1.0))
    status, text, errors = run(capsys, "audit")
    assert status == 1
    assert len([line for line in text.splitlines() if line.endswith(" no")]) == 8
    assert "error: teacher cache" in errors
    status, content = run_json(capsys, "audit")
    assert status == 1
    assert [item["divergence"] for item in content["utterances"]].count(None) == 1


def test_the_command_that_an_audit_advises_mends_the_cache(root: Path, capsys) -> None:
    status, text, _ = run(capsys, "gc", "--all")
    assert status == 0
    assert opened(root).folder.name in text
    assert len(opened(root)) == 8
    assert run(capsys, "gc", "--all", "--delete")[0] == 0
    assert run(capsys, "stats")[0] == 2
    run_cache(root)
    assert json.loads((root / "reports/cache.json").read_text())["num_teacher_forwards"] == 8
    assert run(capsys, "audit")[0] == 0


def test_audit_refuses_another_teacher(root: Path, capsys) -> None:
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("precision: fp32", "precision: bf16", 1))
    status, _, errors = run(capsys, "audit")
    assert status == 2
    assert 'made with compute_dtype = "float32"' in errors


def test_gc_deletes_only_when_told_to_and_only_what_nothing_needs(root: Path, capsys) -> None:
    other = add_namespace(root, compute_dtype="bfloat16")
    status, content = run_json(capsys, "gc")
    assert (status, content["deleted"]) == (0, False)
    assert [item["path"] for item in content["garbage"]] == [other.name]
    assert "nothing was deleted; --delete" in run(capsys, "gc")[1]
    assert other.is_dir()
    status, text, _ = run(capsys, "gc", "--delete")
    assert status == 0
    assert "make cache: it records the new state in dvc.lock" in text
    assert not other.exists()
    assert len(opened(root)) == 8
    assert "nothing to delete" in run(capsys, "gc", "--delete")[1]


def test_gc_keeps_what_a_killed_pass_of_the_present_settings_has_done(root: Path, capsys) -> None:
    store = opened(root)
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("precision: fp32", "precision: bf16", 1))
    begun = add_namespace(root, compute_dtype="bfloat16")
    from distillery.params.whole import Params

    settings = Params.load(path).cache
    namespace = expected_namespace(Places.in_workspace(root), settings)
    assert namespace.folder_name == begun.name
    assert run_json(capsys, "gc", "--delete")[1]["garbage"] == []
    assert begun.is_dir()
    assert store.folder.is_dir()


def test_gc_of_unused_utterances_follows_the_manifest(root: Path, capsys) -> None:
    corpus = root / "corpus/manifest.csv"
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(line for line in lines if not line.startswith("s05-")))
    prepare(root)
    assert run_json(capsys, "gc", "--delete")[1]["garbage"] == []
    status, content = run_json(capsys, "gc", "--unused", "--delete")
    assert status == 0
    assert [item["num_utterances"] for item in content["garbage"]] == [4]
    kept = PreparedData.open(root / "data/prepared").split("train")["audio_key"]
    assert sorted(opened(root).keys(opened(root).all_rows)) == sorted(kept)


def test_gc_without_a_current_namespace_deletes_nothing(root: Path, capsys) -> None:
    folder = opened(root).folder
    pointer = root / "data/teacher_cache/current.json"
    pointer.write_text('{"namespace": "0123456789abcdef"}')
    status, _, errors = run(capsys, "gc", "--delete")
    assert status == 2
    assert "names namespace 0123456789abcdef, which is not there; run make cache" in errors
    pointer.unlink()
    assert run(capsys, "gc", "--delete")[0] == 2
    assert folder.is_dir()


def test_compact_leaves_one_shard_and_the_same_content(root: Path, capsys) -> None:
    store = opened(root)
    digest, before = store.manifest_digest, len(store.shards)
    assert before > 2
    status, content = run_json(capsys, "compact", "--dry-run")
    assert (status, content["shards_before"], content["shards_after"]) == (0, before, 1)
    assert len(opened(root).shards) == before
    status, text, _ = run(capsys, "compact")
    assert status == 0
    assert "compacted; run make cache" in text
    assert len(opened(root).shards) == 1
    assert opened(root).manifest_digest == digest
    assert "compacted" not in run(capsys, "compact")[1]
    run_cache(root)
    assert json.loads((root / "reports/cache.json").read_text())["num_teacher_forwards"] == 0


@pytest.mark.parametrize("action", [["gc", "--delete"], ["compact"], ["verify", "--repair"]])
def test_while_somebody_writes_nothing_is_changed(root: Path, capsys, action: list[str]) -> None:
    with locked(opened(root).folder, alone=False):
        status, _, errors = run(capsys, *action)
    assert status == 2
    assert errors.startswith("error: ")
    assert "somebody writes to it" in errors


@pytest.mark.parametrize("action", ["stats", "verify", "audit", "gc", "compact"])
def test_without_a_cache_every_command_says_what_to_run(tmp_path, capsys, action: str) -> None:
    write_params(tmp_path, tiny_params())
    status, out, errors = run(capsys, action, "--root", str(tmp_path))
    assert (status, out) == (2, "")
    assert errors.startswith("error: ")
    assert "run make cache" in errors


@pytest.mark.parametrize(
    "arguments", [["audit", "--count", "0"], ["compact", "--hours", "-1"], ["compact", "--hours=x"]]
)
def test_numbers_that_make_no_sense_are_refused(capsys, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["cache", *arguments])
    assert arguments[1].partition("=")[0] in capsys.readouterr().err


def test_sizes_for_people() -> None:
    sizes = (999, 1000, 1_250_000, 7_000_000_000)
    assert [size_text(size) for size in sizes] == ["999 B", "1.0 kB", "1.2 MB", "7.0 GB"]
