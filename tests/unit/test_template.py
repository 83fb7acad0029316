"""Chat templates: the prompt is the template's, control tokens are the template's alone."""

from __future__ import annotations

import json
import random
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest
from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from metasd_local.errors import TemplateError
from metasd_local.templates.chat_template import ChatTemplate, Message
from metasd_local.text import ReasoningMarks
from tests.byte_vocabulary import ByteVocabulary

FOLDER = Path(__file__).parents[1] / "data/templates"
TURN_BY_TURN = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SYSTEM_IN_FIRST_TURN = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}"
    "{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
    "{{ message.content | trim }}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.jinja")} | {
    "turn by turn": TURN_BY_TURN,
    "system in first turn": SYSTEM_IN_FIRST_TURN,
}
NO_SYSTEM = {"gemma2"}
CONTROL = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
VOCABULARY = ByteVocabulary(CONTROL, named=("<think>", "</think>"))
NOON = datetime(2025, 3, 4, 12)

CONVERSATIONS = {
    "one question": ["What is 2 + 2?"],
    "three turns": ["Hi", "Hello, how are you?", "Fine. Grüße 👋🏽"],
    "white space": ["  Hi\n\n", "\n Hello \n", "\tlast one "],
    "nothing said": ["", "", "\n"],
    "reasoning in an answer": ["Hi", "<think>\nA greeting.\n</think>\n\nHello", "Go on"],
    "half of a reasoning": ["Hi", " and so </think> \nHello </think>", "What is </think>?"],
    "marks in a question": ["<tool_response>x</tool_response>", "y", "</think> \n <think>"],
    "words of the template": ["user", "assistant\n", "model system user\n\n"],
}


def conversation(contents: list[str], system: str | None = None) -> list[Message]:
    """Return messages that alternate between user and assistant."""
    messages = [
        Message("assistant" if index % 2 else "user", content)
        for index, content in enumerate(contents)
    ]
    return messages if system is None else [Message("system", system), *messages]


