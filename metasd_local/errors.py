"""Every error a user may see.

MetasdError
├── UsageError              an option, key or value that makes no sense (exit status 2)
│   └── ConfigError         the same, found in a configuration file
├── ModelError              a model that cannot be loaded or used
│   └── IncompatibleVocabulary
├── DownloadError           a file that cannot be fetched or must not be trusted
│   └── Unavailable         the same, and it may be there when asked again
├── TemplateError           a chat template that cannot be rendered or trusted
├── BackendError            llama.cpp refused a call
├── ContextFull             the token memory has no room left
└── Cancelled               the user stopped the generation

A message says what was found, what was expected and what to do. Errors are raised where the
foreign library is called and shown at two edges: the command line and the chat.
"""

from __future__ import annotations


class MetasdError(Exception):
    """Base of every error this package raises on purpose."""


class UsageError(MetasdError):
    """Report an option, key or value that makes no sense."""


class ConfigError(UsageError):
    """Report a configuration file that cannot be read or holds an unknown key."""


class ModelError(MetasdError):
    """Report a model file that cannot be found, loaded or used."""


class IncompatibleVocabulary(ModelError):
    """Report a model without a vocabulary, or a drafter whose differs from the target's."""


class DownloadError(MetasdError):
    """Report a file that cannot be fetched, or that is not what was announced."""


class Unavailable(DownloadError):
    """Report a server or a connection that failed, perhaps only now."""

    def __init__(
        self, message: str, pause_s: float | None = None, *, is_lasting: bool = False
    ) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting
        """Whether asking again at once would be useless."""
        self.pause_s = pause_s
        """For how long the server wants to be left alone, if it said so."""


class TemplateError(MetasdError):
    """Report a chat template that cannot be rendered or must not be trusted."""


class BackendError(MetasdError):
    """Report a call that llama.cpp refused, or that would have aborted the process."""


class ContextFull(BackendError):
    """Report that the tokens asked for do not fit into the model's context."""


class Cancelled(MetasdError):
    """Report that a generation was interrupted; the token memory stays consistent."""
