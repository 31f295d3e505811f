import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from loralab.errors import DataError, NumericsError
from loralab.evaluation.labels import predict_labels
from loralab.tasks.encoding import Encoded


def classifier(labels: int) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=labels,
        initializer_range=1.0,
    )
    return BertForSequenceClassification(config).eval()


def test_classes_come_back_in_order_with_the_mean_loss() -> None:
    model = classifier(3)
    encoded = [
        Encoded([2, 5, 3], 0, [0, 0, 0]),
        Encoded([2, 6, 7, 8, 3], 2, [0, 0, 0, 1, 1]),
        Encoded([2, 3], 1, [0, 1]),
    ]
    logits = torch.cat(
        [
            model(input_ids=torch.tensor([e.input_ids]), token_type_ids=torch.tensor([e.token_type_ids])).logits
            for e in encoded
        ]
    ).detach()
    predictions, loss = predict_labels(model, encoded, 0, 2)
    assert predictions == logits.argmax(-1).tolist()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1]))
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_values() -> None:
    model = classifier(1)
    encoded = [Encoded([2, 5, 3], 0.5), Encoded([2, 6, 7, 3], 2.0)]
    predictions, loss = predict_labels(model, encoded, 0, 2)
    alone = [model(torch.tensor([e.input_ids])).logits.item() for e in encoded]
    assert predictions == pytest.approx(alone, rel=1e-4)
    assert loss == pytest.approx(((alone[0] - 0.5) ** 2 + (alone[1] - 2.0) ** 2) / 2, rel=1e-4)


def test_a_missing_label_and_a_loss_that_is_no_number() -> None:
    model = classifier(2)
    with pytest.raises(DataError, match="has no label"):
        predict_labels(model, [Encoded([2, 3], None)], 0, 2)
    model.classifier.bias.data[0] = float("nan")
    with pytest.raises(NumericsError, match="the loss is nan"):
        predict_labels(model, [Encoded([2, 3], 1)], 0, 2)
