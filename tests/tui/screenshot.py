"""The picture of the README: `python -m tests.tui.screenshot` asks the embedded models anew.

Writes tui/screenshot.svg. It is the real chat on real answers; its figures are this machine's.
"""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path

from metasd_local.compose import open_pool
from metasd_local.options import Options
from tests.tui.scripted_pool import Chat
from tui.app import ChatApp
from tui.desk import Desk

PICTURE = Path(__file__).parents[2] / "tui/screenshot.svg"
SIZE = (120, 32)
QUESTIONS = (
    "Kira earns $22 an hour and works 8 hours a day for 4 days. Then she spends $665. "
    "How much money is left?",
    "User: What is the weather in Paris tomorrow?",
)


async def picture(folder: Path) -> str:
    """Return the screen after some answers, shown as tokens, as SVG."""
    options = Options(pool="starter", temperature=0.0, max_tokens=90)
    desk = Desk(partial(open_pool, state_path=folder), options, None)
    app = ChatApp(desk, folder / "chat.json")
    async with app.run_test(size=SIZE) as pilot:
        chat = Chat(app, pilot)
        await chat.until(lambda: "demo models" in chat.screen())
        await pilot.press("f2")
        for question in QUESTIONS:
            await chat.ask(question)
        return app.export_screenshot(title="metasd")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        PICTURE.write_text(asyncio.run(picture(Path(scratch))), encoding="utf-8")
