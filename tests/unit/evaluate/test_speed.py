import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from distillery.errors import DistilleryError
from distillery.evaluate import speed
from distillery.evaluate.speed import measure_real_time_factor, processor_name

WAVEFORM = np.zeros(8000, np.float32)


def test_the_median_of_the_timed_passes_counts(monkeypatch) -> None:
    passes = iter([10.0, 10.5, 20.0, 20.2, 30.0, 39.0])  # 0.5 s, 0.2 s and a busy 9 s
    monkeypatch.setattr(time, "perf_counter", lambda: next(passes))
    result = measure_real_time_factor(lambda batch: None, WAVEFORM, seconds=4.0, repeats=3)
    assert result.seconds_median == pytest.approx(0.5)
    assert result.real_time_factor == pytest.approx(0.125)


def test_warm_up_passes_come_first_and_every_pass_hears_the_recording_alone() -> None:
    heard: list[np.ndarray] = []

    def transcribe(batch: Sequence[np.ndarray]) -> None:
        (waveform,) = batch
        heard.append(waveform)

    measure_real_time_factor(transcribe, WAVEFORM, 1.0, repeats=3)
    assert len(heard) == speed.NUM_WARM_UPS + 3
    assert all(waveform is WAVEFORM for waveform in heard)


def test_real_work_takes_real_time() -> None:
    def transcribe(batch: Sequence[np.ndarray]) -> None:
        end = time.perf_counter() + 0.01
        while time.perf_counter() < end:
            pass

    result = measure_real_time_factor(transcribe, WAVEFORM, 0.5, repeats=3)
    assert result.seconds_median >= 0.01
    assert result.real_time_factor == pytest.approx(result.seconds_median / 0.5)


@pytest.mark.parametrize("fails", [False, True])
def test_one_thread_works_and_the_former_number_comes_back(fails: bool) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def transcribe(batch: Sequence[np.ndarray]) -> None:
        seen.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("broken model")

    torch.set_num_threads(2)
    try:
        if fails:
            with pytest.raises(RuntimeError, match="broken model"):
                measure_real_time_factor(transcribe, WAVEFORM, 1.0, 1)
        else:
            measure_real_time_factor(transcribe, WAVEFORM, 1.0, 1)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_device_is_the_processor_and_one_thread(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: ACME 9000 @ 2 GHz\n\nmodel name\t: other\n")
    monkeypatch.setattr(speed, "CPU_INFO", path)
    result = measure_real_time_factor(lambda batch: None, WAVEFORM, 1.0, 1)
    assert result.device == "ACME 9000 @ 2 GHz, 1 thread"


@pytest.mark.parametrize("content", [None, "Hardware : board\n"])
def test_an_untold_processor_is_named_by_its_architecture(
    tmp_path: Path, monkeypatch, content: str | None
) -> None:
    path = tmp_path / "cpuinfo"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(speed, "CPU_INFO", path)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert processor_name() == "aarch64"


@pytest.mark.parametrize(("seconds", "repeats"), [(0.0, 3), (1.0, 0)])
def test_nothing_to_time_is_refused(seconds: float, repeats: int) -> None:
    with pytest.raises(DistilleryError, match=rf"{seconds} s of audio and {repeats} repeats"):
        measure_real_time_factor(lambda batch: None, WAVEFORM, seconds, repeats)
