import json
from pathlib import Path

import pytest

from imprint.data import dataset
from imprint.data.dataset import load_held_out, load_samples, load_splits
from imprint.data.encode import EncodedRow, encode_sample
from imprint.data.limits import LengthLimits
from imprint.data.original import encode_original
from imprint.data.readers.bad_rows import ENOUGH_LACKING
from imprint.data.sample import Sample
from imprint.data.section import DataSection, MixSection
from imprint.data.truncation import TruncationReport
from imprint.messages import Bilingual, UserError
from imprint.templates import Template, read_template
from tests.families import fields_of, published_folder, template_of
from tests.vocabulary import tiny_template, tiny_tokenizer


def write(file: Path, rows: int, *, answer: str = "好") -> Path:
    file.write_text("\n".join(json.dumps({"content": f"类型#上衣{number}", "summary": answer}) for number in range(rows)))
    return file


def test_three_rows_are_enough_for_two_to_learn_from_and_one_to_measure_on(tmp_path: Path) -> None:
    split = load_splits(DataSection(train=write(tmp_path / "train.jsonl", 3)), tiny_template())

    assert (len(split.train), len(split.dev), len(split.dev_samples)) == (2, 1, 1)


def test_the_rows_held_out_are_the_same_each_time_and_never_learned_from(tmp_path: Path) -> None:
    section = DataSection(train=write(tmp_path / "train.jsonl", 100), dev_share=0.2)

    split, again = load_splits(section, tiny_template()), load_splits(section, tiny_template())

    assert split == again
    assert len(split.dev) == 20
    assert len({row.ids for row in split.train} | {row.ids for row in split.dev}) == 100


