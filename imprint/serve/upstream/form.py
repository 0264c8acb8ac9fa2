"""Jobs in the form of OpenAI's API, and the parts of a streamed answer.

Sources: https://platform.openai.com/docs/api-reference/chat/create and .../completions; for top_k, min_p, repetition_penalty and
continuous_usage_stats https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from imprint.messages import Bilingual
from imprint.serve.generation.job import Alternative, EndReason, Job, RefusedError, TokenPiece, refuse_no_prompt
from imprint.serve.upstream.faults import FILTERED, FaultError, fault_of_error

Api = Literal["vllm", "openai"]
NO_ID: Final = -1
"""The id of a token that a server names by its text alone."""
ENDINGS: Final[Mapping[str, EndReason]] = {"stop": "stop", "length": "length"}
MAX_TOKENS: Final = 2**31
ESTIMATED_BYTES_A_TOKEN: Final = 3
"""Where tokens are not counted: a Chinese character, or three letters."""
MOST_BYTES_A_TOKEN: Final = 8
"""A prompt has at least a token for so many bytes, whatever the language."""
TOKENS_A_MESSAGE: Final = 4
VERSION: Final = re.compile(r"[-@:](?:v?[0-9]|latest$)")
"""What follows a model's name where a hosted one answers by the name of its version, such as -2024-08-06 or :latest."""
WORDS_ALONE: Final = Bilingual(
    "messages: the server with the model takes roles and texts; tools are not passed on.", "messages：后端只接受角色与文本；不转发工具。"
)


