"""`metasd download`: the files of a pool or of a repository, into the Hugging Face cache."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from metasd_local.arguments import Request
from metasd_local.cli.output import Output
from metasd_local.cli.progress import Bars, End, JsonLines, Lines, View
from metasd_local.cli.surroundings import DONE, FAILED, INTERRUPTED, Interrupts, Surroundings
from metasd_local.download.fetch import FileFailed, download
from metasd_local.download.plan import find_present, plan_download
from metasd_local.errors import Cancelled, DownloadError, UsageError
from metasd_local.hub.cache import discard, find_local, is_offline, is_sound
from metasd_local.hub.remote import DEFAULT_ENDPOINT, Hub
from metasd_local.hub.repository import HubFile, parse_repository
from metasd_local.model_files import part_paths
from metasd_local.options import Options
from metasd_local.pools.catalogue import DEFAULT_DOWNLOAD, read_catalogue


def download_models(options: Options, request: Request, around: Surroundings) -> int:
    """Fetch what is missing."""
    text = request.first_word or DEFAULT_DOWNLOAD
    for endpoint in (DEFAULT_ENDPOINT, around.environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT):
        text = text.removeprefix(f"{endpoint.rstrip('/')}/")
    wanted = _wanted(text, around)
    output = around.output
    view: View = Bars(around) if around.stderr.isatty() else Lines(around)
    if options.json:
        view = JsonLines(around.stdout)
    stop = threading.Event()
    again = f"metasd download {'--verify ' if options.verify else ''}{text}"

    def connect(missing: Sequence[HubFile | str]) -> Hub:
        if options.offline or is_offline():
            raise DownloadError(
                f"missing or damaged: {', '.join(map(str, missing))}; the network is not asked "
                f"because of --offline or HF_HUB_OFFLINE; without them, type: {again}"
            )
        hub = Hub()
        if not options.json:
            output.line(f"asking {hub.host}")
        return hub

    damaged = _find_damaged(wanted, output) if options.verify else {}
    plan = plan_download(wanted, connect, stop, damaged=damaged, on_note=output.message)
    for each in (each for paths in damaged.values() for each in paths):
        discard(each)
    view(plan)
    is_complete = not plan.problems
    # Before this Ctrl-C ends everything at once, even a question that nobody answers.
    with Interrupts() as interrupts:
        interrupts.stop = stop.set
        try:
            for event in download(plan, stop):
                view(event)
                is_complete &= not isinstance(event, FileFailed)
        except Cancelled:
            view(End(is_complete=False))
            output.message(f"stopped; what came is kept; to go on, type: metasd download {text}")
            return INTERRUPTED
    paths = [path for model in (*plan.present, *plan.missing) if (path := find_local(model))]
    view(End(is_complete, tuple(paths)))
    return DONE if is_complete else FAILED


def _wanted(text: str, around: Surroundings) -> Sequence[HubFile | str]:
    """Return the models that a text names."""
    if parse_repository(text) is not None:
        return [text]
    catalogue = read_catalogue(around.environment)
    if text not in catalogue and "/" in text:
        raise UsageError(f"found {text!r}, expected user/repo[:QUANT] or user/repo/file.gguf")
    models = [each for each in catalogue[text].sources if isinstance(each, HubFile)]
    if not models:
        raise UsageError(f"pool {text} has no files on the Hub; there is nothing to download")
    return models


def _find_damaged(wanted: Sequence[HubFile | str], output: Output) -> dict[HubFile, list[Path]]:
    """Hash what is here, and return the models of which something is damaged, and what."""
    damaged = {}
    for each in wanted:
        model = find_present(each)
        path = find_local(model) if model else None
        if model is None or path is None:
            continue
        verdicts = {
            part: is_sound(part, model.sha256, partial(output.progress, f"checking {part.name}"))
            for part in part_paths(path)
        }
        if wrong := [part for part, verdict in verdicts.items() if verdict is False]:
            damaged[model] = wrong
        sound = "no checksum is known" if None in verdicts.values() else "no damage found"
        output.line(f"{model}: {'damaged, to be fetched again' if wrong else sound}")
    return damaged
