from pathlib import Path

import pytest

from imprint.config.recipe import ROW_SUFFIXES
from imprint.data.readers.sources import DATA_SUFFIXES, FORMATS, Source, data_files, detect_format, parse_source, skipped_files
from imprint.messages import UserError


def test_a_number_behind_a_hash_is_how_many_rows(tmp_path: Path) -> None:
    assert parse_source(f"{tmp_path}/rows.jsonl#500") == Source(tmp_path / "rows.jsonl", 500)
    assert parse_source(tmp_path / "rows.jsonl") == Source(tmp_path / "rows.jsonl", None)
    assert parse_source(f"{tmp_path}#5") == Source(tmp_path, 5)


def test_a_file_that_is_really_called_so_wins(tmp_path: Path) -> None:
    (tmp_path / "rows#3").write_text("{}")

    assert parse_source(tmp_path / "rows#3") == Source(tmp_path / "rows#3", None)
    assert parse_source(f"{tmp_path}/rows#3#4") == Source(tmp_path / "rows#3", 4)


def test_every_ending_of_rows_is_known_as_none_of_a_recipe() -> None:
    assert {*DATA_SUFFIXES} - {".json"} == {*ROW_SUFFIXES}


@pytest.mark.parametrize("count", ["0", "many", "", "-1", "٣"])
def test_what_is_no_number_of_rows_is_reported(count: str) -> None:
    with pytest.raises(UserError) as error:
        parse_source(f"rows.csv#{count}")

    assert (
        str(error.value).splitlines()[0]
        == f'rows.csv#{count}: after "#" there must be the number of rows to sample, such as rows.csv#500, got "{count}".'
    )


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "a#" + "9" * 5000])
def test_what_can_be_no_name_is_reported(name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a file"):
        parse_source(name)


def test_a_folder_gives_its_data_in_order_and_names_what_is_none(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "deep/c.parquet", "README.md", "dataset_info.json", ".hidden.json", ".git/d.json", "~$e.xlsx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")

    assert data_files(tmp_path) == [tmp_path / name for name in ("a.csv", "b.jsonl", "deep/c.parquet")]
    assert skipped_files(tmp_path) == ["README.md", "dataset_info.json", "~$e.xlsx"]


def test_a_folder_may_have_a_thousand_folders_in_folders(tmp_path: Path) -> None:
    deep = tmp_path / "rows"
    deep.mkdir()
    (deep / "a.jsonl").touch()
    try:
        for _ in range(1200):
            (deep / "a").mkdir()
            deep = deep / "a"
        (deep / "b.jsonl").touch()
        assert [file.name for file in data_files(tmp_path / "rows")] == ["b.jsonl", "a.jsonl"]
    finally:
        (deep / "b.jsonl").unlink(missing_ok=True)
        while deep != tmp_path / "rows":  # pytest cannot remove them
            deep.rmdir()
            deep = deep.parent


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a", b'{"a": 1}\n', "JSON lines in UTF-8"),
        ("a.csv", b'\n [{"a": 1}]', "a JSON array in UTF-8"),
        ("a.json", b'{\n "a": 1\n}\n', "JSON objects in UTF-8"),
        ("a.json", b'{"a":\n 1}\n', "JSON objects in UTF-8"),
        ("a.jsonl", b"oops,\n", "JSON lines in UTF-8"),
        ("a.jsonl", b"", "JSON lines in UTF-8"),
        ("a.txt", "问,答\n".encode("gb18030"), "CSV in GB18030"),
        ("a.csv", "问\t答\n".encode("utf-16"), "TSV in UTF-16 (little-endian)"),
        ("a.csv", b"a;b\n1,5;2\n", "CSV with semicolons in UTF-8"),
        ("a.csv", b"messages\n", "CSV in UTF-8"),
    ],
)
def test_the_content_says_the_format_and_the_name_only_what_it_leaves_open(tmp_path: Path, name: str, content: bytes, form: str) -> None:
    (tmp_path / name).write_bytes(content)

    assert detect_format(tmp_path / name).description.english == form


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old Excel workbook (.xls), or has a password. Save it as .xlsx without a password, and"),
        (b"\x1f\x8b\x08", "is compressed with gzip. Decompress it with `gunzip`, and give the new file."),
        (b"PK\x03\x04...", "is a broken workbook or archive: File is not a zip file. Save or download it again."),
        (b"\x89PNG\r\n\x1a\n\0\0\0", f"is neither text nor a workbook or Parquet. Give a file of rows: {FORMATS}."),
        ("// 注释\n[]\n".encode(), "begins with a comment, '// 注释', which JSON does not allow. Delete all comments."),
        ("你好\n再见\n".encode(), f"holds neither JSON nor a table: its first line is '你好'. Give a file of rows: {FORMATS}."),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself."),
    ],
)
def test_a_file_that_holds_no_rows_is_reported_by_what_it_is(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "file").write_bytes(content)

    with pytest.raises(UserError) as error:
        detect_format(tmp_path / "file")

    assert str(error.value).startswith(f"{tmp_path}/file {sentence}")


def test_a_device_is_not_read() -> None:
    with pytest.raises(UserError, match=r"/dev/null is not a regular file\. Give a file of rows"):
        detect_format(Path("/dev/null"))


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ('[{"role": "user", "content": "a"}]', "JSON lists of turns in UTF-8"),
        ('[{"content": "a", "summary": "b"}]', "a JSON array in UTF-8"),
        ('[{"q": "a", "a": "b"}, {"q": "c", "a": "d"}]', "a JSON array in UTF-8"),
        ('[{"human": "a", "assistant": "b"}]\n', "a JSON array in UTF-8"),
        ('[{"q": "a", "a": "b"}]\n[{"q": "c", "a": "d"}]', "JSON lists of turns in UTF-8"),
        ('{"data": [{"q": "a", "a": "b"}]}', 'a JSON array in "data" of one object in UTF-8'),
        ('[[{"role": "user", "content": "a"}]]', "a JSON array in UTF-8"),
        ('{"version": "1", "data": [{"content": "a"}]}', 'a JSON array in "data" of one object in UTF-8'),
        ('{\n "rows": [\n {"content": "a"}]}', 'a JSON array in "rows" of one object in UTF-8'),
        ('{"data": ["a", "b"]}', "JSON lines in UTF-8"),
        ('{"data": [{"role": "user", "content": "a"}]}', "JSON lines in UTF-8"),
        ('{"content": "a", "summary": "b"}', "JSON lines in UTF-8"),
    ],
)
def test_bare_lists_and_rows_in_one_object_are_told_from_rows(text: str, description: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(text)

    assert detect_format(tmp_path / "rows.json").description.english == description
