"""The stages of a run, each reading what the one before left in the output folder.

Every stage may be run again: it skips or continues what is done.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TypeAlias

import torch

from metasd_local.starter.train.answers import Generator, write_answers
from metasd_local.starter.train.data import encode_prompt, prompt_texts, read_records, select
from metasd_local.starter.train.export import write_gguf
from metasd_local.starter.train.fit import load_weights
from metasd_local.starter.train.model import Llama
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
    """Leave the target's checkpoint; nothing to do with a warm start."""
    if run.warm_start is not None:
        run.say(f"target: taken from {run.warm_start}")
        return
    torch.manual_seed(run.config.seed)
    mixture = {name: domain.share for name, domain in run.config.domains.items()}
    settings = run.config.fit_target
    train_on_text(run, "target", Llama(run.config.target), settings, settings.num_steps, mixture)


def train_drafters(run: Run) -> None:
    """Leave one checkpoint per drafter, trained on text."""
    config = run.config
    for index, drafter in enumerate(config.drafters):
        torch.manual_seed(config.seed + index)
        model = Llama(config.drafter)
        if drafter.start_from:
            load_weights(run.checkpoints / f"{drafter.start_from}.pt", model)
        num_steps = drafter.num_steps or config.fit_drafter.num_steps
        train_on_text(run, drafter.name, model, config.fit_drafter, num_steps, drafter.mixture)


def collect_answers(run: Run) -> None:
    """Leave the target's own answers to training prompts of each domain, by the domains' shares."""
    settings, tokenizer, seed = run.config.answers, run.tokenizer(), run.config.seed
    if not settings.max_tokens:
        return
    generator = Generator(run.load_target(), settings.temperature, settings.max_new, seed)
    shares = sum(domain.share for domain in run.config.domains.values())
    for domain, chosen in run.config.domains.items():
        path = run.answers_path(domain)
        if path.exists():
            continue
        records = select(read_records(run.data, domain), chosen)
        prompts = (
            encode_prompt(tokenizer, text, settings.max_prompt)
            for text in prompt_texts(records, seed, held_out=False)
        )
        limit = round(settings.max_tokens * chosen.share / shares)
        show = meter(run, f"answers to {domain}", limit)
        write_answers(path, generator, prompts, settings.batch_size, limit, show)


def distil_drafters(run: Run) -> None:
    """Leave a second checkpoint per drafter, trained further on the target's answers."""
    config = run.config
    if not config.answers.max_tokens:
        return
    for drafter in config.drafters:
        model = Llama(config.drafter)
        load_weights(run.checkpoints / f"{drafter.name}.pt", model)
        num_steps = drafter.num_distil_steps or config.distil_drafter.num_steps
        name = f"{drafter.name}-distilled"
        train_on_answers(run, name, model, config.distil_drafter, num_steps, drafter.mixture)


def export(run: Run) -> None:
    """Write the GGUF files of all networks, as far as they are trained."""
    settings, tokenizer = run.config.export, run.tokenizer()
    for name in ("target", *(drafter.name for drafter in run.config.drafters)):
        is_target = name == "target"
        model = run.load_target() if is_target else run.load_drafter(name)
        type_name = settings.target_type if is_target else settings.drafter_type
        path = run.gguf_path(name, model)
        write_gguf(path, name, model.shape, model.state_dict(), tokenizer, type_name, settings)
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
            domain: list(islice(_held_out_prompts(run, domain), count))
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


def _held_out_prompts(run: Run, domain: str) -> Iterator[str]:
    records = select(read_records(run.data, domain), run.config.domains[domain])
    return prompt_texts(records, run.config.seed, held_out=True)


Stage: TypeAlias = Callable[[Run], None]
STAGES: Mapping[str, Stage] = {
    "tokenizer": make_tokenizer,
    "target": train_target,
    "drafters": train_drafters,
    "answers": collect_answers,
    "distil": distil_drafters,
    "export": export,
    "matrix": measure_acceptance,
}
