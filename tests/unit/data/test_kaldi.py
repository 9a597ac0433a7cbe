"""Kaldi's features beside the library that sherpa-onnx computes them with, and in pieces."""

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from distillery.data.features import KaldiFbank, LogMel, extractor_of
from distillery.data.kaldi import KaldiFilterBank, KaldiStream
from distillery.data.kaldi_filters import empty_filters, most_mels
from distillery.errors import ModelError
from distillery.params.models import FeatureParams
from distillery.serve.numpy_features import numpy_features
from distillery.training.alignment import FeatureClock
from tests.tiny import speak


def params(num_mels: int = 40, **changes) -> FeatureParams:
    return FeatureParams(type="kaldi_fbank", num_mels=num_mels, **changes)


def library(waveform: np.ndarray, features: FeatureParams, rate: int) -> np.ndarray:
    """Return what kaldi-native-fbank gives with the settings that sherpa-onnx makes."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = rate
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.frame_opts.frame_shift_ms = 1000 * features.hop_seconds
    options.frame_opts.frame_length_ms = 1000 * features.window_seconds
    options.mel_opts.num_bins = features.num_mels
    options.mel_opts.low_freq, options.mel_opts.high_freq = 20, -400
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(rate, waveform)
    bank.input_finished()
    return np.array([bank.get_frame(index) for index in range(bank.num_frames_ready)])


def sound(kind: str, num_samples: int, rate: int) -> np.ndarray:
    """Return samples as a recording has them, 16 bits each."""
    random = np.random.default_rng(num_samples)
    samples = {
        "loud": lambda: random.normal(0, 0.3, num_samples),
        "faint": lambda: random.normal(0, 1e-3, num_samples),
        "last bit": lambda: random.normal(0, 3e-5, num_samples),
        "offset": lambda: 0.3 + random.normal(0, 1e-2, num_samples),
        "silent": lambda: np.zeros(num_samples),
        "speech": lambda: np.resize(speak("abc cab", 0), num_samples),
    }[kind]()
    return (np.rint(samples * 32767).clip(-32768, 32767) / 32768).astype(np.float32)


def assert_equal_energies(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare logs to 1e-3, and energies to what rounding leaves beside a loud pure tone.

    There both are as far from the same sums in double precision.
    """
    assert (abs(found - expected) <= 1e-3 + 3e-10 * np.exp(-expected)).all()


@pytest.mark.parametrize("kind", ["loud", "faint", "last bit", "offset", "silent", "speech"])
@pytest.mark.parametrize(("rate", "num_mels"), [(8000, 40), (8000, 23), (16000, 80), (11025, 40)])
def test_equals_the_library_of_the_runtime(kind: str, rate: int, num_mels: int) -> None:
    for num_samples in (rate // 190, rate // 40, 1234, 3 * rate + 17):
        waveform = sound(kind, num_samples, rate)
        expected = library(waveform, params(num_mels), rate)
        found = KaldiFilterBank(params(num_mels), rate)(waveform)
        assert found.shape == expected.shape and found.dtype == np.float32
        assert_equal_energies(found, expected)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100])
