"""`vitrine train`: its arguments, and from them to the flow that trains."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

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
    as_text: Callable[[BaseModel], str]


def add_train(
    train: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int], add_store: Callable[..., None]
) -> None:
    """Give `vitrine train` its three kinds, each run by `command` with its `job` among the arguments."""
    kinds = train.add_subparsers(required=True, metavar="WHAT")

    def add(name: str, job: Callable[[argparse.Namespace], Job], text: str, keys: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command, job=job)
        sub.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        add_store(sub)
        sub.add_argument("--source", help="KIND:URI, for example folder:photos or table:items.csv")
        sub.add_argument("--set", action="append", default=[], metavar=f"{keys}=VALUE", help="set one config value")
        return sub

    backbone = add("backbone", backbone_job, "train a backbone on the catalogue's own pictures", "KEY")
    backbone.add_argument("objective", metavar="OBJECTIVE", help=OBJECTIVES)
    backbone.add_argument("--name", default="", help="what to call it: embed.weights=artifact:NAME; CARD-OBJECTIVE")
    backbone.add_argument("--teacher", help="of distill: fingerprint of a vector set, or production")
    add("segmenter", segmenter_job, "train the U-Net on the masks of the source", "STAGE.KEY")
    add("head", head_job, "train the multi-task head over the vectors of each view", "STAGE.KEY")


def backbone_job(arguments: argparse.Namespace) -> Job:
    """Keys of the training have no dot; those of the night's stages (mask.max_epochs) have one. Raises `BadConfig`."""
    from retrieval_core.config import NightlyConfig
    from retrieval_core.train.config import load_training
    from retrieval_core.train.start import start_config

    stage_keys = [text for text in arguments.set if "." in text.partition("=")[0]]
    keys = [text for text in arguments.set if text not in stage_keys]
    if arguments.teacher:
        keys.append(f"teacher={json.dumps(arguments.teacher)}")
    config = load_training(arguments.objective, arguments.config, keys)
    stages = NightlyConfig.load(arguments.config, stage_keys)

    def run(source: str, settings: Settings) -> BaseModel:
        from flows.train import TRAININGS

        return TRAININGS[config.objective](source, settings, arguments.name, config, stages)

    return Job(stages.model_copy(update={"embed": start_config(config)}), run, _backbone_text)


def segmenter_job(arguments: argparse.Namespace) -> Job:
    from retrieval_core.config import NightlyConfig

    stages = NightlyConfig.load(arguments.config, arguments.set)
    if not stages.mask.enabled:
        raise BadConfig("mask.enabled is false, so no segmenter is trained; leave it out")

    def run(source: str, settings: Settings) -> BaseModel:
        from flows.train import train_segmenter

        return train_segmenter(source, settings, stages)

    return Job(None, run, lambda summary: _text("segmenter", summary.model_dump()))


def head_job(arguments: argparse.Namespace) -> Job:
    from retrieval_core.config import NightlyConfig

    stages = NightlyConfig.load(arguments.config, arguments.set)

    def run(source: str, settings: Settings) -> BaseModel:
        from flows.train import train_head

        return train_head(source, settings, stages)

    return Job(stages, run, _heads_text)


def _backbone_text(summary: BaseModel) -> str:
    made = summary.model_dump()
    return f"{_text('backbone', made)}\nuse it       --set embed.weights=artifact:{made['name']}"


def _heads_text(summary: BaseModel) -> str:
    return "\n\n".join(_text("head", head) for head in summary.model_dump()["heads"])


def _text(kind: str, made: dict[str, object]) -> str:
    how = "trained" if made["trained"] else "kept, trained before"
    metrics = made["metrics"] if isinstance(made["metrics"], dict) else {}
    lines = [f"{kind:<12} {str(made[kind])[:12]}  {how}, {made['epochs']} epochs"]
    return "\n".join([*lines, *(f"{name:<28}{value:.4f}" for name, value in metrics.items())])
