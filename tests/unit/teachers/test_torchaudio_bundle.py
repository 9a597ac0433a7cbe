"""Bundles of torchaudio.pipelines: names, weights in the published layout, offline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from distillery.data.manifest import PreparedData
from distillery.errors import ModelError
from distillery.params.teacher import TorchaudioTeacherParams
from distillery.teachers.base import Workplace
from distillery.teachers.torchaudio_bundle import find_bundle, take_bundle
from tests.tiny_models import published_state, tiny_bundle

BUNDLE = "TINY_ASR"


@pytest.fixture
def place(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A workplace, and a bundle among torchaudio's whose weights are nowhere yet."""
    monkeypatch.setattr(torchaudio.pipelines, BUNDLE, tiny_bundle(), raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(prepared / "torch"))
    data = PreparedData.open(prepared / "data/prepared")
    return Workplace(data, prepared / "scratch", prepared, prepared / "curves.jsonl", root=prepared)


def settings(**changes: object) -> TorchaudioTeacherParams:
    return TorchaudioTeacherParams.model_validate(
        {"kind": "torchaudio", "bundle": BUNDLE, **changes}
    )


@pytest.mark.parametrize("name", ["tiny.pth", "tiny.safetensors"])
def test_local_weights_in_the_published_layout(place: Workplace, name: str) -> None:
    save = save_file if name.endswith("safetensors") else torch.save
    save(published_state(tiny_bundle()), place.root / name)
    ready = take_bundle(settings(weights=name), place)
    assert ready.teacher.vocabulary.tokens == ("<blank>", "|", "a", "b", "c")
    assert ready.teacher.gives_frames and ready.teacher.frame_shift_seconds == 0.02
    assert ready.source is not None and ready.source["weights"] == name
    assert ready.source["dropped_tokens"] == ["E", "'"]
    assert 0 < ready.source["dropped_mass_mean"] < ready.source["dropped_mass_max"] <= 1


def test_outputs_that_the_bundle_cuts_off_are_cut_off(place: Workplace) -> None:
    # A state dict saved from get_model() has lost them already; both must give one teacher.
    state = published_state(tiny_bundle())
    torch.save(state, place.root / "published.pth")
    kept = [0, *range(4, len(state["aux.bias"]))]
    cut = {n: v[kept].clone() if n.startswith("aux.") else v for n, v in state.items()}
    torch.save(cut, place.root / "cut.pth")
    one, other = (take_bundle(settings(weights=n), place) for n in ("published.pth", "cut.pth"))
    assert one.teacher.weights_digest == other.teacher.weights_digest


def test_torchs_own_download_folder_is_looked_into(place: Workplace) -> None:
    folder = place.root / "torch/hub/checkpoints"
    with pytest.raises(ModelError) as caught:
        take_bundle(settings(), place)
    assert str(folder / "tiny_asr.pth") in str(caught.value)
    assert "https://download.pytorch.org/torchaudio/models/tiny_asr.pth" in str(caught.value)
    folder.mkdir(parents=True)
    torch.save(published_state(tiny_bundle()), folder / "tiny_asr.pth")
    assert take_bundle(settings(), place).teacher.num_parameters > 0


def test_weights_of_another_model_name_the_tensor(place: Workplace) -> None:
    torch.save(published_state(tiny_bundle(num_layers=3)), place.root / "deep.pth")
    with pytest.raises(ModelError, match=r"deep\.pth: .*encoder\.transformer\.layers\.2\.\S+ is "):
        take_bundle(settings(weights="deep.pth"), place)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WAV2VEC2_ASR_BASE_960", "did you mean 'WAV2VEC2_ASR_BASE_960H'"),
        ("hubert_asr_large", "did you mean 'HUBERT_ASR_LARGE'"),
        ("WAV2VEC2_BASE", "encoder without an output layer.*fine_tuned"),
        ("WAVLM_LARGE", "encoder without an output layer.*fine_tuned"),
        ("MMS_FA", "no word boundary; expected one of HUBERT_ASR_LARGE"),
        ("EMFORMER_RNNT_BASE_LIBRISPEECH", "is a RNNTBundle, no CTC recogniser"),
        ("SQUIM_OBJECTIVE", "is a SquimObjectiveBundle, no CTC recogniser"),
    ],
)
def test_bundles_that_cannot_be_teachers_say_why(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_bundle(name)


def test_every_ctc_bundle_of_torchaudio_has_as_many_labels_as_outputs() -> None:
    names = [name for name in dir(torchaudio.pipelines) if "_ASR_" in name]
    assert len(names) >= 16
    for name in names:
        bundle = find_bundle(name)
        assert len(bundle.get_labels()) == bundle._params["aux_num_out"], name
