from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedTokenizerFast, ViTImageProcessorPil

from loralab.errors import DataError, SpecError
from loralab.tasks.encoding.batches import collate
from loralab.tasks.encoding.encode import encode_examples, padding_id
from loralab.tasks.encoding.images import encode_images
from loralab.tasks.example import Example, ImageExample
from loralab.tasks.task import Task
from tiny import write_image

LOOK = Task("toy", "classification", {}, (), ("a", "b"), inputs="images")
READ = Task("toy", "classification", {}, (), ("a", "b"))


@pytest.fixture
def processor() -> BaseImageProcessor:
    return ViTImageProcessorPil(size={"height": 4, "width": 6})


def examples(folder: Path, *sizes: tuple[int, int]) -> list[ImageExample]:
    paths = [write_image(folder / f"{n}.png", (255, 0, n), size) for n, size in enumerate(sizes)]
    return [ImageExample(path, n % 2, "") for n, path in enumerate(paths)]


def test_a_batch_of_pixels(tmp_path: Path, processor: BaseImageProcessor) -> None:
    encoding = encode_examples(LOOK, examples(tmp_path, (8, 8), (3, 5), (1, 1)), processor, max_length=1)
    batch = collate(encoding.encoded, padding_id(processor))
    pixels = batch.inputs["pixel_values"]
    assert list(batch.inputs) == ["pixel_values"]
    assert (pixels.shape, pixels.dtype) == ((3, 3, 4, 6), torch.float32)
    assert pixels[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]
    assert batch.labels.tolist() == [0, 1, 0]
    assert (batch.tokens, batch.targets, encoding.lengths) == (3, 3, [1, 1, 1])
    assert batch.to("meta").inputs["pixel_values"].device.type == "meta"


def test_an_image_is_read_when_its_batch_is_made(tmp_path: Path, processor: BaseImageProcessor) -> None:
    encoded = encode_images(examples(tmp_path, (8, 8)), processor)
    before = collate(encoded, 0).inputs["pixel_values"]
    write_image(tmp_path / "0.png", (0, 0, 0))
    assert not collate(encoded, 0).inputs["pixel_values"].equal(before)
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"there is no image .*0\.png"):
        collate(encoded, 0)


def test_the_pixels_are_those_of_the_processor(tmp_path: Path, processor: BaseImageProcessor) -> None:
    image = Image.effect_noise((9, 7), 100).convert("RGB")
    image.save(tmp_path / "x.png")
    encoded = encode_images([ImageExample(tmp_path / "x.png", 0, "")], processor)
    expected = processor(image, return_tensors="pt")["pixel_values"]
    assert collate(encoded, 0).inputs["pixel_values"].equal(expected)


def test_a_processor_of_one_channel_gets_grey(tmp_path: Path) -> None:
    grey = ViTImageProcessorPil(size={"height": 2, "width": 2}, image_mean=[0.0], image_std=[1.0])
    pixels = collate(encode_images(examples(tmp_path, (8, 8)), grey), 0).inputs["pixel_values"]
    assert pixels.shape == (1, 1, 2, 2)
    assert pixels[0, 0, 0, 0].item() == pytest.approx(0.299, abs=0.003)  # the luminance of red


def test_sizes_that_differ_after_the_processor(tmp_path: Path) -> None:
    keeps_size = ViTImageProcessorPil(do_resize=False)
    with pytest.raises(DataError, match=r"0\.png and others .* in different sizes .*preprocessor_config\.json"):
        collate(encode_images(examples(tmp_path, (8, 8), (8, 16)), keeps_size), 0)


def test_a_processor_for_the_other_kind(
    tmp_path: Path, processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(SpecError, match=r"task toy consists of images, but a .*Tokenizer.* was given"):
        encode_examples(LOOK, examples(tmp_path, (8, 8)), tokenizer, 16)
    with pytest.raises(SpecError, match="task toy consists of text, but a ViTImageProcessorPil was given"):
        encode_examples(READ, [Example("a", "b")], processor, 16)
    with pytest.raises(DataError, match="the data hold texts"):
        encode_examples(LOOK, [Example("a", "b")], processor, 16)
