"""The stages of a run, each reading what the one before left in the output folder.

Every stage may be run again: it skips or continues what is done.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

import torch

from metasd_local.starter.train.answers import Generator, write_answers
from metasd_local.starter.train.config import AnswerSettings
from metasd_local.starter.train.data import encode_prompt, prompt_texts
from metasd_local.starter.train.export import write_gguf
from metasd_local.starter.train.fit import load_weights
from metasd_local.starter.train.forms import Group, read_groups
from metasd_local.starter.train.grow import grow
from metasd_local.starter.train.loops import find_loops, join_loops, read_loops, write_loops
from metasd_local.starter.train.model import Llama, load_warm_start
from metasd_local.starter.train.run import Run
from metasd_local.starter.train.training import meter, train_on_answers, train_on_text
from metasd_local.starter.train.vocabulary import train_tokenizer


def make_tokenizer(run: Run) -> None:
    """Leave tokenizer.json in the output folder."""
    run.out.mkdir(parents=True, exist_ok=True)
    if run.warm_start is not None:
        shutil.copyfile(run.warm_start / "tokenizer.json", run.tokenizer_path)
        run.say(f"tokenizer: taken from {run.warm_start}")
    elif not run.tokenizer_path.exists():
        train_tokenizer(run.config, run.data).save(str(run.tokenizer_path))
        run.say(f"tokenizer: {run.config.target.vocab_size} tokens")


def train_target(run: Run) -> None:
    """Leave the target's checkpoint; what it starts from is trained further, or not at all."""
    torch.manual_seed(run.config.seed)
    mixture = {name: domain.share for name, domain in run.config.domains.items()}
    settings = run.config.fit_target
    if start := run.config.target_start:
        model = grow(_trained_on_text(run, start), run.config.target)
    elif run.warm_start is not None:
        model = load_warm_start(run.warm_start)
    else:
        model = Llama(run.config.target)
    train_on_text(run, "target", model, settings, settings.num_steps, mixture)


def unlearn_loops(run: Run) -> None:
    """Leave a checkpoint per round: the target trained further, against loops of its own."""
    config = run.config
    mixture = {name: domain.share for name, domain in config.domains.items()}
    for index in range(config.loops.num_rounds):
        if not run.loops_path(index).exists():
            greedy = replace(config.answers, temperature=0.0)
            with closing(_generator(run, greedy)) as generator:
                found = []
                for name in config.domains:
                    waiting = _training_prompts(run, name, config.seed + 2 + index)
                    show = meter(run, f"loops of {name}", config.loops.max_answers, "answers")
                    found.append(find_loops(generator, waiting, config.loops, show))
            write_loops(run.loops_path(index), join_loops(found))
        loops = join_loops([read_loops(run.loops_path(past)) for past in range(index + 1)])
        if len(loops.tokens) <= config.fit_loops.window + 1:
            run.say(f"loops: {len(loops.tokens)} tokens, too few to train on")
            return
        run.say(f"loops: {loops.is_repeated.sum():,} repeated of {len(loops.tokens):,} tokens")
        name, steps = f"target-loops-{index}", config.fit_loops.num_steps
        train_on_text(run, name, run.load_target(), config.fit_loops, steps, mixture, loops)


def train_drafters(run: Run) -> None:
    """Leave one checkpoint per drafter, trained on text."""
    config = run.config
    for index, drafter in enumerate(config.drafters):
        torch.manual_seed(config.seed + index)
        if drafter.start_from:
            model = grow(_trained_on_text(run, drafter.start_from), drafter.shape)
        else:
            model = Llama(drafter.shape)
        num_steps = drafter.num_steps or config.fit_drafter.num_steps
        train_on_text(run, drafter.name, model, config.fit_drafter, num_steps, drafter.mixture)


def collect_answers(run: Run) -> None:
    """Leave the target's own answers to training prompts of each domain, by the domains' shares."""
    settings = run.config.answers
    if not settings.max_tokens:
        return
    waiting = {
        name: chosen
        for name, chosen in run.config.domains.items()
        if not run.answers_path(name).exists()
    }
    if not waiting:
        return
    shares = sum(domain.share for domain in run.config.domains.values())
    with closing(_generator(run, settings)) as generator:
        for name, chosen in waiting.items():
            prompts = _training_prompts(run, name, run.config.seed + 1)
            limit = round(settings.max_tokens * chosen.share / shares)
            show = meter(run, f"answers to {name}", limit)
            write_answers(run.answers_path(name), generator, prompts, limit, show)


