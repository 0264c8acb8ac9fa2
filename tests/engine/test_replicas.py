import pytest

from tests.crews import Outcome


@pytest.mark.parametrize(("name", "other"), [("alone", "full-two"), ("prefix", "prefix-two"), ("few", "few-two")])
def test_two_processes_learn_as_one(name: str, other: str, outcomes: dict[str, Outcome]) -> None:
    one, two = outcomes[name], outcomes[other]
    assert (one.statuses, two.statuses) == ([0], [0, 0]), two.words
    assert len(one.losses) == 7
    assert two.losses == pytest.approx(one.losses, abs=2e-5)
    assert two.norms == pytest.approx(one.norms, rel=1e-3)
    assert "are trained by 2 processes" in two.words


def test_the_mean_of_means_is_over_the_micro_batches_of_all_processes(outcomes: dict[str, Outcome]) -> None:
    one, two = outcomes["means"], outcomes["means-two"]
    assert two.statuses == [0, 0]
    assert two.losses[0] == pytest.approx(one.losses[0], abs=2e-5)
    assert two.losses[1] == pytest.approx(one.losses[1], abs=0.1)  # the same rows in other micro-batches


def test_only_the_leader_speaks(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["full-two"].words.count("finished: 4 of 4 steps are done") == 1


def test_each_process_goes_on_with_its_own_random_numbers(outcomes: dict[str, Outcome]) -> None:
    assert "going on after step 2 of 4" in outcomes["dropped-again"].words
    assert outcomes["dropped-again"].losses == outcomes["dropped"].losses
