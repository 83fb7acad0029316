"""The main screens as text, to be read in a diff; `python -m tests.tui.test_snapshots` renews them.

Times come from a clock that ticks with every look at it; sizes and dates are masked.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metasd_local.options import Options
from tests.tui.scripted_pool import ScriptedPool, chat_on

FOLDER = Path(__file__).parent / "snapshots"
SIZES = ((80, 24), (120, 40))
ANSWER = """<think>The user wants a loop.</think>Here is **a loop** with a list:

```python
for name in ("one", "two", "three"):
    print(name, "one", "two", "three")
```

* one, two, three
* one, two, three
"""
MASKED = ((r"[\d.]+ [MG]B", "# MB"), (r"\d\d \w\w\w \d\d:\d\d", "## ### ##:##"))


async def screens(size: tuple[int, int], folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Yield names and texts of the main screens."""
    ticks = itertools.count()
    pool = ScriptedPool(
        {"a loop?": ANSWER}, name="starter", clock=lambda: next(ticks) / 50, context_size=400
    )
    options = Options(temperature=0.7, seed=5)
    async with chat_on(pool, folder, size=size, options=options) as chat:
        press = chat.pilot.press
        yield "welcome", chat.screen()
        await chat.ask("a loop?")
        yield "markdown", chat.screen()
        await press("f2", "ctrl+o")
        await chat.pilot.pause()
        yield "tokens", chat.screen()
        for name, key in (("help", "f1"), ("chats", "f4"), ("settings", "f5")):
            await press(key)
            await chat.pilot.pause()
            yield name, chat.screen()
            await press("escape")
        chat.app.prompt.insert("/re")
        await chat.until(lambda: "/reasoning" in chat.screen())
        yield "command", chat.screen()


def masked_by(pattern: str, mask: str, text: str) -> str:
    """Return a text with a mask, no shorter, over all that is like the pattern."""
    return re.sub(pattern, lambda match: f"{mask:{len(match[0])}}", text)


async def masked(size: tuple[int, int], folder: Path) -> dict[str, str]:
    """Return the texts by the name of their file, without what differs between machines."""
    found = {}
    async for name, screen in screens(size, folder):
        for pattern, mask in MASKED:
            screen = masked_by(pattern, mask, screen)
        found[f"{name}-{size[0]}x{size[1]}.txt"] = screen + "\n"
    return found


@pytest.mark.parametrize("size", SIZES, ids=str)
async def test_the_main_screens_look_as_they_did(tmp_path: Path, size: tuple[int, int]) -> None:
    """If a change is wanted, renew them and read the difference."""
    for name, screen in (await masked(size, tmp_path)).items():
        assert screen == (FOLDER / name).read_text(encoding="utf-8"), name


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in SIZES:
        with tempfile.TemporaryDirectory() as scratch:
            for file, text in asyncio.run(masked(each, Path(scratch))).items():
                (FOLDER / file).write_text(text, encoding="utf-8")