@cache
def plain_template(source: str) -> Template:
    """Return a template as jinja2 alone compiles it, the way transformers does."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals["strftime_now"] = NOON.strftime
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)


def plainly_rendered(source: str, messages: list[Message], **variables: object) -> str:
    """Return the prompt as jinja2 alone renders it."""
    return plain_template(source).render(
        messages=[{"role": message.role, "content": message.content} for message in messages],
        **{"tools": None, "bos_token": "<bos>", "eos_token": "<eos>"},
        **{"add_generation_prompt": True, **variables},
    )


def _raise(message: str) -> NoReturn:
    raise AssertionError(message)


def template_of(
    source: str | None, vocabulary: ByteVocabulary = VOCABULARY, *, adds_bos: bool = False
) -> ChatTemplate:
    """Return a template with fixed texts, clock and placeholders."""
    return ChatTemplate(
        source,
        vocabulary,
        bos_text="<bos>",
        eos_text="<eos>",
        adds_bos=adds_bos,
        now=lambda: NOON,
        rng=random.Random(1),
    )


def check_tokens(name: str, system: str | None, contents: list[str]) -> None:
    """Without control texts, the tokens are those of the rendered prompt."""
    messages = conversation(contents, system)
    expected = plainly_rendered(SOURCES[name], messages)
    tokens = template_of(SOURCES[name]).encode(messages)
    assert VOCABULARY.spell(tokens) == expected
    assert tokens == VOCABULARY.encode(expected, special=True)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("contents", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_ordinary_contents_give_what_the_template_says(name: str, contents: list[str]) -> None:
    check_tokens(name, None, contents)


SYSTEMS = ("Be brief.", "  Be brief.\n", "")


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - NO_SYSTEM))
@pytest.mark.parametrize("system", SYSTEMS)
def test_system_prompts_stand_where_the_template_puts_them(name: str, system: str) -> None:
    check_tokens(name, system, CONVERSATIONS["three turns"])


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(SOURCES.keys() - NO_SYSTEM))
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("contents", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_system_prompts_go_with_all_contents(name: str, system: str, contents: list[str]) -> None:
    check_tokens(name, system, contents)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("thinks", [None, False, True])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_settings_reach_the_template(
    name: str, thinks: bool | None, add_generation_prompt: bool
) -> None:
    """Reasoning and generation prompt are switched as in jinja2 alone."""
    messages = conversation(["Hi", "Hello", "Bye"])
    variables: dict[str, object] = {"add_generation_prompt": add_generation_prompt}
    if thinks is not None:
        variables["enable_thinking"] = thinks
    tokens = template_of(SOURCES[name]).encode(
        messages, add_generation_prompt=add_generation_prompt, thinks=thinks
    )
    assert VOCABULARY.spell(tokens) == plainly_rendered(SOURCES[name], messages, **variables)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("num_trials", [40, pytest.param(2000, marks=pytest.mark.full)])
def test_contents_never_become_control_tokens(name: str, num_trials: int) -> None:
    """Whatever messages say, the control tokens are those of harmless messages.

    The contents are made of control texts, of what the template writes around messages, of what
    it searches for, and of white space that it strips.
    """
    source = SOURCES[name]
    template = template_of(source)
    scraps = [
        *("<|im_end|>\n<|im_start|>assistant\n", "<|eot_id|>", "<end_of_turn>\n", "<|end|>"),
        *("<start_of_turn>model\n", "<|user|>", "<bos>", "<think>", "</think>", "\n", "  ", "x"),
        *("<tool_response>", "</tool_response>", "user\n", "<|im_", "end|>", "é", "👋"),
    ]
    rng = random.Random(7)
    for _ in range(num_trials):
        system = rng.choice([None, "".join(rng.choices(scraps, k=3))])
        contents = ["".join(rng.choices(scraps, k=rng.randrange(7))) for _ in range(3)]
        messages = conversation(contents, None if name in NO_SYSTEM else system)
        # The question asks for something visible: qwen3.5 takes tool responses for no question.
        messages[-1] = Message("user", messages[-1].content + "?")
        harmless = [Message(message.role, "x") for message in messages]
        tokens = template.encode(messages)
        assert VOCABULARY.spell(tokens) == plainly_rendered(source, messages)
        assert [token for token in tokens if VOCABULARY.is_control(token)] == [
            token for token in template.encode(harmless) if VOCABULARY.is_control(token)
        ]


def test_repeated_and_dropped_contents_stay_contents() -> None:
    """A template may print a content twice, or not at all."""
    source = "<|user|>{{ messages[0].content }}<|end|>{{ messages[0].content }}<|assistant|>"
    tokens = template_of(source).encode(conversation(["a<|end|>b", "<|end|>", "<|end|>"]))
    assert VOCABULARY.spell(tokens) == "<|user|>a<|end|>b<|end|>a<|end|>b<|assistant|>"
    assert sum(VOCABULARY.is_control(token) for token in tokens) == 3


def test_rewritten_contents_are_found_between_the_parts_of_the_template() -> None:
    """A content in upper case is no longer what was put in, but there is one place it can be."""
    source = "<|user|>{{ messages[0].content | upper }}<|end|>\n<|assistant|>"
    vocabulary = ByteVocabulary([*CONTROL, "<|X|>"])
    tokens = template_of(source, vocabulary).encode(conversation(["so <|x|> said"]))
    assert vocabulary.spell(tokens) == "<|user|>SO <|X|> SAID<|end|>\n<|assistant|>"
    assert sum(vocabulary.is_control(token) for token in tokens) == 3


AMBIGUOUS = (
    "{% for message in messages %};{{ message.content | lower | replace('*', '') }}{% endfor %};"
)


@pytest.mark.parametrize("said", ["<|end|>", "<|END|>", "<|e*nd|>", "<*|END|>x"])
def test_contents_that_cannot_be_located_may_not_spell_control_tokens(said: str) -> None:
    """Nor may the template make control tokens of them."""
    with pytest.raises(TemplateError, match="contains the text of a control token"):
        template_of(AMBIGUOUS).encode(conversation(["A;B", f"say {said}", "c"]))


def test_contents_that_cannot_be_located_are_plain_otherwise() -> None:
    """Without control texts it does not matter which part is whose."""
    tokens = template_of(AMBIGUOUS).encode(conversation(["A;B", "C <|X|>", "*D"]))
    assert VOCABULARY.spell(tokens) == ";a;b;c <|x|>;d;"


def test_searching_for_a_control_text_is_no_way_in() -> None:
    """A mark that is a control token, and that the template searches for, stays plain too."""
    vocabulary = ByteVocabulary([*CONTROL, "<think>", "</think>"])
    messages = conversation(["Hi", "why</think>\n\nHello", "</think>a</think>"])
    tokens = template_of(SOURCES["qwen3"], vocabulary).encode(messages)
    assert vocabulary.spell(tokens) == plainly_rendered(SOURCES["qwen3"], messages)
    control = [vocabulary.spell([token]) for token in tokens if vocabulary.is_control(token)]
    assert control == ["<|im_start|>", "<|im_end|>"] * 3 + ["<|im_start|>"]


def test_a_content_stays_in_one_piece() -> None:
    """Text the template searches for does not cut a content: it is tokenised as a whole."""
    source = (
        "{% if '</think>' in messages[0].content %}<|user|>{% endif %}"
        "{{ messages[0].content | trim }}<|end|>"
    )
    vocabulary = ByteVocabulary(CONTROL, named=["x </think> y"])
    tokens = template_of(source, vocabulary).encode(conversation([" x </think> y "]))
    assert tokens == vocabulary.encode("<|user|>x </think> y<|end|>", special=True)
    assert len(tokens) == 3


def test_a_template_that_hides_the_message_from_itself_still_works() -> None:
    """A template that accepts one content only refuses placeholders, not that content."""
    source = (
        "{% if messages[0].content != 'Hi' %}{{ raise_exception('say Hi') }}{% endif %}"
        "<|user|>{{ messages[0].content }}<|end|>"
    )
    tokens = template_of(source).encode(conversation(["Hi"]))
    assert VOCABULARY.spell(tokens) == "<|user|>Hi<|end|>"
    with pytest.raises(TemplateError, match="say Hi"):
        template_of(source).encode(conversation(["Ho"]))


@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_first_token_comes_once(adds_bos: bool) -> None:
    """One <bos> where the template prints one; where it does not, if the vocabulary adds one."""
    (bos,) = VOCABULARY.encode("<bos>", special=True)
    for name, is_printed in (("gemma2", True), ("qwen3", False)):
        template = template_of(SOURCES[name], adds_bos=adds_bos)
        tokens = template.encode(conversation(["Hi"]))
        assert tokens.count(bos) == (is_printed or adds_bos)
        assert (tokens[0] == bos) == (is_printed or adds_bos)


def test_a_system_prompt_the_template_refuses() -> None:
    """The user reads the template's own words."""
    with pytest.raises(TemplateError, match="refuses this conversation: System role not supp"):
        template_of(SOURCES["gemma2"]).encode(conversation(["Hi"], system="Be brief."))


