"""Register a shop on Prefect's server: its work pools, its deployments, and the automations that notify its operator.

    python -m deployments.register --notify https://hooks.slack.com/services/...

can be repeated at any time. What a person changed on Prefect's pages stays: what was switched off, and who is notified.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import UUID

import httpx
import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import AutomationCore
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound, ParameterTypeError, SignatureMismatchError
from prefect.runner.storage import LocalStorage
from pydantic import ValidationError

from deployments.automations import apply, automations, notification_block
from deployments.cli.prefect_server import check_server_is_named
from deployments.cli.terminal import print_error, visible
from deployments.environment import prepare_environment
from deployments.pools import PROCESSES, pool_kind, register_pool
from deployments.shop import deployment_name, shards_tag, shop_name
from deployments.triggers.change_events import catalog_id
from flows.shards.make_shards import make_shards
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.config.text import first_line, nearest, read_toml, toml_table
from retrieval_core.errors import BadConfig, VitrineError
from retrieval_core.ingest.sources.registry import configured_spec
from retrieval_core.settings import Settings
from retrieval_core.train.config import load_training

ROOT = Path(__file__).parents[1]
DEFINITIONS = ROOT / "deployments" / "prefect.yaml"
MAKE_SHARDS = "flows/shards/make_shards.py:make_shards"
NOTIFY, SOURCE, CONFIG = "VITRINE_NOTIFY", "VITRINE_SOURCE", "VITRINE_CONFIG"
SCHEDULE, TIMEZONE = "VITRINE_SCHEDULE", "VITRINE_TIMEZONE"
SCHEDULED = "nightly"  # the deployment that VITRINE_SCHEDULE is about
WAIT_S = 120.0
RUNS = ("nightly", "catalog-update", "backfill")  # take the config of a run; trainings take it as `stages`
WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Outcome(NamedTuple):
    """What was done with a deployment, an automation or the pool of this name."""

    done: str
    name: str


def define(shop: str) -> list[dict[str, Any]]:
    """Return the deployments of prefect.yaml with the shop's names, source, config and schedule.

    The source is `VITRINE_SOURCE`, or that of the file `VITRINE_CONFIG`, whose tables say what runs make; its table
    `[columns]` names the source's columns, its tables `[deployments.NAME]` have further parameters of a deployment.
    Raises `BadConfig`.
    """
    path = Path(file) if (file := os.environ.get(CONFIG)) else None
    if toml_table(path, "settings"):
        raise BadConfig(f"{path}: [settings] has no effect on deployments; set VITRINE_* for the worker instead")
    stages = NightlyConfig.load(path, []).model_dump(mode="json", exclude_unset=True) if path else None
    trainings = {
        objective: load_training(objective, path, []).model_dump(mode="json", exclude_unset=True)
        for objective in toml_table(path, "train")
    }
    source = os.environ.get(SOURCE) or (read_toml(path).get("source") if path else None)
    if not source:
        raise BadConfig(f"no source named: set {SOURCE} to KIND:URI, for example table:s3://shop/items.csv")

    given = toml_table(path, "deployments")

    def apply_config(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
        config: dict[str, Any] = {"source": configured_spec(source, toml_table(path, "columns"))}
        if stages is not None:
            config |= {"config" if name in RUNS else "stages": stages}
        if training := trainings.get(name.removeprefix("train-")):
            config |= {"config": parameters["config"] | training}
        return parameters | {key: value for key, value in config.items() if key in parameters}

    definitions = []
    stock = _stock()["deployments"]
    for name in given.keys() - (names := [definition["name"] for definition in stock]):
        raise BadConfig(f"{path}: no deployment {name}{nearest(name, names)}")
    for definition in stock:
        name = definition["name"]
        parameters = apply_config(name, definition["parameters"])
        if table := toml_table(path, "deployments", name):
            parameters = _checked(definition["entrypoint"], parameters | table, f"{path}: [deployments.{name}]")
        schedules = [_schedule(name, **schedule) for schedule in definition.get("schedules", ())]
        changed = {
            "name": deployment_name(shop, name),
            "description": " ".join([definition["description"], *map(schedule_text, schedules)]),
            "tags": [shop, *definition["tags"][1:]],
            "parameters": parameters,
            # Prefect's page shows the slug, and otherwise the time without its zone.
            "schedules": [{"schedule": schedule, "slug": schedule_text(schedule)} for schedule in schedules],
        }
        definitions.append(definition | changed)
    return definitions


@cache
def _stock() -> dict[str, Any]:
    """Return prefect.yaml, whose anchors take long to read."""
    return cast(dict[str, Any], yaml.safe_load(DEFINITIONS.read_text()))


def _flow(entrypoint: str) -> Flow[..., Any]:
    file, _, function = entrypoint.partition(":")
    return cast(Flow[..., Any], getattr(import_module(file.removesuffix(".py").replace("/", ".")), function))


def _checked(entrypoint: str, parameters: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the parameters if the flow takes them. Raises `BadConfig` otherwise."""
    try:
        _flow(entrypoint).validate_parameters(parameters)
    except (ParameterTypeError, SignatureMismatchError) as error:
        raise BadConfig(f"{where}: {' '.join(str(error).split())}") from error
    return parameters


