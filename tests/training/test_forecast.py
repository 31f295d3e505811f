from loralab.planning.memory import Memory
from loralab.training.forecast import comparison, forecast
from loralab.training.prepare import prepare
from training.conftest import Run


def test_the_longest_batch_is_what_counts(configured: Run) -> None:
    config = configured(method="full")
    prepared = prepare(config, "float32")
    found = forecast(prepared, config)
    trained = sum(p.numel() for p in prepared.trainee.adapter.parameters())
    assert found is not None
    assert (found.gradients, found.optimizer) == (4 * trained, 8 * trained)
    shorter = forecast(prepared, configured(method="full", batch_size=1))
    assert shorter is not None
    assert shorter.activations < found.activations


def test_the_sentence_has_both() -> None:
    memory = Memory(1_000_000, 2_000_000, 3_000_000, 4_000_000, 0, 0, 0)
    said = comparison(memory, 11_000_000)
    assert "10 MB predicted" in said
    assert "11 MB after" in said
