"""Every error a user may see.

MetasdError
├── UsageError              an option, key or value that makes no sense (exit status 2)
│   └── ConfigError         the same, found in a configuration file
├── ModelError              a model that cannot be loaded or used
│   └── IncompatibleVocabulary
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
    """Report a drafter whose vocabulary fails llama.cpp's check against the target's."""


class TemplateError(MetasdError):
    """Report a chat template that cannot be rendered or must not be trusted."""


class BackendError(MetasdError):
    """Report a call that llama.cpp refused, or that would have aborted the process."""


class ContextFull(BackendError):
    """Report that the tokens asked for do not fit into the model's context."""


class Cancelled(MetasdError):
    """Report that a generation was interrupted; the token memory stays consistent."""
