"""What transformers itself makes of a model folder: the witness for folders that are written for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Peer:
    """A folder as transformers loads it, with its tokenizer; no code from the folder is run, nothing is fetched."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False, dtype=dtype)
        self.model = model.to(device).eval()

    def encode(self, text: str) -> list[int]:
        """Ids of a text alone."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation by the folder's chat template, ready to be answered."""
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return self.encode(text)

    @torch.inference_mode()
    def answer(self, prompt: Sequence[int], longest: int) -> list[int]:
        """The greedy answer to one prompt, up to and without an id that ends it."""
        ids = torch.tensor([list(prompt)], device=self.model.device)
        ends = self.model.generation_config.eos_token_id
        pad = ends[0] if isinstance(ends, list) else ends
        whole = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False, pad_token_id=pad, use_cache=True
        )
        found: list[int] = whole[0, len(prompt) :].tolist()
        stops = set(ends if isinstance(ends, list) else [ends])
        return next((found[:place] for place, token in enumerate(found) if token in stops), found)
