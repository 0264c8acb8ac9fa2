"""Clients that read streams of a server, many at a time."""

import asyncio
import json
import time

import httpx2

from tests.serve.web.scripted import KEY, Running


async def read_streams(running: Running, count: int, text: str) -> list[list[tuple[float, str]]]:
    """So many clients at a time ask this and read the answer as a stream: when each of its parts came, in seconds, and what it was.

    An empty part comes first, when the client asks, and another one last, at the end of the stream, which must be whole.
    """
    body = {"model": "base", "messages": [{"role": "user", "content": text}], "stream": True}
    headers, limits = {"Authorization": f"Bearer {KEY}"}, httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(base_url=running.url, headers=headers, verify=False, timeout=60, limits=limits) as client:

        async def read() -> list[tuple[float, str]]:
            parts, last = [(time.monotonic(), "")], ""
            async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data: {") and (said := json.loads(line[6:])["choices"][0]["delta"].get("content")):
                        parts.append((time.monotonic(), said))
                    last = line or last
            assert last == "data: [DONE]"
            return [*parts, (time.monotonic(), "")]

        return await asyncio.gather(*(read() for _ in range(count)))