def _schedule(name: str, cron: str, timezone: str) -> CronSchedule:
    cron = (os.environ.get(SCHEDULE) if name == SCHEDULED else None) or cron
    timezone = os.environ.get(TIMEZONE) or timezone
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        raise BadConfig(f"{SCHEDULE} or {TIMEZONE} is wrong: {first_line(error, 'schedule')}") from error


def schedule_text(schedule: CronSchedule) -> str:
    """Return a sentence that says when runs start, with the time zone."""
    if hourly := re.fullmatch(r"(\d+) +\* +\* +\* +\*", schedule.cron.strip()):
        return f"Runs every hour at {hourly[1]} minutes past, {schedule.timezone}."
    if not (times := re.fullmatch(r"(\d+) +(\d+) +\* +\* +(\*|[0-7])", schedule.cron.strip())):
        return f"Runs by the cron schedule {schedule.cron}, {schedule.timezone}."
    minute, hour, weekday = times.groups()
    day = "day" if weekday == "*" else WEEKDAYS[int(weekday)]
    return f"Runs every {day} at {int(hour):02}:{int(minute):02}, {schedule.timezone}."


def register(
    client: SyncPrefectClient, shop: str, notify: str = "", templates: Path | None = None
) -> Iterator[Outcome]:
    """Create or change the shop's pools, deployments and automations, and remove its deployments of former versions.

    `notify` is as `notification_block` takes it, `templates` as `pool_kind`. Yields what was done as soon as it is
    done. Raises `BadConfig`.
    """
    definitions = define(shop)
    shard_pools = {pool: pool_kind(pool, templates) for pool in Settings.load().pools.names()}
    if shop in shard_pools:
        raise BadConfig(
            f"VITRINE_POOLS names {shop}, the pool of the flows, which would wait for shards that wait for them; name "
            "another one"
        )
    block_id = notification_block(client, shop, notify) if notify else None
    register_pool(client, shop, PROCESSES)
    yield Outcome("registered", f"work pool {shop}")
    starters = []
    for definition in definitions:
        deployment_id = _register_deployment(client, shop, definition)
        starters += [_starter(shop, deployment_id, trigger) for trigger in definition.get("triggers", ())]
        yield Outcome("registered", definition["name"])
    entrypoints = {definition["entrypoint"] for definition in definitions}
    yield from _remove_unless(client, shop, lambda deployment: deployment.entrypoint in entrypoints)
    for pool, kind in shard_pools.items():
        register_pool(client, pool, kind)
        register_shards(client, shop, pool)
        yield Outcome("registered", f"work pool {pool}")
    yield from _remove_unless(client, shards_tag(shop), lambda deployment: deployment.name in shard_pools)
    for name, done in apply(client, [*starters, *automations(shop, block_id)]).items():
        yield Outcome(done, name)


class _WorkerFolder(LocalStorage):
    """The folder that `VITRINE_HOME` names in the worker's environment, which runs start in."""

    def to_pull_step(self) -> dict[str, Any]:
        """Return the step of prefect.yaml."""
        (step,) = _stock()["pull"]
        return dict(step)


