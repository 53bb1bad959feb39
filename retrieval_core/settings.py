"""Where a run stores its results and how fast it may go; settings never enter a fingerprint.

They are read from the environment (`VITRINE_*`) and `vitrine.toml`. An unknown variable of this prefix is an error.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retrieval_core.config.text import first_line, nearest, toml_table
from retrieval_core.errors import BadConfig
from retrieval_core.store.base import Store
from retrieval_core.store.format import check_readable
from retrieval_core.store.uris import default_cache_dir, open_store

DEVICES = Path("/dev")
# Device files of the drivers that torch's CUDA and ROCm builds use: NVIDIA, its Jetson boards, WSL 2, AMD.
GPU_DRIVERS = ("nvidia*", "nvhost*", "dxg", "kfd")
PREFIX = "VITRINE_"
# What is no setting: variables of the deployments, and those that Kubernetes sets where a service is called vitrine.
OTHER_VARIABLES = re.compile(
    r"(home|shop|source|config|schedule|timezone|pictures|trigger_token|spool|notify|report_to"
    r"|fetch_(allow|connections|rate|max_age)|sql_url|export_(url|token)"
    r"|(\w+_)?(service_(host|port\w*)|port(_\d+_\w+)?))"
)


def _leave_empty(schema: dict[str, Any]) -> None:
    """Take the defaults from a form, which would send them in place of what the environment says."""
    for field in schema["properties"].values():
        field.pop("default", None)


class Pools(BaseModel):
    """The Prefect work pool that makes the shards of each stage; a stage without one has the default.

    `local` is no pool: the run makes these shards itself. As text, in a variable of the environment:
    `embed=gpu,index=cpu,default=local`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_leave_empty)

    default: str = Field("", description="Pool of the stages that name none; local: the run itself.")
    ingest: str = Field("", description="Pool that reads and checks new pictures.")
    embed: str = Field("", description="Pool that masks and embeds pictures; one of machines with a GPU pays here.")
    classify: str = Field("", description="Pool that classifies pictures.")
    head: str = Field("", description="Pool that boosts vectors.")
    reduce: str = Field("", description="Pool that reduces vectors to few dimensions.")
    index: str = Field("", description="Pool that builds the shards of the index.")
    evaluate: str = Field("", description="Pool that searches large catalogues exactly, to measure the index by.")

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, pools: Any) -> Any:
        if not isinstance(pools, str):
            return pools
        pairs = [pair.partition("=") for pair in pools.split(",")]
        names = {stage.strip(): pool.strip() for stage, _, pool in pairs}
        if "" in {*names, *names.values()} or len(names) < len(pairs):
            raise ValueError("expected STAGE=POOL for each stage once, with commas between: embed=gpu,default=cpu")
        return names

    def of(self, stage: str) -> str | None:
        """Return the pool of a stage; None where the run makes its shards itself."""
        pool: str = getattr(self, stage) or self.default
        return None if pool == "local" else pool

    def names(self) -> list[str]:
        """Return the pools that are used, each once, in alphabetical order."""
        return sorted({pool for stage in type(self).model_fields if (pool := self.of(stage))})


