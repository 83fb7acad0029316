"""The seams of the engine: what a model, a drafter, a scheme and a policy must do.

Records and protocols only. Every protocol has at least two real implementations; they do not
inherit from it. Records made in every round are named tuples, which are made several times as
fast as frozen dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Logits: TypeAlias = NDArray[np.float32]
Probabilities: TypeAlias = NDArray[np.float64]
NextKind: TypeAlias = Literal["recovered", "bonus"]

PLAIN = "plain"
"""The arm that drafts nothing; every pool has it."""
NGRAM = "ngram"
"""The arm that continues as the text did before; every pool can have it."""
LONGEST_EVALUATION = 64
"""Most tokens that a model reads for an evaluation: what came before is left out for good.

With it 0.9 M drafters of a 23 M target matched as often as with the whole prompt: to 0.01 in seven
domains, down to 48 tokens.
"""


class TokenModel(Protocol):
    """A model with a rewindable memory of one token sequence."""

    vocab_size: int
    """Number of token ids; every logits row has this length."""
    context_size: int
    """Most tokens the memory can hold."""

    @property
    def length(self) -> int:
        """Number of tokens in the memory."""
        ...

    def keep_prefix(self, tokens: Sequence[int]) -> int:
        """Rewind to the longest common prefix with `tokens` and return its length."""
        ...

    def feed(self, tokens: Sequence[int], num_rows: int) -> Logits:
        """Append `tokens` to the memory and return the logits of the last `num_rows` of them.

        The result is a `(num_rows, vocab_size)` float32 view that dies at the next `feed`.
        `num_rows` may be 0. Raises ContextFull, Cancelled and BackendError; whichever is
        raised, `length` tells what the memory holds afterwards.
        """
        ...

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens; raise BackendError if impossible."""
        ...


class Vocabulary(Protocol):
    """The mapping between text and token ids of one target."""

    def encode(self, text: str, *, special: bool, continues: bool = False) -> list[int]:
        """Tokenise `text`; texts of control tokens become those tokens only if `special`.

        Nothing is added at the beginning or the end, but a vocabulary may begin a text with a
        space: not one that `continues` another.
        """
        ...

    def piece(self, token: int) -> bytes:
        """Return the bytes a token adds to the text; empty for control tokens.

        A piece may end inside a UTF-8 character.
        """
        ...

    def is_end(self, token: int) -> bool:
        """Tell whether the token ends a generation."""
        ...


class Draft(NamedTuple):
    """The tokens a drafter proposes in one round."""

    tokens: Sequence[int]
    """Proposed token ids, possibly none, never more than the window."""
    is_point_mass: bool
    """True if the tokens were not drawn from logits handed to `Scheme.draft` (n-gram drafts)."""
    margins: Sequence[float] = ()
    """Of the tokens, and of one that was not kept; empty if nobody decided which to keep."""


class Verdict(NamedTuple):
    """What the target makes of a draft."""

    accepted: int
    """Number of leading draft tokens that stand."""
    next_token: int
    """The target's own token that follows them."""
    next_kind: NextKind
    """`bonus` if the whole draft was accepted (also when it was empty), else `recovered`."""


