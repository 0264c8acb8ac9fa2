"""The routes of somebody's chats: list, search, open, rename, delete, export, and a question in one."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Final, Literal

from anyio import to_thread
from fastapi import Query
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from imprint.serve.store.chat_import import ImportedMessage
from imprint.serve.store.chats import Message
from imprint.serve.store.errors import StoreError
from imprint.serve.store.permission import permitted_by
from imprint.serve.store.principal import Principal
from imprint.serve.store.questions import Asked
from imprint.serve.store.quota import least_tokens
from imprint.serve.store.store import Store
from imprint.serve.web.access import MEMBER, SESSION, GuardedRoute
from imprint.serve.web.answers import answers_for
from imprint.serve.web.background_answers import BackgroundAnswer, MessageWriter
from imprint.serve.web.errors import log_store
from imprint.serve.web.json_pieces import json_bytes
from imprint.serve.web.page_bodies import ImportBody, MessageBody, TitleBody
from imprint.serve.web.routes.generations import background_answers_of, ending_all_where_one_fails, job_for, prepare_fitting
from imprint.serve.web.services import (
    Services,
    address_of,
    in_deleting_thread,
    in_opening_thread,
    in_reading_thread,
    in_slow_thread,
    in_writing_thread,
    opening_slot,
    principal_of,
    sending_slot,
    services_of,
    slow_slot,
)

PIECE_BYTES: Final = 64 << 10
"""Of an answer that is sent piece by piece."""


def routes() -> list[GuardedRoute]:
    """All of them."""
    return [
        GuardedRoute("/api/chats", list_chats, SESSION, "One's own chats, those changed last first"),
        GuardedRoute("/api/chats", create_chat, SESSION, "Begin a chat", "POST"),
        GuardedRoute("/api/chats", delete_all, SESSION, "Delete all one's chats", "DELETE"),
        GuardedRoute("/api/chats/{chat_id}", show_chat, SESSION, "A chat"),
        GuardedRoute("/api/chats/{chat_id}", rename_chat, SESSION, "Change its title", "PATCH"),
        GuardedRoute("/api/chats/{chat_id}", delete_chat, SESSION, "Delete it with its messages", "DELETE"),
        GuardedRoute("/api/chats/{chat_id}/messages", list_messages, SESSION, "Its tree of messages"),
        GuardedRoute("/api/chats/{chat_id}/messages", ask, SESSION, "Ask, or answer a question again", "POST"),
        GuardedRoute("/api/chats/{chat_id}/export", export_chat, MEMBER, "A chat as a file"),
        GuardedRoute("/api/chats/import", import_chat, MEMBER, "Take an exported chat in again, as a new one", "POST"),
        GuardedRoute("/api/export", export_all, MEMBER, "All chats, each as a line of JSON"),
    ]


def store_of(request: Request) -> Store:
    """The store."""
    return services_of(request).store


async def list_chats(
    request: Request,
    q: Annotated[str, Query(max_length=1000)] = "",
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """`q`: those with all of these words in their title or messages. `cursor`: where the page before ended."""
    principal, call = principal_of(request), in_slow_thread if q else in_reading_thread
    read = partial(store_of(request).chats.list, principal, search=q, cursor=cursor, limit=limit)
    page = await call(services_of(request), principal, address_of(request), read)
    return JSONResponse({"chats": [asdict(chat) for chat in page.chats], "next_cursor": page.next_cursor})


async def create_chat(request: Request, body: TitleBody) -> Response:
    """Without messages."""
    services, principal = services_of(request), principal_of(request)
    chat = await in_writing_thread(services, principal, address_of(request), lambda: services.store.chats.create(principal, body.title))
    return JSONResponse(asdict(chat), status_code=201)


async def delete_all(request: Request) -> Response:
    """How many there were."""
    services, principal = services_of(request), principal_of(request)
    return JSONResponse({"deleted": await in_deleting_thread(services, principal, lambda: services.store.chats.delete_all(principal))})


async def show_chat(request: Request, chat_id: str) -> Response:
    """Without its messages."""
    services, principal = services_of(request), principal_of(request)
    read = partial(services.store.chats.get, principal, chat_id)
    return JSONResponse(asdict(await in_reading_thread(services, principal, address_of(request), read)))


async def rename_chat(request: Request, chat_id: str, body: TitleBody) -> Response:
    """A title is text and nothing else."""
    services, principal = services_of(request), principal_of(request)
    chat = await in_writing_thread(
        services, principal, address_of(request), lambda: services.store.chats.rename(principal, chat_id, body.title)
    )
    return JSONResponse(asdict(chat))


async def delete_chat(request: Request, chat_id: str) -> Response:
    """With its messages; an answer that is being written ends."""
    services, principal = services_of(request), principal_of(request)
    await in_writing_thread(services, principal, address_of(request), lambda: services.store.chats.delete(principal, chat_id))
    background_answers_of(request).cancel_chat(principal, chat_id)
    return JSONResponse({"deleted": True})


async def list_messages(request: Request, chat_id: str) -> Response:
    """A parent before its children; an answer that is being written names its generation."""
    services, principal, address = services_of(request), principal_of(request), address_of(request)

    async def sent() -> AsyncGenerator[bytes]:
        with sending_slot(services, principal):
            with opening_slot(services, principal):
                messages = await in_opening_thread(services, principal, address, partial(services.store.chats.messages, principal, chat_id))
                writing = background_answers_of(request).by_message(principal)
                described = {"messages": (describe(message, writing) for message in messages)}
                body = await in_opening_thread(services, principal, address, partial(json_bytes, described))
                del messages, described
            yield b""  # all is read, or refused, before the answer begins
            for begin in range(0, len(body), PIECE_BYTES):  # a client that reads slowly keeps the slot with the memory
                yield body[begin : begin + PIECE_BYTES]

    return await begin_sending(sent(), "application/json")


async def begin_sending(
    parts: AsyncGenerator[bytes] | AsyncGenerator[str], media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer that is made as it is sent; raises what refuses its first part, which is empty."""
    await anext(parts)
    return StreamingResponse(parts, media_type=media_type, headers=headers)


