import dataclasses

import pytest

from loralab.evaluation.evaluate import Evaluation


def test_an_evaluation_is_not_changed_afterwards() -> None:
    result = Evaluation("toy", "test", 1, 0.5, {"accuracy": 100.0}, {}, (), (), 0, ())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.loss = 0.0  # type: ignore[misc]
