"""Runs the coroutines among the tests, each in a loop of its own, and lets no key press linger."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from textual._context import active_app

LONGEST_S = 1.0
"""Textual's own limit for what never comes to rest."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


async def _until_nothing_waits(_: float = 0.0) -> None:
    """Return once no message waits and the screen is laid out, three looks in a row."""
    app, loop = active_app.get(), asyncio.get_running_loop()
    end_s = loop.time() + LONGEST_S
    num_quiet = 0
    while num_quiet < 3 and loop.time() < end_s:
        if app.screen_stack:
            app.screen._on_timer_update()
        await asyncio.sleep(0.001)
        widgets = [widget for screen in app.screen_stack for widget in screen.walk_children()]
        pumps = [app, *app.screen_stack, *widgets]
        num_quiet = 0 if any(pump.message_queue_size for pump in pumps) else num_quiet + 1


@pytest.fixture(autouse=True)
def _wait_for_messages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Textual waits after every key until the processor is idle, and the chat between drawings."""
    for module in ("app", "pilot"):
        monkeypatch.setattr(f"textual.{module}.wait_for_idle", _until_nothing_waits)
    monkeypatch.setattr("tui.pace.FASTEST_S", 0.01)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
