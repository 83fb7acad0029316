"""Errors raised on purpose, on their way to the user."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from metasd_local.errors import MetasdError

if TYPE_CHECKING:
    from tui.app import ChatApp

P = ParamSpec("P")


def complaining(
    action: Callable[Concatenate[ChatApp, P], Awaitable[None]],
) -> Callable[Concatenate[ChatApp, P], Coroutine[Any, Any, None]]:
    """Turn what an action raises on purpose into something the user sees."""

    @wraps(action)
    async def wrapped(app: ChatApp, /, *arguments: P.args, **keywords: P.kwargs) -> None:
        try:
            await action(app, *arguments, **keywords)
        except MetasdError as error:
            app.complain(str(error))

    return wrapped
