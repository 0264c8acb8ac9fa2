"""A model folder run by transformers itself: the reference for exported folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


class ReferenceModel:
    """A folder loaded by transformers, with its tokenizer; no code from the folder is run, nothing is downloaded."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False, dtype=dtype)
        model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)  # without the folder's defaults
        self.model = model.to(device).eval()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation by the folder's chat template, with the generation prompt."""
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return self.encode(text)

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """The greedy answer to one prompt, without the id that ends it."""
        ids = torch.tensor([list(prompt)], device=self.model.device)
        stop_ids = self.model.generation_config.eos_token_id
        pad = stop_ids[0] if isinstance(stop_ids, list) else stop_ids
        output = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad, use_cache=True
        )
        answer: list[int] = output[0, len(prompt) :].tolist()
        stops = set(stop_ids if isinstance(stop_ids, list) else [stop_ids])
        return next((answer[:index] for index, token in enumerate(answer) if token in stops), answer)
