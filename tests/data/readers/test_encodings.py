import codecs
from pathlib import Path

import pytest

from imprint.data.readers import encodings
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.encodings import Encoding, detect_encoding, read_chunks, read_lines, undecodable_error
from imprint.messages import UserError

TEXT = '{"content": "类型#上衣", "summary": "这件上衣很好看。"}\n' * 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows"


def read(file: Path) -> list[tuple[int, str | BadRowError]]:
    return list(read_lines(file, detect_encoding(file)))


@pytest.mark.parametrize(
    ("mark", "codec", "name"),
    [
        (b"", "utf-8", "UTF-8"),
        (codecs.BOM_UTF8, "utf-8", "UTF-8 with a byte order mark"),
        (b"", "gb18030", "GB18030"),
        (b"", "gbk", "GB18030"),
        (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16 (little-endian)"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16 (big-endian)"),
        (b"", "utf-16-le", "UTF-16 (little-endian)"),
        (b"", "utf-16-be", "UTF-16 (big-endian)"),
    ],
)
def test_an_encoding_is_found_by_the_bytes_and_read(file: Path, mark: bytes, codec: str, name: str) -> None:
    file.write_bytes(mark + TEXT.encode(codec))

    assert detect_encoding(file).name == name
    assert read(file) == [(number, line) for number, line in enumerate(TEXT.splitlines(), start=1)]


def test_a_table_of_few_words_in_gb18030_is_found(file: Path) -> None:
    file.write_bytes("问,答\n你好,您好！\n".encode("gb18030"))

    assert detect_encoding(file).codec == "gb18030"


def test_an_empty_file_and_plain_ascii_are_utf_8(file: Path) -> None:
    for text in (b"", b"{}", b"a\n" * 10):
        file.write_bytes(text)
        assert detect_encoding(file) == Encoding("utf-8", 0, "\n")


def test_utf_8_stays_utf_8_where_a_byte_of_it_is_broken(file: Path) -> None:
    file.write_bytes(TEXT.encode() + b'{"content": "\xff"}\n' + TEXT.encode())

    encoding = detect_encoding(file)
    bad = [(number, str(undecodable_error(str(line), encoding))) for number, line in read(file) if undecodable_error(str(line), encoding)]

    assert encoding.codec == "utf-8"
    assert bad == [(4, "byte 0xFF at column 14 is not UTF-8, as the rest of the file is.")]


def test_what_comes_late_is_seen_behind_much_ascii(file: Path) -> None:
    file.write_bytes(b'{"a": 1}\n' * 300_000 + TEXT.encode("gb18030"))

    assert detect_encoding(file).codec == "gb18030"


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "utf-16-le"])
def test_a_file_that_ends_within_a_character_tells_it_in_its_last_line(file: Path, codec: str) -> None:
    file.write_bytes((TEXT + "好好").encode(codec)[:-1])

    encoding = detect_encoding(file)
    (_number, last) = read(file)[-1]

    assert encoding.codec == codec
    assert "as the rest of the file is" in str(undecodable_error(str(last), encoding))


def test_half_a_character_in_utf_16_is_reported(file: Path) -> None:
    file.write_bytes((TEXT + "\ud83d" + TEXT).encode("utf-16-le", "surrogatepass"))

    (_number, line) = read(file)[3]

    assert str(undecodable_error(str(line), detect_encoding(file))).startswith("half a character at column 1 is not UTF-16")


def test_a_file_of_an_old_macintosh_has_lines_too(file: Path) -> None:
    file.write_bytes(TEXT.replace("\n", "\r").encode())

    assert [number for number, _line in read(file)] == [1, 2, 3]


def test_pieces_join_to_the_text_wherever_they_are_cut(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "CHUNK_BYTES", 5)
    report_bytes: list[int] = []
    for codec in ("utf-8", "gb18030", "utf-16-le"):
        file.write_bytes(TEXT.encode(codec))
        assert "".join(read_chunks(file, Encoding(codec, 0, "\n"), report_bytes.append)) == TEXT
        assert [line for _number, line in read_lines(file, Encoding(codec, 0, "\n"))] == TEXT.splitlines()
    assert sum(report_bytes) == sum(len(TEXT.encode(codec)) for codec in ("utf-8", "gb18030", "utf-16-le"))


def test_a_line_longer_than_any_row_is_reported_and_not_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "MAX_ROW_CHARACTERS", 3_000_000)
    file.write_bytes(b"short\n" + b"a" * 10_000_000 + b"\nshort\n" + b"a" * 3_000_001)

    (_one, first), (_two, second), (_three, third), (number, fourth) = read(file)

    assert (first, third, number) == ("short", "short", 4)
    for line in (second, fourth):
        assert isinstance(line, BadRowError)
        assert str(line) == "is longer than 3 million characters, which no row is. Are newlines missing?"


def test_traditional_chinese_in_big5_is_not_read_as_something_else(file: Path) -> None:
    file.write_bytes("content,summary\n你好世界這個,今天天氣很好\n".encode("big5"))

    with pytest.raises(UserError, match=r"is neither UTF-8 nor GB18030; traditional Chinese in Big5 looks like that. Save it as UTF-8."):
        detect_encoding(file)


def test_some_characters_of_a_private_use_area_leave_a_text_what_it_is(file: Path) -> None:
    file.write_bytes(("这件上衣很好看。" * 20 + "\ue000").encode("gb18030"))

    assert detect_encoding(file).codec == "gb18030"


@pytest.mark.parametrize("codec", ["utf-32-le", "utf-32-be"])
def test_utf_32_is_named_and_not_taken_for_utf_16(tmp_path: Path, codec: str) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffcontent,summary\nq,a\n".encode(codec))

    with pytest.raises(UserError, match=r"a\.csv is UTF-32, which is not read. Save it as UTF-8"):
        detect_encoding(tmp_path / "a.csv")