class Scheme(Protocol):
    """A lossless rule: how draft tokens are drawn, and which of them the target accepts."""

    def begin(self, seed: int, context: list[int]) -> None:
        """Start a generation after `context`, a list the engine extends in place every round."""
        ...

    def draft(self, logits: Logits, drafted: Sequence[int]) -> int:
        """Return the next draft token from a drafter's logits row after `context + drafted`.

        `logits` is `(n,)` float32 with n at most the target's vocabulary size; it is not kept.
        """
        ...

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Judge a draft by the target's logits.

        `rows` is `(len(draft.tokens) + 1, vocab_size)`: row i follows `context + tokens[:i]`.
        """
        ...

    def overlaps(self, rows: Logits, draft: Draft, num_positions: int) -> Probabilities:
        """Return 1 - TV(target, drafter) at the first `num_positions` draft positions.

        To be asked after `verify`, for no position beyond the first rejected token. At
        temperature 0 both laws are the plain softmax; a point mass is its own law.
        """
        ...

    def expect(self, rows: Logits, first: int) -> None:
        """Note what the target would have said inside the prompt: row i at position `first + i`."""
        ...

    def matches(self, rows: Logits, first: int) -> Sequence[float]:
        """Return the chance that a drafter's own tokens would have been accepted.

        `rows` is `(n, m)`, the logits of a drafter that has read the context before position
        `first + i` for its row i; m is at most the target's vocabulary size. NaN inside the
        prompt where `expect` was told nothing; 0 or 1 where nothing is left to chance.
        """
        ...

    def margins(self) -> Sequence[float]:
        """Return by how much each token of the last `draft` or `matches` beat the runner-up.

        In logits, with the noise of the draw where there is noise; infinite for a token that must
        not be dropped for what it is.
        """
        ...


class TargetSampler(Protocol):
    """A stateful sampler that draws the target's tokens one by one, such as llama.cpp's chain."""

    def begin(self, seed: int, context: Sequence[int]) -> None:
        """Start a generation after `context`: same seed and context, same draws."""
        ...

    def sample(self, logits: Logits) -> int:
        """Draw the next token from a `(vocab_size,)` row and remember it as emitted."""
        ...


class Offer(NamedTuple):
    """What an arm can tell before it is asked for a draft."""

    unread: int
    """Tokens of the context it would have to read first, beyond those it reads while drafting."""
    match_length: int | None
    """Tokens before the draft that occurred before; 0: nothing to propose; None: has no index."""


class Evidence(NamedTuple):
    """What a drafter would have done at successive tokens of the text, had it been asked."""

    matches: Sequence[float]
    """Chance that its token stands, by position; NaN where it would have proposed nothing."""
    match_lengths: Sequence[int] = ()
    """Length of the match the token was copied from, by position; empty for a model."""
    margins: Sequence[float] = ()
    """By how much the token beat the runner-up, by position; empty for an index."""
    seconds: float = 0.0
    """What the evaluation took."""


NO_EVIDENCE = Evidence(())


class Drafter(Protocol):
    """A source of draft tokens for one target."""

    name: str
    """The arm's name."""

    def begin(self, context: Sequence[int]) -> None:
        """Start a generation after `context`, keeping what is already known of it."""
        ...

    def catch_up(self, context: Sequence[int]) -> None:
        """Read the tokens of `context` that were emitted while the drafter was idle."""
        ...

    def offer(self, context: Sequence[int]) -> Offer:
        """Tell what a draft after `context` would begin with."""
        ...

    def evaluate(self, context: Sequence[int], scheme: Scheme) -> Evidence:
        """Catch up, and tell what the drafter would have done at the last tokens it read."""
        ...

    def propose(
        self, context: Sequence[int], window: int, scheme: Scheme, keeps: Keeps | None = None
    ) -> Draft:
        """Propose at most `window` tokens to follow `context`, up to the first not to be kept."""
        ...

    def observe(self, emitted: Sequence[int]) -> None:
        """Learn the tokens a round emitted; called on every drafter, chosen or not."""
        ...


Keeps: TypeAlias = Callable[[float], bool]
"""Tell, draft token by draft token, whether one of such a margin is worth verifying."""


class Choice(NamedTuple):
    """What a policy asks for in one round."""

    arm: str
    window: int
    """Most tokens to draft; at least 1, ignored by `plain`."""
    keeps: Keeps | None = None
    """Ends the draft early; None: it is as long as the window."""


class RoundFeedback(NamedTuple):
    """What a policy may look at after a round."""

    window: int
    """Tokens the drafter was allowed to propose; 0 if the answer had no room for a draft."""
    drafted: int
    accepted: int
    emitted: int
    catch_up_s: float
    draft_s: float
    verify_s: float
    overlaps: Callable[[], Probabilities]
    """Return 1 - TV at every position reached: up to and including the first rejection."""
    margins: Sequence[float] = ()
    """The draft's."""

    @property
    def seconds(self) -> float:
        """Return the wall-clock seconds of the round, evaluations apart."""
        return self.catch_up_s + self.draft_s + self.verify_s


class Arms(Protocol):
    """What a policy may ask before it chooses."""

    def offer(self, arm: str) -> Offer:
        """Tell what an arm has; costs nothing."""
        ...

    def evaluate(self, arm: str) -> Evidence:
        """Let an arm read what it has not, and tell what it would have done there."""
        ...


class Policy(Protocol):
    """A rule that chooses the arm of every round; it never sees text."""

    def begin(self, arms: Sequence[str]) -> None:
        """Start a query with these arms, `plain` always among them; forget the last query."""
        ...

    def choose(self, arms: Arms) -> Choice:
        """Choose the arm of the next round."""
        ...

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        """Learn from a round and return what the arm earned in it, in the policy's own unit."""
        ...

    def scores(self) -> Mapping[str, float]:
        """Return the score by which each arm was last compared; infinite if unexplored."""
        ...
