"""Arithmetic questions with small numbers, in several wordings."""

from dataclasses import dataclass
from typing import Final

from imprint.demo.rng import Rng, one_in, skewed, weighted

HELD_OUT: Final = 20
"""One sum in HELD_OUT is held out of the corpus; the probes ask these."""
OPERATORS: Final = weighted([("+", 5), ("-", 4), ("×", 3)])
NAMES: Final = {"+": "加", "-": "减", "×": "乘"}
PLAIN: Final = skewed(
    ["{a}{s}{b}=?", "{a}{n}{b}等于多少？", "{a}{s}{b}等于几？", "算一下{a}{s}{b}", "请问{a}{n}{b}是多少？", "{a}{s}{b}"], 0.75
)
WORD_PROBLEMS: Final = {
    "+": (
        "篮子里有{a}个苹果，又放进{b}个，一共有几个？",
        "店里有{a}件衣服，又到了{b}件，现在有几件？",
        "上午来了{a}位客人，下午来了{b}位，一共来了几位？",
    ),
    "-": (
        "篮子里有{a}个苹果，吃了{b}个，还剩几个？",
        "店里有{a}双鞋，卖掉{b}双，还剩几双？",
        "树上有{a}只鸟，飞走{b}只，还有几只？",
    ),
    "×": (
        "一条裙子有{a}颗纽扣，{b}条裙子有几颗纽扣？",
        "每盒{a}块饼，{b}盒有几块？",
    ),
}


@dataclass(frozen=True)
class Problem:
    """Two operands and an operator."""

    left: int
    """First number, 0 to 99."""
    operator: str
    """+, - or ×."""
    right: int
    """Second number, 0 to 99."""

    @property
    def result(self) -> int:
        """The result, never negative."""
        return {"+": self.left + self.right, "-": self.left - self.right, "×": self.left * self.right}[self.operator]

    @property
    def answer(self) -> str:
        """The answer as the toy model gives it."""
        return f"{self.left}{self.operator}{self.right}={self.result}。"

    @property
    def is_held_out(self) -> bool:
        """Whether it is held out of the corpus."""
        return one_in(HELD_OUT, f"{self.left}{self.operator}{self.right}")


def draw_problem(rng: Rng, *, held_out: bool) -> Problem:
    """A random sum, from the corpus or from the held-out ones."""
    while True:
        operator = rng.pick(OPERATORS)
        if operator == "×":
            left, right = 1 + rng.below(10), 1 + rng.below(10)
        else:
            limit = 20 if rng.chance(0.3) else 100
            left, right = rng.below(limit), rng.below(limit)
        if operator == "-" and right > left:
            left, right = right, left
        drawn = Problem(left, operator, right)
        if drawn.is_held_out == held_out:
            return drawn


def ask_problem(question: Problem, rng: Rng) -> str:
    """The sum as a question, plain or as a word problem."""
    is_word_problem = question.left > 0 and question.right > 0 and rng.chance(0.25)
    wording = rng.pick(WORD_PROBLEMS[question.operator] if is_word_problem else PLAIN)
    filled = wording.replace("{a}", str(question.left)).replace("{b}", str(question.right))
    return filled.replace("{s}", question.operator).replace("{n}", NAMES[question.operator])
