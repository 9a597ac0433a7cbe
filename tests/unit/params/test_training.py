from distillery.params.distill import StudentTrainingParams
from distillery.params.teacher import FineTuningParams
from distillery.params.training import TrainingParams


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
    auto = TrainingParams(max_epochs=9, average_steps=5)
    new = {"max_epochs", "warmup_steps", "cooldown_fraction", "average_steps"}
    assert auto.model_dump().keys() == before | new
    assert TrainingParams.model_validate(auto.model_dump()) == auto
