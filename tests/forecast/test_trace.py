from typing import Any

import torch
from torch import Tensor, nn

from imprint.forecast.trace import ALLOCATION_BYTES, Trace, compute


def test_memory_is_followed_by_phase_and_its_peak_is_noted() -> None:
    trace = Trace()
    with trace:
        first = torch.empty(1024, device="meta")
        view = first.view(32, 32)
        trace.enter("head")
        second = first * 2
        del second
    assert trace.in_use["forward"] == 4096
    assert trace.in_use["head"] == 0
    assert trace.peaks["head"] == {"forward": 4096, "head": 4096}
    del first, view
    assert trace.in_use.total() == 0


def test_a_tensor_takes_whole_units_of_the_allocator() -> None:
    trace = Trace()
    with trace:
        small = torch.ones(1, device="meta")
    assert trace.in_use.total() == ALLOCATION_BYTES
    del small


def test_what_is_there_before_does_not_count_and_a_gradient_counts_as_such() -> None:
    layer = nn.Linear(256, 256, device="meta")
    trace = Trace()
    trace.ignore(layer.parameters())
    layer.weight.register_post_accumulate_grad_hook(trace.count_gradient)
    with trace:
        loss = layer(torch.empty(8, 256, device="meta")).sum()
        trace.enter("backward")
        loss.backward()
    assert trace.in_use["gradient"] == 256 * 256 * 4


def test_work_is_counted_by_kernel() -> None:
    trace = Trace()
    with trace:
        a, b = torch.empty(8, 16, device="meta"), torch.empty(16, 32, device="meta")
        (a @ b).relu_().t()
        torch.addmm(torch.empty(32, device="meta"), a, b)
        torch.bmm(a.expand(4, 8, 16), b.expand(4, 16, 32))
    product = 2 * 8 * 16 * 32
    assert sorted(operations for operations, _ in trace.kernels.elements()) == [0, product, product, 4 * product]
    assert (0, 2 * 8 * 32 * 4) in trace.kernels, "an operation in place reads and writes"


def test_what_was_computed_once_is_not_computed_again_and_an_equal_number_of_another_type_is_another() -> None:
    x = torch.empty(4, 6, dtype=torch.int32, device="meta").t()
    calls: list[object] = []

    def op(function: Any, *arguments: Any) -> Tensor:
        def called(*given: Any) -> Any:
            calls.append(function)
            return function(*given)

        called._schema = function._schema  # type: ignore[attr-defined]
        found: Tensor = compute(ops.setdefault(function, called), arguments, {})
        direct: Tensor = function(*arguments)
        assert (found.shape, found.stride(), found.dtype) == (direct.shape, direct.stride(), direct.dtype)
        return found

    ops: dict[Any, Any] = {}
    add, view, in_place = torch.ops.aten.add.Tensor, torch.ops.aten.t.default, torch.ops.aten.add_.Tensor
    assert op(add, x, 1).untyped_storage()._cdata != op(add, x, 1).untyped_storage()._cdata
    assert calls == [add]
    assert [op(add, x, number).dtype for number in (1, 1.0, True)] == [torch.int32, torch.float32, torch.int32]
    assert len(calls) == 3
    assert op(view, x).untyped_storage()._cdata == op(in_place, x, 1).untyped_storage()._cdata == x.untyped_storage()._cdata
    unsaid = op(torch.ops.aten._unsafe_view.default, x.t(), [24])  # a view that does not say so
    assert unsaid.untyped_storage()._cdata == x.untyped_storage()._cdata


def test_real_tensors_are_computed_with_their_own_numbers() -> None:
    table, ids = torch.randn(4, 8), torch.tensor([3, 0, 2])

    with Trace():
        found = torch.nn.functional.embedding(ids, table)

    assert torch.equal(found, table[ids])
