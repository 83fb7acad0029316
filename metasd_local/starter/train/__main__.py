"""Command line of the starter pool's training; the only file here that prints."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from metasd_local.errors import MetasdError
from metasd_local.starter.train.config import load_config
from metasd_local.starter.train.run import Run
from metasd_local.starter.train.stages import STAGES

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages asked for; return the exit status."""
    options = _parser().parse_args(arguments)
    chosen = options.stages.split(",") if options.stages else list(STAGES)
    unknown = sorted(set(chosen) - set(STAGES))
    if unknown:
        print(
            f"no such stage: {', '.join(unknown)}; known: {', '.join(STAGES)}",
            file=sys.stderr,
        )
        return 2
    data = options.data or (HERE / "sample" if options.smoke else None)
    if data is None:
        print("--data is needed, unless --smoke is given", file=sys.stderr)
        return 2
    default = HERE / ("smoke.toml" if options.smoke else "config.toml")
    try:
        config = load_config(options.config or default, has_cuda=torch.cuda.is_available())
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    torch.set_num_threads(config.num_threads)
    run = Run(
        config=config,
        data=data,
        out=options.out,
        warm_start=options.init,
        eval_folder=options.eval,
        say=lambda line: print(f"{time.strftime('%H:%M:%S')} {line}", flush=True),
    )
    try:
        for name in STAGES:
            if name in chosen:
                STAGES[name](run)
    except (MetasdError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m metasd_local.starter.train", description=__doc__
    )
    parser.add_argument("--data", type=Path, help="folder of DOMAIN.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything made")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="tiny configuration, on the sample unless --data is given",
    )
    parser.add_argument("--config", type=Path, help="configuration instead of config.toml")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FOLDER",
        help="take the tokeniser from FOLDER and start the target from its weights "
        "(tokenizer.json, config.json, target.npz)",
    )
    parser.add_argument(
        "--eval",
        type=Path,
        metavar="FOLDER",
        help="prompts of the matrix (*.jsonl) instead of the held-out split",
    )
    parser.add_argument("--stages", help=f"comma-separated, of {','.join(STAGES)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