@dataclass(frozen=True)
class UpstreamDelta:
    """What an event of a server's stream adds to an answer."""

    text: str = ""
    tokens: tuple[TokenPiece, ...] = ()
    """The tokens, where log-probabilities were asked for."""
    reason: EndReason | None = None
    """Why the answer ends with this delta; None where it goes on."""
    prompt_tokens: int | None = None
    """Tokens of the prompt, where the server counts them."""
    new_tokens: int | None = None
    """Tokens of the answer so far, where the server counts them; it may do so at the end alone."""

    @property
    def size(self) -> int:
        """What it holds, in bytes of UTF-8."""
        named = sum(len(one.utf8) for token in self.tokens for one in (token, *token.top))
        return len(self.text.encode()) + named

    def tokens_after(self, before: int) -> int:
        """How many tokens it adds to those before; an estimate where nobody counts."""
        if self.new_tokens is not None:
            return max(self.new_tokens - before, len(self.tokens))
        return len(self.tokens) or (max(1, len(self.text.encode()) // ESTIMATED_BYTES_A_TOKEN) if self.text else 0)


def check_job(job: Job, api: Api) -> None:
    """Raise RefusedError for a job that cannot be passed on as it is."""
    refuse_no_prompt(job)
    for message in job.messages or ():
        if message.keys() != {"role", "content"} or not all(isinstance(value, str) for value in message.values()):
            raise RefusedError("invalid", WORDS_ALONE)
    if api == "openai":
        for name, is_plain in (("top_k", job.top_k == 0), ("repetition_penalty", job.repetition_penalty == 1)):
            if not is_plain:
                raise RefusedError(
                    "invalid",
                    Bilingual(
                        f"{name}: the server with the model has no such setting; leave it out.", f"{name}：后端没有这个参数，请去掉。"
                    ),
                )


def texts_of(job: Job) -> list[str]:
    """All texts of the prompt."""
    return [job.text] if job.text is not None else [str(value) for message in job.messages or () for value in message.values()]


def estimated_tokens(job: Job) -> int:
    """About how many tokens the prompt has."""
    return 1 + _bytes_of(job) // ESTIMATED_BYTES_A_TOKEN + TOKENS_A_MESSAGE * len(job.messages or ())


def least_tokens(job: Job) -> int:
    """How many tokens the prompt has at least."""
    return 1 + _bytes_of(job) // MOST_BYTES_A_TOKEN


def _bytes_of(job: Job) -> int:
    return sum(len(text.encode()) for text in texts_of(job))


def prompt_body(job: Job, model: str) -> dict[str, Any]:
    """The prompt, for a server's model."""
    if job.text is not None:
        return {"model": model, "prompt": job.text}
    return {"model": model, "messages": [dict(message) for message in job.messages or ()]}


def answer_body(job: Job, model: str, max_tokens: int | None, api: Api) -> dict[str, Any]:
    """The request for an answer. Every setting that changes an answer is in it, so that no default of a server does."""
    body = prompt_body(job, model) | {
        "stream": True,
        "stream_options": {"include_usage": True} | ({"continuous_usage_stats": True} if api == "vllm" else {}),
        "temperature": job.temperature,
        "top_p": job.top_p,
    }
    if api == "vllm":
        body |= {"top_k": job.top_k or -1, "repetition_penalty": job.repetition_penalty, "min_p": 0.0}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if job.seed is not None:
        body["seed"] = job.seed
    if job.stop:
        body["stop"] = list(job.stop)
    if job.top_logprobs is not None:
        body |= {"logprobs": job.top_logprobs} if job.text is not None else {"logprobs": True, "top_logprobs": job.top_logprobs}
    return body


def read_delta(payload: Any, job: Job, model: str) -> UpstreamDelta:
    """What an event tells. Raises FaultError for an error, and for what is no delta of this answer."""
    if not isinstance(payload, dict):
        raise FaultError("invalid_response")
    if (fault := fault_of_error(payload)) is not None:
        raise fault
    named, choices = payload.get("model"), payload.get("choices")
    if isinstance(named, str) and named and named != model and not (named.startswith(model) and VERSION.match(named, len(model))):
        raise FaultError("wrong_model")
    if not isinstance(choices, list) or len(choices) > 1:
        raise FaultError("invalid_response")
    prompt_tokens, new_tokens = _usage(payload.get("usage"))
    if not choices:
        return UpstreamDelta(prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    choice = choices[0]
    if not isinstance(choice, dict):
        raise FaultError("invalid_response")
    try:
        text = _text(choice, is_chat=job.text is None)
        tokens = () if job.top_logprobs is None else _tokens(choice.get("logprobs"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise FaultError("invalid_response") from None
    if any(len(token.top) > (job.top_logprobs or 0) + 1 for token in tokens):  # some name the chosen token beside the most probable ones
        raise FaultError("oversized")
    if text and not tokens and job.top_logprobs is not None:
        raise FaultError("no_log_probs")
    return UpstreamDelta(text, tokens, _reason(choice.get("finish_reason")), prompt_tokens, new_tokens)


def _text(choice: Mapping[str, Any], *, is_chat: bool) -> str:
    delta = choice["delta"] if is_chat else choice
    text = delta.get("content" if is_chat else "text")
    if not isinstance(text, str | None):
        raise TypeError
    (text or "").encode()  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair
    return text or ""


def _reason(finish_reason: Any) -> EndReason | None:
    if finish_reason is None:
        return None
    if finish_reason in FILTERED:
        raise FaultError("filtered")
    if not isinstance(finish_reason, str) or finish_reason not in ENDINGS:
        raise FaultError("failed")  # such as "abort"
    return ENDINGS[finish_reason]


def _usage(usage: Any) -> tuple[int | None, int | None]:
    """Tokens of prompt and answer."""
    if not isinstance(usage, dict):
        return None, None
    numbers = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, new = (number if type(number) is int and 0 <= number < MAX_TOKENS else None for number in numbers)
    return prompt, new


def _tokens(logprobs: Any) -> tuple[TokenPiece, ...]:
    """The tokens with their log-probabilities, in either form. Raises KeyError, TypeError, ValueError and AttributeError for others."""
    if logprobs is None:
        return ()
    if "content" in logprobs:
        return tuple(_token(one, one.get("top_logprobs") or ()) for one in logprobs["content"] or ())
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    rows = zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    return tuple(
        _token(
            {"token": text, "logprob": log_prob},
            [{"token": other, "logprob": value} for other, value in (top or {}).items()],
        )
        for text, log_prob, top in rows
    )


def _token(entry: Mapping[str, Any], top: Sequence[Mapping[str, Any]]) -> TokenPiece:
    chosen = _alternative(entry)
    return TokenPiece(NO_ID, chosen.utf8, chosen.log_prob, chosen.utf8.decode(errors="ignore"), tuple(map(_alternative, top)))


def _alternative(entry: Mapping[str, Any]) -> Alternative:
    text, log_prob, numbers = entry["token"], entry["logprob"], entry.get("bytes")
    if not isinstance(text, str) or not isinstance(numbers, list | None) or isinstance(log_prob, bool) or not math.isfinite(log_prob):
        raise ValueError
    return Alternative(NO_ID, text.encode() if numbers is None else bytes(numbers), float(log_prob))
