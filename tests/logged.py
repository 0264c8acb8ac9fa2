"""Events of a run, as a test needs them."""

from imprint.events import Evaluation, Step, WatchedAnswer


def step(
    number: int,
    loss: float | None = 2.0,
    *,
    learning_rate: float = 0.01,
    gradient_norm: float | None = 1.5,
    memory_gib: float = 1.26,
    seconds: float = 0.5,
    skipped_rows: tuple[int, ...] = (),
    broken_rows: tuple[int, ...] = (),
) -> Step:
    return Step(
        step=number,
        loss=loss,
        learning_rate=learning_rate,
        gradient_norm=gradient_norm,
        tokens_per_second=12345.0,
        memory_gib=memory_gib,
        seconds=seconds,
        skipped_rows=skipped_rows,
        broken_rows=broken_rows,
    )


def evaluation(number: int, loss: float | None) -> Evaluation:
    return Evaluation(step=number, eval_loss=loss)


def sample(number: int, answer: str, prompt: str = "你好") -> WatchedAnswer:
    return WatchedAnswer(step=number, prompt=prompt, answer=answer)
