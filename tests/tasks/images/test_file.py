import contextlib
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loralab.errors import DataError
from loralab.tasks.images.file import FORMATS, SUFFIXES, examine_image, read_image
from tiny import write_image


def saved(image: Image.Image, path: Path, **settings: object) -> np.ndarray:
    """The image written, and read again: [H, W, 3]."""
    image.save(path, **settings)
    read = read_image(path)
    assert read.mode == "RGB"
    return np.asarray(read)


def test_grey_is_three_equal_channels(tmp_path: Path) -> None:
    assert saved(Image.new("L", (3, 2), 77), tmp_path / "x.png").tolist() == [[[77] * 3] * 3] * 2
    assert saved(Image.new("1", (1, 1), 1), tmp_path / "y.png").tolist() == [[[255] * 3]]


def test_sixteen_bits_are_divided_by_257(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    expected = [[0] * 3, [0] * 3, [1] * 3, [1] * 3, [128] * 3, [255] * 3]
    for ending in ("png", "tif", "pgm"):
        assert saved(Image.fromarray(deep), tmp_path / f"x.{ending}").tolist() == [expected]


def test_numbers_of_no_known_range_are_refused(tmp_path: Path) -> None:
    for dtype, value in ((np.float32, 0.5), (np.int32, 70000), (np.int32, -1)):
        Image.fromarray(np.full((2, 2), value, dtype=dtype)).save(tmp_path / "x.tif")
        with pytest.raises(DataError, match=r"x\.tif cannot be used \(its grey, from .* neither 8 nor 16 bits"):
            read_image(tmp_path / "x.tif")


def test_a_palette_gives_its_colours_and_transparency_is_dropped(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    expected = [[[10, 20, 30], [40, 50, 60]]]
    assert saved(palette, tmp_path / "p.png", transparency=b"\x00\x80").tolist() == expected
    assert saved(Image.new("RGBA", (1, 1), (10, 20, 30, 0)), tmp_path / "a.png").tolist() == [[[10, 20, 30]]]
    assert saved(Image.new("LA", (1, 1), (9, 5)), tmp_path / "la.png").tolist() == [[[9, 9, 9]]]


def test_the_orientation_of_a_photograph(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert saved(Image.new("RGB", (4, 2)), tmp_path / "x.jpg", exif=exif).shape == (4, 2, 3)


def test_the_content_says_the_format_and_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "x.gif").rename(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").getpixel((0, 0)) == (255, 0, 0)


def test_every_suffix_is_of_a_format_that_is_read(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        Image.new("1" if suffix == ".pbm" else "L" if suffix == ".pgm" else "RGB", (8, 8)).save(tmp_path / f"x{suffix}")
        assert read_image(tmp_path / f"x{suffix}").size == (8, 8)
    assert set(FORMATS) <= set(Image.OPEN)


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    path = write_image(tmp_path / "x.png", (1, 2, 3))
    assert examine_image(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_not_there_or_no_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no image")
    (tmp_path / "e.png").touch()
    Image.new("RGB", (16, 16)).save(tmp_path / "icon.ico")  # PIL knows it, and much else that nobody means
    none, no = "there is no image", r"is not an image \(PNG, JPEG, "
    for path, message in (("none.png", none), ("x.png", no), ("e.png", no), ("icon.ico", no)):
        with pytest.raises(DataError, match=message):
            examine_image(tmp_path / path)
    for path in (tmp_path, tmp_path / "a\0b.png", tmp_path / ("long" * 100)):
        with pytest.raises(DataError, match="cannot be read"):
            examine_image(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp", "jp2", "ppm"])
def test_a_file_cut_short(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    whole = tmp_path / f"x.{ending}"
    Image.fromarray(noise).save(whole)
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"the image .*x\.{ending} cannot be used \("):
        examine_image(whole)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tif", "webp", "jp2", "ppm"])
@pytest.mark.filterwarnings("ignore")
def test_damage_is_an_error_of_ours_or_goes_unnoticed(tmp_path: Path, ending: str) -> None:
    random = np.random.default_rng(1)
    path = write_image(tmp_path / f"x.{ending}", (1, 200, 3), (24, 20))
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    for _ in range(40):
        damaged = content.copy()
        damaged[random.integers(0, len(damaged), 4)] = random.integers(0, 255, 4)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(DataError):
            assert read_image(path).mode == "RGB"
