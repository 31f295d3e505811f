from pathlib import Path

import pytest

from loralab.errors import DataError
from loralab.tasks.triples import Text, parse_entries

PATH = Path("folder/a.xml")
ENTRY = """<entry category="Food" eid="Id1" size="2">
  <originaltripleset><otriple>o | o | o</otriple></originaltripleset>
  <modifiedtripleset><mtriple>A_B | c | "D"@en</mtriple><mtriple>é | f | &amp;</mtriple></modifiedtripleset>
  <lex comment="good" lid="Id1"> One &lt;text&gt;. </lex><lex comment="toFix">Two</lex><lex> </lex><lex/>
</entry>"""


def document(entries: str, head: str = '<?xml version="1.0" encoding="utf-8"?>\n') -> bytes:
    return f"{head}<benchmark>\n<entries>{entries}</entries>\n</benchmark>".encode()


def test_an_entry() -> None:
    (entry,) = parse_entries(PATH, b"\xef\xbb\xbf" + document(ENTRY))
    assert entry.triples == (("A_B", "c", '"D"@en'), ("é", "f", "&"))
    assert entry.texts == (Text("One <text>.", "good"), Text("Two", "toFix"))
    assert (entry.category, entry.place) == ("Food", "folder/a.xml, entry 1 (eid Id1)")


@pytest.mark.parametrize(
    "content, message",
    [
        (document(ENTRY)[:-30], r"a\.xml, line \d+: not XML"),
        (b"", "not XML"),
        (b"{}", r"a\.xml, line 1: not XML"),
        (document(""), "holds no benchmark/entries/entry"),
        (b"<html><body/></html>", "holds no benchmark/entries/entry, but html"),
        (document("\n<entry>\xff</entry>").replace("ÿ".encode(), b"\xff"), "line 4: not UTF-8"),
        (document(ENTRY.replace("A_B | c", "A_B c")), r"entry 1 \(eid Id1\): the triple .* has 2 parts"),
        (document("<entry><lex>a</lex></entry>"), r"entry 1 \(eid missing\): 0 modified triple sets"),
        (document("<entry><modifiedtripleset/></entry>"), "1 modified triple sets with 0 triples"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_entries(PATH, content)


@pytest.mark.parametrize(
    "head", ['<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]>', '\n\n<!ENTITY e "eee">', "<!DOCTYPE a>"]
)
def test_declarations_are_refused_before_parsing(head: str) -> None:
    with pytest.raises(DataError, match=r"a\.xml, line \d: <!(DOCTYPE|ENTITY) is refused"):
        parse_entries(PATH, document(ENTRY.replace("Two", "&e;"), head))
