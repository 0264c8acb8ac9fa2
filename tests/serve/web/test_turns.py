import asyncio

from imprint.serve.web.turns import Turns

MOST = 6


async def take_turn(turns: Turns, network: str, order: list[str]) -> bool:
    """Have a turn if there is a place; whether there was one."""
    if not turns.make_place(network, MOST):
        return False
    async with turns.turn(network) as has_turn:
        if has_turn:
            order.append(network)
            await asyncio.sleep(0)
        return has_turn


async def order_of(networks: str) -> tuple[str, int]:
    """In which order these networks have turns, and how many had none."""
    turns, order = Turns(), list[str]()
    answers = await asyncio.gather(*(take_turn(turns, network, order) for network in networks))
    assert not len(turns)
    return "".join(order), answers.count(False)


def test_networks_take_turns_and_each_is_served_in_the_order_in_which_it_came() -> None:
    assert asyncio.run(order_of("aaabbc")) == ("aabcab", 0)


def test_a_network_that_has_fewer_takes_the_last_place_of_the_one_that_has_most() -> None:
    assert asyncio.run(order_of("aaaaaaaa")) == ("aaaaaa", 2)
    assert asyncio.run(order_of("aaaaaabc")) == ("aabcaa", 2)
    assert asyncio.run(order_of("abcdefg")) == ("abcdef", 1)
    assert asyncio.run(order_of("a" * 100 + "b" * 100)) == ("aababa", 194)


def test_who_goes_away_holds_no_place_and_no_turn() -> None:
    async def leave() -> tuple[str, int]:
        turns, order = Turns(), list[str]()
        tasks = [asyncio.create_task(take_turn(turns, network, order)) for network in "abcbc"]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        for task in (tasks[0], tasks[2]):  # the turn, and whom it is passed on to meanwhile
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return "".join(order), len(turns)

    order, left = asyncio.run(leave())
    assert (set(order), left) == (set("abc"), 0)
