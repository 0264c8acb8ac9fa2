"""What `imprint.load` returns: network, tokenizer and adapter, with scoring, generation and chat.

Legend: T tokens of a row, N scored tokens, C hidden size, V vocabulary.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imprint import arguments
from imprint.data.document_rows import encode_document_start
from imprint.data.encode import EncodedPrompt, EncodedRow, encode_messages
from imprint.inference.generate import generate, stream
from imprint.inference.request import MAX_TOKENS, Request, stop_texts
from imprint.inference.sampling import row_seed
from imprint.inference.stop_text import before_stop
from imprint.messages import Bilingual, UserError
from imprint.models.attention import Prefix
from imprint.models.network import Network
from imprint.pack import pack
from imprint.templates import Message, Template, conversation, read_messages, with_turn
from imprint.tokenizers import VOCABULARY_FILE, TextStream, Tokenizer, missing_tokenizer_error
from imprint.tune.adapter import Adapter, AdapterMetadata
from imprint.tune.mounted import MountedAdapters

Turns = Sequence[tuple[str, str]] | Sequence[Mapping[str, object]]
"""Earlier turns, oldest first: (question, answer) pairs, or messages with `role` and `content`."""
History = list[Any]
"""Turns in the form in which they were given; pairs if there were none."""
ANSWER_SHARE = 0.25
"""Share of `max_length` that is reserved for the answer when the history is long."""
DEFAULT_LENGTH = 2048
"""Most tokens of prompt and answer of a chat, unless the base has a shorter context; that of ChatGLM-6B's own `chat`."""
MIN_LENGTH = 3
"""Length in tokens of the shortest chat: [gMASK], <sop>, and one token of an answer."""


class AnswerText:
    """The text of an answer that grows by a token at a time, as the template displays it."""

    def __init__(self, template: Template, stop: Sequence[str] = ()) -> None:
        self._template = template
        self._stop = stop
        self._stream = TextStream(template.tokenizer)
        self._decoded = ""

    def push(self, token: int) -> str:
        """Append a token; returns the characters that it completes, as decoded."""
        added = self._stream.push(token)
        self._decoded += added
        return added

    def shown(self) -> str:
        """The answer so far, in front of its stop text; parts that are not sure yet may be missing or change."""
        return self._template.display_text(before_stop(self._decoded, self._stop, done=False), done=False)

    def settled(self) -> str:
        """The beginning of `shown` that no further token changes."""
        return self._template.stable_prefix(self.shown())

    def finish(self) -> str:
        """The whole answer, where no further token comes: the displayed text of all tokens, up to the last whole character."""
        return self._template.display_text(before_stop(self._decoded, self._stop, done=True))


