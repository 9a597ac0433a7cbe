"""The benchmark of augmentation runs, at a size that says nothing about speed."""

from __future__ import annotations

import torch

from benchmarks import augmentation


def test_it_measures_every_setting_against_packed_features() -> None:
    rows = augmentation.measure(rounds=1)
    assert len(rows) == len(augmentation.ALWAYS)
    assert all(row["value"] > 0 and "packed features" in row["against"] for row in rows)


def test_what_is_measured_is_augmented_and_as_long() -> None:
    audio = augmentation.utterances(4)
    plain = augmentation.packed(audio).batch(range(4))
    batches = {
        name: augmentation.augmented(audio, settings).batch(range(4))
        for name, settings in augmentation.ALWAYS.items()
    }
    quiet = batches["features from audio"]
    torch.testing.assert_close(quiet.features, plain.features, atol=5e-3, rtol=1e-3)
    assert len(batches["concatenation"].features) == 2
    for name in ("generated noise", "generated reverberation"):
        assert torch.equal(batches[name].feature_lengths, plain.feature_lengths)
        assert not torch.allclose(batches[name].features, plain.features, atol=0.1)
