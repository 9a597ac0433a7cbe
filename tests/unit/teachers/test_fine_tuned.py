"""Encoders fine-tuned for real: what moves, by how much, and what does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torchaudio
from pydantic import ValidationError
from torch import Tensor
from torchaudio.pipelines import Wav2Vec2Bundle

from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError, ModelError
from distillery.params.teacher import FineTunedTeacherParams
from distillery.teachers.base import Workplace
from distillery.teachers.fine_tuned import FineTunedNetwork, HeardWaveforms, fine_tune_teacher
from distillery.teachers.pretrained import PretrainedTeacher
from distillery.training.trainer import Trainer
from tests.tiny_models import (
    encoder_state,
    published_state,
    tiny_bundle,
    tiny_encoder,
    write_transformers,
)
from tests.together import assert_same_curve

TINY = {"kind": "torchaudio", "bundle": "TINY", "weights": "tiny.pth"}
FOLDER = {"kind": "transformers", "model": "model"}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


@pytest.fixture
def place(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A workplace with a tiny encoder among torchaudio's, its weights in a file."""
    monkeypatch.setattr(torchaudio.pipelines, "TINY", tiny_encoder(), raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.save(encoder_state(tiny_encoder()), prepared / "tiny.pth")
    data = PreparedData.open(prepared / "data/prepared")
    return Workplace(data, prepared / "scratch", prepared, prepared / "curves.jsonl", root=prepared)


def settings(base: dict[str, Any] = TINY, **changes: Any) -> FineTunedTeacherParams:
    training = {"num_epochs": 2, "batch_seconds": 4.0, "num_threads": 1, "learning_rate": 1e-3}
    training |= changes.pop("training", {})
    return FineTunedTeacherParams.model_validate(
        {"kind": "fine_tuned", "base": base, "training": training, **changes}
    )


def fine_tuned(params: FineTunedTeacherParams, place: Workplace) -> PretrainedTeacher:
    teacher = fine_tune_teacher(params, place).teacher
    assert isinstance(teacher, PretrainedTeacher)
    return teacher


def state_of(teacher: PretrainedTeacher) -> dict[str, Tensor]:
    backend: Any = teacher.backend
    return dict(backend.module.state_dict())


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """Receives the trainers of the test."""
    found: list[Trainer] = []
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self: (found.append(self), fit(self))[1])
    return found


@pytest.mark.parametrize("num_frozen", [0, 1, 2])
def test_frozen_weights_stay_and_all_others_move(place: Workplace, num_frozen: int) -> None:
    found = state_of(fine_tuned(settings(frozen={"layers": num_frozen}), place))
    before = torch.load(place.root / "tiny.pth", weights_only=True)
    frozen = ["feature_extractor."]
    if num_frozen:
        frozen += ["encoder.feature_projection.", "encoder.transformer.pos_conv_embed."]
        frozen += ["encoder.transformer.layer_norm."]
        frozen += [f"encoder.transformer.layers.{index}." for index in range(num_frozen)]
    for name, value in before.items():
        kept = torch.equal(found[name], value)
        # The bias of keys adds the same to all scores of a query, which softmax ignores.
        assert name.startswith(tuple(frozen)) == kept or name.endswith("k_proj.bias"), name
    assert found["aux.weight"].shape == (5, 16)


def test_every_layer_has_its_share_of_the_step_size(
    place: Workplace, trainers: list[Trainer]
) -> None:
    fine_tuned(settings(layer_decay=0.5, training={"num_epochs": 1}), place)
    (trainer,) = trainers
    network: Any = trainer.network
    names = {id(p): name for name, p in network.module.named_parameters()}
    shares = {
        names[id(p)]: group["lr"] / trainer.optimiser.param_groups[-1]["lr"]
        for group in trainer.optimiser.param_groups
        for p in group["params"]
    }
    assert shares["aux.weight"] == 1
    assert shares["encoder.transformer.layers.1.attention.k_proj.weight"] == 0.5
    assert shares["encoder.transformer.layers.0.attention.k_proj.weight"] == 0.25
    assert shares["encoder.feature_projection.projection.weight"] == 0.125
    assert not any(name.startswith("feature_extractor") for name in shares)
    assert len(set(shares.values())) == len(trainer.optimiser.param_groups) == 4