class Model:
    """A network with its tokenizer, prompt template and adapter."""

    def __init__(self, network: Network, template: Template | None, name: str, *, tokenizer_file: str = VOCABULARY_FILE) -> None:
        if template is not None:
            network.stop_ids |= template.stop_ids
        self.network = network
        self.name = name
        self.description: AdapterMetadata | None = None
        """The content of the adapter's adapter.json."""
        self.source_prefix = ""
        """Text in front of every prompt, as the run was trained."""
        self.find_adapter: Callable[[Path], Path] = lambda path: path
        """The adapter's path for a folder that a user names: `imprint.load` finds that of a run or a bundle."""
        self._template = template
        self.tokenizer_file = tokenizer_file
        """The name of the file that holds a tokenizer of its family."""
        self.adapters = MountedAdapters(network)
        """The adapters that a request may name, its own included."""

    @property
    def adapter(self) -> Adapter | None:
        """The tuned prefix or LoRA; None for a base."""
        return self.adapters.own

    @adapter.setter
    def adapter(self, adapter: Adapter | None) -> None:
        self.adapters.own = adapter

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder has a tokenizer."""
        return self._template is not None

    @property
    def template(self) -> Template:
        """The prompt template. Raises UserError where the folder has no tokenizer."""
        if self._template is None:
            raise missing_tokenizer_error(self.name, self.tokenizer_file)
        return self._template

    @property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer. Raises UserError where it has none."""
        return self.template.tokenizer

    def new_text(self) -> Callable[[int], str]:
        """A function from each next token of an answer to the characters that it completes."""
        return TextStream(self.tokenizer).push

    def answer_text(self, stop: Sequence[str] = ()) -> AnswerText:
        """An answer without tokens, to which they are appended; `stop`: texts that end it and are no part of it."""
        return AnswerText(self.template, stop)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.network.device

    @property
    def identity(self) -> str:
        """A short digest of the sums of all weights and of the adapter, the key under which answers are cached."""
        digest = hashlib.sha256()
        with self.adapter_off():
            base = self.network.state_dict()
        for name, tensor in sorted({**base, **self.adapter_parameters()}.items()):
            flat = tensor.detach().flatten()
            sums = [float(part.sum(dtype=torch.float64)) for part in (flat, flat[::2], flat[: len(flat) // 2])]
            digest.update(repr((name, str(flat.dtype), sums)).encode())
        return digest.hexdigest()[:16]

    def prompt(
        self,
        query: str,
        history: Turns | None = None,
        *,
        max_source_length: int = 2048,
        system: str | None = None,
    ) -> list[int]:
        """The prompt's ids, for `generate`; the oldest turns of a history that is too long are dropped.

        Raises UserError for a history that is neither pairs nor messages with `role` and `content`.
        """
        return self.prompt_of(conversation(query, history, system), max_source_length=max_source_length)

    def prompt_of(self, messages: Sequence[Message] | Sequence[Mapping[str, object]], *, max_source_length: int = 2048) -> list[int]:
        """The prompt's ids for a list of messages, with tool definitions, calls and results where the template supports them."""
        return self._encode(messages, max_source_length).ids

    def prompt_of_text(self, text: str) -> list[int]:
        """The prompt's ids for a text that the base continues as in its pre-training, without the template."""
        return encode_document_start(self.tokenizer, arguments.text("text", text))

    def with_template(self, template: Template, source_prefix: str) -> "Model":
        """The same network and adapters, with the template and source prefix of another run."""
        other = copy(self)
        other._template, other.source_prefix = template, source_prefix
        self.network.stop_ids |= template.stop_ids
        return other

    def chat_prompt(self, query: str, history: Turns | None = None, system: str | None = None, *, max_length: int) -> EncodedPrompt:
        """The prompt of a chat of at most `max_length` tokens, and what it leaves out so that there is room for the answer."""
        max_prompt = max_length - max(int(max_length * ANSWER_SHARE), 1)
        return self._encode(conversation(query, history, system), max_prompt)

    def _encode(self, messages: Sequence[Message] | Sequence[Mapping[str, object]], max_source_length: int) -> EncodedPrompt:
        limit = arguments.integer("max_source_length", max_source_length, at_least=1)
        parsed = read_messages(messages, "messages")
        if not parsed:
            raise arguments.wrong_argument("messages", "at least one message", messages, "至少一条消息")
        return encode_messages(self.template, parsed, max_source_length=limit, source_prefix=self.source_prefix)

    def attach(self, adapter: Adapter, description: AdapterMetadata) -> None:
        """Use an adapter that was loaded for this network."""
        self.adapter, self.description = adapter, description

    def mount(self, name: str, folder: str | Path) -> None:
        """Load a further adapter on the same weights, for requests that name it; `folder` is what `adapter` of `imprint.load` takes.

        The model's own LoRA computes without gradients from then on. Raises UserError for a name that is taken (`base` always is), and for
        what is no adapter of this base.
        """
        self.adapters.mount(arguments.text("name", name), self.find_adapter(arguments.path("folder", folder)))

    def unmount(self, name: str) -> None:
        """Remove a mounted adapter. Raises UserError for an unknown name, and while requests use it."""
        self.adapters.unmount(arguments.text("name", name))

    def adapter_off(self) -> AbstractContextManager[None]:
        """Inside this block the model is its base, bit for bit."""
        return self._switched(on=False)

    @contextmanager
    def _switched(self, *, on: bool) -> Iterator[None]:
        previous, self.adapters.own_is_on = self.adapters.own_is_on, on
        try:
            with nullcontext() if self.adapter is None else self.adapter.on() if on else self.adapter.off():
                yield
        finally:
            self.adapters.own_is_on = previous

    def merge(self, *, dequantize: bool = False) -> None:
        """Merge a LoRA into the weights permanently; see `Adapter.merge`. Raises UserError if there is none."""
        if self.adapter is None or not self.adapter.mergeable:
            raise UserError(
                Bilingual(
                    f"{self.name}: has no LoRA that could be merged into its weights. Give adapter=FOLDER of one.",
                    f"{self.name}：没有可以合并到权重中的 LoRA：请用 adapter=目录 给出一个。",
                )
            )
        self.adapters.merge_own(dequantize=dequantize)
        self.adapter, self.description = None, None

    def prefix(self) -> Prefix | None:
        """Keys and values of the adapter in the network's dtype; None without an adapter or while it is off."""
        if self.adapter is None or not self.adapters.own_is_on:
            return None
        return self.adapter.prefix(self.network.dtype)

    @torch.no_grad()
    def logits(self, ids: list[list[int]]) -> list[Tensor]:
        """Logits (T, V) of each row."""
        rows = arguments.id_rows("ids", ids)
        hidden = self.network(pack(rows, self.network).to(self.device), prefix=self.prefix())
        return list(self.network.logits(hidden).split([len(row) for row in rows]))

    @torch.no_grad()
    def hidden_states(self, ids: list[list[int]]) -> list[list[Tensor]]:
        """The hidden states (T, C) of each row: the input of each block, then the output of the final norm."""
        packed: list[Tensor] = []
        rows = arguments.id_rows("ids", ids)
        self.network(pack(rows, self.network).to(self.device), prefix=self.prefix(), hidden_states=packed)
        lengths = [len(row) for row in rows]
        return [list(row) for row in zip(*(hidden.split(lengths) for hidden in packed), strict=True)]

    @torch.no_grad()
    def target_logits(self, rows: Sequence[EncodedRow]) -> tuple[Tensor, Tensor]:
        """(N, V) logits before each of the N scored tokens of rows, and (N,) these tokens."""
        batch = pack([row.ids for row in rows], self.network, [row.labels for row in rows]).to(self.device)
        hidden = self.network(batch, prefix=self.prefix())
        return self.network.logits(hidden[batch.targets]), batch.labels

    def loss(self, ids: list[list[int]], labels: list[list[int]], *, checkpointing: bool = False) -> Tensor:
        """Mean cross-entropy over scored tokens, differentiable; labels are aligned with ids, -100 = not scored, the shift is inside."""
        rows, targets = arguments.id_rows("ids", ids), arguments.id_rows("labels", labels)
        batch = pack(rows, self.network, targets).to(self.device)
        if not batch.target_tokens:
            raise UserError(
                Bilingual(
                    "labels: no token is scored. Give at least one label other than -100 after a row's first token.",
                    "labels 中没有计分的词元：请在某行第一个词元之后至少给出一个不为 -100 的标签。",
                )
            )
        hidden = self.network(batch, prefix=self.prefix(), checkpointing=checkpointing)
        return self.network.target_loss(hidden[batch.targets], batch.labels) / batch.target_tokens

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's tensors by the names in its file; empty without an adapter."""
        return {} if self.adapter is None else self.adapter.named_tensors()

    def prefix_parameters(self) -> dict[str, nn.Parameter]:
        """The tensors of a prefix by name; empty without one."""
        return self.adapter_parameters() if self.adapter is not None and self.adapter.method == "prefix" else {}

    def generate(
        self,
        ids: list[list[int]],
        max_new_tokens: int,
        temperature: float = 0,
        top_p: float = 1,
        num_beams: int = 1,
        seed: int | None = None,
        *,
        top_k: int = 0,
        repetition_penalty: float = 1,
        stop: Sequence[str] | str = (),
        adapters: Sequence[str | None] | None = None,
    ) -> list[list[int]]:
        """New ids of each prompt, without the end id; greedy unless a temperature is given.

        `stop`: texts that end an answer, which are part of its ids. `adapters`: the name of a mounted adapter for each prompt, `base` for
        the base; None takes the model as it is. Raises UserError for impossible settings.
        """
        rows = arguments.id_rows("ids", ids)
        names, stop = _adapter_of_each(adapters, len(rows)), stop_texts(stop)
        requests = [
            Request(
                row,
                max_new_tokens,
                temperature,
                top_p,
                top_k,
                repetition_penalty,
                row_seed(seed, index),
                stop=stop,
                adapter=names[index],
            )
            for index, row in enumerate(rows)
        ]
        return generate(self, requests, num_beams=num_beams)

    def chat(
        self,
        query: str,
        history: Turns | None = None,
        *,
        max_length: int | None = None,
        top_p: float = 0.7,
        temperature: float = 0.95,
        num_beams: int = 1,
        seed: int | None = None,
        system: str | None = None,
        top_k: int = 0,
        repetition_penalty: float = 1,
        stop: Sequence[str] | str = (),
    ) -> tuple[str, History]:
        """The answer, and the history with this turn added; sampled by default, as ChatGLM-6B's own `chat`.

        `max_length` limits prompt and answer together, in tokens, by default to 2,048 or the context length of the base; the oldest turns
        are dropped where a history is too long. `system` is the system prompt, which is never dropped. `stop`: texts that end the answer
        and are no part of it.
        """
        max_length = self.chat_length(max_length)
        prompt, stop = self.chat_prompt(query, history, system, max_length=max_length).ids, stop_texts(stop)
        temperature = temperature if num_beams == 1 else 0.0
        request = Request(prompt, max_length - len(prompt), temperature, top_p, top_k, repetition_penalty, seed, stop=stop)
        (tokens,) = generate(self, [request], num_beams=num_beams)
        answer = self.answer_text(stop)
        for token in tokens:
            answer.push(token)
        text = answer.finish()
        return text, with_turn(history, query, text)

    def stream_chat(
        self,
        query: str,
        history: Turns | None = None,
        *,
        max_length: int | None = None,
        top_p: float = 0.7,
        temperature: float = 0.95,
        seed: int | None = None,
        system: str | None = None,
        top_k: int = 0,
        repetition_penalty: float = 1,
        stop: Sequence[str] | str = (),
    ) -> Iterator[tuple[str, History]]:
        """Like `chat`, yielding the answer so far and its history whenever it has grown.

        Switching the adapter on or off after this call does not change the stream.
        """
        max_length = self.chat_length(max_length)
        prompt, stop = self.chat_prompt(query, history, system, max_length=max_length).ids, stop_texts(stop)
        request = Request(prompt, max_length - len(prompt), temperature, top_p, top_k, repetition_penalty, seed, stop=stop)
        return self._growing_answers(query, history, stream(self, request), stop)

    def _growing_answers(
        self, query: str, history: Turns | None, tokens: Iterator[int], stop: Sequence[str]
    ) -> Iterator[tuple[str, History]]:
        answer, shown = self.answer_text(stop), ""
        for token in tokens:
            answer.push(token)
            if (text := answer.shown()) != shown:
                shown = text
                yield text, with_turn(history, query, text)
        text = answer.finish()
        if text != shown or not text:
            yield text, with_turn(history, query, text)

    def chat_length(self, max_length: int | None = None) -> int:
        """Maximum tokens of prompt and answer of a chat: `max_length`, or the default. Raises UserError for one that is too small."""
        if max_length is None:
            return min(DEFAULT_LENGTH, self.network.shape.max_length)
        max_length = arguments.integer("max_length", max_length)
        if max_length > MAX_TOKENS:
            raise arguments.wrong_argument("max_length", f"at most {MAX_TOKENS}", max_length, f"不大于 {MAX_TOKENS} 的整数")
        if max_length < MIN_LENGTH:
            raise UserError(
                Bilingual(
                    f"max_length: must be at least {MIN_LENGTH} ([gMASK], <sop> and one token of an answer), got {max_length}.",
                    f"max_length 必须不小于 {MIN_LENGTH}（[gMASK]、<sop> 和回答的一个词元），实际为 {max_length}。",
                )
            )
        return max_length


def _adapter_of_each(adapters: Sequence[str | None] | None, rows: int) -> Sequence[str | None]:
    """The adapter of each prompt. Raises UserError for another number of names than of prompts."""
    names = [None] * rows if adapters is None else [*adapters]
    if isinstance(adapters, str) or len(names) != rows:
        raise arguments.wrong_argument("adapters", f"a list of {rows} names or None, one for each prompt", adapters, f"{rows} 个名称的列表")
    return names
