import json
from pathlib import Path

import pytest

import imprint
from imprint.demo.bloom import SPECIAL_TOKENS, VOCAB_SIZE, make_bloom, write_untrained_bloom
from imprint.demo.domain_example.books import pages, write_domain_example
from imprint.evaluate.command import evaluate_command
from imprint.evaluate.perplexity import perplexity_command
from imprint.runs import RunFolder
from imprint.training.run import train

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bloom") / "start"
    write_untrained_bloom(folder, texts=600)
    return folder


def test_the_tiny_bloom_has_the_official_layout(start: Path) -> None:
    names = {file.name for file in start.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    config = json.loads((start / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["vocab_size"], config["eos_token_id"]) == ("bloom", VOCAB_SIZE, 2)
    model = imprint.load(start, device="cpu")
    assert [model.tokenizer.controls[name] for name in SPECIAL_TOKENS] == [0, 1, 2, 3]


def test_its_vocabulary_spells_everything_and_tells_its_own_texts_in_few_tokens(start: Path) -> None:
    tokenizer = imprint.load(start, device="cpu").tokenizer
    page = next(pages(0))
    for text in (page, "问：你好\n答：你好！", "the quick brown fox </s> 😀", " 两  个空格"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert 2 not in tokenizer.encode("</s>")
    assert len(tokenizer.encode("问：这件上衣是什么颜色的？")) < 13


def test_the_vocabulary_is_the_same_each_time(start: Path, tmp_path: Path) -> None:
    write_untrained_bloom(tmp_path / "again", texts=600)
    for file in start.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_transformers_reads_the_same_ids_and_computes_the_same_logits(start: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    model = imprint.load(start, device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    text = "问：纸鸢镇有几条街？"
    ids = model.tokenizer.encode(text)
    assert transformers.AutoTokenizer.from_pretrained(start)(text)["input_ids"] == ids
    with torch.no_grad():
        assert torch.allclose(theirs(torch.tensor([ids])).logits[0], model.logits([ids])[0], atol=1e-4)


# The whole chain: a base reads books, its perplexity falls, it learns to answer


def chain(folder: Path, base: Path, *overrides: str) -> tuple[RunFolder, RunFolder]:
    """Both recipes with paths of their own."""
    kiln = folder / "kiln"
    texts = [f"data.train={kiln / 'read'}", f"data.dev={kiln / 'books-held-out.txt'}"]
    read = train(RECIPES / "domain-pretrain.yaml", [f"output={folder / 'domain'}", f"model.path={base}", *texts, *overrides])
    rows = [f"data.train={kiln / 'questions.jsonl'}", f"data.dev={kiln / 'questions-held-out.jsonl'}"]
    knobs = [f"output={folder / 'instruct'}", f"model.path={read.path}", *rows, *overrides]
    return read, train(RECIPES / "domain-instruct.yaml", knobs)


@pytest.mark.long
def test_a_base_that_reads_the_books_finds_new_pages_likelier_and_learns_on_from_there(start: Path, tmp_path: Path) -> None:
    write_domain_example(tmp_path / "kiln", books=60, general=1, held_out=8)
    few = [
        "train.steps=8",
        "train.batch_size=2",
        "train.evaluate_every=8",
        "train.watch_prompts=0",
        "data.dev_rows=4",
        "forgetting.measure=false",
    ]
    read, answers = chain(tmp_path, start, *few)
    report = perplexity_command(read.path, data=[tmp_path / "kiln" / "books-held-out.txt"], overrides=["device=cpu"])["texts"][0]
    assert report["tuned"]["character"]["perplexity"] < 0.7 * report["base"]["character"]["perplexity"]
    assert imprint.load(answers.path, device="cpu").network.num_parameters == imprint.load(start, device="cpu").network.num_parameters


@pytest.mark.long
def test_the_domain_chain_does_what_the_docs_say(tmp_path: Path) -> None:
    write_domain_example(tmp_path / "kiln")
    base = make_bloom(tmp_path / "bloom")
    read, answers = chain(tmp_path, base)
    files = [tmp_path / "kiln" / f"{name}-held-out.txt" for name in ("books", "general")]
    domain, general = perplexity_command(read.path, data=files, overrides=["device=cpu"])["texts"]
    assert domain["tuned"]["token"]["perplexity"] < 0.05 * domain["base"]["token"]["perplexity"]
    assert general["tuned"]["token"]["perplexity"] < 1.5 * general["base"]["token"]["perplexity"]
    found = evaluate_command(
        answers.path,
        data=tmp_path / "kiln" / "questions-held-out.jsonl",
        limit=None,
        overrides=[f"output={tmp_path / 'scores'}", "device=cpu"],
    )
    right = sum(one == other for one, other in zip(found.predictions, found.references, strict=True))
    assert right >= 0.6 * len(found.references)