@pytest.mark.parametrize("library", ["torchaudio", "transformers"])
def test_the_last_norm_of_models_that_normalise_first_goes_with_the_output_layer(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    bundle = tiny_encoder(extractor_mode="layer_norm")
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    torch.save(encoder_state(bundle), place.root / "tiny.pth")
    write_transformers(place.root / "model", "Wav2Vec2Model", **STABLE)
    base = TINY if library == "torchaudio" else FOLDER
    params = settings(base, frozen={"layers": 2}, training={"num_epochs": 1})
    teacher = fine_tuned(params, place)
    groups = FineTunedNetwork(teacher.backend, params).parameter_groups()  # type: ignore[arg-type]
    ((share, parameters),) = groups
    assert share == 1 and [tuple(p.shape) for p in parameters] == [(16,), (16,), (5, 16), (5,)]


def test_it_learns(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_encoder()
    quiet = {name: 0.0 if "drop" in name else value for name, value in bundle._params.items()}
    bundle = Wav2Vec2Bundle(**{**bundle.__dict__, "_params": quiet})
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle)
    no_masks = {"num_time_masks": 0, "num_frequency_masks": 0}
    training = {"num_epochs": 80, "learning_rate": 1e-2, "specaugment": no_masks}
    fine_tuned(settings(layer_decay=1.0, training=training), place)
    points = map(json.loads, place.curves.read_text("utf-8").splitlines())
    losses = [point["value"] for point in points if point["key"] == "train/loss"]
    assert len(losses) == 80 and losses[0] > 4
    assert losses[-1] < 1.2  # nats a token; frequencies of tokens alone leave about 2


def test_its_own_masks_are_what_the_settings_say(place: Workplace) -> None:
    digests = set()
    for fraction in (0.0, 0.5):
        masks = {"max_time_fraction": fraction, "max_frequency_fraction": fraction}
        params = settings(training={"num_epochs": 1, "specaugment": masks})
        digests.add(fine_tuned(params, place).weights_digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("library", "seconds"), [("torchaudio", 1e-6), ("transformers", 1e-6), ("transformers", 1e6)]
)
def test_a_killed_run_goes_on_to_the_weights_of_an_unbroken_one(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, library: str, seconds: float
) -> None:
    """Inside an epoch where checkpoints are that close to each other, else at its beginning."""
    place = replace(place, checkpoint_seconds=seconds)
    write_transformers(place.root / "model", "HubertModel")
    base = TINY if library == "torchaudio" else FOLDER
    params = settings(base, speed_factors=[0.9], frozen={"layers": 1})
    steps: list[int] = []
    train = Trainer._train_step

    def killed(self: Trainer, *rest: Any) -> Any:
        steps.append(self.epoch)
        if len(steps) == limit:
            raise KeyboardInterrupt
        return train(self, *rest)

    monkeypatch.setattr(Trainer, "_train_step", killed)
    limit = 0
    ready = fine_tune_teacher(params, place)
    assert ready.checkpoint is not None
    ready.checkpoint.unlink()
    epoch = len(steps) // 2
    steps.clear()
    limit = epoch + 2
    with pytest.raises(KeyboardInterrupt):
        fine_tune_teacher(params, place)
    assert steps[-2:] == [1, 1]
    steps.clear()
    limit = 0
    resumed = fine_tune_teacher(params, place)
    assert steps == [1] * (epoch - 1 if seconds < 1 else epoch)
    assert resumed.teacher.weights_digest == ready.teacher.weights_digest


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (None, {}),
        ("Wav2Vec2Model", STABLE),
        ("HubertModel", {}),
        ("HubertModel", {"conv_pos_batch_norm": True}),
        ("WavLMModel", {}),
    ],
)
def test_a_batch_of_training_gives_what_each_utterance_gives_alone(
    place: Workplace, model_class: str | None, options: dict[str, Any]
) -> None:
    if model_class is not None:
        write_transformers(place.root / "model", model_class, **options)
    params = settings(FOLDER if model_class else TINY, training={"num_epochs": 1})
    teacher = fine_tuned(params, place)
    network = FineTunedNetwork(teacher.backend, params).eval()  # type: ignore[arg-type]
    rows = place.data.split("valid").reset_index(drop=True)
    assert rows["num_samples"].nunique() > 1
    heard = HeardWaveforms(teacher, place.data, rows)
    inputs, lengths = teacher.extract([place.data.waveform(row) for row in rows.itertuples()])
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(torch.from_numpy(heard[row][:, 0]), inputs[row, :length])
    with torch.inference_mode():
        scores, counts = network(inputs[..., None], lengths)
    expected = teacher.forward(inputs, lengths)
    assert expected.log_probs is not None and counts.tolist() == expected.num_frames
    for row, count in enumerate(expected.num_frames):
        found = scores[row, :count].log_softmax(dim=-1)
        torch.testing.assert_close(
            found, torch.from_numpy(expected.log_probs[row, :count]), atol=1e-4, rtol=1e-4
        )


