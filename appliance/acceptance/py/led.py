"""What the players written in Python share: being led by the acceptance suite.

A player reads one JSON command a line from standard input and answers each with one JSON line on
standard output. Everything its SDK prints goes to standard error.
"""

import asyncio
import json
import sys
import traceback

# How long one command may wait for something to arrive. It bounds a hang; nothing measures it.
WAIT_S = 120.0


class Failure(Exception):
    """Something the server or the SDK refused; its text goes into the answer."""


async def until(condition, what, news):
    """Waits until the condition gives something and returns that. It is asked again after each
    `news`, and at least once a second."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not (found := condition()):
        if asyncio.get_running_loop().time() > deadline:
            raise Failure(f"waited {WAIT_S:.0f} s for {what}")
        news.clear()
        try:
            await asyncio.wait_for(news.wait(), 1.0)
        except asyncio.TimeoutError:
            continue
    return found


async def play(player):
    """Does what it is told until there are no more commands. Every public method is one command."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    lines = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        name = command.pop("do")
        try:
            if name.startswith("_"):
                raise Failure(f"no such command: {name}")
            answer = {"ok": await getattr(player, name)(**command)}
        except Failure as failure:
            answer = {"error": f"{name}: {failure}"}
        except Exception as failure:  # the SDK's own errors are many; the suite wants to see them
            traceback.print_exc()
            answer = {"error": f"{name}: {failure!r}"}
        print(json.dumps(answer), file=answers, flush=True)
