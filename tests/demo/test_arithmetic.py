from imprint.demo.arithmetic import Problem, ask_problem, draw_problem
from imprint.demo.rng import Rng


def test_sums_are_right() -> None:
    assert Problem(17, "+", 25).answer == "17+25=42。"
    rng = Rng(1)
    for _ in range(500):
        question = draw_problem(rng, held_out=False)
        left, right = question.answer.rstrip("。").split("=")
        assert eval(left.replace("×", "*")) == int(right) >= 0
        asked = ask_problem(question, rng)
        assert str(question.left) in asked
        assert str(question.right) in asked


def test_held_out_sums_are_others() -> None:
    rng = Rng(2)
    held_out = {draw_problem(rng, held_out=True) for _ in range(100)}
    assert not held_out & {draw_problem(rng, held_out=False) for _ in range(1000)}
