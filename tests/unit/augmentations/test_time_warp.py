"""Time warping is refused, and the message says what to do instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillery.errors import ParamsError
from distillery.params.whole import Params
from tests.tiny import tiny_params, write_params


@pytest.mark.parametrize("value", [5, {"max_frames": 80}, True])
def test_time_warping_is_refused(tmp_path: Path, value: Any) -> None:
    write_params(tmp_path, tiny_params(distill={"augmentation": {"time_warp": value}}))
    with pytest.raises(
        ParamsError,
        match=r"distill.augmentation: time_warp is .*, but time warping moves frames .* cached "
        r"teacher frames would face other audio .*; remove it, and set cache.speed_factors .* or "
        r"training.specaugment",
    ):
        Params.load(tmp_path / "params.yaml")


def test_none_is_no_time_warping(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params(distill={"augmentation": {"time_warp": None}}))
    assert not Params.load(tmp_path / "params.yaml").distill.augmentation.changes_audio