def distil_drafters(run: Run) -> None:
    """Leave a second checkpoint per drafter, trained further on the target's answers."""
    config = run.config
    if not config.answers.max_tokens:
        return
    for drafter in config.drafters:
        model = _trained_on_text(run, drafter.name)
        num_steps = drafter.num_distil_steps or config.distil_drafter.num_steps
        name = f"{drafter.name}-distilled"
        train_on_answers(run, name, model, config.distil_drafter, num_steps, drafter.mixture)


def _generator(run: Run, settings: AnswerSettings) -> Generator:
    """Return what answers with the target as far as it is trained."""
    model = run.load_target()
    _export_one(run, "target", model)
    path = run.gguf_path("target", model)
    return Generator(path, settings, run.config.num_threads, run.config.seed)


def _training_prompts(run: Run, name: str, seed: int) -> Iterator[list[int]]:
    groups = read_groups(run.data, name, run.config.domains[name], seed, held_out=False)
    tokenizer = run.tokenizer()
    return (encode_prompt(tokenizer, text) for text in prompt_texts(groups, run.config.seed))


def _trained_on_text(run: Run, name: str) -> Llama:
    model = Llama(run.shape_of(name))
    load_weights(run.checkpoints / f"{name}.pt", model)
    return model


def export(run: Run) -> None:
    """Write the GGUF files of all networks, as far as they are trained."""
    _export_one(run, "target", run.load_target())
    for drafter in run.config.drafters:
        _export_one(run, drafter.name, run.load_drafter(drafter.name))


def _export_one(run: Run, name: str, model: Llama) -> None:
    settings = run.config.export
    type_name = settings.target_type if name == "target" else settings.drafter_type
    path = run.gguf_path(name, model)
    weights = model.state_dict()
    write_gguf(path, name, model.shape, weights, run.tokenizer(), type_name, settings)
    run.say(f"export: {path.name} {path.stat().st_size:,} bytes")


def measure_acceptance(run: Run) -> None:
    """Write the acceptance matrix of the exported files to matrix.md."""
    # The engine needs llama.cpp, which the other stages do without.
    from metasd_local.starter.train import matrix

    count = run.config.matrix_prompts
    if run.eval_folder is not None:
        prompts = matrix.read_prompts(run.eval_folder, count)
    else:
        prompts = {
            domain: list(
                islice(prompt_texts(_held_out_groups(run, domain), run.config.seed), count)
            )
            for domain in run.config.domains
        }
    drafters = {
        drafter.name: run.gguf_path(drafter.name, run.load_drafter(drafter.name))
        for drafter in run.config.drafters
    }
    target = run.gguf_path("target", run.load_target())
    table = matrix.as_markdown(matrix.measure(target, drafters, prompts, run.say))
    (run.out / "matrix.md").write_text(table, encoding="utf-8")
    run.say(f"matrix: accepted / drafted, greedy, window {matrix.WINDOW}\n{table}")


def measure_quality(run: Run) -> None:
    """Write what the target's answers are worth, with samples, to quality.md."""
    # The scores count loops as the engine's statistics do, which the other stages do without.
    from metasd_local.starter.train import quality

    config = run.config
    if run.eval_folder is not None:
        questions = quality.read_questions(run.eval_folder, config.quality_prompts)
    else:
        questions = {
            domain: [
                (group[0].prompt, group[0].response)
                for group in islice(_held_out_groups(run, domain), config.quality_prompts)
                if group[0].prompt
            ]
            for domain in config.domains
        }
    target = run.gguf_path("target", run.load_target())
    table = quality.measure(target, run.tokenizer(), questions, config.answers, config.num_threads)
    (run.out / "quality.md").write_text(table, encoding="utf-8")
    run.say(f"quality: greedy answers\n{table}")


def _held_out_groups(run: Run, domain: str) -> Iterator[Group]:
    settings = run.config.domains[domain]
    return read_groups(run.data, domain, settings, run.config.seed, held_out=True)


Stage: TypeAlias = Callable[[Run], None]
STAGES: Mapping[str, Stage] = {
    "tokenizer": make_tokenizer,
    "drafters": train_drafters,
    "target": train_target,
    "loops": unlearn_loops,
    "answers": collect_answers,
    "distil": distil_drafters,
    "export": export,
    "matrix": measure_acceptance,
    "quality": measure_quality,
}
