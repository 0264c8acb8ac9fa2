"""Whether an answer depends on the requests that are decoded with it: each request alone, and all in one batch that they join in turn.

    python benchmarks/company.py [MODEL] [--requests 96] [--dtypes float32 bfloat16]

In float32 answers are equal. In 16 bits products of another batch size round otherwise, so that a token of almost the same probability may
be chosen; a sampled row draws the same numbers in both. Prints one JSON line per dtype and decoding: the share of equal answers, and of
tokens in front of the first different one.
"""

import argparse
import json
import random
from collections.abc import Sequence

import imprint
from imprint.inference import Decoder, Request
from imprint.model import Model

TEXT = "类型#裙*颜色#白色*图案#碎花你好请问这件衣服怎么洗诗集有吗今天星期几"
SETTINGS: dict[str, dict[str, float]] = {"greedy": {}, "sampled": {"temperature": 0.95, "top_p": 0.7}}


def answers(model: Model, requests: Sequence[Request], *, slots: int) -> list[list[int]]:
    """The answer of each request where so many are decoded at a time; a new one joins as soon as there is a slot."""
    decoder = Decoder(model, slots=slots)
    numbers = [decoder.admit(request) for request in requests]
    found: dict[int, list[int]] = {number: [] for number in numbers}
    while len(decoder):
        for token in decoder.step():
            found[token.request].append(token.id)
    return [found[number] for number in numbers]


def compare(alone: Sequence[Sequence[int]], together: Sequence[Sequence[int]]) -> dict[str, float]:
    """The share of equal answers, and of tokens in front of the first different one."""
    pairs = [*zip(alone, together, strict=True)]
    common = [next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), len(one)) for one, two in pairs]
    equal = sum(one == two for one, two in pairs)
    return {"equal_answers": round(equal / len(alone), 4), "equal_tokens": round(sum(common) / sum(map(len, alone)), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="embedded")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    options = parser.parse_args()
    for dtype in options.dtypes:
        model = imprint.load(options.model, dtype=dtype)
        rng = random.Random(0)
        prompts = [model.prompt("".join(rng.choices(TEXT, k=rng.randint(2, 30)))) for _ in range(options.requests)]
        for decoding, settings in SETTINGS.items():
            requests = [Request(ids, rng.randint(8, 48), **settings, seed=row) for row, ids in enumerate(prompts)]  # type: ignore[arg-type]
            figures = compare(answers(model, requests, slots=1), answers(model, requests, slots=32))
            print(json.dumps({"model": options.model, "device": str(model.device), "dtype": dtype, "decoding": decoding, **figures}))


if __name__ == "__main__":
    main()
