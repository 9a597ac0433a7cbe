"""The benchmarks of training run, at sizes that say nothing about speed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks import (
    checkpoints,
    common,
    digits,
    gpu_epoch,
    padding,
    student_step,
    training_epoch,
    training_loop,
)
from benchmarks.digits import Digits, Epoch, OtherFrames
from benchmarks.peers import compare
from benchmarks.peers.compare import OURS, Peer
from benchmarks.peers.material import STUDENT as PEERS_STUDENT
from benchmarks.peers.material import Material
from benchmarks.peers.networks import PlainStudent
from distillery.architectures.separable_conv import SeparableConv
from distillery.params.models import ConformerParams, ConvBiLSTMParams
from distillery.teacher_cache.filling.expected import Places
from tests.tiny import RATE_HZ, speak
from tests.unit.test_benchmarks import checked

TEACHER = ConformerParams(
    type="conformer",
    conv_channels=4,
    model_size=8,
    num_heads=1,
    num_layers=1,
    kernel_size=3,
    time_reduction=2,
)

PEERS_TEACHER = ConvBiLSTMParams(
    type="conv_bilstm", conv_channels=4, hidden_size=8, num_layers=1, time_reduction=2
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings named as FSDD's: two speakers, five digits, take 0 to test and 5 to 9 to train."""
    folder = tmp_path_factory.mktemp("fsdd")
    (folder / "recordings").mkdir()
    for number, speaker in enumerate(("ann", "bob")):
        for digit in range(5):
            for take in (0, 5, 6, 7, 8, 9):
                samples = speak("abc"[: 1 + digit % 3], 1000 * number + 100 * digit + take)
                name = f"recordings/{digit}_{speaker}_{take}.wav"
                soundfile.write(folder / name, samples, RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def workspace(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """Digits whose cache is filled."""
    built = Digits.fsdd(source, tmp_path_factory.mktemp("digits"), teacher=TEACHER)
    built.cache_pass()
    return built


def test_without_recordings_a_benchmark_is_skipped_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digits, "SOURCES", (tmp_path,))
    with pytest.raises(SystemExit) as found:
        digits.recordings(None)
    assert found.value.code == 0
    assert "skipped: needs the Free Spoken Digit Dataset" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="give the published FSDD folder"):
        digits.recordings(tmp_path)


def test_strings_are_joined_from_training_takes_of_one_speaker(
    source: Path, tmp_path: Path
) -> None:
    digits.write_strings(source, tmp_path / "strings", 6)
    names = {str(index): word for index, word in enumerate(digits.DIGITS)}
    lengths = {
        names[path.stem[0]]: soundfile.info(path).frames
        for path in (source / "recordings").glob("*_5.wav")
    }
    lines = (tmp_path / "strings/manifest.csv").read_text().splitlines()[1:]
    assert [line.split(",")[2] for line in lines] == ["train"] * 6 + ["test"] + ["valid"] * 2
    for line in lines:
        path, text, _ = line.split(",")
        assert 2 <= len(text.split()) <= 11
        joined = soundfile.info(tmp_path / "strings" / path).frames
        assert joined == sum(lengths[word] for word in text.split())


def test_four_in_five_of_the_teachers_frames_are_blank(workspace: Digits) -> None:
    values = np.concatenate(training_epoch.cached_values(workspace))
    assert np.mean(values.argmax(axis=1) == 0) == pytest.approx(0.8, abs=0.1)


def test_an_epoch_trains_the_same_wherever_its_batches_come_from(
    workspace: Digits, tmp_path: Path
) -> None:
    cached = workspace.cached()
    ours = Epoch(workspace, workspace.training_set(cached))
    held = Epoch(workspace, workspace.training_set(cached, kind=training_epoch.HeldBatches))
    ours(), held(), held()
    steps = len(ours.data.plan(0))
    assert len(ours.losses) == steps > 1
    assert ours.losses == held.losses
    with training_epoch.other_caches(workspace, tmp_path / "others") as readers:
        for read in readers.values():
            other = Epoch(workspace, workspace.training_set(OtherFrames(cached, read)))
            other()
            assert other.losses == ours.losses


