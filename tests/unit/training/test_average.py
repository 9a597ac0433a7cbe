from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distillery.models.layers import Network
from distillery.params.training import TrainingParams
from distillery.training.average import RunningAverage
from tests.unit.training.test_trainer import trainer, weights_of


class Small(Network):
    """A weight, and a layer with statistics and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.norm = nn.BatchNorm1d(2)


def steps_of(average: RunningAverage, network: Small, values: list[float]) -> list[Tensor]:
    found = []
    for value in values:
        with torch.no_grad():
            network.weight.fill_(value)
            network.norm.running_mean.fill_(10 * value)
            network.norm.num_batches_tracked += 1
        average.update(network)
        found.append(average.state["weight"].clone())
    return found


def test_it_is_the_mean_of_all_steps_and_then_of_the_last_ones() -> None:
    network = Small()
    average = RunningAverage.of(network, 4)
    found = steps_of(average, network, [1.0, 3.0, 5.0, 7.0, 8.0])
    assert [float(x[0]) for x in found] == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    assert average.state["norm.running_mean"].tolist() == pytest.approx([50.0, 50.0])
    assert average.state["norm.num_batches_tracked"].item() == 5


def test_it_is_lent_and_taken_back() -> None:
    network = Small()
    average = RunningAverage.of(network, 4)
    steps_of(average, network, [1.0, 3.0])
    assert average.own_weights(network)["weight"].tolist() == [3.0, 3.0]
    with average.in_place_of(network):
        assert network.weight.tolist() == [2.0, 2.0]
        assert average.own_weights(network)["weight"].tolist() == [3.0, 3.0]
    assert network.weight.tolist() == [3.0, 3.0]
    assert average.state["weight"].tolist() == [2.0, 2.0]
    steps_of(average, network, [5.0])
    assert average.own_weights(network)["weight"].tolist() == [5.0, 5.0]


def test_none_leaves_everything_as_it_was() -> None:
    network = Small()
    average = RunningAverage.of(network, 0)
    steps_of_none = RunningAverage.of(network, 0)
    average.update(network)
    with average.in_place_of(network):
        assert network.weight.tolist() == [0.0, 0.0]
    assert average == steps_of_none
    with pytest.raises(ValueError, match="an average of 0 tensors"):
        average.restore({"weight": torch.zeros(2)}, 1)


def test_the_average_is_validated_and_kept_and_training_goes_on_without_it(tmp_path: Path) -> None:
    params = TrainingParams(num_epochs=4, learning_rate=1e-2, num_threads=1)
    plain = trainer(tmp_path / "plain", params)
    averaged = trainer(tmp_path / "averaged", params.model_copy(update={"average_steps": 6}))
    last = []
    for run in (plain, averaged):
        save = run._save

        def keep(run=run, save=save) -> None:
            last.append(weights_of(run))
            save()

        run._save = keep  # type: ignore[method-assign]
        run.fit()
    assert all(
        torch.equal(a[name], b[name]) for a, b in zip(last[:5], last[5:], strict=True) for name in a
    )
    assert not torch.equal(plain.network.output.weight, averaged.network.output.weight)
    assert averaged.validate() == averaged.best_wer
