"""From messages to tokens: a chat template is trusted with marks, a message never.

Owns which parts of a prompt may contain control tokens: those the template wrote. What users,
system prompts and earlier answers say stays plain text, whatever it spells. Template parts and
message contents are therefore tokenised one by one.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias

from metasd_local.errors import TemplateError
from metasd_local.protocols import Vocabulary
from metasd_local.templates.sandbox import Sandbox
from metasd_local.text import ReasoningMarks

Role: TypeAlias = Literal["system", "user", "assistant"]

_MARK_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>", "<channel|>"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a prompt: written by the template, or taken from a message."""

    text: str
    is_content: bool


class ChatTemplate:
    """A chat template together with the vocabulary it writes for.

    A template is rendered with the real contents, which says what the prompt is, and with
    placeholders nobody can guess in their place, which says whose text is where. If putting the
    contents where the placeholders came out gives the prompt, every part is known. There are two
    kinds of placeholders. An opaque one hides the whole content. A shaped one keeps what
    templates look at: emptiness, white space at the ends, and the texts the template searches for
    (such as `</think>`), so that a content which is trimmed, split or searched is treated like
    the real one. If neither explains the prompt (a template that rewrites contents), the
    template's parts are looked for in it, and count if there is one way only to find them. If
    even that fails, the prompt must have the control tokens that it has with placeholders: then
    contents added none.

    Without a source (base models) a prompt is the contents, one after the other, separated by
    newlines.
    """

    def __init__(
        self,
        source: str | None,
        vocabulary: Vocabulary,
        *,
        bos_text: str = "",
        eos_text: str = "",
        adds_bos: bool = False,
        now: Callable[[], datetime] = datetime.now,
        rng: random.Random | None = None,
    ) -> None:
        """Compile the template; `rng` draws placeholders, by default the system's randomness.

        adds_bos: whether a prompt that does not begin with `bos_text` gets it, as in llama.cpp.
        Raises TemplateError if the source is no template.
        """
        self._vocabulary = vocabulary
        self._texts = {"bos_token": bos_text, "eos_token": eos_text}
        self._bos = vocabulary.encode(bos_text, special=True) if adds_bos else []
        self._rng = secrets.SystemRandom() if rng is None else rng
        self._now = now
        self._moment = now()
        self._sandbox = Sandbox(source, lambda: self._moment) if source is not None else None
        self.reasoning_marks = _known_marks(source or "")
        """Those of the prompt encoded last, None if unknown; read-only to others."""

    def encode(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        thinks: bool | None = None,
        spoken: Mapping[str, Sequence[int]] | None = None,
    ) -> list[int]:
        """Return the prompt's token ids.

        `thinks` asks a template that can switch reasoning to do so; None leaves it its way.
        `spoken` gives the tokens of contents the model wrote itself, none of them a control
        token: what the model's memory holds of them, where tokenising anew might differ.
        Raises TemplateError if the template refuses the conversation, cannot be rendered, or
        alters a message that contains the text of a control token beyond recognition.
        """
        tokens: list[int] = []
        if self._sandbox is None:
            text = "\n".join(message.content for message in messages)
            return self._bos + self._vocabulary.encode(text, special=False)
        settings: dict[str, object] = {"add_generation_prompt": add_generation_prompt}
        if thinks is not None:
            settings |= {"enable_thinking": thinks, "thinking": thinks}
        self._moment = self._now()  # one moment for all renderings of a prompt
        parts = self._parts(messages, settings)
        if self.reasoning_marks is not None:
            ends_with_opening = parts[-1].text.rstrip().endswith(self.reasoning_marks.opening)
            is_open = ends_with_opening and not parts[-1].is_content
            self.reasoning_marks = replace(self.reasoning_marks, is_open=is_open)
        texts, spoken = [part.text for part in parts], spoken or {}
        for index, part in enumerate(parts):
            if part.is_content and index and part.text not in spoken:
                # Vocabularies join a space to the word after it.
                before = texts[index - 1]
                texts[index - 1] = before.rstrip(" ")
                texts[index] = before[len(texts[index - 1]) :] + part.text
        for part, text in zip(parts, texts, strict=True):
            known = spoken.get(text) if part.is_content else None
            continues = bool(tokens) and not self._is_control(tokens[-1])
            tokens += known or self._vocabulary.encode(
                text, special=not part.is_content, continues=continues
            )
        has_bos = tokens[: len(self._bos)] == self._bos
        return tokens if has_bos else self._bos + tokens

    def _render(self, messages: Sequence[Message], settings: Mapping[str, object]) -> str:
        assert self._sandbox is not None
        records = [{"role": message.role, "content": message.content} for message in messages]
        # Templates tell "no tools" from "never heard of tools"; so does transformers.
        absent = {"tools": None, "documents": None}
        return self._sandbox.render({**absent, **self._texts, **settings, "messages": records})

    def _parts(self, messages: Sequence[Message], settings: Mapping[str, object]) -> list[_Part]:
        """Return the prompt in parts; the template's own and the messages' alternate."""
        prompt = self._render(messages, settings)
        parts: list[_Part] = []
        harmless: list[Sequence[int]] = []
        for probes in (self._opaque_probes(messages), self._shaped_probes(messages)):
            stand_ins = [
                Message(message.role, "".join(probe.pieces))
                for message, probe in zip(messages, probes, strict=True)
            ]
            try:
                rendered = self._render(stand_ins, settings)
            except TemplateError:  # of a content that only looks wrong; the real one was fine
                continue
            parts = _split(rendered, probes)
            if "".join(part.text for part in parts) == prompt:
                return parts
            harmless.append(self._control_tokens(rendered))
        if found := _find_between(prompt, parts):
            return found
        if harmless:
            is_harmless = self._control_tokens(prompt) in harmless
        else:
            is_harmless = not any(self._control_tokens(message.content) for message in messages)
        if not is_harmless:
            raise TemplateError(
                "A message, as the model's chat template alters it, contains the text of a control "
                "token, which cannot be told from the template's own. Remove or rewrite that text."
            )
        return [_Part(prompt, is_content=False)]

    def _opaque_probes(self, messages: Sequence[Message]) -> list[_Probe]:
        return [
            _Probe([placeholder], {placeholder: message.content})
            for message in messages
            for placeholder in [self._placeholder()]
        ]

    def _shaped_probes(self, messages: Sequence[Message]) -> list[_Probe]:
        assert self._sandbox is not None
        kept = sorted(
            (text for text in self._sandbox.literals if text and not self._control_tokens(text)),
            key=len,
            reverse=True,
        )
        matches_nothing = "(?!)"
        boundary = re.compile("(" + ("|".join(map(re.escape, kept)) or matches_nothing) + ")")
        return [self._shaped_probe(message.content, boundary) for message in messages]

    def _shaped_probe(self, content: str, boundary: re.Pattern[str]) -> _Probe:
        """Replace everything but what `boundary` matches, and the white space around that."""
        pieces: list[str] = []
        contents: dict[str, str] = {}
        for number, text in enumerate(boundary.split(content)):
            core = text.strip()
            if number % 2 or not core:
                pieces.append(text)
                continue
            placeholder = self._placeholder()
            contents[placeholder] = core
            leading, trailing = text.split(core)
            pieces += [leading, placeholder, trailing]
        return _Probe(pieces, contents)

    def _placeholder(self) -> str:
        """Return 16 private-use characters: no template tests for them, none has a case."""
        return "".join(chr(self._rng.randrange(0xE000, 0xF900)) for _ in range(16))

    def _control_tokens(self, text: str) -> Sequence[int]:
        return [
            each for each in self._vocabulary.encode(text, special=True) if self._is_control(each)
        ]

    def _is_control(self, token: int) -> bool:
        return not self._vocabulary.piece(token)


