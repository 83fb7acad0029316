"""llama.cpp's own speculation beside ours: the same files, token ids, threads and context.

Run by hand on an idle machine: python -m tests.peers.compare starter --minutes 5 --json FILE
The peer's settings are swept on one half of the prompts; on the other half it runs plainly and
at its best, interleaved prompt by prompt with ours. Answers are greedy, start cold and end where
they begin to loop. The peer's decode time leaves out its first token and the drafter's reading of
the prompt, ours has both; the wall clock has everything, for the peer its HTTP too.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from metasd_local.backend.threads import thread_budget
from metasd_local.bench.machine import describe_build, describe_machine, judge_idleness
from metasd_local.bench.prompts import Prompt, prompts_hash, read_prompts
from metasd_local.compose import OpenPool, open_pool
from metasd_local.events import GenerationDone, RoundDone
from metasd_local.options import Options
from metasd_local.pools.local import find_pool
from metasd_local.selftest.near_ties import first_difference
from metasd_local.session import Session
from metasd_local.stats import LoopFinder
from tests.peers.build import find_programs
from tests.peers.server import PeerError, Reply, Server, Setting
from tests.peers.sweep import Case, find_matched, score, settings_to_try, sweep

SHORTEST_ANSWER = 16
"""Tokens; shorter answers say nothing about speed."""
SWEEP_SHARE = 0.6
"""Of the minutes."""
REPEATS = 3
RECORDED_OPTIONS = ("pool", "drafters", "policies", "minutes", "max_tokens", "threads", "ctx")

Ask: TypeAlias = Callable[[Case], Reply]
Found: TypeAlias = dict[Case, dict[str, list[Reply]]]
"""The repeated answers to every prompt, by row of the table."""


def answer(session: Session, text: str, max_tokens: int) -> Reply:
    """Answer with ours, from cold."""
    session.forget()
    started_s = time.perf_counter()
    events = list(session.send(text, seed=0, max_tokens=max_tokens))
    wall_s = time.perf_counter() - started_s
    rounds = [event for event in events if isinstance(event, RoundDone)]
    tokens = tuple(token for done in rounds for token in done.emitted)
    return Reply(
        tokens=tokens,
        steps=len(tokens),
        decode_s=sum(each.seconds_decode for each in events if isinstance(each, GenerationDone)),
        wall_s=wall_s,
        drafted=sum(done.drafted for done in rounds),
        accepted=sum(done.accepted for done in rounds),
    )


def make_cases(
    prompts: Sequence[Prompt], plain: Session, max_tokens: int, half: int, first: int, last: int
) -> list[Case]:
    """Return of every domain the prompts from `first` to `last` in its half 0 or 1."""
    cases = []
    for domain in dict.fromkeys(prompt.domain for prompt in prompts):
        texts = [prompt.text for prompt in prompts if prompt.domain == domain]
        for text in texts[half::2][first:last]:
            tokens = answer(plain, text, max_tokens).tokens
            loops = LoopFinder(plain.prompt_tokens)
            loops.add(tokens)
            if len(tokens[: loops.start]) >= SHORTEST_ANSWER:
                prompt_tokens = tuple(plain.prompt_tokens)
                cases.append(Case(domain, text, prompt_tokens, tokens[: loops.start]))
    return cases


def measure(
    rows: Mapping[str, Ask], cases: Callable[[int, int], Sequence[Case]], deadline_s: float
) -> Found:
    """Ask all rows about one prompt after the other, the domains in turn, until time is up."""
    found: Found = {}
    index = 0
    while batch := cases(index, index + 1):
        index += 1
        for case in batch:
            if found and time.monotonic() > deadline_s:
                return found
            found[case] = {name: [] for name in rows}
            for repeat in range(REPEATS):
                for name in list(rows)[:: -1 if repeat % 2 else 1]:
                    found[case][name].append(rows[name](case))
    return found


def gap_between(opened: OpenPool, case: Case, other: Sequence[int]) -> dict[str, float]:
    """Return where another text departs, the gap of the two logits, and how far rounding moves it.

    Rounding is that of other batches; a gap no larger than its change is a near tie.
    """
    position = first_difference(case.plain, other)
    if position is None or position == min(len(case.plain), len(other)):
        raise PeerError(f"one text ends after {position} tokens, the other goes on")
    context = [*case.prompt, *case.plain[:position]]
    # As we decode plainly; as the peer does, which reads the prompt in one; in two batches.
    token_by_token = range(len(case.prompt), len(context) + 1)
    ways = [[len(case.prompt) - 1, *token_by_token], [*token_by_token]]
    ways += [[len(context) - width, len(context)] for width in (1, 2, 3, 4, 5, 8, 16)]
    gaps = []
    for ends in ways:
        opened.target.rewind(0)
        for begin, end in pairwise([0, *ends]):
            row = opened.target.feed(context[begin:end], 1)[0]
        gaps.append(float(row[case.plain[position]] - row[other[position]]))
    return {"position": position, "gap": gaps[0], "gap_change": max(gaps) - min(gaps)}


def ratio(found: Found, upper: str, lower: str, speed: Callable[[Reply], float]) -> list[float]:
    """Return the geometric mean over domains and its 95 % bootstrap interval over prompts."""
    rng = np.random.default_rng(0)
    logs: dict[str, list[float]] = {}
    for case, by_row in found.items():
        over, under = (median(map(speed, by_row[row])) for row in (upper, lower))
        logs.setdefault(case.domain, []).append(float(np.log(over / under)))
    draws = [rng.choice(values, (4000, len(values))).mean(1) for values in logs.values()]
    low, high = np.quantile(np.mean(draws, axis=0), (0.025, 0.975))
    middle = np.mean([np.mean(values) for values in logs.values()])
    return [float(np.exp(value)) for value in (middle, low, high)]


def figures_of(found: Found, row: str) -> dict[str, Any]:
    """Return a row's line of the table."""

    def decode(reply: Reply) -> float:
        return reply.steps / reply.decode_s

    peer = "peer: plain"
    replies = [reply for by_row in found.values() for reply in by_row[row]]
    speeds = [[*map(decode, by_row[row])] for by_row in found.values()]
    same = [case.plain == reply.tokens for case, by_row in found.items() for reply in by_row[row]]
    return {
        "tokens_per_second": float(np.exp(np.mean(np.log(np.median(speeds, axis=1))))),
        "over_own_plain": ratio(found, row, f"{row[:4]}: plain", decode),
        "over_peer_plain": ratio(found, row, peer, decode),
        "wall_over_peer_plain": ratio(found, row, peer, lambda reply: 1 / reply.wall_s),
        "acceptance_rate": sum(reply.accepted for reply in replies)
        / max(sum(reply.drafted for reply in replies), 1),
        "identical": float(np.mean(same)),
        "spread_of_repeats": median(max(each[:2]) / min(each[:2]) - 1 for each in speeds),
        "domains": {
            name: ratio({c: f for c, f in found.items() if c.domain == name}, row, peer, decode)
            for name in dict.fromkeys(case.domain for case in found)
        },
    }


