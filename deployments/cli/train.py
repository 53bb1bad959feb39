"""`vitrine train`: a backbone, the segmenter or the heads, trained on a catalogue."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from deployments.cli.command import (
    JSON,
    STORE,
    Commands,
    add_command,
    named_source,
    open_settings,
    print_answer,
    source_options,
)
from deployments.cli.flow_runs import start_prefect
from deployments.cli.preflight import check_before_run, probe
from retrieval_core.errors import BadConfig

if TYPE_CHECKING:
    from pydantic import BaseModel

    from retrieval_core.config import NightlyConfig
    from retrieval_core.settings import Settings

OBJECTIVES = "multilabel, rotation, classify, triplet, contrastive, supcon or distill"


class Job(NamedTuple):
    """A training to run; `checked` is the config whose backbone is looked for before anything starts, if any is."""

    checked: NightlyConfig | None
    run: Callable[[str, Settings], BaseModel]
    as_lines: Callable[[BaseModel], list[str]]


def add_commands(commands: Commands) -> None:
    """Add `vitrine train` with its three kinds; the `job` among the arguments makes the `Job` of a kind."""
    text = "train a backbone, the segmenter or the head on a catalogue"
    kinds = commands.add_parser("train", help=text, description=text).add_subparsers(required=True, metavar="WHAT")

    def add(name: str, job: Callable[[argparse.Namespace], Job], text: str, key: str) -> argparse.ArgumentParser:
        parser = add_command(kinds, name, _train, text, JSON, STORE, source_options(key))
        parser.set_defaults(job=job)
        return parser

    backbone = add("backbone", _backbone_job, "train a backbone on the catalogue's own pictures", "KEY")
    backbone.add_argument("objective", metavar="OBJECTIVE", help=OBJECTIVES)
    text = "name of the backbone, for embed.weights=artifact:NAME; default: CARD-OBJECTIVE"
    backbone.add_argument("--name", default="", help=text)
    backbone.add_argument("--teacher", help="for distill: the fingerprint of a vector set, or production")
    add("segmenter", _segmenter_job, "train the U-Net on the masks of the source", "STAGE.KEY")
    add("head", _head_job, "train the multi-task head on the vectors of each view", "STAGE.KEY")


def _train(arguments: argparse.Namespace) -> int:
    from retrieval_core.ingest.sources.registry import open_source

    job = arguments.job(arguments)
    source, settings = named_source(arguments), open_settings(arguments)
    open_source(source)
    if job.checked:
        check_before_run(job.checked, settings)
    probe(settings.open_store())
    start_prefect()
    summary = job.run(source, settings)
    print_answer(arguments, summary, job.as_lines(summary))
    return 0


def _backbone_job(arguments: argparse.Namespace) -> Job:
    """Read keys with a dot as config of a stage (mask.max_epochs), the others as the training's. Raises `BadConfig`."""
    from retrieval_core.config import NightlyConfig
    from retrieval_core.train.config import load_training
    from retrieval_core.train.inputs import start_config

    stage_keys = [text for text in arguments.set if "." in text.partition("=")[0]]
    keys = [text for text in arguments.set if text not in stage_keys]
    if arguments.teacher:
        keys.append(f"teacher={json.dumps(arguments.teacher)}")
    config = load_training(arguments.objective, arguments.config, keys)
    stages = NightlyConfig.load(arguments.config, stage_keys)

    def run(source: str, settings: Settings) -> BaseModel:
        from flows.train import TRAININGS

        return TRAININGS[config.objective](source, settings, arguments.name, config, stages)

    return Job(stages.model_copy(update={"embed": start_config(config)}), run, _backbone_lines)


def _segmenter_job(arguments: argparse.Namespace) -> Job:
    from retrieval_core.config import NightlyConfig

    stages = NightlyConfig.load(arguments.config, arguments.set)
    if not stages.mask.enabled:
        raise BadConfig("mask.enabled is false, so no segmenter is trained; leave it out")

    def run(source: str, settings: Settings) -> BaseModel:
        from flows.train import train_segmenter

        return train_segmenter(source, settings, stages)

    return Job(None, run, lambda summary: _model_lines("segmenter", summary.model_dump()))


def _head_job(arguments: argparse.Namespace) -> Job:
    from retrieval_core.config import NightlyConfig

    stages = NightlyConfig.load(arguments.config, arguments.set)

    def run(source: str, settings: Settings) -> BaseModel:
        from flows.train import train_head

        return train_head(source, settings, stages)

    return Job(stages, run, _heads_lines)


def _backbone_lines(summary: BaseModel) -> list[str]:
    document = summary.model_dump()
    return [*_model_lines("backbone", document), f"use it       --set embed.weights=artifact:{document['name']}"]


def _heads_lines(summary: BaseModel) -> list[str]:
    """Return the lines of each head, with an empty line between two heads."""
    return [line for head in summary.model_dump()["heads"] for line in ("", *_model_lines("head", head))][1:]


def _model_lines(kind: str, document: dict[str, object]) -> list[str]:
    origin = "trained" if document["trained"] else "kept, trained before"
    metrics = document["metrics"] if isinstance(document["metrics"], dict) else {}
    heading = f"{kind:<12} {str(document[kind])[:12]}  {origin}, {document['epochs']} epochs"
    return [heading, *(f"{name:<28}{value:.4f}" for name, value in metrics.items())]
