import pytest
from pydantic import ValidationError

from distillery.params.distill import StudentTrainingParams
from distillery.params.teacher import FineTuningParams
from distillery.params.training import EveryTrainingParams, TrainingParams


def test_trainings_end_by_validation_unless_told_otherwise() -> None:
    assert TrainingParams().known_epochs is None
    assert StudentTrainingParams().num_epochs == "auto"
    assert FineTuningParams().known_epochs == 40
    assert (TrainingParams().most_epochs, TrainingParams(num_epochs=7).most_epochs) == (300, 7)


def test_settings_with_a_number_of_epochs_are_written_as_before_there_was_auto() -> None:
    """Checkpoints and cached results are called by a digest of them."""
    before = {
        "seed", "num_epochs", "batch_seconds", "learning_rate", "weight_decay", "warmup_fraction",
        "max_gradient_norm", "patience", "precision", "num_threads", "device", "specaugment",
    }  # fmt: skip
    assert TrainingParams(num_epochs=7).model_dump().keys() == before
    auto = TrainingParams(max_epochs=9, average_steps=5, zero_output=False, cooldown_fraction=0.1)
    new = {"max_epochs", "min_epoch_steps", "warmup_steps"}
    new |= {"cooldown_fraction", "average_steps", "zero_output"}
    assert auto.model_dump().keys() == before | new
    assert TrainingParams.model_validate(auto.model_dump()) == auto


def test_auto_averages_and_starts_even_and_a_number_does_neither_unless_told() -> None:
    auto, number = TrainingParams(), TrainingParams(num_epochs=7)
    assert (auto.starts_even, number.starts_even) == (True, False)
    assert (auto.averaged_steps > 0, number.averaged_steps) == (True, 0)
    told = {"average_steps": 20, "zero_output": True}
    number = TrainingParams(num_epochs=7, **told)
    assert (number.starts_even, number.averaged_steps) == (True, 20)
    assert number.model_dump().items() >= told.items()
    auto = TrainingParams(average_steps=0, zero_output=False)
    assert (auto.starts_even, auto.averaged_steps) == (False, 0)


def test_a_cooldown_stands_in_for_an_average() -> None:
    assert TrainingParams().cooldown_share == 0
    assert TrainingParams(average_steps=0).cooldown_share == 0.2
    assert TrainingParams(cooldown_fraction=0.1).cooldown_share == 0.1
    assert TrainingParams(average_steps=0, cooldown_fraction=0.0).cooldown_share == 0


@pytest.mark.parametrize("section", [TrainingParams, StudentTrainingParams, FineTuningParams])
def test_the_time_between_checkpoints_is_looked_for_where_it_is(
    section: type[TrainingParams],
) -> None:
    with pytest.raises(ValidationError, match="write training: {checkpoint_seconds: …} beside"):
        section.model_validate({"checkpoint_seconds": 60})
    with pytest.raises(ValidationError, match="greater than 0"):
        EveryTrainingParams(checkpoint_seconds=0.0)
    assert EveryTrainingParams().checkpoint_seconds == 120


@pytest.mark.parametrize("wanted", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_device_may_be_one_gpu_of_several(wanted: str) -> None:
    assert TrainingParams(num_epochs=1, batch_seconds=1.0, device=wanted).device == wanted


@pytest.mark.parametrize("wanted", ["cuda:", "cuda:x", "gpu", "CPU", "cuda:1 ", ""])
def test_another_device_is_an_error_that_says_which_there_are(wanted: str) -> None:
    with pytest.raises(ValidationError, match="expected auto, cpu, cuda, or one GPU"):
        TrainingParams(num_epochs=1, batch_seconds=1.0, device=wanted)
