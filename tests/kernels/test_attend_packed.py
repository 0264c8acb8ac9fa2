import torch
from torch import library

from imprint.kernels.attend_packed import MAX_HEAD_DIM, KernelInputs, attend_packed, choose_tiles
from tests.kernels.quantized_weights import DEVICE, needs_triton


def test_tiles_fit_the_shared_memory_of_every_card() -> None:
    for shared_memory in (65_536, 101_376, 166_912, 232_448):  # of compute capabilities 7.5, 8.6 and 12.0, 8.0, 9.0
        for head_dim in (16, 64, 128, MAX_HEAD_DIM):
            tiles = choose_tiles(2 * head_dim, shared_memory)
            held = 2 * head_dim * (3 * tiles.tokens + 2 * tiles.stages * tiles.keys)  # queries, values, gradients; keys and values
            assert held <= shared_memory


def test_views_of_a_joint_projection_are_read_where_they_are() -> None:
    query, key, value = torch.randn(5, 4, 3 * 16).chunk(3, -1)

    inputs = KernelInputs.prepare(query, key, value, None, None, None, None, None)

    assert [one.data_ptr() for one in inputs.tensors] == [query.data_ptr(), key.data_ptr(), value.data_ptr()]
    assert inputs.strides == (192, 48, 192, 48, 192, 48)
    assert inputs.length == 0


@needs_triton
def test_the_operation_keeps_the_rules_of_pytorch() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(6, 2, 16, device=DEVICE, requires_grad=True) for _ in range(3))
    prefix = [torch.randn(3, 2, 16, device=DEVICE, requires_grad=True) for _ in range(2)]
    numbers = [
        torch.tensor(one, device=DEVICE).int() for one in ([0] * 4 + [4] * 2, [1, 2, 3, 4, 5, 6], [4] * 4 + [6] * 2, [0] * 4 + [1] * 2)
    ]
    offsets = torch.arange(-3, 0, device=DEVICE).int()

    checks = library.opcheck(attend_packed, (query, key, value, *prefix, *numbers, None, offsets, None))

    assert set(checks.values()) == {"SUCCESS"}
