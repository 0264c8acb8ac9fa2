from types import SimpleNamespace

import pytest

from imprint.kernels.compilations import Compilations, listen
from tests.kernels.cards import numbers_of
from tests.kernels.quantized_weights import needs_triton

SCRIPT = """
from imprint.kernels import rotate_kernels
from imprint.kernels.compilations import compilations
from tests.kernels.cards import compile_for

for distance in (1, 32, 1):
    constants = dict(D=128, COLUMNS=128, DISTANCE=distance, HEADS=8, BACK=True)
    compile_for(90, rotate_kernels.rotate_kernel, dict.fromkeys(("x", "cos", "sin", "out"), "*fp16"), constants, num_warps=4)
print(compilations().compiled, compilations().read)
"""


def test_kernels_are_counted_apart_from_those_that_were_compiled_before() -> None:
    made = Compilations()
    for found in (False, True, True):
        made(cache_hit=found, src=None)
    assert made == Compilations(compiled=1, read=2)


def test_it_listens_where_triton_tells_and_nobody_else_listens() -> None:
    other = SimpleNamespace(knobs=SimpleNamespace(compilation=SimpleNamespace(listener=print)))
    silent = SimpleNamespace(knobs=SimpleNamespace(compilation=SimpleNamespace(listener=None)))
    for triton in (None, SimpleNamespace(), other, silent):
        listen(triton)
    assert other.knobs.compilation.listener is print
    assert isinstance(silent.knobs.compilation.listener, Compilations)


@pytest.mark.long
@needs_triton
def test_triton_tells_of_every_kernel(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    assert numbers_of(SCRIPT) == [2, 1]
