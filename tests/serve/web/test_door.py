import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from imprint.serve.store.login import Standing
from imprint.serve.web import door as door_module
from imprint.serve.web.door import MAX_CHANGES, Door
from imprint.serve.web.errors import ApiError
from tests.serve.web.scripted import principal

CLEAN = Standing(is_suspect=False, brake_seconds=0.0)
GUESSING = Standing(is_suspect=True, brake_seconds=0.05)


async def sign_in(door: Door, address: str, standing: Standing, verify: Callable[[], object]) -> int:
    """Sign in; the status of the answer."""
    try:
        await door.sign_in(address, standing, verify)
    except ApiError as error:
        return error.status
    return 200


async def flood(addresses: Sequence[str], verify: Callable[[], object]) -> list[int]:
    """Log in from all these addresses at once, none of which has guessed before; the status of each answer."""
    door = Door()
    answers = await asyncio.gather(*(sign_in(door, address, CLEAN, verify) for address in addresses))
    assert (door.waiting, len(door.suspects)) == (Counter(), 0)
    return answers


def test_a_flood_of_logins_is_refused_and_two_are_verified_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MAX_LOGINS", 8)
    now, most = 0, 0

    def verify() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.01)
        now -= 1

    answers = asyncio.run(flood([f"192.0.2.{number}" for number in range(20)], verify))
    assert (answers.count(200), answers.count(429), most) == (8, 12, 2)


@pytest.mark.parametrize("network", ["2001:db8::{}", "2001:db8:0:{}::1"])
def test_a_flood_of_logins_from_one_network_leaves_places_for_others(monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    monkeypatch.setattr(door_module, "MAX_LOGINS", 8)
    monkeypatch.setattr(door_module, "MAX_LOGINS_PER_NETWORK", 4)
    addresses = [*(network.format(number) for number in range(20)), "192.0.2.7"]

    answers = asyncio.run(flood(addresses, lambda: time.sleep(0.01)))
    assert answers == [*[200] * 4, *[429] * 16, 200]


def test_guesses_from_few_networks_hold_up_each_other_and_nobody_else() -> None:
    door, release = Door(), threading.Event()

    async def guess_and_sign_in() -> tuple[list[int], int, list[int], int]:
        guesses = [asyncio.create_task(sign_in(door, f"203.0.{n % 20}.1", GUESSING, release.wait)) for n in range(200)]
        await asyncio.sleep(0.2)
        refused = sum(one.done() and one.result() == 429 for one in guesses)
        others = await asyncio.wait_for(asyncio.gather(*(sign_in(door, f"192.0.2.{n}", CLEAN, lambda: 1) for n in range(40))), 5)
        member = await asyncio.wait_for(door.change(principal("root", "admin"), lambda: 7), 5)
        for one in guesses:
            one.cancel()
        release.set()
        await asyncio.gather(*guesses, return_exceptions=True)
        return others, member, [door.waiting.total(), len(door.suspects)], refused

    others, member, left, refused = asyncio.run(guess_and_sign_in())
    assert (others, member, left) == ([200] * 40, 7, [0, 0])
    assert refused == 150


@pytest.mark.parametrize("networks", [3, pytest.param(40, marks=pytest.mark.long)])
def test_a_login_that_is_suspected_by_mistake_waits_for_one_guess_of_each_network_that_guesses(networks: int) -> None:
    door, verified, suspect = Door(), list[str](), Standing(is_suspect=True, brake_seconds=0.0)

    async def guess(network: str) -> None:
        while "owner" not in verified:
            if await sign_in(door, network, suspect, lambda: verified.append(network)) == 429:
                await asyncio.sleep(0.001)

    async def sign_in_between() -> tuple[int, int]:
        guesses = [asyncio.create_task(guess(f"203.0.{number}.1")) for number in range(networks) for _ in range(25)]
        await asyncio.sleep(0.1)
        before = len(verified)
        status = await asyncio.wait_for(sign_in(door, "192.0.2.7", suspect, lambda: verified.append("owner")), 5)
        after = verified.index("owner") - before
        await asyncio.gather(*guesses)
        return status, after

    status, after = asyncio.run(sign_in_between())
    assert status == 200
    assert after <= networks + 1
    assert (door.waiting, len(door.suspects)) == (Counter(), 0)


def test_an_office_signs_in_while_few_networks_guess() -> None:
    door, release, suspect = Door(), threading.Event(), Standing(is_suspect=True, brake_seconds=0.0)

    async def all_of_them() -> list[int]:
        guesses = [asyncio.create_task(sign_in(door, f"203.0.{n % 3}.1", suspect, release.wait)) for n in range(75)]
        await asyncio.sleep(0.05)
        office = [asyncio.create_task(sign_in(door, "192.0.2.7", CLEAN, lambda: 1)) for _ in range(12)]
        await asyncio.sleep(0.05)
        release.set()
        await asyncio.gather(*guesses)
        return await asyncio.gather(*office)

    assert asyncio.run(all_of_them()) == [200] * 12


def test_guesses_go_one_by_one_and_each_waits_first_while_very_many_guess() -> None:
    door, verified = Door(), list[float]()

    async def guess() -> None:
        await asyncio.gather(*(sign_in(door, f"203.0.{n}.1", GUESSING, lambda: verified.append(time.monotonic())) for n in range(4)))

    begun = time.monotonic()
    asyncio.run(guess())
    assert all(later - earlier >= 0.9 * GUESSING.brake_seconds for earlier, later in zip([begun, *verified], verified, strict=False))


def test_an_account_makes_few_passwords_at_a_time() -> None:
    door = Door()

    async def change(name: str) -> int:
        try:
            await door.change(principal(name, "admin"), lambda: time.sleep(0.001))
        except ApiError as error:
            return error.status
        return 200

    async def change_all() -> list[int]:
        return await asyncio.gather(*(change("root") for _ in range(MAX_CHANGES + 2)), change("other"))

    assert asyncio.run(change_all()) == [*[200] * MAX_CHANGES, 429, 429, 200]
    assert not door.changes