def describe(message: Message, writing: Mapping[str, str]) -> dict[str, Any]:
    """A message as JSON."""
    error = None if message.error is None else message.error.line
    return {**vars(message), "error": error, "generation": writing.get(message.id)}


async def export_chat(request: Request, chat_id: str, form: Annotated[Literal["md", "json"], Query(alias="format")] = "md") -> Response:
    """As Markdown the newest branch, as JSON the whole tree."""
    services, principal = services_of(request), principal_of(request)
    read = partial(services.store.chat_export.one, principal, chat_id, form)
    text = await in_slow_thread(services, principal, address_of(request), read)
    kind = "text/markdown" if form == "md" else "application/json"
    headers = {"Content-Disposition": f'attachment; filename="chat.{form}"'}
    return Response(text, media_type=f"{kind}; charset=utf-8", headers=headers)


async def export_all(request: Request) -> Response:
    """A file of any length, made as it is sent."""
    services, principal = services_of(request), principal_of(request)

    def next_line(lines: Iterator[str]) -> str | None:
        line = next(lines, None)
        if not services.may_go_on(principal.needing(())):  # also at the end: with an account its chats are gone
            raise ClientDisconnect  # the connection is closed, so that nobody takes it for the whole file
        return line

    async def sent() -> AsyncGenerator[str]:
        with slow_slot(services, principal):
            yield ""  # the slot is taken, or refused, before the answer begins
            lines = services.store.chat_export.all(principal)
            while (line := await to_thread.run_sync(next_line, lines, limiter=services.slow)) is not None:
                yield line

    return await begin_sending(sent(), "application/x-ndjson", {"Content-Disposition": 'attachment; filename="chats.jsonl"'})


async def import_chat(request: Request, body: ImportBody) -> Response:
    """A copy with ids of its own, of the one who asks."""
    messages = [
        ImportedMessage(
            one.id, one.parent_id, one.role, one.content, one.model, one.state, one.finish_reason, one.prompt_tokens, one.completion_tokens
        )
        for one in body.messages
    ]
    services, principal = services_of(request), principal_of(request)
    keep = partial(services.store.chat_import.one, principal, body.title, messages)
    chat = await in_slow_thread(services, principal, address_of(request), keep)
    return JSONResponse(asdict(chat), status_code=201)


async def ask(request: Request, chat_id: str, body: MessageBody) -> Response:
    """Keep a question with an empty answer of each model, once all of them would be taken; then the models begin."""
    services, principal = services_of(request), principal_of(request)
    questions = services.store.questions
    with opening_slot(services, principal):
        read = partial(questions.path, principal, chat_id, body.text, parent_id=body.parent, answers=len(body.models))
        path = await in_opening_thread(services, principal, address_of(request), read)
    messages = [{"role": message.role, "content": message.text} for message in path if message.text or message.role == "user"]
    if body.text is not None:
        messages.append({"role": "user", "content": body.text})
    dropped = 0
    async with ending_all_where_one_fails() as prepared:
        for model in body.models:
            prepared.append(answers := answers_for(request, principal, least_tokens=least_tokens(body.text)))
            dropped = await prepare_fitting(answers, job_for(request, body, model, tuple(messages)), dropped)
        keep = partial(questions.keep, principal, chat_id, body.text, parent_id=body.parent, models=body.models)
        asked = await in_writing_thread(services, principal, address_of(request), keep)
        try:
            for answers in prepared:
                answers.begin()
        except BaseException:
            await _withdraw(services, principal, address_of(request), asked)
            raise
    described = []
    for message, model, answers in zip(asked.answers, body.models, prepared, strict=True):
        answer = BackgroundAnswer(answers, model, _writer(services.store, principal, message), message, chat_id)
        background_answers_of(request).start(answer)
        described.append({"generation": answer.id, "message": message, "model": model})
    return JSONResponse({"question": asked.question, "answers": described, "dropped_messages": dropped}, status_code=201)


async def _withdraw(services: Services, principal: Principal, address: str, asked: Asked) -> None:
    """Take back what no model could begin with; the right to the question may have ended, and the reason is raised already."""
    with permitted_by(None):
        try:
            await in_writing_thread(services, principal, address, partial(services.store.questions.withdraw, principal, asked))
        except StoreError as error:
            log_store(error, {"chat": asked.chat_id})


def _writer(store: Store, principal: Principal, message_id: str) -> MessageWriter:
    """What writes the message of an answer."""
    return MessageWriter(partial(store.chats.write, principal, message_id), partial(store.chats.finish, principal, message_id))
