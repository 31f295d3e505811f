"""Data files that are damaged or meant to harm: examples or an error with its place, soon and in little memory."""

import gzip
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import loralab as ll
from faults.judging import cases, judged, seeded
from loralab.tasks.images.file import read_image
from loralab.tasks.table import open_task


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def image(kind: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 12), (10, 200, 30)).save(content, kind)
    return content.getvalue()


XML = (
    b'<benchmark><entries><entry category="Food" eid="Id1" size="1"><modifiedtripleset><mtriple>A | b | C</mtriple>'
    b'</modifiedtripleset><lex comment="good" lid="Id1">One text.</lex></entry></entries></benchmark>'
)
CONVERSATION = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
FILES: dict[str, tuple[str, str, bytes]] = {
    "pairs": ("jsonl", "a.jsonl", lines(*({"prompt": f"p{n}", "completion": "c", "weight": 1} for n in range(6)))),
    "labels": ("jsonl", "a.jsonl", lines(*({"text": f"t{n}", "label": n % 2} for n in range(6)))),
    "values": ("jsonl", "a.jsonl", lines(*({"text_a": f"{n}", "text_b": "b", "label": n / 2} for n in range(6)))),
    "turns": ("jsonl", "a.jsonl", lines(*({"messages": CONVERSATION, "tools": []} for _ in range(3)))),
    "a list": ("jsonl", "a.json", json.dumps([{"prompt": "p", "completion": "c"}] * 3).encode()),
    "csv": ("jsonl", "a.csv", b'prompt,completion,weight\nx,"y, ""z""",1\nw,v,0.5\n'),
    "tsv": ("jsonl", "a.tsv", b"text\tlabel\na b\t1\nc\t0\nd\t1\n"),
    "gzip": ("jsonl", "a.jsonl", gzip.compress(lines({"prompt": "p", "completion": "c"}), mtime=0)),
    "text": ("text", "a.txt", "Some text, ä.\n\nMore of it.\n".encode() * 9),
    "webnlg": ("webnlg", "a.xml", XML),
    "dart": ("dart", "dart-v1.1.1-full-train.json", json.dumps([
        {"tripleset": [["A", "B", "C"]], "annotations": [{"source": "s", "text": "A text."}]}
    ]).encode()),
    "e2e": ("e2e", "trainset.csv", b'mr,ref\n"name[A], food[B]",A has B.\n"name[C], food[D]","C, D."\n'),
    "samsum": ("samsum", "train.json", json.dumps([{"id": "1", "dialogue": "A: hi", "summary": "Greets."}]).encode()),
    "cola": ("glue/cola", "CoLA/train.tsv", b"gj04\t1\t\tA sentence.\ngj04\t0\t*\tSentence a.\n"),
    "sst2": ("glue/sst2", "SST-2/train.tsv", b"sentence\tlabel\nfine \t1\nbad \t0\n"),
}  # fmt: skip
PIECES = [
    b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b"'", b",", b"\t", b"{", b"}", b"[" * 3000, b"]",
    b"<!DOCTYPE x>",     b'<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY c "&a;&a;&a;&a;&a;">]>', b"&a;",
    b"<entry>" * 2000, b"NaN", b"Infinity",
    b"1e999", b"9" * 5000, b'"\\ud800"', b"null", b"\x1f\x8b", b"../../etc/passwd",
    b"\xe2\x80\xae", b'"prompt": 1, ', b"x" * 200_000,
]  # fmt: skip


def harmed(data: st.DataObject, content: bytes) -> bytes:
    """A few bytes are others, the end is lost, something is put in, or a part is there twice."""
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "insert", "again", "gone"]))
        end = data.draw(st.integers(at, len(content)))
        content = {
            "flip": content[:at] + bytes([data.draw(st.integers(0, 255))]) + content[at + 1 :],
            "cut": content[:at] if data.draw(st.integers(0, 3)) == 0 else content,
            "insert": content[:at] + data.draw(st.sampled_from(PIECES)) + content[at:],
            "again": content[:end] + content[at:],
            "gone": content[:at] + content[end:],
        }[kind]
    return content


