import json
from pathlib import Path

import pytest

from imprint.config import read_recipe
from imprint.data.section import DataSection, TextsSection
from imprint.data.texts import HeldOutDocuments, load_texts
from imprint.data.token_file import TokenFileRows
from imprint.files.atomic import read_jsonl
from imprint.messages import UserError
from imprint.runs import remove_state
from imprint.training.recipe import Recipe
from tests.tinyrun import log_of, losses, tiny_recipe, tiny_run
from tests.vocabulary import tiny_tokenizer


def texts(folder: Path, count: int = 40) -> Path:
    folder.mkdir()
    lines = [f"这件上衣的颜色是白色，版型很宽松。{number}" for number in range(count)]
    (folder / "a.txt").write_text("\n\n".join(lines[: count // 2]), encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines[count // 2 :]), encoding="utf-8")
    return folder


def section(train: Path, *, length: int = 64, dev: Path | None = None, dev_share: float = 0.1, rows: int | None = None) -> TextsSection:
    return TextsSection(kind="texts", train=train, dev=dev, blank_lines=True, length=length, dev_share=dev_share, train_rows=rows)


def decoded(rows: TokenFileRows) -> list[str]:
    return [tiny_tokenizer().decode(ids) for row in rows for ids, _ in row.sequences]


def test_every_document_is_either_learned_or_held_out(tmp_path: Path) -> None:
    split = load_texts(section(texts(tmp_path / "texts")), tiny_tokenizer(), tmp_path / "tokens")
    assert isinstance(split.train, TokenFileRows)
    assert isinstance(split.dev, TokenFileRows)
    learned, held_out = decoded(split.train), decoded(split.dev)
    assert (len(learned), len(held_out)) == (36, 4)
    assert len({*learned, *held_out}) == 40
    assert split.sources[0] == (
        f"{tmp_path}/texts: 2 files: 36 documents, {split.train.info.characters} characters, {split.train.info.tokens} tokens in "
        f"{len(split.train)} rows / 2 个文件：36 篇文档，{split.train.info.characters} 个字符，{split.train.info.tokens} 个词元，"
        f"合 {len(split.train)} 行"
    )
    assert split.locations[0] == f"{tmp_path}/texts/a.txt:3"  # the first one is held out


def test_the_openings_of_documents_held_out_can_be_watched(tmp_path: Path) -> None:
    split = load_texts(section(texts(tmp_path / "texts")), tiny_tokenizer(), tmp_path / "tokens")
    assert isinstance(split.dev, TokenFileRows)
    opening = split.dev_samples[0]
    assert opening.query + opening.answer == decoded(split.dev)[0]
    assert opening.query.startswith("这件上衣")


def test_the_same_texts_are_tokenized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = texts(tmp_path / "texts")
    first = load_texts(section(source), tiny_tokenizer(), tmp_path / "tokens")
    with monkeypatch.context() as patched:
        patched.setattr("imprint.data.texts._write_all", lambda *_: pytest.fail("was tokenized again"))
        again = load_texts(section(source, rows=3), tiny_tokenizer(), tmp_path / "tokens")
    assert list(again.train) == list(first.train)[:3]
    english, chinese = first.sources[0].split(" / ")
    assert again.sources[0] == f"{english}, of which 3 are used / {chinese}，用其中 3 行"
    assert len(load_texts(section(source, dev_share=0), tiny_tokenizer(), tmp_path / "all").sources) == 1
    (source / "c.txt").write_text("又一篇", encoding="utf-8")
    more = load_texts(section(source), tiny_tokenizer(), tmp_path / "tokens")
    assert isinstance(more.train, TokenFileRows)
    assert isinstance(more.dev, TokenFileRows)
    assert more.train.info.documents + more.dev.info.documents == 41


def test_a_file_of_its_own_is_held_out_whole(tmp_path: Path) -> None:
    (tmp_path / "dev.txt").write_text("上衣\n\n长裙", encoding="utf-8")
    split = load_texts(section(texts(tmp_path / "texts"), dev=tmp_path / "dev.txt"), tiny_tokenizer(), tmp_path / "tokens")
    assert isinstance(split.train, TokenFileRows)
    assert isinstance(split.dev, TokenFileRows)
    assert split.train.info.documents == 40
    assert decoded(split.dev) == ["上衣", "长裙"]


def test_one_document_cannot_be_split_and_none_cannot_be_learned(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("上衣", encoding="utf-8")
    (tmp_path / "none.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"one.txt is one document, so none can be held out .*data.blank_lines=true"):
        load_texts(section(tmp_path / "one.txt"), tiny_tokenizer(), tmp_path / "tokens")
    assert len(load_texts(section(tmp_path / "one.txt", dev_share=0), tiny_tokenizer(), tmp_path / "tokens").train) == 1
    with pytest.raises(UserError, match=r"none.txt holds no text to train on"):
        load_texts(section(tmp_path / "none.txt"), tiny_tokenizer(), tmp_path / "tokens")


def test_bad_rows_are_all_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "好"}\n{"text": 1}\n{"text": 2}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"(?s)2 of 3 rows are bad. Fix them; nothing was learned.*a.jsonl:2.*a.jsonl:3"):
        load_texts(section(tmp_path / "a.jsonl"), tiny_tokenizer(), tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_documents_held_out_are_one_of_every_so_many_and_follow_from_the_seed() -> None:
    chosen = [document for document in range(1000) if document in HeldOutDocuments(50, 0)]
    assert len(chosen) == 20
    assert chosen[0] < 2
    assert chosen == [document for document in range(1000) if document in HeldOutDocuments(50, 0)]
    assert chosen != [document for document in range(1000) if document in HeldOutDocuments(50, 1)]
    assert not any(document in HeldOutDocuments(0, 0) for document in range(9))


# In a run


def recipe(folder: Path) -> Path:
    """Full tuning of the tiny base on texts."""
    path = tiny_recipe(folder)
    data = f"{{kind: texts, train: {texts(folder / 'texts')}, blank_lines: true, length: 64, dev_share: 0.1}}"
    lines = [f"data: {data}" if line.startswith("data:") else line for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("method", ["full", "prefix"])
def test_a_run_on_texts_learns_is_resumed_exactly_and_refuses_other_texts(tmp_path: Path, method: str) -> None:
    path = recipe(tmp_path)
    knobs = ["optimizer.learning_rate=0.01"] if method == "full" else []
    knobs += ["tune={method: full}"] if method == "full" else []
    whole = tiny_run(path, "whole", *knobs)
    evaluations = [loss for loss in losses(whole, "eval_loss") if loss is not None]
    assert evaluations[-1] < evaluations[0]
    log = log_of(whole)
    for state in whole.states()[:3]:
        remove_state(state)
    assert log_of(tiny_run(path, "whole", *knobs)) == log
    assert {line["prompt"][:4] for line in read_jsonl(whole.samples)} == {"这件上衣"}
    (tmp_path / "texts" / "a.txt").write_text("另一篇", encoding="utf-8")
    with pytest.raises(UserError, match="is not what this run began with"):
        tiny_run(path, "whole", *knobs)


def test_a_recipe_that_names_no_kind_reads_rows(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    assert isinstance(read_recipe(path, [], Recipe).data, DataSection)
    assert isinstance(read_recipe(path, ["data={kind: texts, train: x}"], Recipe).data, TextsSection)
    with pytest.raises(UserError, match=r"data\.kind=poems: must be one of rows, texts, got"):
        read_recipe(path, ["data.kind=poems"], Recipe)
    with pytest.raises(UserError, match=r"data\.length=3: exists only with data\.kind=texts"):
        read_recipe(path, ["data.length=3"], Recipe)