class Settings(BaseModel):
    """The operator's settings; an argument wins over the environment, the environment over the file.

    An empty field or variable counts as not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_leave_empty)

    store: str = Field("", description="Folder or s3://bucket/prefix that holds everything a run makes.")
    s3_endpoint_url: str = Field("", description="Endpoint of an S3-compatible store; empty for AWS.")
    cache_dir: Path = Field(default_factory=default_cache_dir, description="Local read cache of a remote store.")
    cache_gb: float = Field(
        50.0, ge=0, description="Largest size of that cache for each store, in GB of 10^9 bytes; 0: unlimited."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto uses CUDA if it is available.")
    threads: int = Field(0, ge=0, description="CPU threads of one task; 0 uses every core.")
    runner: Literal["local", "dask", "pools"] = Field(
        "local",
        description="What makes the shards: this machine, one by one, the workers of a Dask cluster, or those of "
        "Prefect's work pools.",
    )
    dask_address: str = Field(
        "tls://127.0.0.1:8786", description="Address of the Dask cluster's scheduler, if that is the runner."
    )
    report_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Address at which the search app shows reports, for example https://host/reports; empty: none.",
    )
    pools: Pools = Field(Pools(), description="The work pools that make the shards, if they are the runner.")

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, values: Any) -> Any:
        environment = {}
        for name, text in os.environ.items():
            prefix, key = name[: len(PREFIX)].upper(), name[len(PREFIX) :].lower()
            if prefix == PREFIX and key in cls.model_fields:
                environment[key] = text
            elif prefix == PREFIX and not OTHER_VARIABLES.fullmatch(key):
                hint = nearest(name, [PREFIX + field.upper() for field in cls.model_fields], 0.8)
                raise BadConfig(f"unknown environment variable {name}{hint}")
        if not isinstance(values, dict):
            return values
        given = {
            key: value for key, value in values.items() if value not in ("", None, {}) or key not in cls.model_fields
        }
        return {key: text for key, text in environment.items() if text} | given

    @model_validator(mode="after")
    def _has_a_pool_for_each_stage(self) -> Self:
        if not self.pools.default and (self.runner == "pools" or self.pools != Pools()):
            raise ValueError("pools names no default; expected for example VITRINE_POOLS=embed=gpu,default=cpu")
        return self

    @classmethod
    def load(cls, toml: Path | None = None, **arguments: object) -> Self:
        """Return settings from the `[settings]` table, the environment and explicit arguments. Raises `BadConfig`."""
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            file = toml_table(toml, "settings")
            environment = cls().model_dump(exclude_unset=True)
            return cls.model_validate(file | environment | given)
        except ValidationError as error:
            raise BadConfig(first_line(error, "settings", cls)) from error

    @property
    def n_threads(self) -> int:
        """Number of CPU threads of one task."""
        if self.threads:
            return self.threads
        # A container's CPU set shows in the affinity mask, which macOS does not have.
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def torch_device(self) -> str:
        """`cpu` or `cuda`. Raises `BadConfig` if CUDA is configured but not available."""
        if self.device == "cpu" or (self.device == "auto" and not _has_gpu_driver()):
            return "cpu"  # without importing torch, which takes seconds
        try:
            import torch
        except ImportError:
            has_cuda = False  # a search service runs on ONNX Runtime alone
        else:
            has_cuda = torch.cuda.is_available()
        if self.device == "cuda" and not has_cuda:
            raise BadConfig("device is cuda, but torch sees no CUDA device; set VITRINE_DEVICE=cpu or auto")
        return "cuda" if has_cuda else "cpu"

    def report_link(self, name: str) -> str:
        """Return the address of the report of a release, or of a report by its own fingerprint; "" without one."""
        return f"{self.report_url.rstrip('/')}/{name}" if self.report_url else ""

    @property
    def app_url(self) -> str:
        """Address of the search page, below which the reports lie; "" where nobody said where reports are shown."""
        base, below, rest = self.report_url.rstrip("/").rpartition("/reports")
        return base if below and not rest else ""

    def open_store(self) -> Store:
        """Return the store. Raises `BadConfig` if none is configured, `TooNew` if a newer version wrote it."""
        if not self.store:
            raise BadConfig("no store named: give --store FOLDER or s3://bucket/prefix, or set VITRINE_STORE")
        store = open_store(
            self.store,
            s3_endpoint_url=self.s3_endpoint_url or None,
            cache_dir=self.cache_dir,
            cache_bytes=int(self.cache_gb * 1e9),
        )
        check_readable(store)
        return store


def _has_gpu_driver() -> bool:
    """Return whether torch could find a GPU; True where only torch can tell."""
    if sys.platform != "linux":
        return sys.platform != "darwin"
    return any(any(DEVICES.glob(pattern)) for pattern in GPU_DRIVERS)
