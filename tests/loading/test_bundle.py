import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imprint.loading import bundle
from imprint.loading.bundle import MANIFEST, BundleManifest, is_bundle, read_manifest, unpack_cached, write_bundle
from imprint.messages import UserError

CONTENT = BundleManifest("run", "prefix", "embedded", "Apache-2.0")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("output: run\n")
    (tmp_path / "run" / "adapter" / "prefix.safetensors").write_bytes(bytes(range(256)) * 9000)
    return tmp_path / "run"


NAMES = ["config.yaml", "adapter/prefix.safetensors"]


def packed(run: Path, name: str = "out.tar") -> Path:
    write_bundle(run.parent / name, run, NAMES, CONTENT)
    return run.parent / name


def forged(
    run: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None], *, listed: str | None = None
) -> Path:
    """A bundle with some entries changed; `listed` is added to its manifest."""
    out = run.parent / "forged.tar"
    with tarfile.open(packed(run)) as source, tarfile.open(out, "w") as target:
        for entry in source:
            file = source.extractfile(entry)
            content = file.read() if file else b""
            if entry.name == MANIFEST and listed:
                fields = json.loads(content)
                fields["sha256"][listed] = hashlib.sha256(b"x").hexdigest()
                content = json.dumps(fields).encode()
            changed = change(entry, content)
            if changed is not None:
                changed[0].size = len(changed[1]) if changed[0].isreg() else 0
                target.addfile(changed[0], io.BytesIO(changed[1]))
    return out


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        unpack_cached(path)
    return str(caught.value)


def test_files_and_fields_are_unpacked_as_they_were(run: Path) -> None:
    home = unpack_cached(packed(run))

    assert all((home / name).read_bytes() == (run / name).read_bytes() for name in NAMES)
    assert read_manifest(home) == CONTENT
    assert read_manifest(run) is None
    assert unpack_cached(packed(run)) == home


def test_control_characters_are_removed(run: Path) -> None:
    write_bundle(run.parent / "out.tar", run, NAMES, BundleManifest("\x1b[2Jrun\n", "prefix", "底座", "\x07"))

    assert read_manifest(unpack_cached(run.parent / "out.tar")) == BundleManifest("[2Jrun", "prefix", "底座", "")


def test_two_processes_that_unpack_at_once_get_the_same_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, real = packed(run), bundle.extract_bundle

    def overtaken(path: Path, home: Path) -> None:
        monkeypatch.setattr(bundle, "extract_bundle", real)
        unpack_cached(path)
        real(path, home)

    monkeypatch.setattr(bundle, "extract_bundle", overtaken)
    home = unpack_cached(archive)

    assert (home / "config.yaml").is_file()
    assert list(home.parent.iterdir()) == [home]


def test_a_bundle_whose_name_is_hidden_or_as_long_as_a_name_can_be_opens_again_and_again(run: Path) -> None:
    for name in (".hidden.tar", "...tar", "印" * 83 + ".tar"):
        home = unpack_cached(packed(run, name))
        assert (home / "config.yaml").is_file()
        assert unpack_cached(run.parent / name) == home
        assert (home / "config.yaml").is_file()


def test_the_folder_of_a_bundle_in_the_cache_is_that_of_no_other(run: Path) -> None:
    archive = packed(run)
    assert hashlib.sha256(archive.read_bytes()).hexdigest()[:32] in unpack_cached(archive).name


def test_the_same_files_give_the_same_archive(run: Path) -> None:
    first, second = packed(run, "one.tar"), packed(run, "two.tar")

    assert first.read_bytes() == second.read_bytes()


def test_any_other_path_is_left_alone(run: Path) -> None:
    assert unpack_cached(run) == run
    assert unpack_cached(run / "config.yaml") == run / "config.yaml"
    assert unpack_cached(run / "nowhere.tar") == run / "nowhere.tar"


MISLEADING = (
    *(
        "../evil.txt",
        "/evil.txt",
        "adapter/../../evil.txt",
        "c:evil.txt",
        "..\\evil.txt",
        MANIFEST,
        MANIFEST.upper(),
    ),
    *(
        "./x",
        "x/",
        "a//b",
        "... /x",
        ".. /x",
        "adapter./x",
        "x ",
        "CON",
        "nul.txt",
        "adapter/lpt1",
        "a\nb",
        "a\x1b[31m",
        "\u202egpj.exe",
        "a\u200b",
    ),
    *("x" * 256, "印" * 86, "a/" * 16 + "x"),
    *("\u2024\u2024/x", "\uff0e\uff0e/x", "a\uff0fb", "c\uff1ax", "..\uff3cx", "\uff23\uff2f\uff2e"),
)


