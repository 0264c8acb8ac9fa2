import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imprint.loading.hub.download import HubModel, fetch_model
from imprint.loading.hub.name import HubName
from imprint.messages import UserError
from tests.hubserver import COMMIT, NEXT_COMMIT, HubServer, Repository, Request, drip
from tests.loading.hub.conftest import SHARD

QWEN = HubName("Qwen/Qwen3-4B")
WEIGHTS = "model.safetensors"
Trick = Callable[[Request], bool]


def fetch(name: HubName = QWEN) -> HubModel:
    return fetch_model(name)


def failure(name: HubName = QWEN) -> str:
    with pytest.raises(UserError) as raised:
        fetch(name)
    assert any("\u4e00" <= letter <= "\u9fff" for letter in str(raised.value))
    return str(raised.value)


def on_weights(trick: Trick) -> Trick:
    return lambda request: request.path.endswith(WEIGHTS) and trick(request)


def whole_files(cache: Path) -> list[str]:
    """What a reader would take for whole: the names in snapshots."""
    return [file.name for file in cache.glob("models--*/snapshots/*/*")]


def test_only_what_is_needed_is_fetched_and_every_file_is_as_listed(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    found = fetch()
    names = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()}
    assert names == {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"),
        *(WEIGHTS, "additional_chat_templates/tools.jinja"),
    }
    assert found.commit == COMMIT
    assert (found.folder / WEIGHTS).read_bytes() == SHARD
    printed = capsys.readouterr()
    assert printed.out == ""  # which may be answers
    assert "download 下载 Qwen/Qwen3-4B: 5120/5120  file model.safetensors" in printed.err.replace("\n", " ")
    assert f"commit {COMMIT}" in printed.err


def test_the_files_of_a_bin_model_are_its_bins_and_those_of_chatglm_its_vocabulary(hub: HubServer) -> None:
    index = b'{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}'
    bins = {f"pytorch_model-0000{number}-of-00002.bin": SHARD[:number] for number in (1, 2)}
    files = {"config.json": b"{}", "ice_text.model": b"x", "pytorch_model.bin.index.json": index, "other.bin": b"x", "a.py": b""}
    hub.repositories["THUDM/chatglm-6b"] = Repository({**files, **bins})
    found = fetch(HubName("THUDM/chatglm-6b"))
    assert {path.name for path in found.folder.iterdir()} == {"config.json", "ice_text.model", "pytorch_model.bin.index.json", *bins}


def test_what_is_there_is_not_fetched_again_and_a_commit_needs_no_network(hub: HubServer) -> None:
    first = fetch()
    hub.asked.clear()
    assert fetch() == first
    assert len(hub.asked) == 1  # which commit is it now?
    assert fetch(QWEN.at(COMMIT)) == first
    assert len(hub.asked) == 1


def test_a_newer_commit_is_taken_and_shares_the_files_that_are_the_same(hub: HubServer) -> None:
    first = fetch()
    hub.repositories["Qwen/Qwen3-4B"].refs["main"] = NEXT_COMMIT
    hub.asked.clear()
    second = fetch()
    assert (second.commit, second.folder.name) == (NEXT_COMMIT, NEXT_COMMIT)
    assert hub.requests("resolve") == []
    assert (second.folder / WEIGHTS).resolve() == (first.folder / WEIGHTS).resolve()


