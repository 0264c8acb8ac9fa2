import json
from itertools import islice
from pathlib import Path

from imprint.demo.domain_example.books import general_texts, pages, questions, write_domain_example
from imprint.demo.domain_example.craft import read_craft


def test_pages_are_the_same_for_a_seed_and_others_for_another() -> None:
    first, again, other = (list(islice(pages(seed), 50)) for seed in (0, 0, 1))
    assert first == again
    assert not set(first) & set(other)


def test_every_answer_stands_in_the_books() -> None:
    books = "".join(islice(pages(0), 3000))
    rows = [*questions(held_out=False), *questions(held_out=True)]
    assert len(rows) == 240
    assert [row["response"] for row in rows if row["response"] not in books] == []


def test_held_out_questions_are_about_glazes_that_no_other_question_names() -> None:
    learned = "".join(row["prompt"] for row in questions(held_out=False))
    names = [glaze["name"] for glaze in read_craft().glazes_for_questions(held_out=True)]
    assert not any(name in learned for name in names)
    assert all(any(name in row["prompt"] for name in names) for row in questions(held_out=True))


def test_general_text_knows_nothing_of_the_craft() -> None:
    text = "".join(islice(general_texts(0), 2000))
    assert not any(glaze["name"] in text for glaze in read_craft().glazes)
    assert "问：" in text
    assert "\n\n" not in text


def test_the_files_part_their_documents_by_blank_lines(tmp_path: Path) -> None:
    write_domain_example(tmp_path, books=30, general=20, held_out=5)
    assert {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()} == {
        *("read/books.txt", "read/general.txt", "books-held-out.txt", "general-held-out.txt"),
        *("questions.jsonl", "questions-held-out.jsonl"),
    }
    for name, count in (("read/books.txt", 30), ("books-held-out.txt", 5), ("read/general.txt", 20), ("general-held-out.txt", 5)):
        assert len((tmp_path / name).read_text(encoding="utf-8").split("\n\n")) == count
    assert len([json.loads(line) for line in (tmp_path / "questions.jsonl").read_text(encoding="utf-8").splitlines()]) == 180