@pytest.mark.parametrize("name", MISLEADING)
def test_a_name_outside_the_folder_or_of_the_manifest_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    def outside(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if entry.name == "config.yaml":
            entry.name = name
            return entry, b"x"
        return entry, content

    assert f"holds {name!r}, which no bundle holds" in refusal(forged(run, outside, listed=name))
    assert not list(tmp_path.rglob("*evil.txt"))
    assert not list(tmp_path.glob("cache/imprint/bundles/*"))


def test_names_in_any_language_are_unpacked(run: Path, tmp_path: Path) -> None:
    name = "adapter/说明 (1) é.txt"
    (run / name).write_text("x")
    write_bundle(tmp_path / "named.tar", run, [*NAMES, name], CONTENT)
    assert (unpack_cached(tmp_path / "named.tar") / name).read_text() == "x"


def test_two_names_that_are_one_on_some_disks_are_refused(run: Path) -> None:
    def twice(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return (entry, content) if entry.name != "config.yaml" else (tarfile.TarInfo("ADAPTER/prefix.safetensors"), b"x")

    assert "which no bundle holds. Nothing was unpacked" in refusal(forged(run, twice, listed="ADAPTER/prefix.safetensors"))


def test_more_files_than_any_bundle_has_are_not_unpacked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_FILES", 1)
    assert "lists 2 files, more than 1, as no bundle does" in refusal(packed(run))


def test_a_sparse_file_that_would_fill_the_disk_is_refused(run: Path, tmp_path: Path) -> None:
    def bomb(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if entry.name == "config.yaml":
            holes = {"major": "0", "minor": "1", "name": "config.yaml", "numblocks": "0", "map": "0,0", "size": str(2**40)}
            entry.pax_headers = {f"GNU.sparse.{name}": value for name, value in holes.items()}
            return entry, b""
        return entry, content

    archive = forged(run, bomb)

    with tarfile.open(archive) as opened:
        assert opened.getmember("config.yaml").size == 2**40
    assert "holds 'config.yaml', which no bundle holds" in refusal(archive)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_many_bytes_is_not_read_into_memory(run: Path, tmp_path: Path, kind: bytes) -> None:
    archive, size = packed(run), 2**33
    with tarfile.open(archive) as opened:
        second = opened.getmembers()[1].offset
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, size
    for place in (0, second):  # before the manifest, and after it
        with (tmp_path / "large.tar").open("wb") as file:
            file.write(archive.read_bytes()[:place] + header.tobuf())
            file.truncate(place + 512 + size)  # a hole: no byte of it is on the disk
        is_bundle(tmp_path / "large.tar")
        with pytest.raises(UserError, match=r"is not a bundle, or is damaged|does not begin with"):
            bundle.extract_bundle(tmp_path / "large.tar", tmp_path / "home")
        assert not (tmp_path / "home").exists()


def test_headers_that_hold_for_all_entries_are_refused(run: Path, tmp_path: Path) -> None:
    archive = packed(run)
    with tarfile.open(archive) as opened:
        second = opened.getmembers()[1].offset
    header = tarfile.TarInfo.create_pax_global_header({"any": "thing"})  # tarfile copies 100,000 of them for each of 2,000 entries
    for place in (0, second):
        (tmp_path / "shared.tar").write_bytes(archive.read_bytes()[:place] + header + archive.read_bytes()[place:])

        assert "headers that hold for all entries" in refusal(tmp_path / "shared.tar")


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_list_of_many_holes_is_not_read(run: Path, tmp_path: Path, place: str) -> None:
    sparse = tarfile.TarInfo("config.yaml" if place == "after" else MANIFEST)
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1", "GNU.sparse.name": sparse.name}
    holes = b"%d\n" % 50_000 + b"1\n" * 100_000
    sparse.size = len(holes)
    with tarfile.open(tmp_path / "holes.tar", "w") as target, tarfile.open(packed(run)) as source:
        first = source.next()
        if place == "after" and first is not None:
            target.addfile(first, source.extractfile(first))
        target.addfile(sparse, io.BytesIO(holes))

    assert "headers of more than 16,384 bytes" in refusal(tmp_path / "holes.tar")


def test_what_a_killed_process_left_in_the_cache_is_removed(run: Path, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "imprint" / "bundles" / ".x1y2z3"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(bytes(1000))
    home = unpack_cached(packed(run))
    assert list(home.parent.iterdir()) == [home]

    left.mkdir()  # by one that was killed right after it had unpacked
    unpack_cached(packed(run))
    assert list(home.parent.iterdir()) == [home]


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"name": "' + "x" * 2**20 + '"}', b"\xff"])
def test_a_damaged_description_of_an_unpacked_bundle_is_a_user_error(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(UserError, match=MANIFEST):
        read_manifest(tmp_path)


def test_a_link_is_refused(run: Path) -> None:
    def linked(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if entry.name == "config.yaml":
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        return entry, content

    assert "holds 'config.yaml', which no bundle holds" in refusal(forged(run, linked))


def test_a_file_that_is_not_listed_is_refused(run: Path) -> None:
    def renamed(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if entry.name == "config.yaml":
            entry.name = "code.py"
        return entry, content

    assert "holds 'code.py'" in refusal(forged(run, renamed))


def test_a_changed_file_and_a_missing_one_are_named(run: Path) -> None:
    def changed(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return entry, content if entry.name == MANIFEST else content[:-1] + b"!"

    assert "'config.yaml' is not what was packed" in refusal(forged(run, changed))
    assert "'config.yaml' is missing" in refusal(
        forged(run, lambda entry, content: None if entry.name == "config.yaml" else (entry, content))
    )


def test_a_bundle_is_known_by_its_beginning(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.tar").write_text("thesis")

    assert is_bundle(packed(run))
    assert not any(map(is_bundle, (tmp_path / "notes.tar", run, tmp_path / "nowhere.tar")))


def test_an_archive_without_permission_is_a_user_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(_path: Path, _mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    archive = packed(run)
    monkeypatch.setattr(Path, "open", locked)

    assert "out.tar: cannot be read: Permission denied." in refusal(archive)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 2048])
def test_a_file_that_is_no_archive_is_a_user_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)

    assert "x.tar: " in refusal(tmp_path / "x.tar")
    assert not list((tmp_path / "cache/imprint/bundles").iterdir())


def test_another_version_and_another_archive_are_told_apart(run: Path) -> None:
    def newer(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return entry, content.replace(b'"format": 1', b'"format": 2')

    assert '"format" is 2, this version reads 1' in refusal(forged(run, newer))
    assert "so it is not a bundle" in refusal(forged(run, lambda entry, content: None if entry.name == MANIFEST else (entry, content)))