def _register_deployment(client: SyncPrefectClient, shop: str, definition: dict[str, Any]) -> UUID:
    flow, schedules = _flow(definition["entrypoint"]), definition["schedules"]
    is_paused = False
    with suppress(ObjectNotFound):
        existing = client.read_deployment_by_name(f"{flow.name}/{definition['name']}")
        is_paused = existing.paused
        if existing.schedules:
            schedules = [schedule | _former_schedule(client, existing, schedule["slug"]) for schedule in schedules]
    deployment = RunnerDeployment.from_flow(
        flow,
        definition["name"],
        paused=is_paused,
        description=definition["description"],
        tags=definition["tags"],
        parameters=definition["parameters"],
        concurrency_limit=ConcurrencyLimitConfig(**definition["concurrency_limit"]),
        work_pool_name=shop,
        work_queue_name=definition["work_pool"]["work_queue_name"],
    )
    deployment.entrypoint = definition["entrypoint"]
    deployment.storage = _WorkerFolder(str(ROOT))
    return cast(UUID, deployment.apply(schedules=schedules))


def _former_schedule(client: SyncPrefectClient, existing: DeploymentResponse, slug: str) -> dict[str, Any]:
    """Return which registered schedule is replaced, and whether it is active; delete all others but those of people.

    Schedules that a person adds on Prefect's page have no slug.
    """
    formers = [schedule for schedule in existing.schedules if schedule.slug and schedule.slug != slug]
    is_registered = any(schedule.slug == slug for schedule in existing.schedules)
    replaced = formers.pop(0).slug if formers and not is_registered else None
    for former in formers:
        client.delete_deployment_schedule(existing.id, former.id)
    return {"active": existing.schedules[0].active, "replaces": replaced}


def _starter(shop: str, deployment_id: UUID, trigger: dict[str, Any]) -> AutomationCore:
    """Return the automation that starts a deployment by an event of the shop."""
    names = {"name": f"{shop}: {trigger['expect'][0]}", "match": {"prefect.resource.id": catalog_id(shop)}}
    starter = DeploymentEventTrigger(**trigger | names)
    starter.set_deployment_id(deployment_id)
    # Prefect deletes what a deployment owns whenever that is registered, and an event could come meanwhile.
    return starter.as_automation().model_copy(update={"owner_resource": None})


def register_shards(client: SyncPrefectClient, shop: str, pool: str) -> None:
    """Register the flow that makes shards in a pool; only the runs that wait for them are told of."""
    deployment = RunnerDeployment.from_flow(
        make_shards,
        pool,
        description=f"Makes shards of other runs on the workers of the pool {pool}.",
        tags=[shards_tag(shop)],
        work_pool_name=pool,
    )
    deployment.entrypoint = MAKE_SHARDS
    deployment.storage = _WorkerFolder(str(ROOT))
    deployment.apply()


def _remove_unless(
    client: SyncPrefectClient, tag: str, is_defined: Callable[[DeploymentResponse], bool]
) -> Iterator[Outcome]:
    """Delete the deployments with a tag that are no more defined; a copy that a person made of one stays."""
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[tag]))
    for deployment in client.read_deployments(deployment_filter=tagged):
        if not is_defined(deployment):
            client.delete_deployment(deployment.id)
            yield Outcome("removed", deployment.name)


def _wait_for_server(client: SyncPrefectClient, wait_s: float) -> None:
    """Return when the server answers, at the latest after `wait_s`."""
    deadline = time.monotonic() + wait_s
    while client.api_healthcheck() is not None and time.monotonic() < deadline:
        time.sleep(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Register the shop and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.register", description=(__doc__ or "").splitlines()[0])
    text = (
        f"who is told: the URL of a webhook that takes JSON with a text, or a block of Prefect as TYPE/NAME (${NOTIFY})"
    )
    parser.add_argument("--notify", metavar="URL", default=os.environ.get(NOTIFY, ""), help=text)
    text = f"wait so long for Prefect's server, which may be starting ({WAIT_S})"
    parser.add_argument("--wait", metavar="SECONDS", type=float, default=WAIT_S, help=text)
    text = "templates of the jobs that pools of VITRINE_POOLS make, as POOL.TYPE.json; without one, processes"
    parser.add_argument("--pool-templates", metavar="FOLDER", type=Path, help=text)
    arguments = parser.parse_args(argv)
    prepare_environment()
    try:
        check_server_is_named()
        shop = shop_name()
        with get_client(sync_client=True) as client:
            _wait_for_server(client, arguments.wait)
            for done, name in register(client, shop, arguments.notify, arguments.pool_templates):
                print(f"{done:<10} {name}")
    except (httpx.TransportError, httpx.HTTPStatusError) as error:
        problem = "refuses" if isinstance(error, httpx.HTTPStatusError) else "does not answer"
        print(f"vitrine: Prefect's server {problem}: {visible(str(error))}", file=sys.stderr)
        return 1
    except VitrineError as error:
        return print_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