def read_or_refused(place: Path, name: str, content: bytes) -> None:
    task, file, _ = FILES[name]
    path = place / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    given_path = place / name if task.startswith("glue") else path

    def read() -> int:
        opened = open_task(task, str(given_path))
        return len(opened.examples(next(iter(opened.splits))))

    answer = judged(read, len(content), place / "out")
    if isinstance(answer, ll.LoralabError) and "no such" not in str(answer):
        assert "Traceback" not in str(answer)


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_sound(tmp_path: Path, name: str) -> None:
    task, file, content = FILES[name]
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    opened = open_task(task, str(tmp_path if task.startswith("glue") else path))
    assert opened.examples(next(iter(opened.splits)))


@seeded
@cases(150)
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_a_file_that_was_harmed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str) -> None:
    read_or_refused(tmp_path_factory.getbasetemp(), name, harmed(data, FILES[name][2]))


@pytest.mark.faults
@seeded
@cases(4000)
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_thousands_of_files_that_were_harmed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    read_or_refused(tmp_path_factory.getbasetemp(), name, harmed(data, FILES[name][2]))


# -- bombs ------------------------------------------------------------------------------------------------------------


def packed_xz() -> bytes:
    content, zeros = io.BytesIO(), b" " * (65 * 2**20)
    with tarfile.open(fileobj=content, mode="w:xz", preset=0) as archive:
        member = tarfile.TarInfo("a.xml")
        member.size = len(zeros)
        archive.addfile(member, io.BytesIO(zeros))
    return content.getvalue()


def laughs(levels: int) -> bytes:
    entities = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(levels))
    return f'<!DOCTYPE x [<!ENTITY l0 "ha">{entities}]><benchmark><entries>&l{levels};</entries></benchmark>'.encode()


BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "gzip": ("gzip", lambda: gzip.compress(b" " * (80 * 2**20), 1), "unpacks to more than"),
    "xz": ("dart", packed_xz, "unpacks to more than"),
    "a billion laughs": ("webnlg", lambda: laughs(9), "refused"),
    "an entity that is a file": (
        "webnlg", lambda: b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + XML.replace(b"One", b"&e;"),
        "refused",
    ),
    "elements in elements": ("webnlg", lambda: b"<a>" * 100_000, "not XML"),
    "attributes": ("webnlg", lambda: b"<a " + b" ".join(b'a%d=""' % n for n in range(50_000)) + b"/>", "holds no"),
    "lists in lists": ("pairs", lambda: b'{"prompt": ' + b"[" * 200_000, "not JSON"),
    "a long number": ("pairs", lambda: b'{"prompt": ' + b"9" * 100_000 + b"}", "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb(tmp_path: Path, name: str) -> None:
    of, make, reason = BOMBS[name]
    content = make()
    task, file, _ = FILES[of]
    path = tmp_path / (file.replace("train.json", "test.tar.xz") if name == "xz" else file)
    path.write_bytes(content)
    opened = judged(lambda: open_task(task, str(path)).examples("all"), len(content), tmp_path / "out")
    assert isinstance(opened, ll.LoralabError)
    assert reason in str(opened)


def png(width: int, height: int) -> bytes:
    """An image of so many pixels in a few bytes: as large as it says only when it is unpacked."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (100_000, 1)])
def test_an_image_bomb(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(*size))
    answer = judged(lambda: read_image(path), path.stat().st_size, tmp_path / "out")
    assert isinstance(answer, ll.DataError)


KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


@seeded
@cases(60)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_an_image_that_was_harmed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str) -> None:
    image_or_refused(tmp_path_factory.getbasetemp() / "image", harmed(data, image(kind)))


@pytest.mark.faults
@seeded
@cases(1500)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_many_images_that_were_harmed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str) -> None:
    image_or_refused(tmp_path_factory.getbasetemp() / "image", harmed(data, image(kind)))


def image_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    answer = judged(lambda: read_image(path), len(content), path.parent / "out")
    assert isinstance(answer, ll.DataError) or answer.mode == "RGB"