def test_another_seed_holds_out_other_rows(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", 100)

    one, other = (load_splits(DataSection(train=train, dev_share=0.2, dev_seed=seed), tiny_template()) for seed in (0, 1))

    assert one.dev_samples != other.dev_samples


def test_a_dev_file_leaves_all_rows_of_the_other_to_learn_from(tmp_path: Path) -> None:
    section = DataSection(train=write(tmp_path / "train.jsonl", 5), dev=write(tmp_path / "dev.jsonl", 3))

    split = load_splits(section, tiny_template())

    assert (len(split.train), len(split.dev)) == (5, 3)
    assert [sample.location for sample in split.dev_samples] == [f"{tmp_path}/dev.jsonl:{line}" for line in (1, 2, 3)]


def test_limits_shorten_both_parts(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.jsonl", 50), write(tmp_path / "dev.jsonl", 9)

    with_file = load_splits(DataSection(train=train, dev=dev, train_rows=10, dev_rows=4), tiny_template())
    held_out = load_splits(DataSection(train=train, train_rows=20, dev_share=0.5, dev_rows=4), tiny_template())

    assert (len(with_file.train), len(with_file.dev)) == (10, 4)
    assert (len(held_out.train), len(held_out.dev)) == (16, 4)


def test_nothing_is_held_out_when_nothing_is_wanted(tmp_path: Path) -> None:
    split = load_splits(DataSection(train=write(tmp_path / "train.jsonl", 1), dev_share=0), tiny_template())

    assert (len(split.train), split.dev, split.dev_samples) == (1, [], [])


def test_a_single_row_cannot_be_split(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", 1)

    with pytest.raises(UserError) as error:
        load_splits(DataSection(train=train), tiny_template())

    english, chinese = str(error.value).splitlines()
    assert (
        english
        == f"{train} has one row, so none can be held out for evaluation. Add rows, set data.dev to a file, or set data.dev_share=0."
    )
    assert "：只有一行数据" in chinese


def test_a_conversation_is_learned_or_held_out_as_a_whole(tmp_path: Path) -> None:
    talks = [[{"role": role, "content": f"{talk}"} for role in ("user", "assistant") * 3] for talk in range(6)]
    (tmp_path / "talks.json").write_text(json.dumps([{"messages": talk} for talk in talks]))  # one line: all have one place

    split = load_splits(DataSection(train=tmp_path / "talks.json", dev_share=0.34, max_source_length=200), tiny_template())

    assert (len(split.train), len(split.dev)) == (12, 6)
    assert split.counts().line == (
        "12 answers of 4 rows to learn from, 6 answers of 2 rows held out / 4 行训练数据的 12 个回答，留出 2 行数据的 6 个回答"
    )
    assert [sample.answer for sample in split.dev_samples] == [
        answer for answer in sorted({s.answer for s in split.dev_samples}) for _ in "123"
    ]


def test_two_rows_with_histories_on_one_line_are_not_one_conversation(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d", "history": [["e", "f"]]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))

    split = load_splits(DataSection(train=tmp_path / "rows.json", dev_share=0.5), tiny_template())

    assert (len(split.train), len(split.dev)) == (1, 1)
    assert split.counts().line == "1 rows to learn from, 1 held out / 训练数据 1 行，留出 1 行"


def test_the_row_that_a_template_cannot_write_is_named(tmp_path: Path) -> None:
    refusing = "{% for m in messages %}{% if m.content == 'c' %}{{ raise_exception('no c') }}{% endif %}{{ m.content }}</s>{% endfor %}"
    published_folder(tmp_path, chat_template=refusing)
    template = read_template(tmp_path, fields_of(tmp_path))
    assert template is not None
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a", "response": "b", "history": [["c", "d"]]}\n')
    with pytest.raises(
        UserError, match=r"rows\.jsonl:2: the model's own chat template cannot write this conversation \(user assistant user\): no c"
    ):
        load_splits(DataSection(train=tmp_path / "rows.jsonl", dev_share=0), template)


def test_limits_are_chosen_from_the_rows_once_and_the_same_rows_come_under_the_numbers(tmp_path: Path) -> None:
    rows = [
        *([{"content": "类型#上衣", "summary": "好" * (1 + number % 5)} for number in range(150)]),
        {"content": "a", "summary": "好" * 30},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    section = DataSection(train=tmp_path / "train.jsonl", dev_share=0)

    split = load_splits(section, tiny_template())

    assert split.limits is not None
    assert (split.train_report.cut, split.train_report.cut_answers) == (1, 1)
    assert f"{split.limits}: chosen from the rows / 长度上限按数据选定" in split.sources
    numbers = section.model_copy(update=split.limits.knobs)
    assert load_splits(numbers, tiny_template()).train == split.train


def test_all_processes_take_the_limits_of_one(tmp_path: Path) -> None:
    section = DataSection(train=write(tmp_path / "train.jsonl", 3, answer="好😀😀"), dev_share=0, max_source_length=64)
    split = load_splits(section, tiny_template(), agree=lambda _mine: LengthLimits(64, 5))
    assert split.limits == LengthLimits(64, 5)
    assert split.train == load_splits(section.model_copy(update={"max_target_length": 5}), tiny_template()).train


def test_the_original_truncation_gives_the_ids_of_the_original(tmp_path: Path) -> None:
    section = DataSection(
        train=write(tmp_path / "train.jsonl", 3, answer="好😀😀"),
        max_source_length=6,
        max_target_length=7,
        truncation="original",
        dev_share=0,
    )

    rows = load_splits(section, tiny_template()).train

    assert [(list(row.ids), list(row.labels)) for row in rows] == [
        encode_original(tiny_tokenizer(), f"类型#上衣{number}", "好😀😀", None, 6, 7) for number in range(3)
    ]


def test_what_the_limits_cost_is_reported(tmp_path: Path) -> None:
    section = DataSection(train=write(tmp_path / "train.jsonl", 4, answer="好😀😀"), max_target_length=5, dev_share=0.25)

    split = load_splits(section, tiny_template())

    assert split.train_report == TruncationReport(rows=3, cut=3, dropped_turns=0, cut_prompts=0, cut_answers=3)
    assert split.train_report.summary().english == "3 of 3 rows were cut (100.0 %): 3 lost the end of the answer."


def test_a_history_column_is_read_and_its_old_turns_dropped(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"q": "类型#上衣", "a": "好", "h": [["你好", "你好！"]] * 9}))
    section = DataSection(train=file, prompt_column="q", response_column="a", history_column="h", max_source_length=60, dev_share=0)

    (row,) = load_splits(section, tiny_template()).train

    assert 0 < row.dropped_turns < 9


def test_a_split_says_what_was_read(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", 9)
    (tmp_path / "dev.csv").write_bytes("问,question,answer\n一,q,a\n".encode("gb18030"))

    split = load_splits(DataSection(train=tmp_path / "train.jsonl#5", dev=tmp_path / "dev.csv"), tiny_template())

    assert (len(split.train), len(split.dev)) == (5, 1)
    assert split.sources[:2] == (
        (
            f'{tmp_path}/train.jsonl: JSON lines in UTF-8; "content" is the question, "summary" the answer; '
            '5 rows of it are sampled at random. / JSON Lines，UTF-8 编码；"content" 是提问，"summary" 是回答；从中随机抽取 5 行。'
        ),
        (
            f'{tmp_path}/dev.csv: CSV in GB18030; "question" is the question, "answer" the answer; not read: "问". / '
            'CSV，GB18030 编码；"question" 是提问，"answer" 是回答；未读取："问"。'
        ),
    )


def test_prompts_that_the_base_cannot_read_whole_are_encoded_as_far_as_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [{"role": role, "content": "白色上衣" * 5} for _ in range(40) for role in ("user", "assistant")]
    rows = tmp_path / "talk.jsonl"
    rows.write_text((json.dumps({"messages": turns}) + "\n") * 2, encoding="utf-8")
    lengths: list[int] = []

    def measured(template: Template, sample: Sample, *, max_source_length: int, max_target_length: int, source_prefix: str) -> EncodedRow:
        row = encode_sample(
            template, sample, max_source_length=max_source_length, max_target_length=max_target_length, source_prefix=source_prefix
        )
        lengths.append(row.labels.count(-100))
        return row

    monkeypatch.setattr(dataset, "encode_sample", measured)
    section = DataSection(train=rows, dev_share=0.5)
    chosen = load_splits(section, tiny_template(), max_length=128)
    assert max(lengths) <= 128
    assert chosen.limits is not None
    given = load_splits(section.model_copy(update=chosen.limits.knobs), tiny_template(), max_length=128)
    assert (chosen.train, chosen.dev, chosen.limits) == (given.train, given.dev, given.limits)


def test_placeholders_are_filled_on_both_sides_and_each_text_must_have_a_place_in_what_is_learned(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.jsonl", 3, answer="{name}{author}"), write(tmp_path / "dev.jsonl", 2, answer="我是{name}")
    section = DataSection(train=train, dev=dev, fill={"name": "上衣", "author": "颜色"})
    assert load_held_out(section)[0].answer == load_splits(section, tiny_template()).dev_samples[0].answer == "我是上衣"
    with pytest.raises(UserError, match=r"data\.fill\.firm: no row of"):
        load_splits(section.model_copy(update={"fill": {"name": "上", "author": "下", "firm": "x"}}), tiny_template())
    write(tmp_path / "train.jsonl", 1, answer="{name}")
    with train.open("a") as file:
        file.write('\n{"content": "x", "summary": "{author}"}')
    few = section.model_copy(update={"train_rows": 1})  # who looks at the first rows only cannot know what the others hold
    assert [row.cut for row in load_splits(few, tiny_template()).train] == [False]


def test_rows_that_leave_a_name_open_are_reported(tmp_path: Path) -> None:
    split = load_splits(DataSection(train=write(tmp_path / "train.jsonl", 3, answer="{name}")), tiny_template())
    assert "3 rows hold {name}" in split.sources[-1] or "2 rows hold {name}" in split.sources[-1]


def test_general_rows_stand_behind_the_own_ones_and_are_never_counted_as_them(tmp_path: Path) -> None:
    mix = MixSection(rows=str(write(tmp_path / "general.jsonl", 7)), share=0.25)
    section = DataSection(train=write(tmp_path / "train.jsonl", 6), dev_share=0, mix_general=mix)
    split = load_splits(section, tiny_template())
    assert (len(split.train), len(split.general), split.general_per_epoch, split.train_report.rows) == (6, 7, 2, 6)
    assert [split.row(number) for number in range(13)] == [*split.train, *split.general]
    assert split.lengths() == [len(row.ids) for row in (*split.train, *split.general)]
    assert split.location(5).chinese.endswith("train.jsonl:6")
    assert split.location(6) == Bilingual("general row 1", "第 1 条通用数据")
    assert "7 general rows; 2 of them join the 6 own rows in each epoch, other ones each time, and none" in split.sources[-1]
    few = section.model_copy(update={"mix_general": MixSection(rows=mix.rows, share=0.7)})
    assert (
        "7 general rows; each joins 2.0 times, 14 in all, the 6 own rows in each epoch and none"
        in load_splits(few, tiny_template()).sources[-1]
    )
    assert section.files == [str(section.train), mix.rows]


def test_general_rows_that_would_be_cut_are_left_out_and_told(tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text('{"content": "a", "summary": "好"}\n{"content": "b", "summary": "' + "上衣颜色" * 40 + '"}\n', encoding="utf-8")
    section = DataSection(
        train=write(tmp_path / "train.jsonl", 3), dev_share=0, mix_general=MixSection(rows=str(general)), max_target_length=64
    )
    split = load_splits(section, tiny_template())
    assert len(split.general) == 1
    assert "1 general rows; 1 are too long and left out" in split.sources[-1]
    with pytest.raises(UserError, match=r"all 1 rows of .* are longer than"):
        general.write_text('{"content": "b", "summary": "' + "上衣颜色" * 40 + '"}\n', encoding="utf-8")
        load_splits(section, tiny_template())


@pytest.mark.parametrize("name", ["chatglm3", "glm4", "own"])
def test_calls_of_tools_are_learned_where_the_template_writes_them(tmp_path: Path, name: str) -> None:
    template = template_of(name, tmp_path / "base")
    call = {"role": "tool", "name": "weather", "parameters": {"city": "a"}, "observation": "sunny"}
    turns = [{"role": "user", "content": "weather?"}, call, {"role": "assistant", "content": "sunny."}]
    (tmp_path / "rows.json").write_text(json.dumps([{"tools": [{"name": "weather"}], "messages": turns}]), encoding="utf-8")
    section = DataSection(train=tmp_path / "rows.json", dev_share=0, max_source_length=2000, max_target_length=200)

    first, second = load_splits(section, template).train

    learned = [template.tokenizer.decode([label for label in row.labels if label != -100]) for row in (first, second)]
    assert "weather" in learned[0]
    assert learned[1].strip() == "sunny."
    assert "sunny" in template.tokenizer.decode(second.ids[: second.labels.count(-100)])
    mixed = section.model_copy(update={"mix_general": MixSection(rows=str(tmp_path / "rows.json"))})
    assert load_splits(mixed, template).general == [first, second]
    with pytest.raises(UserError, match="the template of this model does not support tools"):
        load_splits(section, tiny_template())


def test_many_rows_are_reported_as_they_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = DataSection(train=write(tmp_path / "train.jsonl", 9), dev_share=0)
    load_splits(section, tiny_template())
    monkeypatch.setattr("imprint.data.dataset.PROGRESS_FROM_ROWS", 9)
    load_splits(section, tiny_template(), quiet=True)
    assert capsys.readouterr().out == ""
    load_splits(section, tiny_template())
    assert "encoding rows 编码数据: 9/9" in capsys.readouterr().out


def test_a_held_out_file_with_other_columns_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("商品属性,文案\n红裙,好看\n蓝裙,舒服\n", encoding="utf-8")
    (tmp_path / "dev.csv").write_text("content,summary\na,b\nc,d\n", encoding="utf-8")
    section = DataSection(train=tmp_path / "shop.csv", prompt_column="商品属性", response_column="文案", dev_share=0.5)
    with pytest.raises(UserError, match=r"So are all 2 rows[\s\S]*data\.dev=null holds out rows of data\.train instead"):
        load_samples(section.model_copy(update={"dev": tmp_path / "dev.csv"}))
    assert [len(part) for part in load_samples(section)] == [1, 1]


def test_columns_without_a_known_name_are_guessed_once_with_the_knobs_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("商品属性,文案\n" + "红裙,好看\n" * 30, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_samples(DataSection(train=tmp_path / "shop.csv"))
    knobs = "'data.prompt_column=商品属性' 'data.response_column=文案' (a guess from the first row: see whether it is right)."
    assert knobs in str(caught.value)
    assert f"`imprint data check {tmp_path / 'shop.csv'}` tells more" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(UserError, match=r'which data\.response_column names; .*Did you mean "文案"'):
        load_samples(DataSection(train=tmp_path / "shop.csv", prompt_column="商品属性", response_column="文按"))


def test_of_a_large_file_without_the_columns_no_more_is_read_than_says_so(tmp_path: Path) -> None:
    rows = (json.dumps({"商品属性": f"红裙{number}", "文案": "好看"}, ensure_ascii=False) for number in range(ENOUGH_LACKING))
    (tmp_path / "shop.jsonl").write_text("\n".join([*rows, "{"]), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_samples(DataSection(train=tmp_path / "shop.jsonl"))
    english, chinese = str(caught.value).splitlines()
    assert english.startswith(f"{tmp_path / 'shop.jsonl'}:1: has no question and no answer under a known name")
    assert "So are the first 1,000 rows." in english
    assert "前 1,000 行都是如此。" in chinese