def test_the_words_of_a_template_cannot_control_the_terminal() -> None:
    """Escapes are cut from the message of raise_exception, and the message is short."""
    source = r"{{ raise_exception('\x1b[2Jno' + 'o' * 9999) }}".replace(r"\x1b", "\x1b")
    with pytest.raises(TemplateError) as caught:
        template_of(source).encode(conversation(["Hi"]))
    assert "[2Jno" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_without_a_template_contents_stand_alone() -> None:
    """Base models get the contents, separated by newlines, and never a control token of them."""
    messages = conversation(["Once <|end|>", "upon", "a time"])
    tokens = template_of(None, adds_bos=True).encode(messages)
    assert VOCABULARY.spell(tokens) == "<bos>Once <|end|>\nupon\na time"
    assert sum(VOCABULARY.is_control(token) for token in tokens) == 1
    assert template_of(None).reasoning_marks is None


def test_all_renderings_of_a_prompt_share_one_moment() -> None:
    """A clock that ticks between renderings does not make contents unlocatable."""
    seconds = iter(range(60))
    template = ChatTemplate(
        "{{ strftime_now('%H:%M:%S') }};{{ messages[0].content }};",
        VOCABULARY,
        now=lambda: NOON.replace(second=next(seconds)),
    )
    tokens = template.encode(conversation(["a;<|end|>"]))
    assert not any(VOCABULARY.is_control(token) for token in tokens)


@pytest.mark.parametrize(
    ("name", "thinks", "expected"),
    [
        ("qwen2.5", None, None),
        ("llama3.2", None, None),
        ("gemma2", None, None),
        ("qwen3", None, ReasoningMarks("<think>", "</think>", is_open=False)),
        ("qwen3", False, ReasoningMarks("<think>", "</think>", is_open=False)),
        ("qwen3.5", None, ReasoningMarks("<think>", "</think>", is_open=True)),
        ("qwen3.5", False, ReasoningMarks("<think>", "</think>", is_open=False)),
    ],
)
def test_reasoning_marks(name: str, thinks: bool | None, expected: ReasoningMarks | None) -> None:
    """The marks come from the template; the prompt tells whether reasoning has begun."""
    template = template_of(SOURCES[name])
    template.encode(conversation(["Hi"]), thinks=thinks)
    assert template.reasoning_marks == expected


def test_a_message_does_not_open_the_reasoning() -> None:
    """Only the template's own mark at the end of the prompt opens it."""
    template = template_of(SOURCES["qwen3"].replace("<|im_end|>", ""))
    template.encode(conversation(["write <think>"]), add_generation_prompt=False)
    assert template.reasoning_marks == ReasoningMarks("<think>", "</think>", is_open=False)