def test_the_live_teacher_says_what_is_cached(workspace: Digits) -> None:
    rows = [3, 0, 7]
    values, lengths = workspace.live(rows)
    cached = workspace.cached().frames(rows)
    assert lengths.tolist() == cached.lengths.tolist()
    for live, kept, length in zip(values, cached.log_probs, lengths, strict=True):
        torch.testing.assert_close(live[:length].exp(), kept[:length].exp(), atol=0.02, rtol=0)


def test_naive_batches_hold_everything_once_and_its_features_are_the_packed_ones(
    workspace: Digits,
) -> None:
    features = training_epoch.from_files(workspace)
    data = workspace.training_set(workspace.cached(), features, training_epoch.RandomBatches)
    plan, ours = data.plan(0), workspace.training_set(workspace.cached()).plan(0)
    assert len(plan) == len(ours)
    assert sorted(item for batch in plan for item in batch) == list(range(len(workspace.rows)))
    np.testing.assert_allclose(features[4], workspace.packed[4], atol=2e-3)


def test_epochs(source: Path, tmp_path: Path) -> None:
    rows = checked(training_epoch.measure(source, tmp_path, 12, 4, 1, teacher=TEACHER))
    assert len(rows) >= 1 + 2 + 4 + 4  # more where SpeechBrain is installed
    memory = rows["epoch from the cache against batches held in memory, FSDD"]
    assert "losses bit-equal" in memory["against"]


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    assert training_epoch.ratio([(2.0, 1.0), (9.0, 1.0), (3.0, 1.0)], 0, 1) == 3


def test_the_conv1d_student_is_the_same_network() -> None:
    torch.manual_seed(0)
    ours = student_step.SeparableConv(digits.STUDENT, 40, 29).eval()
    torch.manual_seed(0)
    twin = student_step.Conv1dStudent(digits.STUDENT, 40, 29).eval()
    assert not any(isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d) for m in twin.modules())
    assert digits.num_parameters(twin) == digits.num_parameters(ours)
    features, lengths = torch.randn(3, 21, 40), torch.tensor([21, 8, 15])
    scores, out_lengths = twin(features, lengths)
    expected, expected_lengths = ours(features, lengths)
    assert out_lengths.tolist() == expected_lengths.tolist()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


def test_student_steps(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student_step, "STEPS", 1)
    monkeypatch.setattr(student_step, "FEATURE_FRAMES", (9,))
    monkeypatch.setattr(student_step, "choose_precision", lambda *_: "fp32")
    rows = student_step.measure(source, tmp_path, 1, 1, 1, teacher=TEACHER)
    missing = [row for row in rows if row["value"] is None]
    assert [row["holds"] for row in missing] == [None]
    assert missing[0]["against"].startswith("not measurable here")
    assert len(checked([row for row in rows if row not in missing])) == 3


def test_the_plain_recurrent_student_is_the_same_network() -> None:
    features, lengths, scores = torch.randn(3, 21, 40), torch.tensor([21, 8, 15]), []
    for kind in (student_step.CRNN, student_step.PlainCRNN):
        torch.manual_seed(0)
        network = kind(student_step.RECURRENT.model_copy(update={"dropout": 0.0}), 40, 29)
        scores.append(network(features, lengths)[0])
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-4)


def test_padding_of_a_known_plan() -> None:
    # 2 x 3 + 1 x 4 frames are held, 1 + 3 + 4 are real
    assert padding.padding([[0, 1], [2]], np.array([1, 3, 4])) == pytest.approx(20)


def test_mates_that_meet_again() -> None:
    # of the pairs 01, 02, 12 and 34, in both orders, 01 and 34 meet again
    assert padding.mates_kept([[0, 1, 2], [3, 4]], [[0, 1], [2, 3, 4]]) == pytest.approx(0.5)


def test_padding(source: Path) -> None:
    rows = checked(padding.measure(source, 200, 2))
    assert len(rows) == 3


def test_lengths_like_librispeechs() -> None:
    seconds = padding.librispeech_seconds(20_000)
    assert seconds.mean() == pytest.approx(12.3, abs=0.1)
    assert (seconds.min(), seconds.max()) >= (1.5, 16)


def test_the_loop(workspace: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loop, "NUM_EPOCHS", 1)
    checked([training_loop.loop_row(workspace, 1)])


