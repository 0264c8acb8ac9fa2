import asyncio
import threading
import time
from functools import partial
from typing import Any

import pytest
from starlette.concurrency import run_in_threadpool

from imprint.serve.store.principal import Principal, Role
from imprint.serve.web.errors import ApiError
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.services import (
    Services,
    in_backup_thread,
    in_deleting_thread,
    in_opening_thread,
    in_reading_thread,
    in_slow_thread,
    in_writing_thread,
)
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore, principal


def test_draining_closes_the_door_and_waits_for_the_backend() -> None:
    backend = ScriptedBackend()
    services = Services(backend, ScriptedStore().as_store(), WebSettings(grace=0.1), Metrics(backend))
    services.check_open()
    ready = [services.ready]
    asyncio.run(services.drain())
    assert [*ready, services.ready] == [True, False]
    with pytest.raises(ApiError) as caught:
        services.check_open()
    assert caught.value.status == 503


def test_of_one_owner_few_searches_run_or_wait_and_others_have_their_turn() -> None:
    backend, ada, bob = ScriptedBackend(), principal("ada", "user"), principal("bob", "user")
    services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))

    def look() -> int:
        time.sleep(0.01)
        return 200

    async def search(who: Principal) -> int:
        try:
            return await in_slow_thread(services, who, "", look)
        except ApiError as error:
            return error.status

    async def search_all() -> list[int]:
        return await asyncio.gather(*(search(who) for who in (ada, ada, ada, ada, ada, bob)))

    assert asyncio.run(search_all()) == [200, 200, 200, 200, 429, 200]
    assert not services.slow_counts


def test_where_the_database_is_locked_what_visitors_write_leaves_accounts_and_reading_alone() -> None:
    backend, ada = ScriptedBackend(), principal("ada", "user")
    services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))
    unlocked = threading.Event()

    async def write_and_read() -> tuple[list[int], int]:
        flood = [asyncio.create_task(in_writing_thread(services, None, "", unlocked.wait)) for _ in range(100)]
        await asyncio.sleep(0.05)
        found = [
            await asyncio.wait_for(in_writing_thread(services, ada, "", lambda: 1), 5),
            await asyncio.wait_for(run_in_threadpool(int), 5),
        ]
        done = sum(one.done() for one in flood)
        unlocked.set()
        await asyncio.gather(*flood)
        return found, done

    assert asyncio.run(write_and_read()) == ([1, 0], 0)


def test_guests_who_search_and_open_chats_leave_accounts_alone() -> None:
    backend, ada = ScriptedBackend(), principal("ada", "user")
    services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))
    finished = threading.Event()

    async def flood_and_read() -> tuple[list[int], int]:
        guests = [principal(f"guest {number}", "guest") for number in range(100)]
        calls = [read(services, who, "", finished.wait) for who in guests for read in (in_slow_thread, in_opening_thread)]
        flood = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0.05)
        found = [await asyncio.wait_for(read(services, ada, "", lambda: 1), 5) for read in (in_slow_thread, in_opening_thread)]
        done = sum(one.done() for one in flood)
        finished.set()
        await asyncio.gather(*flood)
        return found, done

    assert asyncio.run(flood_and_read()) == ([1, 1], 0)


@pytest.mark.parametrize("call", [in_writing_thread, in_reading_thread])
@pytest.mark.parametrize("role", ["user", "guest"])
def test_one_who_asks_without_a_pause_holds_up_itself_alone(role: Role, call: Any) -> None:
    backend, ada, bob = ScriptedBackend(), principal("ada", role), principal("bob", role)
    services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))

    async def flood_and_write() -> int:
        flood = [asyncio.create_task(call(services, ada, "192.0.2.1", partial(time.sleep, 0.01))) for _ in range(100)]
        await asyncio.sleep(0)
        await call(services, bob, "192.0.2.2", int)
        done = sum(one.done() for one in flood)
        await asyncio.gather(*flood)
        return done

    assert asyncio.run(flood_and_write()) < 5


@pytest.mark.parametrize("read", [in_slow_thread, in_opening_thread])
def test_a_guest_waits_for_one_from_each_other_address_at_most(read: Any) -> None:
    backend = ScriptedBackend()
    services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))

    async def flood_and_read() -> int:
        guests = [principal(f"guest {number}", "guest") for number in range(100)]
        flood = [asyncio.create_task(read(services, who, "192.0.2.1", partial(time.sleep, 0.01))) for who in guests]
        await asyncio.sleep(0.02)
        await read(services, principal("guest", "guest"), "192.0.2.2", int)
        done = sum(one.done() for one in flood)
        await asyncio.gather(*flood)
        return done

    assert asyncio.run(flood_and_read()) < 10


def test_an_admin_who_deletes_an_account_waits_for_no_user_who_deletes_chats() -> None:
    backend, ada, admin = ScriptedBackend(), principal("ada", "user"), principal("admin", "admin")
    services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))
    may_end = threading.Event()

    async def delete() -> int:
        users = [asyncio.create_task(in_deleting_thread(services, ada, may_end.wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        try:
            return await asyncio.wait_for(in_deleting_thread(services, admin, lambda: 1), 5)
        finally:
            may_end.set()
            await asyncio.gather(*users)

    assert asyncio.run(delete()) == 1


def test_one_backup_is_written_at_a_time_and_no_second_one_waits() -> None:
    backend = ScriptedBackend()
    services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))
    done = threading.Event()

    async def back_up_twice() -> tuple[bool, str]:
        first = asyncio.create_task(in_backup_thread(services, done.wait))
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError) as refused:
            await in_backup_thread(services, done.wait)
        done.set()
        return await first, refused.value.code

    assert asyncio.run(back_up_twice()) == (True, "rate_limited")
    assert not services.backup_counts
