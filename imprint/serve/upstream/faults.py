"""What servers do wrong, and what users are told about it: never the words of a server, which may quote others or its own insides."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from imprint.messages import Bilingual
from imprint.serve.generation.job import RefusalKind

TELL_ADMIN: Final = Bilingual("If it stays so, tell whoever runs this service.", "若仍如此，请告知管理员。")
AGAIN: Final = Bilingual(f"Send the request again. {TELL_ADMIN.english}", f"请再发一次请求；{TELL_ADMIN.chinese}")
ABOUT_CONTEXT: Final = re.compile(
    r"context.?length|context.?window|max_model_len|maximum.{0,40}\b(length|tokens)|longer than the|prompt is too long|too many tokens",
    re.IGNORECASE,
)
"""How servers say that a prompt does not fit."""
FILTERED: Final = ("content_filter", "content_policy_violation")
"""How servers say that a filter refused a prompt or ended an answer."""
MAX_ERROR_CHARACTERS: Final = 20_000
"""Most characters of an error that are looked through."""


@dataclass(frozen=True)
class Fault:
    """A sort of fault."""

    message: Bilingual
    kind: RefusalKind = "unavailable"
    retry_elsewhere: bool = False
    """Whether another server may be asked, as this one did nothing."""
    counts_against_server: bool = True
    """Whether a server with several of these in a row is left out for a while: not for what one request may bring about."""


def _broken(english: str, chinese: str) -> Fault:
    return Fault(Bilingual(f"{english} {AGAIN.english}", f"{chinese}{AGAIN.chinese}"))


FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        "unreachable": Fault(
            Bilingual(f"the server with the model cannot be reached. {AGAIN.english}", f"无法连接模型所在的服务器：{AGAIN.chinese}"),
            retry_elsewhere=True,
        ),
        "busy": Fault(
            Bilingual(
                "the server with the model takes no request now. Try again in a moment.", "模型所在的服务器暂不接受请求：请稍后再试。"
            ),
            retry_elsewhere=True,
            counts_against_server=False,
        ),
        "failing": Fault(
            Bilingual(f"the server with the model takes no request now. {AGAIN.english}", f"模型所在的服务器暂不接受请求：{AGAIN.chinese}"),
            retry_elsewhere=True,
        ),
        "key": Fault(
            Bilingual(
                "the server with the model does not accept the key of this service. Tell whoever runs this service.",
                "模型所在的服务器不接受本服务的密钥：请告知管理员。",
            ),
            retry_elsewhere=True,
        ),
        "forbidden": Fault(
            Bilingual(
                "the server with the model does not accept the key of this service, or not this request. Change the request; if all are "
                "refused, tell whoever runs this service.",
                "模型所在的服务器不接受本服务的密钥，或不接受这个请求：请修改请求；若所有请求都被拒绝，请告知管理员。",
            ),
            retry_elsewhere=True,
        ),
        "filtered": Fault(
            Bilingual(
                "a filter of the server with the model ended this answer. Change the request.",
                "模型所在的服务器的内容过滤终止了回答：请修改请求。",
            ),
            "invalid",
            counts_against_server=False,
        ),
        "no_model": Fault(
            Bilingual(f"the server has this model no more. {TELL_ADMIN.english}", f"服务器已没有这个模型。{TELL_ADMIN.chinese}"),
            "model_not_found",
            retry_elsewhere=True,
        ),
        "invalid": Fault(
            Bilingual(
                "the server with the model refuses this request: check the order of the messages and the settings.",
                "模型所在的服务器拒绝了这个请求：请检查消息的顺序与参数。",
            ),
            "invalid",
            counts_against_server=False,
        ),
        "context": Fault(
            Bilingual(
                "prompt and answer together have more tokens than the model takes. Shorten the prompt, leave out the oldest messages, "
                "or ask for a shorter answer.",
                "提示与回答合计超过模型的上下文长度：请缩短提示、去掉最早的消息，或要求更短的回答。",
            ),
            "context_length_exceeded",
            counts_against_server=False,
        ),
        "no_log_probs": Fault(
            Bilingual(
                "logprobs: the server with the model does not give them. Leave them out.", "logprobs：模型所在的服务器不提供，请去掉。"
            ),
            "invalid",
            counts_against_server=False,
        ),
        "status": _broken("the server with the model failed.", "模型所在的服务器出错："),
        "failed": _broken("the server with the model failed while it wrote this answer.", "模型所在的服务器在生成回答时出错："),
        "redirect": _broken(
            "the server with the model points to another place, where no request is sent.", "模型所在的服务器要求转到别处，未予跟随："
        ),
        "timeout": _broken("the server with the model did not begin to answer in time.", "模型所在的服务器迟迟没有开始回答："),
        "silent": _broken("the server with the model said nothing more.", "模型所在的服务器不再发送内容："),
        "connection_lost": _broken(
            "the connection to the server with the model broke, so the answer is not whole.", "与模型服务器的连接中断，回答不完整："
        ),
        "unfinished": _broken("the server with the model did not finish the answer.", "模型所在的服务器没有完成回答："),
        "invalid_response": _broken("the server with the model sent what is no answer.", "模型所在的服务器发来的不是回答："),
        "oversized": _broken("the server with the model sent more than was asked for.", "模型所在的服务器发来的内容超出要求："),
        "wrong_model": _broken("the server answered with another model.", "服务器用了别的模型回答："),
        "unexpected": Fault(
            Bilingual(
                "this service failed while it passed the answer on. Send the request again.", "本服务转发回答时出错：请再发一次请求。"
            )
        ),
        "no_length": _broken("the server does not say how long a context its models have.", "服务器没有说明模型的上下文长度："),
    }
)
"""Name of a fault, as the log has it -> what it means."""


class FaultError(Exception):
    """Raised where a server does not give what it is asked for."""

    def __init__(self, name: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(name)
        self.retry_after = retry_after
        """After how many seconds the server wants to be asked again, if it says so."""
        self.name = name
        """A key of `FAULTS`."""
        self.status = status
        """The HTTP status, if there was an answer with one."""

    @property
    def fault(self) -> Fault:
        """What it means."""
        return FAULTS[self.name]

    @property
    def counts_against_server(self) -> bool:
        """Whether the server is to blame: a status 4xx is about one request, and a key that is no longer accepted fails the next check."""
        return self.fault.counts_against_server and not (self.status is not None and 400 <= self.status < 500)


NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {
        401: "key",
        403: "forbidden",
        404: "no_model",
        408: "timeout",
        413: "context",
        429: "busy",
        502: "failing",
        503: "failing",
        504: "timeout",
    }
)


def fault_of_exception(error: Exception) -> FaultError:
    """A fault as it is; any other exception is logged, and becomes one, so that it ends nothing but what it belongs to."""
    if isinstance(error, FaultError):
        return error
    logging.getLogger(__name__).error("a server was not understood", exc_info=error)
    return FaultError("unexpected")


def fault_of_status(status: int, body: bytes) -> FaultError:
    """The fault of an answer with another status than 200, whatever its body is."""
    if 300 <= status < 400:
        return FaultError("redirect", status=status)
    if status in {400, 422}:
        return FaultError("context" if is_about_context(read_json(body)) else "invalid", status=status)
    if status == 404 and not isinstance(read_json(body), dict):
        return FaultError("status", status=status)  # a proxy, or another program
    return FaultError(NAMES.get(status, "status"), status=status)


def fault_of_error(payload: Mapping[str, Any]) -> FaultError | None:
    """The fault that an object in the middle of a stream tells; None for a part of an answer."""
    if not payload.get("error") and payload.get("object") != "error":
        return None
    inner = payload.get("error")
    code = inner.get("code") if isinstance(inner, dict) else payload.get("code")
    if is_about_context(payload):
        return FaultError("context")
    if code in FILTERED:
        return FaultError("filtered")
    status = int(code) if isinstance(code, int | str) and re.fullmatch("4[0-9]{2}", str(code)) else None
    return FaultError("failed") if status is None else FaultError(NAMES.get(status, "invalid"), status=status)


def is_about_context(payload: Any) -> bool:
    """Whether an error says that prompt and answer are too long."""
    return ABOUT_CONTEXT.search(json.dumps(payload)[:MAX_ERROR_CHARACTERS]) is not None


def read_json(data: bytes | str) -> Any:
    """The value; None for what is no JSON."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(name)
