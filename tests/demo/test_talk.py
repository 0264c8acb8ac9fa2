from collections import defaultdict

from imprint.demo.arithmetic import Sum, ask_sum, draw_sum
from imprint.demo.dice import Dice
from imprint.demo.probes import KINDS, probes
from imprint.demo.stories import list_words, read_everyday_words, tell_day, write_odd_text
from imprint.demo.talk import read_topics
from imprint.demo.town import read_town


def test_sums_are_right() -> None:
    assert Sum(17, "+", 25).answer == "17+25=42。"
    dice = Dice(1)
    for _ in range(500):
        question = draw_sum(dice, held_out=False)
        left, right = question.answer.rstrip("。").split("=")
        assert eval(left.replace("×", "*")) == int(right) >= 0
        asked = ask_sum(question, dice)
        assert str(question.left) in asked
        assert str(question.right) in asked


def test_held_out_sums_are_others() -> None:
    dice = Dice(2)
    held_out = {draw_sum(dice, held_out=True) for _ in range(100)}
    assert not held_out & {draw_sum(dice, held_out=False) for _ in range(1000)}


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


def test_no_small_talk_is_asked_under_two_topics() -> None:
    topics = [*read_topics(identity=True), *read_topics(identity=False)]
    questions = [question for topic in topics for question in topic.questions]
    assert len(questions) == len(set(questions))
    assert all(topic.questions and topic.answers for topic in topics)


def test_the_toy_says_that_it_is_one() -> None:
    answers = "".join([answer for topic in read_topics(identity=True) for answer in topic.answers])
    assert all(word in answers for word in ("小印", "玩具模型", "思想钢印", "toy model"))


def test_stories_have_no_gap_left_open() -> None:
    dice = Dice(3)
    for tell in (tell_day, list_words, write_odd_text):
        for _ in range(300):
            text = tell(dice)
            assert text
            assert "{" not in text


def test_everyday_words_bring_a_thousand_characters() -> None:
    assert len(set("".join(read_everyday_words()))) > 1000


def test_probes_have_every_kind_and_are_the_same_for_a_seed() -> None:
    found = probes(0, 40)
    assert found == probes(0, 40) != probes(1, 40)
    assert {probe.kind for probe in found} == set(KINDS)
    assert all(probe.query and probe.answers for probe in found)
