"""What the figures of the backend tell whoever runs the service."""

from typing import Final

from imprint.messages import Bilingual
from imprint.serve.generation.job import Statistics

LONG_WAIT_SECONDS: Final = 10.0
"""A wait of which the admin is told."""
LARGE_FULL_SHARE: Final = 0.2
"""A share of the time with a full cache of which the admin is told."""


def hint_for(now: Statistics) -> Bilingual | None:
    """What to do about long waits and a full cache; None where there are none."""
    waits, is_full = now.wait_p95_seconds > LONG_WAIT_SECONDS, now.full_share > LARGE_FULL_SHARE
    if not waits and not is_full:
        return None
    english, chinese = "", ""
    if waits:
        english += f"One in twenty answers of the last ten minutes waited {now.wait_p95_seconds:.0f} seconds or longer. "
        chinese += f"最近十分钟内，每二十个回答就有一个等待了 {now.wait_p95_seconds:.0f} 秒以上。"
    if is_full:
        english += f"For {now.full_share:.0%} of the last ten minutes the cache of keys and values had no room for the next answer. "
        chinese += f"最近十分钟内，键值缓存有 {now.full_share:.0%} 的时间容不下下一个回答。"
    if now.servers:
        return Bilingual(
            english + "Raise slots=, if the servers behind this one have room, or add a server to upstream=[...].",
            chinese + "若后端服务器尚有余力，请调大 slots=；否则请在 upstream=[...] 中增加服务器。",
        )
    return Bilingual(
        english
        + "Raise slots= and kv_tokens=, if the memory allows it; or export the model, serve it by vLLM on more GPUs or machines, and "
        "put this service in front with upstream=[...]: docs/serving.md.",
        chinese + "若内存允许，请调大 slots= 与 kv_tokens=；或导出模型，用 vLLM 在更多显卡或机器上运行，再以 upstream=[...] 由本服务转发，"
        "见 docs/serving.md。",
    )
