"""Model files that attack whoever serves them: `python -m tests.serve.hostile_models FOLDER`.

Each is given to `imprint serve`, which must refuse it with a sentence, or serve what is harmless of it; the canary is a file that any code
of the stranger would make.
"""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.terminal import say
from tests.bases import base_of
from tests.serve.processes import command, environment
from tests.serve.tiny_runs import tiny_run

SECONDS: Final = 60
JINJA: Final = (
    "{{% for c in ''.__class__.__mro__[1].__subclasses__() %}}{{% if c.__name__ == 'Popen' %}}{{{{ c(['touch', '{canary}']) }}}}"
    "{{% endif %}}{{% endfor %}}"
)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@dataclass(frozen=True)
class Case:
    """What a stranger has, in a folder of its own: a base, a run on the embedded base, and where the canary would be."""

    base: Path
    run: Path
    canary: Path

    def pickled(self, name: str, *, instead: bool = True) -> Path:
        """The base with a pickle under this name."""
        if instead:
            (self.base / "model.safetensors").unlink()
        (self.base / name).write_bytes(pickle.dumps(Bomb(self.canary)))
        return self.base

    def zipped(self) -> Path:
        """The base with a pickle within an archive, as PyTorch writes it."""
        (self.base / "model.safetensors").unlink()
        with zipfile.ZipFile(self.base / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb(self.canary)))
            archive.writestr("archive/version", "3\n")
        return self.base

    def automatic(self) -> Path:
        """Code beside the weights, that config.json and tokenizer_config.json name."""
        code = f"open({str(self.canary)!r}, 'w').close()\n"
        for name in ("modeling_own.py", "tokenization_own.py", "configuration_own.py", "conftest.py", "sitecustomize.py", "torch.py"):
            (self.base / name).write_text(code, encoding="utf-8")
        names = {"AutoModel": "modeling_own.Own", "AutoConfig": "configuration_own.Own", "AutoTokenizer": ["tokenization_own.Own", None]}
        for file in ("config.json", "tokenizer_config.json"):
            self.change(self.base / file, auto_map=names)
        return self.base

    def change(self, file: Path, **fields: object) -> Path:
        """A JSON file with other fields."""
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        file.write_text(json.dumps({**found, **fields}), encoding="utf-8")
        return file.parent

    def elsewhere(self) -> Path:
        """An index whose weights are somewhere else."""
        secret = self.canary.with_name("secret.safetensors")
        (self.base / "model.safetensors").rename(secret)
        return self.change(
            self.base / "model.safetensors.index.json", weight_map={"transformer.embedding.word_embeddings.weight": f"../{secret.name}"}
        )

    def adapter(self) -> Path:
        """An adapter that names a base and weights of its own choice."""
        folder = self.run / "adapter"
        self.change(folder / "adapter_config.json", base_model_name_or_path="/etc", peft_type="LORA", auto_mapping={"parent_library": "os"})
        self.change(folder / "adapter.json", base="../../../../etc/passwd", weights="/etc/passwd")
        return self.run

    def adapter_pickle(self) -> Path:
        """An adapter in PyTorch's old format."""
        next((self.run / "adapter").glob("*.safetensors")).unlink()
        for name in ("adapter_model.bin", "adapter.bin", "adapter.pt"):
            (self.run / "adapter" / name).write_bytes(pickle.dumps(Bomb(self.canary)))
        return self.run

    def linked(self, file: Path) -> Path:
        """A file that is a link out of its folder."""
        outside = self.canary.with_name(f"outside-{file.name}")
        file.rename(outside)
        file.symlink_to(outside)
        return self.run

    def sized(self, header: int, size: int) -> Path:
        """Weights with a header of a length that is a lie, in a file with a hole."""
        with (self.base / "model.safetensors").open("wb") as file:
            file.write(header.to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
            file.truncate(size)
        return self.base

    def cut(self) -> Path:
        """Weights that end early."""
        file = self.base / "model.safetensors"
        os.truncate(file, file.stat().st_size * 2 // 3)
        return self.base

    def template(self) -> Path:
        """A chat template that looks for a way out of its sandbox."""
        attack = JINJA.format(canary=self.canary)
        (self.base / "chat_template.jinja").write_text(attack, encoding="utf-8")
        return self.change(self.base / "tokenizer_config.json", chat_template=attack)

    def bundle(self, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
        """A bundle with one more entry, of this name."""
        file = self.base.with_name("bundle.tar")
        words = command("export", str(self.run), str(file), "--to", "bundle")
        assert subprocess.run(words, env=environment(), capture_output=True, check=False).returncode == 0
        with tarfile.open(file, "a") as archive:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, str(self.canary.parent), 0 if kind == tarfile.SYMTYPE else 3
            archive.addfile(entry, io.BytesIO(b"bad"))
        return file


CASES: Final[Mapping[str, Callable[[Case], Path]]] = {
    "a pickle with __reduce__ as weights": lambda case: case.pickled("pytorch_model.bin"),
    "the same in PyTorch's archive": Case.zipped,
    "a pickle beside sound weights": lambda case: case.pickled("pytorch_model.bin", instead=False),
    "training_args.bin and optimizer.pt": lambda case: case.pickled("training_args.bin", instead=False),
    "auto_map, with code beside it": Case.automatic,
    "an index that leads out of the folder": Case.elsewhere,
    "adapter_config.json that points elsewhere": Case.adapter,
    "an adapter as a pickle": Case.adapter_pickle,
    "an adapter that is a link out of the run": lambda case: case.linked(next((case.run / "adapter").glob("*.safetensors"))),
    "a description that is a link out of the run": lambda case: case.linked(case.run / "adapter" / "adapter.json"),
    "10 GB of a hole": lambda case: case.sized(55, 10 * 2**30),
    "a header of 2^60 bytes": lambda case: case.sized(2**60, 10 * 2**30),
    "a header as long as 10 GB": lambda case: case.sized(10 * 2**30 - 8, 10 * 2**30),
    "cut weights": Case.cut,
    "a template that leaves its sandbox": Case.template,
    "a bundle with ../": lambda case: case.bundle("../canary"),
    "a bundle with an absolute name": lambda case: case.bundle(str(case.canary)),
    "a bundle with a link": lambda case: case.bundle("run/link", tarfile.SYMTYPE),
}


def serve(source: Path, data: Path) -> tuple[str, float]:
    """What `imprint serve` says of it: a sentence, or "served" if it became ready; and the seconds."""
    begun = time.monotonic()
    words = command("serve", str(source), "port=0", f"data={data}", "device=cpu")
    log = data.with_name("log")
    with log.open("w", encoding="utf-8") as errors:
        started = subprocess.Popen(words, cwd=source.parent, env=environment(), stdout=subprocess.PIPE, stderr=errors, encoding="utf-8")
    assert started.stdout is not None
    try:
        is_ready = any(line.startswith("ready: ") for line in started.stdout)
        seconds = time.monotonic() - begun
        if is_ready:
            return "served", seconds
        assert started.wait(SECONDS) in {1, 2}
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
    text = log.read_text(encoding="utf-8")
    assert "Traceback" not in text, text
    said = [line for line in text.splitlines() if line and not line.startswith("opening ")]
    return said[0], seconds


def main(folder: Path, first: int = 0) -> int:
    """Give the cases from this one on to the service; tell what it says."""
    shutil.rmtree(folder, ignore_errors=True)
    base, run = base_of("Qwen3", folder / "base"), tiny_run(folder / "mine")
    slowest, refused = 0.0, 0
    for number, (name, make) in enumerate(CASES.items()):
        if number < first:
            continue
        place = folder / f"case-{number}"
        shutil.copytree(base, place / "inside" / "base")
        shutil.copytree(run, place / "inside" / "run")
        case = Case(place / "inside" / "base", place / "inside" / "run", place / "canary")
        said, seconds = serve(make(case), place / "data")
        slowest, refused = max(slowest, seconds), refused + (said != "served")
        assert not case.canary.exists(), name
        say(f"{name}: {said} [{seconds:.0f} s]")
        shutil.rmtree(place)
    count = len(CASES) - first
    say(f"{count} models that attack: {refused} refused, {count - refused} served without what attacks, in {slowest:.0f} s at most")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), *map(int, sys.argv[2:])))
