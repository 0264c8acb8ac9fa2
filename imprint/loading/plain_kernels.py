"""Tells the user of a network on a GPU that PyTorch computes although kernels were not switched off."""

import os
from typing import Final

from imprint.messages import Bilingual
from imprint.models.decode_attention import DecodeAttention
from imprint.models.kernel_paths import plain_work
from imprint.models.network import Network
from imprint.terminal import say_once

MAIN: Final = "0"
"""The rank of the process that prints."""


def warn_of_plain_kernels(network: Network) -> None:
    """Say it once in a process, and of several that train together in one, on the error output."""
    if os.environ.get("RANK", MAIN) != MAIN:
        return
    if (notice := plain_kernels_notice(network)) is not None:
        say_once(notice.line)


def plain_kernels_notice(network: Network) -> Bilingual | None:
    """Why a network on a GPU has no kernels, or only some, although `model.kernels` is auto; None where it has all, and on a CPU."""
    if network.device.type != "cuda" or network.kernels == "plain":
        return None
    why = DecodeAttention.problem(network.device, network.dtype)
    if why is None:
        return None
    what = plain_work(network.device, network.dtype)
    return Bilingual(
        f"plain PyTorch computes {what.english} on this GPU, which is slower than kernels: {why.english}. `imprint doctor` says more; "
        "model.kernels=plain leaves this line out.",
        f"此 GPU 的{what.chinese}由纯 PyTorch 计算，比内核慢：{why.chinese}。详见 imprint doctor；model.kernels=plain 可不再提示。",
    )
