"""Peak memory and speed of preparing a corpus of raw text for training, at several sizes: `python benchmarks/corpus.py [MB ...]`.

Each size is prepared in a new process: tokenized into a folder, opened, batched, and some rows are read.
"""

import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

MIB = 2**20


def write_corpus(file: Path, megabytes: int) -> None:
    from imprint.demo.domain_example.books import general_texts

    texts = "\n\n".join(islice(general_texts(0), 4000)) + "\n\n"
    with file.open("w", encoding="utf-8") as opened:
        for _ in range(max(1, megabytes * 1_000_000 // len(texts.encode()))):
            opened.write(texts)


def read_corpus(folder: Path) -> None:
    import imprint
    from imprint.data.batches import BatchSampler
    from imprint.data.section import TextsSection
    from imprint.data.texts import load_texts

    tokenizer = imprint.load(folder / "base", device="cpu").tokenizer
    started, before = time.monotonic(), peak()
    split = load_texts(TextsSection(kind="texts", train=folder / "corpus.txt", blank_lines=True), tokenizer, folder / "tokens")
    seconds = time.monotonic() - started
    batches = BatchSampler(split.lengths(), 16, seed=0)
    tokens = sum(len(split.train[row].ids) for step in range(1, 200) for row in batches.batch(step))
    print(f"{len(split.train):>9} rows  {seconds:7.1f} s  peak {before / MIB:6.0f} -> {peak() / MIB:6.0f} MiB  ({tokens} tokens read)")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    if sys.argv[1:2] == ["--read"]:
        read_corpus(Path(sys.argv[2]))
        return
    from imprint.demo.bloom import write_untrained_bloom

    for megabytes in [int(word) for word in sys.argv[1:]] or [3, 30]:
        with TemporaryDirectory() as scratch:
            write_untrained_bloom(Path(scratch) / "base", texts=2000)
            write_corpus(Path(scratch) / "corpus.txt", megabytes)
            print(f"{megabytes:>5} MB", end=" ", flush=True)
            result = subprocess.run([sys.executable, __file__, "--read", scratch], check=True, capture_output=True, text=True)
            print(result.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