def test_wavlm_of_torchaudio_hears_every_utterance_alone(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tiny_encoder()
    wavlm = {**encoder._params, "encoder_num_buckets": 8, "encoder_max_distance": 16}
    options = {**encoder.__dict__, "_params": wavlm, "_model_type": "WavLM"}
    monkeypatch.setattr(torchaudio.pipelines, "TINY", type(encoder)(**options), raising=False)
    state = torchaudio.models.wavlm_model(**wavlm).state_dict()
    torch.save(state, place.root / "tiny.pth")
    found = state_of(fine_tuned(settings(training={"num_epochs": 1}), place))
    name = "encoder.transformer.layers.0.attention.rel_attn_embed.weight"
    assert not torch.equal(found[name], state[name])


@pytest.mark.parametrize("model_class", ["Wav2Vec2ForPreTraining", "Wav2Vec2ForCTC"])
def test_encoders_inside_other_published_models(place: Workplace, model_class: str) -> None:
    from safetensors.torch import load_file

    write_transformers(place.root / "model", model_class)
    before = load_file(place.root / "model/model.safetensors")
    params = settings(FOLDER, frozen={"layers": 2}, training={"num_epochs": 1})
    found = state_of(fine_tuned(params, place))
    name = "wav2vec2.encoder.layers.1.attention.q_proj.weight"
    assert torch.equal(found[name], before[name])
    assert found["lm_head.weight"].shape == (5, 16)


def test_a_ctc_bundle_loses_its_output_layer(place: Workplace) -> None:
    torchaudio.pipelines.TINY = tiny_bundle()  # the fixture takes it away again
    torch.save(published_state(tiny_bundle()), place.root / "tiny.pth")
    teacher = fine_tuned(settings(training={"num_epochs": 1}), place)
    assert state_of(teacher)["aux.weight"].shape == (5, 16)
    assert teacher.gives_frames and teacher.config["tokens"] == ["<blank>", "|", "a", "b", "c"]


def test_what_cannot_be_fine_tuned(place: Workplace) -> None:
    missing = {"kind": "torchaudio", "bundle": "WAV2VEC_BASE"}
    with pytest.raises(
        ModelError, match=r"teacher\.base\.bundle: 'WAV2VEC_BASE'.* did you mean 'WAV"
    ):
        fine_tune_teacher(settings(missing), place)
    other = {"kind": "torchaudio", "bundle": "CONVTASNET_BASE_LIBRI2MIX"}
    with pytest.raises(ModelError, match="SourceSeparationBundle, which has no encoder"):
        fine_tune_teacher(settings(other), place)
    with pytest.raises(ModelError, match=r"layers: 3, the base has 2 layers; expected at most"):
        fine_tune_teacher(settings(frozen={"layers": 3}), place)
    with pytest.raises(ModelError, match=r"utterance '.*': \d\.\d s of audio, training .* 0\.5 s"):
        fine_tune_teacher(settings(longest_seconds=0.5, chunk_seconds=0.5), place)
    wide = write_transformers(place.root / "model", "HubertModel", hidden_size=32)
    config = json.loads((wide / "config.json").read_text("utf-8"))
    (wide / "config.json").write_text(json.dumps(config | {"hidden_size": 16}), encoding="utf-8")
    with pytest.raises(
        ModelError, match=r"safetensors: does not fit the model: tensor .*, expected"
    ):
        fine_tune_teacher(settings(FOLDER), place)
    config["architectures"] = ["Data2VecAudioModel"]
    (wide / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        ModelError, match=r"model: 'model' is a Data2VecAudioModel, expected an enc"
    ):
        fine_tune_teacher(settings(FOLDER), place)
    with pytest.raises(
        ModelError, match=r"teacher\.base\.model: 'none' is|teacher\.base\.model: 'none'"
    ):
        fine_tune_teacher(settings({**FOLDER, "model": "none"}), place)
    assert not place.scratch.exists() and not place.curves.exists()


def test_without_transcripts(place: Workplace) -> None:
    frame: pd.DataFrame = place.data.frame
    frame.loc[frame["split"] == "train", "text"] = None
    with pytest.raises(CorpusError, match="split 'train': holds no transcribed utterance"):
        fine_tune_teacher(settings(), place)


def test_transcripts_that_have_too_few_frames(place: Workplace) -> None:
    """The tiny encoder's frames are what they are: no hop_seconds would help."""
    frame: pd.DataFrame = place.data.frame
    frame.loc[frame["split"] == "train", "text"] = "abc " * 100 + "a"
    with pytest.raises(CorpusError, match=r"teacher: (\d+) of \1 transcripts .*prepare.ctc_frame"):
        fine_tune_teacher(settings(), place)
    assert not place.scratch.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen": {"extractor": False, "layers": 1}}, "extractor, which lies beneath them"),
        ({"layer_decay": 0.0}, "greater than 0"),
        ({"num_hypotheses": 2}, "Extra inputs"),
    ],
)
def test_settings_that_say_nothing(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_two_processes_fine_tune_to_the_loss_curve_of_one(place: Workplace) -> None:
    """With masks, LayerDrop and weights that have no gradient; dropout differs by process."""
    quiet = ("hidden", "attention", "activation", "feat_proj", "final")
    no_dropout = {f"{name}_dropout": 0.0 for name in quiet}
    write_transformers(place.root / "model", "Wav2Vec2Model", layerdrop=0.3, **no_dropout)
    params = settings(FOLDER, training={"num_epochs": 3, "average_steps": 4})
    digest = {}
    for count in (1, 2):
        own = replace(place, num_processes=count, curves=place.root / f"curves-{count}.jsonl")
        ready = fine_tune_teacher(params, own)
        assert ready.checkpoint is not None
        ready.checkpoint.unlink()
        digest[count] = (ready.checkpoint, ready.source)
    assert_same_curve(place.root / "curves-1.jsonl", place.root / "curves-2.jsonl")
    assert digest[1] == digest[2], "the number of processes names no training"