def table(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the text lines, at most 100 columns."""
    columns = ("over_own_plain", "over_peer_plain")
    above = [f"{'decoding':32}  tok/s   x own plain          x peer's plain        wall  acc. same"]
    below = ["", ""]
    for row, one in figures.items():
        middle = "  ".join("{:6.2f} [{:.2f}, {:.2f}]".format(*one[key]) for key in columns)
        shares = f"{one['acceptance_rate']:5.0%} {one['identical']:5.0%}"
        above.append(
            f"{row:32.32}{one['tokens_per_second']:7.1f} {middle}"
            f"{one['wall_over_peer_plain'][0]:7.2f} {shares}"
        )
        below[1] = "by domain, x peer's plain".ljust(32) + "".join(
            f"{name:>11.10}" for name in one["domains"]
        )
        below.append(f"{row:32.32}" + "".join(f"{x[0]:11.2f}" for x in one["domains"].values()))
    return above + below


def output_of(*command: str) -> str:
    """Return what a program prints, on either stream."""
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    return said.stdout + said.stderr


def compare(said: argparse.Namespace, resources: ExitStack) -> dict[str, Any]:
    """Sweep, measure and compare the texts."""
    server, speculative_simple = map(str, find_programs(said.build, said.sdist))
    started_s = time.monotonic()
    prompts = read_prompts(said.prompts)
    pool = find_pool(said.pool)
    files = {Path(name).stem: name for name in said.drafters or () if name.endswith(".gguf")}
    files |= {entry.name: str(entry.path) for entry in pool.drafters}
    names = tuple(said.drafters) if said.drafters else None
    common = Options(drafters=names, temperature=0.0, ctx=said.ctx, threads=said.threads)
    opened = open_pool(common, said.pool)
    resources.callback(opened.close)
    shared = ["-m", str(pool.target), "-c", str(said.ctx)]
    for flag in ("-t", "-tb", "-td", "-tbd"):
        shared += [flag, str(said.threads)]

    def start(setting: Setting) -> Server:
        return Server(setting, [server, *shared, "-np", "1", "--cache-ram", "0"], files)

    plain = opened.session(replace(common, policy="plain"))
    cases = [partial(make_cases, prompts, plain, said.max_tokens, half) for half in (0, 1)]
    trials, swept = sweep(
        settings_to_try([each.name for each in opened.drafters if each.name in files]),
        cases[0],
        start,
        started_s + 60 * said.minutes * SWEEP_SHARE,
    )
    best, matched = next(iter(trials)), find_matched(trials)
    domains = list(dict.fromkeys(prompt.domain for prompt in prompts))
    chosen = {
        "peer: plain": dict.fromkeys(domains, Setting()),
        "peer: best": dict.fromkeys(domains, best),
        "peer: best of each domain": {
            name: max(trials, key=lambda setting: score(trials[setting], name)) for name in domains
        },
        "peer: as our fixed": dict.fromkeys(domains, matched),
    }
    wanted = {setting for by_domain in chosen.values() for setting in by_domain.values()}
    servers = {setting: resources.enter_context(start(setting)) for setting in wanted}

    def peer(by_domain: Mapping[str, Setting]) -> Ask:
        return lambda case: servers[by_domain[case.domain]].ask(case.prompt, len(case.plain))

    def ours(policy: str) -> Ask:
        session = opened.session(replace(common, policy=policy))
        return lambda case: answer(session, case.text, len(case.plain))

    policies = ("plain", f"fixed:{matched.drafter}:window={matched.window}", *said.policies)
    rows = {name: peer(by_domain) for name, by_domain in chosen.items()}
    rows |= {f"ours: {policy}": ours(policy) for policy in policies}
    found = measure(rows, cases[1], started_s + 60 * said.minutes)
    for name in list(chosen)[1:]:
        if not any(reply.drafted for by_row in found.values() for reply in by_row[name]):
            raise PeerError(f"{name}: no draft_n in any of its timings, so it decoded plainly")
    draft = ["-md", files[matched.drafter], "--spec-type", "draft-simple", "--spec-draft-n-max"]
    draft += [str(matched.window), "--temp", "0", "-n", str(said.max_tokens)]
    spoken = output_of(speculative_simple, *shared, *draft, "-p", prompts[0].text)
    figures = {row: figures_of(found, row) for row in rows}
    is_idle, seen = judge_idleness(None, figures["ours: plain"]["spread_of_repeats"])
    return {
        **describe_build(),
        "llama_server": output_of(server, "--version").partition("\n")[0],
        "machine": describe_machine(),
        "options": {name: vars(said)[name] for name in RECORDED_OPTIONS},
        "prompts_sha256": prompts_hash(prompts),
        "settings": {
            name: {domain: str(setting) for domain, setting in by_domain.items()}
            for name, by_domain in chosen.items()
        },
        "swept": {
            str(setting): {"prompts": number, "tokens_per_second": speed}
            for setting, (number, speed) in sorted(swept.items(), key=lambda item: -item[1][1])
        },
        "idle": is_idle,
        "seen": seen,
        "results": figures,
        "departures": [
            {"row": row, "domain": case.domain, **gap_between(opened, case, tokens)}
            for case, by_row in found.items()
            for row, replies in by_row.items()
            for tokens in {reply.tokens for reply in replies} - {case.plain}
        ],
        "speculative_simple": [
            " ".join(found.split()) for found in re.findall("(?<=decoded).*|accept.*%", spoken)
        ],
        "prompts": [
            {
                "domain": case.domain,
                "prompt_tokens": len(case.prompt),
                "rows": {
                    row: [{**asdict(reply), "tokens": len(reply.tokens)} for reply in replies]
                    for row, replies in by_row.items()
                },
            }
            for case, by_row in found.items()
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peers.compare", description=__doc__)
    parser.add_argument("pool", help="pool, or the path of a target's GGUF file")
    parser.add_argument("--drafters", nargs="*", help="names or GGUF paths; all by default")
    parser.add_argument("--policies", nargs="*", default=["random", "ucb", "auto"])
    parser.add_argument("--prompts", type=Path, help="JSONL; else the built-in set")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=thread_budget().num_threads)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--build", type=Path, help="folder with, or for, llama.cpp's programs")
    parser.add_argument("--sdist", type=Path, help="llama-cpp-python's .tar.gz, to build from")
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    # Servers are killed on the way out, so leave by an exception.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as resources:
        result = compare(said, resources)
    print("\n".join(table(result["results"])))
    for name, by_domain in list(result["settings"].items())[1:]:
        is_one = len(set(by_domain.values())) == 1
        for domain, setting in list(by_domain.items())[: 1 if is_one else None]:
            print(f"{name}{'' if is_one else f', {domain}'}: {setting}")
    print("" if result["idle"] else "NOT IDLE: ", result["seen"], sep="")
    print("llama-speculative-simple:", *result["speculative_simple"])
    if said.json:
        said.json.write_text(json.dumps(result) + "\n", encoding="utf-8")
    failed = [each for each in result["departures"] if abs(each["gap"]) > each["gap_change"]]
    for each in failed:
        print(f"no near tie: {each}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
