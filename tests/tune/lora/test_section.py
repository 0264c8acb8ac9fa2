import pytest

from imprint.config.recipe import read_overrides
from imprint.errors import UserError
from imprint.tune.lora.section import LoraSection


def read(*overrides: str) -> LoraSection:
    return read_overrides(["method=lora", *overrides], LoraSection)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("start=eva", '"eva" starts from the activations of your rows, which are not gathered here; take "pissa", or "standard"'),
        ("start=corda", '"corda" starts from the activations of sample rows'),
        ("start=lora_ga", '"lora_ga" starts from the gradients of your rows'),
        ("start=loftq", '"loftq" quantises the base in a format of its own; take model.quantize with start "standard"'),
        ("start=best", "start"),
        ("rank=0", "rank"),
        ("alpha=0", "alpha"),
        ("dropout=1.0", "dropout"),
        ("plus_ratio=0.5", "plus_ratio"),
        ("targets=[]", 'must name linears, for instance ["query_key_value", "dense"]'),
        ('targets=["dense", " "]', "must name linears"),
        ("targets=head", "targets"),
        ("pissa_iterations=4", 'is for the start "pissa" alone; take it out, or set tune.start to "pissa"'),
    ],
)
def test_what_cannot_be_is_a_sentence(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read(override)
    assert said in str(caught.value)


def test_knobs_that_do_not_go_together_are_told() -> None:
    for start in ("olora", "pissa", "mica"):
        with pytest.raises(UserError, match=f'"{start}" and tune.dora both take the weight apart'):
            read("dora=true", f"start={start}")
    with pytest.raises(UserError, match=r'"orthogonal" needs an even rank, and tune.rank is 5; take 6'):
        read("rank=5", "start=orthogonal")


def test_a_start_is_what_peft_calls_it() -> None:
    assert read().init is True
    assert read("start=gaussian").init == "gaussian"
    assert read("start=pissa").init == "pissa"
    assert read("start=pissa", "pissa_iterations=4").init == "pissa_niter_4"


def test_names_of_linears_are_a_list() -> None:
    assert read('targets=["query_key_value", "dense"]').targets == ("query_key_value", "dense")
    assert read("targets=all").targets == "all"