def test_checkpoints(tmp_path: Path) -> None:
    rows = checkpoints.measure(tmp_path, 1, large=10_000)
    checked(rows)
    assert rows[-1]["name"] == "a checkpoint of a network of 0.01 million weights"
    # Five times the weights, four bytes each, and what a file of any network has.
    assert 0.2 <= float(rows[-1]["against"].split("; ")[1].removesuffix(" MB")) <= 0.3


def test_the_stage_is_timed_until_its_first_step(workspace: Digits) -> None:
    root = training_loop.write_settings(workspace)
    assert training_loop.seconds_to_first_step(root) > 0
    assert not (root / "models/students").exists()


def test_a_start_is_what_goes_beyond_the_imports() -> None:
    beyond, whole = training_loop.start_rows(9.0, [(5.5, 3.0), (5.0, 3.0), (7.0, 2.0)], 39)
    assert (beyond["value"], beyond["holds"]) == (2.5, False)
    assert "packs the features of 39 utterances, 6.00 s" in beyond["against"]
    assert (whole["value"], whole["holds"]) == (5.5, False)


def test_epochs_on_another_device(source: Path, tmp_path: Path) -> None:
    rows = checked(gpu_epoch.measure(source, tmp_path, 1, "cpu", teacher=TEACHER))
    assert set(rows) == {"epoch on cpu, fp32", "epoch on cpu, bf16"}


def test_utilisation_is_read_from_numbers_alone() -> None:
    assert gpu_epoch.utilisations("35\n[N/A]\n 41\n\n") == [35, 41]


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens without a GPU")
def test_without_a_gpu_its_benchmark_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_epoch"])
    gpu_epoch.main()
    assert capsys.readouterr().out == "skipped: this machine shows no GPU\n"


def test_paired_rounds_follow_a_warm_up() -> None:
    calls: list[str] = []
    times = common.paired_rounds([lambda: calls.append("a"), lambda: calls.append("b")], 2)
    assert calls == list("ababab")
    assert [len(found) for found in times] == [2, 2]


def test_the_peers_student_is_ours() -> None:
    torch.manual_seed(0)
    ours, sizes = SeparableConv(PEERS_STUDENT, 40, 9), PEERS_STUDENT
    theirs = PlainStudent(40, 9, sizes.channels, sizes.num_blocks, sizes.kernel_size, sizes.dropout)
    theirs.take_over(ours.state_dict())
    features, lengths = torch.randn(2, 31, 40), torch.tensor([31, 20])
    features[1, 20:] = 0
    with ours.eval().recording(["last"]) as states, torch.no_grad():
        scores, num_frames = ours(features, lengths)
        found, their_frames, their_states = theirs.eval()(features, lengths)
    assert num_frames.tolist() == their_frames.tolist() == [16, 10]
    torch.testing.assert_close(found, scores)
    torch.testing.assert_close(their_states, states["last"])


@pytest.mark.parametrize(("kind", "term"), [("frames", "kl"), ("hidden", "hidden")])
def test_ours_is_a_worker_as_peers_are(source: Path, tmp_path: Path, kind: str, term: str) -> None:
    material = Material.make(source, tmp_path, kind, 8, teacher=PEERS_TEACHER)
    peer = Peer("ourselves", ("ours",), 0.01)
    (row,) = compare.measure(Path(sys.executable), material, 1, [peer])
    assert row["holds"]
    assert list(json.loads((tmp_path / "spec.json").read_text())["weights"]) == ["ctc", term]
    times = [{OURS: 1.0, "slow": 4.0}, {OURS: 2.0, "slow": 4.0}, {OURS: 1.0, "slow": 9.0}]
    (row,) = compare.rows_of(material, {OURS: 1.0, "slow": 1.0}, times, [Peer("slow", (), 5.0)])
    assert (row["value"], row["holds"]) == (4.0, False)


def test_a_peer_of_another_loss_is_not_compared(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter([{"loss": 2.0}, {"loss": 2.03}])
    monkeypatch.setattr(compare.Worker, "answer", lambda _self: next(said))
    material = Material(tmp_path, Digits(source, Places.in_workspace(tmp_path), 1.0, ""), "frames")
    with pytest.raises(SystemExit, match=r"first loss is 2.0300, ours 2.0000"):
        compare.measure(Path(sys.executable), material, 1, [Peer("another", ("ours",))])