def _known_marks(source: str) -> ReasoningMarks | None:
    """Return the marks a template mentions."""
    for opening, closing in _MARK_PAIRS:
        if opening in source and closing in source:
            return ReasoningMarks(opening, closing, is_open=False)
    return None


@dataclass(frozen=True, slots=True)
class _Probe:
    """What stands in for a content while a template is rendered."""

    pieces: Sequence[str]
    """Placeholders, and the parts of the content that are kept."""
    contents: Mapping[str, str]
    """What each placeholder stands for."""


def _split(rendered: str, probes: Sequence[_Probe]) -> list[_Part]:
    """Return a rendering in parts, contents put back where their placeholders came out.

    The kept text between two placeholders belongs to the content if it came out unchanged.
    """
    contents = {key: text for probe in probes for key, text in probe.contents.items()}
    if not contents:
        return [_Part(rendered, is_content=False)]
    followers: dict[str, tuple[str, str]] = {}
    for probe in probes:
        last, between = "", ""
        for piece in probe.pieces:
            if piece not in probe.contents:
                between += piece
                continue
            if last:
                followers[last] = (between, piece)
            last, between = piece, ""
    fragments = re.split("(" + "|".join(contents) + ")", rendered)
    parts = [_Part(fragments[0], is_content=False)]
    for index in range(1, len(fragments), 2):
        placeholder, after = fragments[index], fragments[index + 1]
        before = parts.pop()
        is_continued = index > 1 and followers.get(fragments[index - 2]) == (
            before.text,
            placeholder,
        )
        if is_continued:
            content = parts.pop().text + before.text + contents[placeholder]
        else:
            parts.append(before)
            content = contents[placeholder]
        parts += [_Part(content, is_content=True), _Part(after, is_content=False)]
    return parts


def _find_between(prompt: str, expected: Sequence[_Part]) -> list[_Part] | None:
    """Find the template's parts in a prompt whose contents came out altered.

    Returns None unless there is exactly one way to find them all, in order.
    """
    fixed = [part.text for part in expected if not part.is_content]
    if len(fixed) < 2 or not prompt.startswith(fixed[0]) or not prompt.endswith(fixed[-1]):
        return None
    first, last = len(fixed[0]), len(prompt) - len(fixed[-1])
    # Neighbouring contents have nothing between them: they are found as one.
    inner = [text for text in fixed[1:-1] if text]
    starts: list[int] = []
    position = first
    for text in inner:
        position = prompt.find(text, position, last)
        if position < 0:
            return None
        starts.append(position)
        position += len(text)
    if position > last:
        return None
    limit = last
    for text, start in zip(reversed(inner), reversed(starts), strict=True):
        limit = prompt.rfind(text, first, limit)
        if limit != start:
            return None
    parts = [_Part(fixed[0], is_content=False)]
    position = first
    for text, start in zip(inner, starts, strict=True):
        parts += [_Part(prompt[position:start], is_content=True), _Part(text, is_content=False)]
        position = start + len(text)
    parts += [_Part(prompt[position:last], is_content=True), _Part(fixed[-1], is_content=False)]
    return parts
