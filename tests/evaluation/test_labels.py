from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from loralab.errors import DataError, NumericsError
from loralab.evaluation.labels import predict_labels
from loralab.tasks.encoding.encoded import Encoded
from loralab.tasks.encoding.images import EncodedImage
from tiny import write_image


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


def test_without_labels_there_are_predictions_and_no_loss() -> None:
    model = classifier(2)
    labelled = predict_labels(model, [Encoded([2, 5, 3], 1), Encoded([2, 3], 0)], 0, 2)
    assert predict_labels(model, [Encoded([2, 5, 3], None), Encoded([2, 3], None)], 0, 2) == (labelled[0], None)
    with pytest.raises(DataError, match="1 of 2 examples have no label; give labels to all of them or to none"):
        predict_labels(model, [Encoded([2, 5, 3], 1), Encoded([2, 3], None)], 0, 1)


def test_an_output_that_is_no_number() -> None:
    model = classifier(2)
    model.classifier.bias.data[0] = float("nan")
    for label in (1, None):
        with pytest.raises(NumericsError, match="an output of the model is NaN or infinite"):
            predict_labels(model, [Encoded([2, 3], label)], 0, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images(tmp_path: Path, dtype: torch.dtype) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = ResNetForImageClassification(config).eval().to(dtype)
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    paths = [write_image(tmp_path / f"{n}.png", colour) for n, colour in enumerate(colours)]
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    encoded = [EncodedImage(path, n % 2, processor) for n, path in enumerate(paths)]
    pixels = processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
    logits = model(pixels.to(dtype)).logits.detach().float()
    predictions, loss = predict_labels(model, encoded, 0, 2)
    assert predictions == logits.argmax(-1).tolist()
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0]))), rel=1e-2)
