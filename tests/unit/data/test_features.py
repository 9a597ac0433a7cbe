import io
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from distillery.data import feature_store, features
from distillery.data.copies import copy_at
from distillery.data.features import LogMel, gather, pack_features, pad
from distillery.data.manifest import PreparedData, audio_key
from distillery.params.models import FeatureParams
from tests.attacks import Payload
from tests.tiny_workspaces import put_tones

PARAMS = FeatureParams(num_mels=20)


class Prepared:
    """Just enough of PreparedData: two recordings in memory."""

    sample_rate_hz = 8000

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.audio = [random.normal(0, 0.1, n).astype(np.float32) for n in (8000, 4000)]
        self.rows = pd.DataFrame(
            {
                "offset_samples": [0, 1],
                "utterance_id": ["long", "short"],
                "audio_key": [audio_key(a) for a in self.audio],
                "num_samples": [len(a) for a in self.audio],
            }
        )

    def waveform(self, row) -> np.ndarray:
        return self.audio[row.offset_samples]


def test_shape_and_normalisation() -> None:
    extractor = LogMel(PARAMS, 8000)
    features = extractor(torch.randn(8000) * 0.1)
    assert features.shape == (extractor.num_frames(8000), 20) == (101, 20)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(20), atol=1e-4, rtol=0)
    assert features.std(dim=0).min() > 0.9


def test_normalising_the_level_keeps_the_shape_of_the_spectrum() -> None:
    time = torch.arange(8000) / 8000
    low = torch.sin(2 * torch.pi * 300 * time) + 0.01 * torch.randn(8000)
    features = LogMel(PARAMS.model_copy(update={"normalise": "level"}), 8000)(low)
    assert features.mean().abs() < 1e-4
    assert features[:, :5].mean() > features[:, -5:].mean() + 1


def test_running_features_are_those_of_the_frames_so_far() -> None:
    extractor = LogMel(PARAMS.model_copy(update={"normalise": "running"}), 8000)
    waveform = torch.randn(8000) * 0.1
    # Frame 50 is centred on sample 4000 and reads 100 more, half a window.
    torch.testing.assert_close(extractor(waveform[:4100])[:51], extractor(waveform)[:51])


@pytest.mark.parametrize("normalise", ["bands", "level", "running"])
def test_level_makes_no_difference(normalise) -> None:
    extractor = LogMel(PARAMS.model_copy(update={"normalise": normalise}), 8000)
    waveform = torch.randn(8000) * 0.1
    torch.testing.assert_close(extractor(waveform), extractor(0.5 * waveform), atol=0.02, rtol=0.02)


def test_a_recording_shorter_than_a_window_has_features() -> None:
    assert torch.isfinite(LogMel(PARAMS, 8000)(torch.randn(50))).all()


def test_packed_features_are_the_extractors_in_half_precision(tmp_path: Path) -> None:
    data = Prepared()
    packed = pack_features(data, data.rows, PARAMS, tmp_path)
    assert len(packed) == 2
    assert packed.num_frames.tolist() == [101, 51]
    expected = LogMel(PARAMS, 8000)(torch.from_numpy(data.audio[1])).numpy()
    np.testing.assert_allclose(packed[1], expected, atol=5e-3)


def test_packed_features_are_computed_once(tmp_path: Path) -> None:
    data = Prepared()
    pack_features(data, data.rows, PARAMS, tmp_path)
    data.waveform = None  # type: ignore[assignment]  # a second computation would need it
    assert len(pack_features(data, data.rows, PARAMS, tmp_path)) == 2
    assert len(list(tmp_path.glob("*/*.npy"))) == 1


def test_models_of_equal_features_share_what_they_have_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a control does, which hears the transcribed audio alone; and a corpus that grows."""
    data, heard = Prepared(), []
    waveform = data.waveform
    monkeypatch.setattr(
        data, "waveform", lambda row: heard.append(row.offset_samples) or waveform(row)
    )
    one = pack_features(data, data.rows[1:], PARAMS, tmp_path)
    both = pack_features(data, data.rows, PARAMS, tmp_path)
    assert heard == [1, 0]
    np.testing.assert_array_equal(both[1], one[0])
    twice = pack_features(data, data.rows.iloc[[1, 0, 1]], PARAMS, tmp_path)
    assert heard == [1, 0] and twice.num_frames.tolist() == [51, 101, 51]
    np.testing.assert_array_equal(twice[1], both[0])


class Many(Prepared):
    """Noise of five seconds, under as many keys as are asked for."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.noise = np.random.default_rng(0).normal(0, 0.1, 5 * 8000).astype(np.float32)
        keys = [f"{n:064x}" for n in range(number)]
        self.rows = pd.DataFrame({"offset_samples": range(number), "audio_key": keys})
        self.num_read = 0

    def waveform(self, row) -> np.ndarray:
        self.num_read += 1
        return np.roll(self.noise, row.offset_samples)


