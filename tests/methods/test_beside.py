import pytest
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from loralab.methods.beside import fresh_heads

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
IMAGE = {**SMALL, "image_size": 8, "patch_size": 4}
TOWERS = {"vision_config": IMAGE, "text_config": {**SMALL, "bos_token_id": 1, "eos_token_id": 2}}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


@pytest.mark.parametrize(
    "model, heads",
    [
        (lambda: BertForSequenceClassification(BertConfig(**SMALL)), ["classifier"]),
        (lambda: DeiTForImageClassification(DeiTConfig(**IMAGE)), ["classifier"]),
        (
            lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**IMAGE)),
            ["cls_classifier", "distillation_classifier"],
        ),
        (lambda: CLIPForImageClassification(CLIPConfig(**TOWERS)), ["classifier"]),
        (lambda: ResNetForImageClassification(ResNetConfig(**RESNET)), ["classifier"]),
        (lambda: BertModel(BertConfig(**SMALL)), []),
        (lambda: T5ForConditionalGeneration(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)), []),
    ],
)
def test_heads_are_what_stands_beside_the_body(model, heads: list[str]) -> None:
    built: PreTrainedModel = model()
    assert fresh_heads(built) == heads