def test_offline_takes_the_copy_in_the_cache_and_says_so_if_there_is_none(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = failure()
    assert "HF_HUB_OFFLINE forbids to download it" in message
    assert "`hf download Qwen/Qwen3-4B --local-dir Qwen3-4B`" in message
    monkeypatch.delenv("HF_HUB_OFFLINE")
    found = fetch()
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch() == found
    assert hub.asked == []


def test_a_copy_of_another_program_is_taken_when_the_hub_cannot_be_asked(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import snapshot_download

    folder = fetch().folder
    record = folder.parents[1] / "imprint" / f"{COMMIT}.json"
    record.unlink()  # as the other program leaves it
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch().folder == folder
    assert "cannot be asked for a newer state" in capsys.readouterr().err
    assert snapshot_download("Qwen/Qwen3-4B", cache_dir=folder.parents[2], local_files_only=True, allow_patterns=["*.json"]) == str(folder)
    (folder / WEIGHTS).unlink()
    assert "cannot be used" in failure()


def test_a_hub_that_cannot_be_reached_is_told_with_the_mirror_and_the_way_by_hand(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = failure(HubName("Qwen/Qwen3-4B", "v1"))
    for part in (
        *("Qwen/Qwen3-4B@v1: there is no such folder here", "http://127.0.0.1:9 cannot be used", "HF_ENDPOINT=https://hf-mirror.com"),
        *("`hf download Qwen/Qwen3-4B --revision v1 --local-dir Qwen3-4B`", "git lfs install", "model.path=./Qwen3-4B"),
        *("`modelscope download --model Qwen/Qwen3-4B --local_dir Qwen3-4B`", "中国大陆可设 HF_ENDPOINT=https://hf-mirror.com"),
    ):
        assert part in message
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    assert "HF_ENDPOINT: must be an address such as https://hf-mirror.com, found 'hf-mirror.com'" in failure()


def test_a_download_that_is_cut_goes_on_from_its_last_byte(hub: HubServer) -> None:
    cuts = iter((1_000_000, 2_000_000))

    def trick(request: Request) -> bool:
        start = int((request.headers.get("range") or "bytes=0-")[6:-1])
        end = next(cuts, None)
        return end is not None and request.cut(SHARD[start:end], len(SHARD) - start)

    hub.trick = on_weights(trick)
    assert (fetch().folder / WEIGHTS).read_bytes() == SHARD
    ranges = [text.partition("bytes=")[2] for text in hub.requests(WEIGHTS)]
    assert ranges == ["", "1000000-", "2000000-"]


def test_a_download_that_is_given_up_keeps_its_bytes_and_leaves_nothing_that_looks_whole(hub: HubServer, tmp_path: Path) -> None:
    hub.trick = on_weights(lambda request: request.cut(SHARD[:1000] if "range" not in request.headers else b"", len(SHARD)))
    message = failure()
    assert "model.safetensors: the download broke off at 1,000 of 5,120,000 bytes" in message
    assert "run the same command again to go on" in message
    assert len(hub.requests(WEIGHTS)) == 5
    assert whole_files(tmp_path / "cache") == []
    hub.trick = None
    hub.asked.clear()
    assert (fetch().folder / WEIGHTS).read_bytes() == SHARD
    assert hub.requests(WEIGHTS)[0].endswith("bytes=1000-")


@pytest.mark.parametrize("status", [200, 206])
def test_a_server_that_cannot_go_on_begins_again(hub: HubServer, tmp_path: Path, status: int) -> None:
    cuts = iter([1000])

    def ignores_range(request: Request) -> bool:
        if (end := next(cuts, None)) is not None:
            return request.cut(SHARD[:end], len(SHARD))
        request.body(status if "range" in request.headers else 200, SHARD, {"content-range": f"bytes 0-{len(SHARD) - 1}/{len(SHARD)}"})
        return True

    hub.trick = on_weights(ignores_range)
    assert (fetch().folder / WEIGHTS).read_bytes() == SHARD


def test_a_server_that_stalls_or_drips_holds_nobody(hub: HubServer) -> None:
    began = time.monotonic()
    hub.trick = lambda request: drip(request, 30)
    assert "nothing came for 0.5 seconds" in failure()
    hub.trick = on_weights(lambda request: drip(request, 30))
    assert "broke off at 0 of 5,120,000 bytes: nothing came for 0.5 seconds" in failure()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"size": 5_120_000 - 10}, "it has more than 5,119,990 bytes"),
        ({"oid": "a" * 64}, "its hash is"),
    ],
)
def test_a_file_that_is_not_the_listed_one_is_fetched_twice_and_never_taken(
    hub: HubServer, tmp_path: Path, said: dict[str, object], found: str
) -> None:
    truth = {"oid": "b" * 64, "size": len(SHARD)}
    hub.repositories["Qwen/Qwen3-4B"].listed[WEIGHTS] = {"lfs": truth | said}
    message = failure()
    assert f"is not the file that the hub lists: {found}" in message
    assert "a mirror may have changed it" in message.replace("\n", " ")
    assert len(hub.requests(f"/{WEIGHTS}")) == 2
    assert whole_files(tmp_path / "cache") == []
    assert list((tmp_path / "cache").rglob("*.incomplete")) == []


