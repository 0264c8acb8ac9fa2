import subprocess
import sys
from pathlib import Path

import pytest

from imprint.check.destination import check_destination
from imprint.messages import UserError


def test_a_file_that_is_not_read_may_be_written(tmp_path: Path) -> None:
    assert check_destination(["a.jsonl"], None, None) is None
    assert check_destination(["a.jsonl"], "dev.jsonl", tmp_path / "out.jsonl") == tmp_path / "out.jsonl"


def test_what_would_be_overwritten_or_is_no_jsonl_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    for source in (tmp_path / "a.jsonl", f"{tmp_path / 'a.jsonl'}#5"):
        with pytest.raises(UserError, match="is one of the files that are read"):
            check_destination([str(source)], None, tmp_path / "link.jsonl")
    with pytest.raises(UserError, match=r"must end in \.jsonl"):
        check_destination(["a.jsonl"], None, tmp_path / "out.csv")
    with pytest.raises(UserError, match="is one of the files that are checked against it"):
        check_destination(["a.jsonl"], "a.jsonl", None)


def test_the_command_refuses_it_before_anything_is_loaded(tmp_path: Path) -> None:
    script = (
        "import sys; from imprint.cli import main\n"
        f"main(['data', 'check', 'a.csv', '--fix', {str(tmp_path / 'out.csv')!r}]); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout == "False\n"
    assert "must end in .jsonl" in result.stderr
    assert "loading PyTorch" not in result.stderr
