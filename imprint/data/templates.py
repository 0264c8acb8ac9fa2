"""How ChatGLM-6B wants a question, with the turns before it, written as one text.

Source: `chat` in modeling_chatglm.py and the preprocessing of ptuning/main.py, THUDM/ChatGLM-6B.
"""

from collections.abc import Sequence

Turns = Sequence[tuple[str, str]]
"""Earlier (question, answer) turns, oldest first."""


def chatglm_prompt(query: str, history: Turns | None, system: str | None = None) -> str:
    """The prompt of a chat: the bare query where nothing was said before, rounds otherwise; a system text is a paragraph before it."""
    return led(rounds(query, history) if history else query, system)


def led(prompt: str, system: str | None) -> str:
    """The prompt behind what the model is told first; ChatGLM-6B knows no role for it."""
    return f"{system}\n\n{prompt}" if system else prompt


def rounds(query: str, history: Turns) -> str:
    """The prompt in numbered rounds, also where the history is empty: `[Round 0]`, as the original trains rows with a history column."""
    earlier = "".join(f"{_asked(number, question)}{answer}\n" for number, (question, answer) in enumerate(history))
    return earlier + _asked(len(history), query)


def _asked(number: int, question: str) -> str:
    return f"[Round {number}]\n问：{question}\n答："
