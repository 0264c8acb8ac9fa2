"""`imprint serve RUN|MODEL|BUNDLE [...]`: open the store and the models, and serve until a signal."""

import asyncio
import resource
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from imprint.messages import Bilingual, UserError
from imprint.serve.generation.job import Backend
from imprint.serve.generation.section import ServedModelsSection
from imprint.serve.section import ServeSection
from imprint.serve.store import Store
from imprint.serve.upstream.section import UpstreamSection
from imprint.serve.web.app import create_app, drain
from imprint.serve.web.log import start_logging
from imprint.serve.web.server import Server, bind, build_server, prepare_process
from imprint.serve.web.settings import WebSettings
from imprint.terminal import say

POLL_SECONDS: Final = 0.05


def serve_command(paths: Sequence[str], section: ServeSection) -> None:
    """Serve the models at these paths, or those of other servers. Returns after the signal to end."""
    check_source(paths, section)
    if paths:
        from imprint.serve.generation.models import find_models

        find_models(paths, section)  # a wrong path leaves no database behind, and no password above its error
    settings = web_settings(section)
    with ExitStack() as stack:
        bound = stack.enter_context(bind_or_say(section.host, section.port))
        store = stack.enter_context(Store.open(Path(section.data)))
        store.start_serving()
        say_first_password(store)
        refuse_unsafe(store, settings)
        backend = open_backend(paths, section)
        start_logging()
        raise_file_limit()
        asyncio.run(serve(bound, store, settings, backend))
    say(Bilingual("ended", "已结束").line)


def check_source(paths: Sequence[str], section: ServeSection) -> None:
    """Raise UserError unless there are either models or servers, and for knobs that would have no effect."""
    if not (paths or section.upstream):
        raise UserError(
            Bilingual(
                "name a run, a model folder or a bundle: imprint serve runs/demo; or servers: upstream=[http://127.0.0.1:8000]",
                "请给出训练结果、模型目录或打包文件：imprint serve runs/demo；或服务器：upstream=[http://127.0.0.1:8000]",
            )
        )
    if paths and section.upstream:
        raise UserError(
            Bilingual(
                f"{paths[0]}: a service has models of its own or those of upstream=, not both. Leave one out.",
                f"{paths[0]}：一个服务要么用自己的模型，要么用 upstream= 的，不能两者都有：请去掉一个。",
            )
        )
    if section.upstream:
        without = ServedModelsSection.model_fields.keys() - {"slots", "max_waiting", "max_length"}
    else:
        without = UpstreamSection.model_fields.keys() - {"upstream"}
    useless = ", ".join(sorted(section.model_fields_set & without))
    if useless:
        raise UserError(
            Bilingual(
                f"{useless}: no effect {'with' if section.upstream else 'without'} upstream=. Leave it out.",
                f"{useless}：{'有' if section.upstream else '没有'} upstream= 时不起作用，请去掉。",
            )
        )


def open_backend(paths: Sequence[str], section: ServeSection) -> Backend:
    """The servers, or a worker that owns the models at these paths; a service in front of servers never loads PyTorch."""
    if section.upstream:
        from imprint.serve.upstream.backend import UpstreamLimits, open_upstream

        return open_upstream(section, UpstreamLimits(section.slots, section.max_waiting), section.max_length)
    from imprint.serve.generation.models import open_worker

    return open_worker(paths, section)


def web_settings(section: ServeSection) -> WebSettings:
    """What the routes need to know."""
    return WebSettings(
        section.host,
        hosts=section.hosts,
        proxies=section.proxies,
        guest=section.guest,
        legacy=section.legacy,
        grace=section.grace,
    )


def bind_or_say(host: str, port: int) -> socket.socket:
    """The socket. Raises UserError for an address that is taken, or not of this machine."""
    try:
        return bind(host, port)
    except (OSError, OverflowError) as error:
        raise UserError(
            Bilingual(
                f"host={host} port={port}: cannot be listened on ({error}). Choose another port, or port=0 for a free one.",
                f"host={host} port={port}：无法监听（{error}）。请换一个端口，或用 port=0 自动选择。",
            )
        ) from error


def say_first_password(store: Store) -> None:
    """Print the one-time password of the first admin, once."""
    if store.first_password is not None:
        say(
            Bilingual(
                f'account "admin", one-time password: {store.first_password} (shown once; to be changed at the first login)',
                f"账号 admin，一次性密码：{store.first_password}（只显示这一次；首次登录须修改）",
            ).line
        )


def refuse_unsafe(store: Store, settings: WebSettings) -> None:
    """Raise UserError for a service that others can reach while an admin still has a one-time password."""
    names = ", ".join(store.accounts.admins_with_first_password())
    if settings.public and names:
        raise UserError(
            Bilingual(
                f"the one-time password of {names} was not changed. Start without host, hosts and proxies, sign in on this machine "
                "and change it; `imprint user reset-password admin` gives a new one.",
                f"{names} 的一次性密码尚未修改。请先不带 host、hosts、proxies 启动，在本机登录并修改；"
                "imprint user reset-password admin 可重发。",
            )
        )


def raise_file_limit() -> None:
    """Let the process have as many connections as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(bound: socket.socket, store: Store, settings: WebSettings, backend: Backend) -> None:
    """Serve until a signal; the backend is closed at the end."""
    try:
        app = create_app(backend, store, settings)
        prepare_process()
        server = build_server(app, partial(drain, app), proxies=settings.proxies)
        ready_task = asyncio.create_task(_say_ready(bound, backend, server))
        await server.serve([bound])
        ready_task.cancel()
    finally:
        await backend.close(0)


async def _say_ready(bound: socket.socket, backend: Backend, server: Server) -> None:
    while not (server.started and backend.ready()):
        await asyncio.sleep(POLL_SECONDS)
    host, port = bound.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    names = ", ".join(model.id for model in backend.models())
    say(Bilingual(f"ready: {address} · models: {names} · Ctrl-C ends it", f"已就绪：{address} · 模型：{names} · 按 Ctrl-C 结束").line)
