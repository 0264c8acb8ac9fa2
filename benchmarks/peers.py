"""Steps and answers of other libraries, to be run beside training.py and decode.py in one call on the same GPU.

    python benchmarks/peers.py [--case peft-lora] [--out FILE] [--tiny]

A network of Llama's form and of ChatGLM-6B's size (28 layers of 4,096, an MLP of 10,912, 130,528 tokens, head and embedding shared) with
random weights, as transformers computes it. A step has 16 rows as long as ADGEN's (full_size.py), filled up to the longest of them, with a
prefix of 128 or LoRA of rank 8 on queries, keys and values by peft, or with all weights in fp32 under autocast. `nf4`: the base in 4 bits
by bitsandbytes, activations recomputed with LoRA (peft refuses that with a prefix). `liger`: with Liger's kernels. `unsloth`: Unsloth's
LoRA, which comes last, since it changes transformers. Answers are those of `generate` to prompts of 44 tokens: with the cache that grows,
with the static one, which transformers compiles, and the latter with weights that torchao quantized. Prints one JSON line per case; a
library that is missing or fails says so in its line. `--tiny`, the default without a GPU, only checks that the script runs.
"""

import argparse
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from full_size import LENGTHS, PREFIX_LENGTH, peak_gb, reset_peak_memory, step_figures, synchronize
from results import reporter
from torch import Tensor

from imprint.runtime import version_of

ROWS, WARM_UP, STEPS = 16, 4, 12
PROMPT_TOKENS, ANSWER_TOKENS, BATCH = 44, 160, 64
RANK, GROUP = 8, 128
SIZES: dict[str, Any] = {
    "vocab_size": 130_528,
    "hidden_size": 4096,
    "intermediate_size": 10_912,
    "num_hidden_layers": 28,
    "num_attention_heads": 32,
}
TINY: dict[str, Any] = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
Values = dict[str, object]


class Peer:
    """Builds the network, and measures it in one way or another."""

    def __init__(self, device: torch.device, *, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.dtype = torch.float32 if device.type == "cpu" else torch.bfloat16

    def config(self) -> Any:
        """The configuration of the network."""
        from transformers import LlamaConfig

        sizes = TINY if self.tiny else SIZES
        return LlamaConfig(**sizes, max_position_embeddings=2048, tie_word_embeddings=True, attention_bias=True, pad_token_id=3)

    def network(self, dtype: torch.dtype | None = None) -> Any:
        """The network with random weights."""
        from transformers import LlamaForCausalLM

        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype or self.dtype)
        try:
            with self.device:
                network = LlamaForCausalLM(self.config())
        finally:
            torch.set_default_dtype(before)
        return network

    def in_nf4(self) -> Any:
        """The network with the linear layers of its blocks in 4 bits."""
        from bitsandbytes.nn import Linear4bit, Params4bit

        network = self.network()
        for name, layer in list(network.model.layers.named_modules()):
            if isinstance(layer, torch.nn.Linear):
                quantized = Linear4bit(
                    layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=self.dtype, quant_type="nf4", device="meta"
                )
                quantized.weight = Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                if layer.bias is not None:
                    quantized.bias = layer.bias
                network.model.layers.set_submodule(name, quantized.to(self.device))
        return network

    def with_prefix(self, network: Any) -> Any:
        """The network with a prefix of peft."""
        from peft import PrefixTuningConfig, get_peft_model

        return get_peft_model(network, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=PREFIX_LENGTH))

    def with_lora(self, network: Any, *, recomputed: bool = False) -> Any:
        """The network with a LoRA of peft."""
        from peft import LoraConfig, get_peft_model

        network.config.use_cache = False
        if recomputed:
            network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            network.enable_input_require_grads()
        targets = ["q_proj", "k_proj", "v_proj"]
        return get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=16, target_modules=targets))

    def with_liger(self, network: Any) -> Any:
        """The network with Liger's kernels."""
        from liger_kernel.transformers.monkey_patch import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(model=network)
        return network

    def with_unsloth(self) -> Any:
        """The network as Unsloth loads it, with its LoRA."""
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast
        from unsloth import FastLanguageModel

        with tempfile.TemporaryDirectory() as folder:
            self.network().save_pretrained(folder)
            words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}, unk_token="<unk>"))
            marks = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
            PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
            network, _ = FastLanguageModel.from_pretrained(folder, max_seq_length=2048, dtype=self.dtype, load_in_4bit=False)
        return FastLanguageModel.get_peft_model(
            network,
            r=RANK,
            lora_alpha=16,
            lora_dropout=0,
            bias="none",
            target_modules=["q_proj", "k_proj", "v_proj"],
            use_gradient_checkpointing=False,
        )

    def batch(self, rng: random.Random, first: int) -> dict[str, Tensor]:
        """16 rows, filled up to the longest of them."""
        lengths = [LENGTHS[index % len(LENGTHS)] for index in range(first, first + ROWS)]
        last = (TINY if self.tiny else SIZES)["vocab_size"]
        rows = [[rng.randrange(10, last) for _ in range(tokens)] for tokens, _ in lengths]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [3] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        labels = torch.full_like(ids, -100)
        for row, (tokens, scored) in enumerate(lengths):
            labels[row, tokens - scored : tokens] = ids[row, tokens - scored : tokens]
        return {name: values.to(self.device) for name, values in (("input_ids", ids), ("attention_mask", mask), ("labels", labels))}

    def steps(self, network: Any, *, autocast: bool = False) -> Values:
        """Optimizer steps of 16 rows: the median of those after the first ones."""
        network.train()
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=self.device.type == "cuda")
        rng, seconds = random.Random(0), list[float]()
        warm_up, count = (1, 1) if self.tiny else (WARM_UP, STEPS)
        batches = [self.batch(rng, ROWS * number) for number in range(warm_up + count)]
        reset_peak_memory(self.device)
        for batch in batches:
            synchronize(self.device)
            started = time.perf_counter()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                loss = network(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            synchronize(self.device)
            seconds.append(time.perf_counter() - started)
        return {
            **step_figures(statistics.median(seconds[warm_up:]), ROWS, self.device),
            "trained": sum(parameter.numel() for parameter in trained),
        }

    @torch.no_grad()
    def answers(self, network: Any, batch: int, cache: str | None = None) -> Values:
        """Greedy answers to so many prompts: tokens per second of the last of three calls."""
        network.eval()
        tokens = 8 if self.tiny else ANSWER_TOKENS
        ids = torch.randint(10, (TINY if self.tiny else SIZES)["vocab_size"], (batch, PROMPT_TOKENS), device=self.device)
        options: dict[str, Any] = {} if cache is None else {"cache_implementation": cache}
        seconds = []
        reset_peak_memory(self.device)
        for _ in range(1 if self.tiny else 3):
            synchronize(self.device)
            started = time.perf_counter()
            network.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **options
            )
            synchronize(self.device)
            seconds.append(time.perf_counter() - started)
        return {
            "batch": batch,
            "tokens_per_second": round(batch * tokens / seconds[-1], 1),
            "first_seconds": round(seconds[0], 1),
            "peak_gb": peak_gb(self.device),
        }

    def quantized(self, bits: int) -> Any:
        """The network whose blocks torchao has quantized: INT8 with a scale for each row, INT4 with one for every 128 columns."""
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        network = self.network()
        config = Int8WeightOnlyConfig() if bits == 8 else Int4WeightOnlyConfig(GROUP, int4_packing_format="tile_packed_to_4d")
        quantize_(network.model.layers, config)
        return network