def test_a_file_that_is_shorter_than_listed_is_given_up_in_bounded_time(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["Qwen/Qwen3-4B"].listed[WEIGHTS] = {"lfs": {"oid": "b" * 64, "size": len(SHARD) + 10}}
    assert "broke off at" in failure()
    assert whole_files(tmp_path / "cache") == []


def test_a_damaged_partial_file_is_fetched_anew(hub: HubServer) -> None:
    folder = fetch().folder
    blob = (folder / WEIGHTS).resolve()
    blob.rename(blob.with_name(f"{blob.name}.incomplete"))
    with blob.with_name(f"{blob.name}.incomplete").open("r+b") as file:
        file.write(b"damaged")
        file.truncate(100)
    assert (fetch().folder / WEIGHTS).read_bytes() == SHARD


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/evil.json", "a/../../b.json", "..\\evil.json", "C:\\evil.json"])
def test_names_that_leave_the_folder_are_refused_before_anything_is_written(hub: HubServer, tmp_path: Path, name: str) -> None:
    hub.repositories["Qwen/Qwen3-4B"].files[name] = b"evil"
    assert "lists a file outside of its folder" in failure()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_full_disk_is_told_before_the_weights_are_fetched(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.loading.hub.cache.shutil.disk_usage", lambda _: type("Usage", (), {"free": 66 * 2**20}))
    message = failure()
    assert "0.00 GiB are to be downloaded" in message
    assert "HF_HOME" in message
    assert hub.requests(WEIGHTS) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_is_told_with_its_page_and_the_login(hub: HubServer, status: int) -> None:
    def trick(request: Request) -> bool:
        if "resolve" in request.path:
            request.error(status, "GatedRepo")
            return True
        return False

    hub.trick = trick
    message = failure()
    assert f"Open {hub.url}/Qwen/Qwen3-4B in a browser, accept its terms" in message
    assert "`hf auth login`" in message


def test_a_name_that_is_not_there_is_told_with_near_ones(hub: HubServer) -> None:
    assert "no such model at" in (message := failure(HubName("Qwen/Qwen3-4b-chat")))
    assert "Near: Qwen/Qwen3-4B." in message
    assert "has no branch, tag or commit 'mian'. Near: main." in failure(HubName("Qwen/Qwen3-4B", "mian"))


def test_a_rate_limit_is_waited_for_if_it_is_short_and_told_if_it_is_long(hub: HubServer) -> None:
    pauses = iter(("0.05", "0.05"))

    def trick(request: Request) -> bool:
        if (pause := next(pauses, None)) is not None:
            request.error(429, **{"retry-after": pause})
            return True
        return False

    hub.trick = on_weights(trick)
    assert (fetch().folder / WEIGHTS).is_file()

    def long(request: Request) -> bool:
        request.error(429, **{"retry-after": "3600"})
        return True

    hub.repositories["a/b"] = Repository({"config.json": b"{}", WEIGHTS: b"x"})
    hub.trick = long
    assert "HTTP status 429; it asks to wait 3600 seconds" in failure(HubName("a/b"))
    hub.trick = on_weights(long)
    assert "HTTP status 429; it asks to wait 3600 seconds" in failure(HubName("a/b"))


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b'{"sha": "../../x"}', b"[" * 100_000, b"null"])
def test_an_answer_that_is_none_of_a_hub_is_told(hub: HubServer, body: bytes) -> None:
    def trick(request: Request) -> bool:
        request.body(200, body, {})
        return True

    hub.trick = trick
    assert "cannot be used: its answer is not" in failure()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"adapter_config.json": b"{}"}, "holds an adapter, not a model"),
        ({"model-q4.gguf": b"x"}, "run `imprint import FILE.gguf FOLDER`"),
        ({"config.json": b"{}", "flax_model.msgpack": b""}, "is no model that can be loaded"),
        (
            {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}'},
            "of which the repository lacks 1",
        ),
        ({"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "../b"}}'}, "names a file outside its folder"),
    ],
)
def test_a_repository_that_holds_no_model_is_told_with_what_it_is(hub: HubServer, files: dict[str, bytes], said: str) -> None:
    hub.repositories["a/b"] = Repository(files)
    assert said in failure(HubName("a/b"))
