"""`vitrine train`: a backbone, the segmenter or the heads, trained on a catalogue."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from deployments.cli.command import (
    JSON,
    STORE,
    VERBOSE,
    Commands,
    add_command,
    named_source,
    open_settings,
    print_answer,
    source_options,
)
from deployments.cli.prefect_server import start_prefect
from retrieval_core.errors import BadConfig

if TYPE_CHECKING:
    from flows.train import BackboneSummary, HeadSummary, SegmenterSummary
    from retrieval_core.train.config import AnyTraining

OBJECTIVES = "multilabel, rotation, classify, attributes, margin, triplet, contrastive, supcon, captions or distill"


def add_commands(commands: Commands) -> None:
    """Add `vitrine train` with its three kinds."""
    text = "train a backbone, the segmenter or the head on a catalogue"
    kinds = commands.add_parser("train", help=text, description=text).add_subparsers(required=True, metavar="WHAT")
    text = "train a backbone on the catalogue's own pictures"
    backbone = add_command(kinds, "backbone", _train_backbone, text, JSON, VERBOSE, STORE, source_options("KEY"))
    what = backbone.add_mutually_exclusive_group(required=True)
    what.add_argument("objective", nargs="?", metavar="OBJECTIVE", help=OBJECTIVES)
    what.add_argument("--recipe", choices=["auto"], help="choose objective and schedule by what the catalogue says")
    backbone.add_argument("--minutes", type=float, help="for a recipe: about how long it may train; default: 60")
    text = "name of the backbone, for embed.weights=artifact:NAME; default: CARD-OBJECTIVE"
    backbone.add_argument("--name", default="", help=text)
    backbone.add_argument("--teacher", help="for distill: the fingerprint of a vector set, or production")
    text = "train the U-Net on the masks of the source"
    add_command(kinds, "segmenter", _train_segmenter, text, JSON, VERBOSE, STORE, source_options())
    text = "train the multi-task head on the vectors of each view"
    add_command(kinds, "head", _train_head, text, JSON, VERBOSE, STORE, source_options())


def _train_backbone(arguments: argparse.Namespace) -> int:
    from flows.preflight import checked_ahead
    from flows.train import TRAININGS, train_auto
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.train.config import load_recipe, load_training
    from tasks.preflight import check_before_training

    stage_keys = [text for text in arguments.set if "." in text.partition("=")[0]]  # for example mask.max_epochs=3
    keys = [text for text in arguments.set if text not in stage_keys]
    if arguments.teacher:
        keys.append(f"teacher={json.dumps(arguments.teacher)}")
    stages = NightlyConfig.load(arguments.config, stage_keys)
    source, settings = named_source(arguments), open_settings(arguments)
    train: Callable[[], BackboneSummary]
    if arguments.recipe:
        recipe = load_recipe(keys + ([f"minutes={arguments.minutes}"] if arguments.minutes else []))
        config: AnyTraining = recipe.start
        train = partial(train_auto, source, settings, arguments.name, recipe, stages)
    else:
        config = load_training(arguments.objective, arguments.config, keys)
        train = partial(TRAININGS[config.objective], source, settings, arguments.name, config, stages)
    with checked_ahead(check_before_training, settings, source, config, stages):
        start_prefect(settings, arguments.verbose)
        summary = train()
    lines = _model_lines("backbone", summary.backbone, summary)
    print_answer(arguments, summary, [*lines, f"use it       --set embed.weights=artifact:{summary.name}"])
    return 0


def _train_segmenter(arguments: argparse.Namespace) -> int:
    from flows.train import train_segmenter
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.ingest.sources.registry import open_source
    from retrieval_core.store.base import check_conditions

    stages = NightlyConfig.load(arguments.config, arguments.set)
    if not stages.mask.enabled:
        raise BadConfig("mask.enabled is false, so no segmenter is trained; leave it out")
    source, settings = named_source(arguments), open_settings(arguments)
    open_source(source)
    check_conditions(settings.open_store())
    start_prefect(settings, arguments.verbose)
    summary = train_segmenter(source, settings, stages)
    print_answer(arguments, summary, _model_lines("segmenter", summary.segmenter, summary))
    return 0


def _train_head(arguments: argparse.Namespace) -> int:
    from flows.preflight import checked_ahead
    from flows.train import train_head
    from retrieval_core.config.stages import NightlyConfig
    from tasks.preflight import check_before_run

    stages = NightlyConfig.load(arguments.config, arguments.set)
    source, settings = named_source(arguments), open_settings(arguments)
    with checked_ahead(check_before_run, settings, source, stages, is_evaluated=False):
        start_prefect(settings, arguments.verbose)
        summary = train_head(source, settings, stages)
    lines = [line for head in summary.heads for line in ("", *_model_lines("head", head.head, head))]
    print_answer(arguments, summary, lines[1:])
    return 0


def _model_lines(kind: str, fingerprint: str, model: BackboneSummary | SegmenterSummary | HeadSummary) -> list[str]:
    origin = "trained" if model.trained else "kept, trained before"
    heading = f"{kind:<12} {fingerprint[:12]}  {origin}, {model.epochs} epochs"
    return [heading, *(f"{name:<28}{value:.4f}" for name, value in model.metrics.items())]
