from collections import defaultdict

from imprint.demo.town import read_town


def test_no_question_has_two_answers() -> None:
    answers: dict[str, set[str]] = defaultdict(set)
    for fact in read_town().facts:
        for question in fact.questions:
            answers[question].add(fact.answer)
    assert not {question: found for question, found in answers.items() if len(found) > 1}


def test_the_town_has_hundreds_of_facts_each_asked_in_several_ways() -> None:
    facts = read_town().facts
    assert 150 <= len(facts) <= 400
    assert all(len(set(fact.questions)) >= 3 for fact in facts)


def test_every_owner_is_known_and_every_animal_has_one_owner() -> None:
    town = read_town()
    assert {shop["owner"] for shop in town.shops} == {person["name"] for person in town.people}
    assert len({person["animal"] for person in town.people}) == len(town.people)