@pytest.mark.parametrize(("hop", "window"), [(0.01, 0.025), (0.0125, 0.05), (0.02, 0.016)])
def test_counts_frames_as_the_library_does(rate: int, hop: float, window: float) -> None:
    features = params(20, hop_seconds=hop, window_seconds=window)
    bank = KaldiFilterBank(features, rate)
    lengths = [rate // 80, rate // 40 + 1, rate // 3, rate // 3 + bank.hop_samples // 2, rate]
    for num_samples in lengths:
        waveform = sound("loud", num_samples, rate)
        expected = library(waveform, features, rate)
        assert bank.num_frames(num_samples) == len(expected)
        assert_equal_energies(bank(waveform), expected)
    clock = FeatureClock(features, rate, 4, "distill.features")
    found = clock.num_frames(np.array(lengths)).tolist()
    assert found == [-(-bank.num_frames(n) // 4) for n in lengths]


def test_half_a_hop_or_less_gives_one_frame_where_the_library_gives_none() -> None:
    bank = KaldiFilterBank(params(), 8000)
    assert library(sound("loud", 39, 8000), params(), 8000).size == 0
    for num_samples in (0, 1, 39, 40):
        assert bank(sound("loud", num_samples, 8000)).shape == (1, 40)
    assert bank.num_frames(np.array([0, 39, 119, 120])).tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize("normalise", ["bands", "level", "running"])
def test_what_is_served_is_what_was_trained_on(normalise: str) -> None:
    features = params(normalise=normalise)
    served = numpy_features(features, 8000)
    waveform = sound("speech", 30000, 8000)
    trained = extractor_of(features, 8000)(torch.from_numpy(waveform)).numpy()
    assert abs(served(waveform) - trained).max() < 1e-4
    integers = np.rint(waveform * 32768).astype(np.int16)
    blocks = np.concatenate(list(served.blocks([integers])))
    np.testing.assert_allclose(blocks, trained, atol=1e-3)
    assert served.num_frames(len(waveform)) == len(trained)


@pytest.mark.parametrize(("hop", "window"), [(0.01, 0.025), (0.02, 0.016)])
@pytest.mark.parametrize("cuts", [[], [0, 1], [80, 81, 150, 151], [5000], [279, 280, 281, 8000]])
def test_pieces_give_what_the_whole_gives(cuts: list[int], hop: float, window: float) -> None:
    bank = KaldiFilterBank(params(20, hop_seconds=hop, window_seconds=window), 8000)
    for num_samples in (9000, 9079, 9123, 130, 30):
        waveform = sound("loud", num_samples, 8000)
        stream = KaldiStream(bank)
        *first, last = np.split(waveform, [min(cut, num_samples) for cut in cuts])
        parts = [stream.push(part) for part in first]
        found = np.concatenate([*parts, stream.push(last, last=True)])
        np.testing.assert_allclose(found, bank(waveform), atol=1e-4)
        assert len(stream.held) < 1000


def test_a_stream_waits_for_the_end_of_a_window_alone() -> None:
    bank = KaldiFilterBank(params(20), 8000)  # window 200, hop 80: frame t ends before 140 + 80 t
    stream = KaldiStream(bank)
    waveform = sound("loud", 1000, 8000)
    assert len(stream.push(waveform[:139])) == 0
    assert len(stream.push(waveform[139:140])) == 1
    assert len(stream.push(waveform[140:299])) == 1
    assert len(stream.push(waveform[299:300])) == 1


def test_too_many_bands_for_a_rate_are_refused_with_the_most_that_fit() -> None:
    most = most_mels(0.025, 8000, 256)
    assert not empty_filters(most, 0.025, 8000)
    assert KaldiFilterBank(params(most), 8000)(sound("loud", 800, 8000)).shape == (10, most)
    with pytest.raises(ValueError, match="num_mel_bins too large"):  # the library agrees
        library(sound("loud", 800, 8000), params(most + 1), 8000)
    with pytest.raises(ModelError, match=r"128 mel bands are empty at 8000 Hz.*num_mels up to \d+"):
        KaldiFilterBank(params(128), 8000)


def test_models_from_before_keep_their_settings_to_the_byte() -> None:
    assert FeatureParams().model_dump_json() == (
        '{"num_mels":64,"window_seconds":0.025,"hop_seconds":0.01,"normalise":"bands"}'
    )
    assert FeatureParams.model_validate(FeatureParams().model_dump()) == FeatureParams()
    dumped = params().model_dump()
    assert next(iter(dumped)) == "type" and FeatureParams.model_validate(dumped) == params()


def test_each_type_has_its_extractor() -> None:
    assert isinstance(extractor_of(FeatureParams(), 8000), LogMel)
    assert isinstance(extractor_of(params(), 8000), KaldiFbank)
