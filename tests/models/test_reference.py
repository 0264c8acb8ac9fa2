import json
from pathlib import Path

import torch

from imprint.models.reference import ReferenceModel
from tests.families import bloom_base

CPU = torch.device("cpu")


def test_the_reference_model_answers_greedily_up_to_an_end_and_uses_the_folders_chat_template(tmp_path: Path) -> None:
    folder = bloom_base(tmp_path / "base")
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('{"content": "</s>"}', '"</s>"'))
    reference = ReferenceModel(folder, dtype=torch.float32, device=CPU)
    prompt = reference.encode_chat([{"role": "user", "content": "白色上衣"}])
    with torch.no_grad():
        best = [int(reference.model(torch.tensor([prompt])).logits[0, -1].argmax())]
        best.append(int(reference.model(torch.tensor([prompt + best])).logits[0, -1].argmax()))

    answer = reference.generate(prompt, 2)

    assert answer == [token for token in best if token != 2][: len(answer)]
    assert len(answer) == 2 or 2 in best
    assert reference.tokenizer.decode(reference.encode("白色上衣")) == "白色上衣"


def test_the_reference_model_stops_at_every_id_that_ends_an_answer(tmp_path: Path) -> None:
    folder = bloom_base(tmp_path / "base")
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('{"content": "</s>"}', '"</s>"'))
    reference = ReferenceModel(folder, dtype=torch.float32, device=CPU)
    first = reference.generate([20, 21], 1)
    reference.model.generation_config.eos_token_id = [2, *first]

    assert reference.generate([20, 21], 5) == []


def test_the_reference_model_answers_without_the_defaults_of_the_folder(tmp_path: Path) -> None:
    folder = bloom_base(tmp_path / "base")
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('{"content": "</s>"}', '"</s>"'))
    expected = ReferenceModel(folder, dtype=torch.float32, device=CPU).generate([20, 21], 6)
    defaults = {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 9.0, "eos_token_id": [2], "pad_token_id": 3}
    (folder / "generation_config.json").write_text(json.dumps(defaults))

    assert ReferenceModel(folder, dtype=torch.float32, device=CPU).generate([20, 21], 6) == expected
