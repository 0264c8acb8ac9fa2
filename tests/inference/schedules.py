"""Requests of every sort on one model with mounted adapters, their answers alone, and random schedules that mix them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import imprint
from imprint.inference import Decoder, Request
from imprint.model import Model
from imprint.models.network import Network
from imprint.quant.names import FormatName
from imprint.tune.adapter import Adapter, AdapterMetadata
from imprint.tune.adapter_folder import save_adapter
from imprint.tune.fingerprint import fingerprint
from imprint.tune.lora.lora import Lora
from imprint.tune.lora.mounted import MountedLoras
from imprint.tune.lora.shape import LoraShape, resolve_targets
from imprint.tune.prefix import PrefixShape, init_prefix
from tests.bases import base_of

SETTINGS: tuple[dict[str, float | int], ...] = (
    {},
    {},
    {"temperature": 0.9, "top_p": 0.8, "seed": 3},
    {"temperature": 1.5, "top_k": 9, "seed": 4},
    {"repetition_penalty": 1.3},
)
"""Of every pool: greedy requests twice as often as others."""

STRENGTH = 20.0
"""Factor of a prefix, so that it changes the answers of a random network."""


@dataclass(frozen=True)
class Pool:
    """Requests, and the answer that each one has from a model that was loaded for it alone."""

    model: Model
    requests: Sequence[Request]
    answers: Sequence[list[int]]


def adapters_of(base: Path, folder: Path, *, quantized: bool = False) -> dict[str, Path]:
    """Two prefixes of different lengths and two LoRAs of different ranks and targets for a base, with random tensors."""
    folders = {name: folder / name for name in ("short", "long", "narrow", "wide")}
    network = imprint.load(base, device="cpu", quantize=4 if quantized else None).network
    for index, (name, path) in enumerate(folders.items()):
        torch.manual_seed(index)
        adapter = _random_prefix(network, 2 + 3 * index) if index < 2 else _random_lora(network, name)
        with adapter.off():
            metadata = AdapterMetadata("base", fingerprint(network), adapter.metadata("random"), "chatglm")
        save_adapter(path, adapter, metadata)
        if isinstance(adapter, Lora):
            adapter.mount(MountedLoras(network), 0)  # out of the network, in which the next one is made
    return folders


def _random_prefix(network: Network, length: int) -> Adapter:
    prefix = init_prefix(network, PrefixShape.from_network(network, length, projection=False), "random", [])
    with torch.no_grad():
        prefix.embedding.weight.mul_(STRENGTH)
    return prefix


def _random_lora(network: Network, name: str) -> Adapter:
    targets = resolve_targets("all" if name == "wide" else "attention", network)
    lora = Lora(network, LoraShape(4 if name == "wide" else 2, 8.0, rslora=False, dora=False, targets=targets))
    for tensor in lora.named_tensors().values():
        torch.nn.init.normal_(tensor, std=1.0)
    return lora


def pool_of(family: str, folder: Path, *, quantized: bool = False, size: int = 20) -> Pool:
    """A pool for a family; the base is quantized to 4 bits if `quantized`."""
    base = base_of(family, folder / "base", std=0.3)
    adapters = adapters_of(base, folder / "adapters", quantized=quantized)
    quantize: FormatName | None = 4 if quantized else None
    models = {name: imprint.load(base, device="cpu", quantize=quantize, adapter=path) for name, path in adapters.items()}
    model = imprint.load(base, device="cpu", quantize=quantize)
    question = model.prompt("这件上衣的颜色是")
    assert len({tuple(one.generate([question], 8)[0]) for one in (model, *models.values())}) == 1 + len(models), "no adapter is seen"
    rng = random.Random(0)
    requests = []
    for index in range(size):
        ids = model.prompt("".join(rng.choices("这件上衣的颜色是白好你版型宽松", k=rng.randint(1, 9))))
        name = [None, *adapters][index % (1 + len(adapters))]
        settings = SETTINGS[(index // (1 + len(adapters))) % len(SETTINGS)]
        requests.append(Request(ids, rng.randint(1, 8), adapter=name, **settings))  # type: ignore[arg-type]
    answers = [_alone(model if request.adapter is None else models[request.adapter], request) for request in requests]
    for name, path in adapters.items():
        model.mount(name, path)
    return Pool(model, requests, answers)


def _alone(model: Model, request: Request) -> list[int]:
    (answer,) = model.generate(
        [list(request.ids)],
        request.max_new_tokens,
        request.temperature,
        request.top_p,
        seed=request.seed,
        top_k=request.top_k,
        repetition_penalty=request.repetition_penalty,
    )
    return answer


def run_schedule(pool: Pool, rng: random.Random) -> int:
    """Let some requests of the pool join, and some be cancelled, at random steps: every other answer is the one alone.

    Returns how many requests ended.
    """
    decoder = Decoder(pool.model, slots=rng.randint(1, 6), prefill_chunk_tokens=rng.choice((None, 3, 8, 40)))
    joining = [(rng.randint(0, 6), rng.randrange(len(pool.requests))) for _ in range(rng.randint(2, 8))]
    cancels = {rng.randint(1, 8): rng.randrange(len(joining)) for _ in range(rng.randint(0, 2))}
    numbers: dict[int, int] = {}
    answers: dict[int, list[int]] = {}
    ended: list[int] = []
    cancelled: set[int] = set()
    for step in range(200):
        for at, row in joining:
            if at == step:
                numbers[decoder.admit(pool.requests[row])] = row
        if step in cancels and cancels[step] < len(numbers):
            cancelled.add(number := [*numbers][cancels[step]])
            decoder.cancel(number)
        for token in decoder.step():
            stopped = token.id in pool.model.network.stop_ids
            answers.setdefault(token.request, []).extend([] if stopped else [token.id])
            ended += [token.request] * (token.finish is not None)
        if not len(decoder) and step > 6:
            break
    assert len(ended) == len({*ended})
    assert {*numbers} == {*ended} | cancelled
    for number, row in numbers.items():
        expected = pool.answers[row]
        found = answers.get(number, [])
        assert found == (expected[: len(found)] if number in cancelled else expected), (row, pool.requests[row])
    return len(ended)
