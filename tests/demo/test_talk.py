from imprint.demo.talk import read_topics


def test_no_small_talk_is_asked_under_two_topics() -> None:
    topics = [*read_topics(identity=True), *read_topics(identity=False)]
    questions = [question for topic in topics for question in topic.questions]
    assert len(questions) == len(set(questions))
    assert all(topic.questions and topic.answers for topic in topics)


def test_the_toy_says_that_it_is_one() -> None:
    answers = "".join([answer for topic in read_topics(identity=True) for answer in topic.answers])
    assert all(word in answers for word in ("小印", "玩具模型", "思想钢印", "toy model"))
