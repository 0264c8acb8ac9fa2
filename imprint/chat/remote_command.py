"""`imprint chat http://HOST:PORT`: a chat with a service in OpenAI's form."""

import ipaddress
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from imprint.chat.console import Chat, converse, standard_screen
from imprint.chat.conversation import BASE, Conversation, listed
from imprint.chat.section import RemoteChatSection, RemoteSamplingSection
from imprint.config import read_overrides
from imprint.files.links import from_home
from imprint.files.reading import read_bounded
from imprint.messages import Bilingual, UserError, closest, did_you_mean

if TYPE_CHECKING:
    from imprint.chat.remote import RemoteModelInfo, Service

SCHEMES: Final = ("http://", "https://")
KEY: Final = "key="
KEY_VARIABLE: Final = "IMPRINT_API_KEY"
MAX_KEY: Final = 4096
WRONG_ADDRESS: Final = Bilingual(
    "the address must be http://HOST:PORT or https://HOST, without a name, a password, ? and #. A key goes into IMPRINT_API_KEY.",
    "地址须为 http://主机:端口 或 https://主机，不含用户名、密码、? 和 #。密钥请放在 IMPRINT_API_KEY 中。",
)
WRONG_KEY: Final = Bilingual(
    f"the API key must be one word of printable ASCII, at most {MAX_KEY:,} characters. It is not shown here.",
    f"API 密钥须为一个由可见 ASCII 字符组成的词，最多 {MAX_KEY:,} 个字符。此处不显示密钥。",
)
TWO_KEYS: Final = Bilingual("key= and key_file= are both given; keep one.", "key= 与 key_file= 同时给出，请只用其一。")
IN_THE_CLEAR: Final = Bilingual(
    "http:// sends key and texts unencrypted over the network; use https:// where the service has it",
    "http:// 会在网络上明文传输密钥和文字；服务支持时请用 https://",
)


def is_service(text: str) -> bool:
    """Whether what a chat is opened with is the address of a service."""
    return text.lower().startswith(SCHEMES)


def remote_chat_command(url: str, overrides: Sequence[str]) -> None:
    """Talk to a model of a service. Raises UserError for a wrong address, key or model, and where the service refuses."""
    keys = [word.removeprefix(KEY) for word in overrides if word.startswith(KEY)]
    section = read_overrides([word for word in overrides if not word.startswith(KEY)], RemoteChatSection)
    parts = _parts(url)
    key = find_key(keys[-1] if keys else None, section.key_file, os.environ)
    if find_spec("httpx2") is None:
        raise UserError(
            Bilingual(
                'a chat with a service needs httpx2, which is not installed. Run `pip install "imprint[serve]"`.',
                '与在线服务对话需要 httpx2，尚未安装：请运行 pip install "imprint[serve]"。',
            )
        )
    from imprint.chat.remote import RemoteModel, Service

    near = is_near(parts.hostname or "")
    service = Service(service_address(url), key, near)
    screen = standard_screen()
    if key is not None and parts.scheme == "http" and not near:
        screen.note(IN_THE_CLEAR.line)
    models = service.models()
    model = choose_model(service, models, section.model)
    screen.note("\n".join(connected_lines(service, models, model)))
    settings = RemoteSamplingSection(**{name: getattr(section, name) for name in RemoteSamplingSection.model_fields})
    start = Conversation(settings, section.system, model=model, models=tuple(one.id for one in models))
    converse(Chat(RemoteModel(service), start.with_model(model), screen), sys.stdin)


def service_address(url: str) -> str:
    """The address that the routes stand behind: /v1, unless the one that is given has a path of its own. Raises UserError."""
    parts = _parts(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _parts(url: str) -> SplitResult:
    """The parts of an address. Raises UserError, which does not repeat it: a password may stand in it."""
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc or parts.query or parts.fragment or "?" in url or "#" in url:
        raise UserError(WRONG_ADDRESS)
    return parts


def is_near(host: str) -> bool:
    """Whether this is the host of a service on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def find_key(given: str | None, key_file: str | None, environment: Mapping[str, str]) -> str | None:
    """The API key: that of the command, else of the file, else of the environment; None without any. Raises UserError."""
    if given is not None and key_file is not None:
        raise UserError(TWO_KEYS)
    if given is None and key_file is not None:
        path = from_home(key_file)
        try:
            given = read_bounded(path, 1 << 16).decode("ascii", "replace").strip()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UserError(
                Bilingual(f"key_file={key_file}: cannot be read ({reason}).", f"key_file={key_file}：无法读取（{reason}）。")
            ) from None
    key = (environment.get(KEY_VARIABLE, "").strip() or None) if given is None else given
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable() and " " not in key):
        raise UserError(WRONG_KEY)
    return key


def choose_model(service: "Service", models: "Sequence[RemoteModelInfo]", wanted: str | None) -> str:
    """The model to ask: the wanted one, else the first that is no base. Raises UserError."""
    names = [model.id for model in models]
    if wanted is None:
        if not names:
            raise UserError(
                Bilingual(
                    f"{service.url}: lists no model that you may use. Name one: model=NAME.",
                    f"{service.url}：没有列出可用的模型，请用 model= 指定。",
                )
            )
        return next((name for name in names if name != BASE), names[0])
    if names and wanted not in names:
        meant = did_you_mean(closest(wanted, names), "model={}")
        raise UserError(
            Bilingual(
                f"model={wanted}: the service has no such model that you may use. {meant.english}It has {listed(names)}.",
                f"model={wanted}：服务没有这个模型，或无权使用。{meant.chinese}可用：{listed(names)}。",
            )
        )
    return wanted


def connected_lines(service: "Service", models: "Sequence[RemoteModelInfo]", model: str) -> list[str]:
    """What is told before the first question: service and model, what else there is, licence and note."""
    info = next((one for one in models if one.id == model), None)
    licence = f" · licence 许可: {info.licence}" if info and info.licence else ""
    lines = [f"connected 已连接: {service.url} · model 模型 {model}{licence}"]
    others = [one.id for one in models if one.id != model]
    if others:
        lines.append(Bilingual(f"/model NAME asks another: {listed(others)}", "可用 /model 换一个").line)
    return [*lines, info.note] if info and info.note else lines