CASES: dict[str, tuple[str, Callable[[Peer], Values]]] = {
    "peft-prefix": ("peft", lambda peer: peer.steps(peer.with_prefix(peer.network()))),
    "peft-lora": ("peft", lambda peer: peer.steps(peer.with_lora(peer.network()))),
    "peft-prefix-nf4": ("bitsandbytes", lambda peer: peer.steps(peer.with_prefix(peer.in_nf4()))),
    "peft-lora-nf4": ("bitsandbytes", lambda peer: peer.steps(peer.with_lora(peer.in_nf4(), recomputed=True))),
    "full": ("transformers", lambda peer: peer.steps(peer.network(torch.float32), autocast=True)),
    "liger-lora": ("liger-kernel", lambda peer: peer.steps(peer.with_lora(peer.with_liger(peer.network())))),
    "liger-full": ("liger-kernel", lambda peer: peer.steps(peer.with_liger(peer.network(torch.float32)), autocast=True)),
    "answer": ("transformers", lambda peer: peer.answers(peer.network(), 1)),
    "answers": ("transformers", lambda peer: peer.answers(peer.network(), BATCH)),
    "answer-static": ("transformers", lambda peer: peer.answers(peer.network(), 1, "static")),
    "answers-static": ("transformers", lambda peer: peer.answers(peer.network(), BATCH, "static")),
    "answer-int8": ("torchao", lambda peer: peer.answers(peer.quantized(8), 1, "static")),
    "answer-int4": ("torchao", lambda peer: peer.answers(peer.quantized(4), 1, "static")),
    "unsloth-lora": ("unsloth", lambda peer: peer.steps(peer.with_unsloth())),
}
"""The library that is measured, and how."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, one step")
    parser.add_argument("--case", choices=CASES, action="append", help="only these; may be repeated")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    peer = Peer(torch.device("cuda" if gpu else "cpu"), tiny=options.tiny or not gpu)
    report = reporter(options.out)
    for name in options.case or CASES:
        library, measure = CASES[name]
        report(case=name, library=library, version=version_of(library), **guarded(measure, peer))
        gc.collect()
        if gpu:
            torch.compiler.reset()
            torch.cuda.empty_cache()


def guarded(measure: Callable[[Peer], Values], peer: Peer) -> Values:
    """What is measured, or why it failed."""
    try:
        return measure(peer)
    except Exception as error:  # a peer's fault is a result
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    main()
