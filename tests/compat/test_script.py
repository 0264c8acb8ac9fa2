from pathlib import Path

import pytest

from imprint.compat.script import main_calls
from imprint.messages import UserError

ORIGINAL = """\
PRE_SEQ_LEN=128
LR=2e-2

CUDA_VISIBLE_DEVICES=0 python3 main.py \\
    --do_train \\
    --output_dir output/adgen-chatglm-6b-pt-$PRE_SEQ_LEN-$LR \\
    --learning_rate $LR \\
    --quantization_bit 4

"""


def called(text: str, folder: Path, **environment: str) -> list[list[str]]:
    file = folder / "train.sh"
    file.write_text(text, encoding="utf-8")
    return main_calls(file, environment)


def test_an_old_script_passes_what_the_shell_would_pass(tmp_path: Path) -> None:
    flags = ["--do_train", "--output_dir", "output/adgen-chatglm-6b-pt-128-2e-2", "--learning_rate", "2e-2", "--quantization_bit", "4"]
    assert called(ORIGINAL, tmp_path) == [flags]
    assert called(ORIGINAL.replace("\n", "\r\n"), tmp_path) == [flags]
    assert called(ORIGINAL, tmp_path, PRE_SEQ_LEN="8") == [flags], "the script's own assignment wins, as in the shell"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python main.py --a ${LR:-2e-2}", ["--a", "2e-2"]),
        ("LR=${LR:-2e-2}\npython main.py --a $LR", ["--a", "2e-2"]),
        ("A='one two'\npython main.py --a $A --b \"$A\" --c '$A'", ["--a", "one", "two", "--b", "one two", "--c", "$A"]),
        ("export A=1; python main.py --a=${A}x", ["--a=1x"]),
        ("python main.py --a 1 # and --b 2", ["--a", "1"]),
        ("python main.py --a x#y", ["--a", "x#y"]),
        ("nohup python main.py --a 1 > log.txt 2>&1 &", ["--a", "1"]),
        ("if true; then python ptuning/main.py --a 1; fi", ["--a", "1"]),
        ("(cd x && python main.py --a 1)", ["--a", "1"]),
        ('python main.py --a "" --b', ["--a", "", "--b"]),
        ("python main.py --a b\\ c", ["--a", "b c"]),
        ('python main.py --a "D:\\data\\a.json" --b "\\"x\\$y"', ["--a", "D:\\data\\a.json", "--b", '"x$y']),
        ('python main.py --a 1 "$@"', ["--a", "1"]),
        ("imprint main -- --a 1", ["--a", "1"]),
        ("PORT=$(shuf -n 1 -i $(echo 1)-9)\ndeepspeed --num_gpus=4 --master_port $PORT main.py --a 1", ["--a", "1"]),
        ("EXTRA=\npython main.py --a 1 $EXTRA", ["--a", "1"]),
        ('B=1\npython main.py --a ${A:-$B/x} --b "${A:-${C:-two words}}"', ["--a", "1/x", "--b", "two words"]),
        ("python main.py --a ${A:-} --b x~/y --c $", ["--a", "--b", "x~/y", "--c", "$"]),
    ],
)
def test_words_are_expanded_as_the_shell_expands_them(text: str, words: list[str], tmp_path: Path) -> None:
    assert called(text, tmp_path) == [words]


def test_the_environment_wins_where_the_script_says_so(tmp_path: Path) -> None:
    assert called("python main.py --a ${LR:-2e-2} --b $DATA", tmp_path, LR="1e-3", DATA="x.json") == [["--a", "1e-3", "--b", "x.json"]]
    assert called("python main.py --a ~/a.json --b '~/b'", tmp_path, HOME="/h") == [["--a", "/h/a.json", "--b", "~/b"]]


def test_every_call_is_found_and_other_commands_are_not(tmp_path: Path) -> None:
    assert called("cd ptuning\npython main.py --do_train\npython web_demo.py --x\npython main.py --do_predict", tmp_path) == [
        ["--do_train"],
        ["--do_predict"],
    ]
    assert called("echo hello", tmp_path) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("python main.py --train_file $CHAT_TRAIN_DATA", r"CHAT_TRAIN_DATA is set neither in the script nor in the environment\. Set it"),
        ("DIR=$ROOT/data\npython main.py --train_file $DIR/a.json", r"the value of --train_file is known only when the script runs"),
        ("python main.py --train_file $1", r"the value of --train_file is known only when the script runs"),
        ("A=x.json\npython main.py --output_dir out/${A%.json}", r"the value of --output_dir is known only when the script runs"),
        ("N=2\npython main.py --max_steps $((N * 1000))", r"the value of --max_steps is known only when the script runs"),
        ("python main.py --output_dir out-$(date)", r"the value of --output_dir is known only when the script runs"),
        ("python main.py --output_dir=out-`date`", r"the value of --output_dir is known only when the script runs"),
    ],
)
def test_what_the_script_alone_does_not_tell_is_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        called(text, tmp_path)


def test_a_file_that_is_no_script_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such script"):
        main_calls(tmp_path / "nowhere.sh", {})
    (tmp_path / "binary.sh").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a script"):
        main_calls(tmp_path / "binary.sh", {})
