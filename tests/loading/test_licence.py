import json
import os
import time
from pathlib import Path

import pytest

from imprint.loading.licence import find_licence, imported_name, read_licence, use_of


def test_the_licence_of_a_base_is_that_of_its_folder(tmp_path: Path) -> None:
    assert (read_licence(tmp_path)[:8], find_licence(tmp_path)) == ("not said", None)
    (tmp_path / "import.json").write_text(json.dumps({"file": "SmolLM2.Q4_1.gguf", "licence": "gemma\x1b[2J"}))
    assert (find_licence(tmp_path), imported_name(tmp_path)) == ("gemma[2J", "SmolLM2.Q4_1")
    (tmp_path / "README.md").write_text("---\nlicense: bigscience-bloom-rail-1.0\n---\n")
    assert read_licence(tmp_path) == "bigscience-bloom-rail-1.0"
    (tmp_path / "LICENSE").write_text("\n      Apache License\n Version 2.0\n")
    assert read_licence(tmp_path) == "LICENSE: Apache License"
    (tmp_path / "MODEL_LICENSE").write_text("\nThe ChatGLM-6B License\n")
    assert read_licence(tmp_path) == "MODEL_LICENSE: The ChatGLM-6B License"  # the other one is that of the code


def test_a_readme_names_its_licence_in_the_fields_at_its_top_alone(tmp_path: Path) -> None:
    for text, licence in (
        ('---\nlicense: other\nlicense_name: "glm-4"\nlicense_link: x\n---\n', "glm-4"),
        ("---\r\nlanguage: zh\r\nlicense: mit\r\n---\r\n", "mit"),
        ("# A model\n\nlicense: all yours\n", None),
        ("---\nlanguage: zh\n---\nlicense: all yours\n", None),
        ("---\nlicense:\n---\n", None),
    ):
        (tmp_path / "README.md").write_text(text, newline="")
        assert find_licence(tmp_path) == licence, text


def test_a_readme_of_empty_lines_takes_no_time(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---" + "\n" * 60_000 + "license: mit")
    began = time.process_time()
    assert find_licence(tmp_path) is None
    assert time.process_time() - began < 2  # where each line may be the last empty one, it takes twenty seconds
    (tmp_path / "README.md").write_text("---  \n\n\nlicense: mit\n---\n")
    assert find_licence(tmp_path) == "mit"


def test_no_link_that_leads_out_of_the_folder_is_read(tmp_path: Path) -> None:
    secret, base = tmp_path / "secret", tmp_path / "base"
    base.mkdir()
    for name, content in (
        ("LICENSE", "HF_TOKEN=hf_secret"),
        ("README.md", "---\nlicense: hf_secret\n---\n"),
        ("import.json", '{"licence": "hf_secret", "file": "hf_secret"}'),
    ):
        secret.write_text(content)
        (base / name).symlink_to(secret)
        assert (find_licence(base), imported_name(base)) == (None, None), name
    (base / "MIT").write_text("MIT License")
    (base / "LICENSE.txt").symlink_to("MIT")
    assert find_licence(base) == "LICENSE.txt: MIT License"


def test_a_cache_of_the_hub_keeps_its_licences_beside_its_folders(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--x--y" / "snapshots" / "abc", tmp_path / "models--x--y" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("Apache License")
    (snapshot / "LICENSE").symlink_to(Path("..", "..", "blobs", "123"))
    assert find_licence(snapshot) == "LICENSE: Apache License"


def test_a_file_of_any_size_or_kind_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "LICENSE")
    (tmp_path / "import.json").write_text('{"licence": "' + "a" * 2**17 + '"}')
    assert (find_licence(tmp_path), imported_name(tmp_path)) == (None, None)
    (tmp_path / "import.json").write_text('{"licence": 3, "file": ["x"]}')
    assert (find_licence(tmp_path), imported_name(tmp_path)) == (None, None)
    (tmp_path / "MODEL_LICENSE").write_text("a" * 2**20)
    assert find_licence(tmp_path) == "MODEL_LICENSE: " + "a" * 200


@pytest.mark.parametrize(
    ("licence", "use"),
    [
        (None, "unknown"),
        ("apache-2.0", "any"),
        ("LICENSE: MIT License", "any"),
        ("cc-by-4.0", "any"),
        ("cc-by-nc-4.0", "research"),
        ("LICENSE: Tongyi Qianwen RESEARCH LICENSE AGREEMENT", "research"),
        ("LICENSE.txt: Attribution-NonCommercial 4.0 International", "research"),
        ("MODEL_LICENSE: The ChatGLM2-6B License", "research"),
        ("glm-4", "research"),
        ("llama3.1", "as stated"),
        ("bigscience-bloom-rail-1.0", "as stated"),
        ("other", "as stated"),
    ],
)
def test_what_a_licence_allows(licence: str | None, use: str) -> None:
    assert use_of(licence) == use