def test_packing_holds_a_few_utterances_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, data = 60, Many(60)
    monkeypatch.setattr(feature_store, "usable_cores", lambda: 1)
    pack_features(data, data.rows[:1], PARAMS, tmp_path)  # what PyTorch needs once
    tracemalloc.start()
    packed = pack_features(data, data.rows, PARAMS, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert packed.num_frames.tolist() == number * [501]
    size = number * 501 * 20 * 2  # 1.2 MB
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.bin")) == size
    assert peak < size / 2


def test_packing_lets_go_of_the_audio_that_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PreparedData.open(put_tones(tmp_path / "workspace") / "data/prepared")
    rows = data.split("train")
    whole = pack_features(data, rows, PARAMS, tmp_path / "whole")
    held: list[int] = []
    unmap = PreparedData.unmap
    monkeypatch.setattr(
        PreparedData, "unmap", lambda self: held.append(len(self._maps)) or unmap(self)
    )
    monkeypatch.setattr(features, "MAPPED_UTTERANCES", 2)
    again = pack_features(data, rows, PARAMS, tmp_path / "again")
    assert len(held) == len(rows) // 2 and max(held) > 0
    assert len(again) == len(rows)
    for row in range(len(rows)):
        np.testing.assert_array_equal(again[row], whole[row])


@pytest.mark.parametrize("cores", [1, 3])
def test_packing_goes_on_where_it_stopped_whatever_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    whole = pack_features(Many(40), Many(40).rows, PARAMS, tmp_path / "whole")
    monkeypatch.setattr(feature_store, "usable_cores", lambda: cores)
    monkeypatch.setattr(feature_store, "PART_BYTES", 5 * 501 * 20 * 2)
    data = Many(40)

    def break_off(row) -> np.ndarray:
        if row.offset_samples == 33:
            raise OSError("No space left on device")
        return Many.waveform(data, row)

    with monkeypatch.context() as patch:
        patch.setattr(data, "waveform", break_off)
        with pytest.raises(OSError, match="No space"):
            pack_features(data, data.rows, PARAMS, tmp_path / "some")
    (folder,) = (tmp_path / "some").iterdir()
    assert len(list(folder.glob("*.npy"))) == 6  # parts of five
    (folder / "part-0.bin").write_bytes(b"half")  # as a kill between the two files leaves it
    data.num_read = 0
    packed = pack_features(data, data.rows, PARAMS, tmp_path / "some")
    assert data.num_read == 10
    assert len(packed.parts) == 8 and not (folder / "part-0.bin").exists()
    assert not list(folder.glob("*.tmp"))
    for row in range(40):
        np.testing.assert_array_equal(packed[row], whole[row])


PACKS = """
import sys
from pathlib import Path
from distillery.data import feature_store, features
from tests.unit.data.test_features import PARAMS, Many, pack_features
feature_store.PART_BYTES = 5 * 501 * 20 * 2
data = Many(40)
print("ready", flush=True)
sys.stdin.readline()
packed = pack_features(data, data.rows, PARAMS, Path(sys.argv[1]))
print(data.num_read, sum(float(packed[row].astype("f8").sum()) for row in range(40)))
"""


def test_of_two_processes_side_by_side_one_packs_and_both_read_the_same(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PACKS, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
    said = [process.communicate("go\n")[0].split() for process in processes]
    assert sorted(int(numbers[0]) for numbers in said) == [0, 40]
    assert said[0][1] == said[1][1]


def test_a_packed_part_that_is_cut_short_or_holds_code_is_computed_again(tmp_path: Path) -> None:
    data, witness = Prepared(), tmp_path / "witness"
    pack_features(data, data.rows, PARAMS, tmp_path)
    (index,), (path,) = tmp_path.glob("*/*.npy"), tmp_path.glob("*/*.bin")
    trap = io.BytesIO()
    np.save(trap, np.array([Payload(witness)]), allow_pickle=True)
    good, good_index = path.read_bytes(), index.read_bytes()
    for content in (b"", good[:-2], good + b"xx"):
        path.write_bytes(content)
        pack_features(data, data.rows, PARAMS, tmp_path)
        assert path.read_bytes() == good
    for content in (b"", good_index[:-2], pickle.dumps(Payload(witness)), trap.getvalue()):
        index.write_bytes(content)
        pack_features(data, data.rows, PARAMS, tmp_path)
        assert index.read_bytes() == good_index
    assert not witness.exists()
    np.load(io.BytesIO(trap.getvalue()), allow_pickle=True)  # the attack is a real one
    assert witness.exists()


def test_other_settings_or_audio_are_packed_anew(tmp_path: Path) -> None:
    data = Prepared()
    pack_features(data, data.rows, PARAMS, tmp_path)
    pack_features(data, data.rows.iloc[:1], PARAMS, tmp_path)
    pack_features(data, data.rows, FeatureParams(num_mels=10), tmp_path)
    pack_features(data, copy_at(data.rows, 1.1, 8000), PARAMS, tmp_path)
    assert len(list(tmp_path.glob("*/*.npy"))) == 3  # the second found its utterance there


def test_faster_speech_is_shorter(tmp_path: Path) -> None:
    data = Prepared()
    fast = pack_features(data, copy_at(data.rows, 1.25, 8000), PARAMS, tmp_path)
    assert fast.num_frames[0] == 6400 // 80 + 1


def test_gathering_and_padding_put_zeros_behind() -> None:
    items = [np.ones((2, 3), np.float16), np.ones((4, 3), np.float16)]
    batch, lengths = gather(items)
    assert batch.dtype == torch.float32
    assert lengths.tolist() == [2, 4]
    assert batch.sum().item() == 18
    padded, same = pad([torch.from_numpy(item).float() for item in items])
    assert torch.equal(padded, batch)
    assert torch.equal(same, lengths)
