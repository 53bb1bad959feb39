"""Concurrent pictures share forward passes: they are decoded in threads and embedded in batches.

A batch is closed when it is full, when no other picture is being decoded, or after a few milliseconds. While one batch
is in its forward pass the next one fills. So a single picture waits for nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from deployments.serve.api.problems import TooBusy
from deployments.serve.metrics import Measurements
from retrieval_core.arrays import Float32, UInt8
from retrieval_core.search.query import Image
from retrieval_core.search.release import OpenRelease

MAX_WAITING = 64  # pictures that are decoded or wait for their forward pass; further ones are refused
MAX_BATCH = 32
WAIT_S = 0.004


class _Waiting(NamedTuple):
    pixels: UInt8
    vector: asyncio.Future[Float32]


class PictureBatches:
    """Embeds pictures for many searches at the same time; used on one event loop."""

    def __init__(self, measurements: Measurements) -> None:
        self._measurements = measurements
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
        self._forward = ThreadPoolExecutor(1, thread_name_prefix="embed")  # a pass uses every core
        self._waiting: defaultdict[OpenRelease, list[_Waiting]] = defaultdict(list)
        self._n_decoding = self._n_waiting = 0
        self._decoded = asyncio.Event()  # set when no picture is being decoded
        self._runners: dict[OpenRelease, asyncio.Task[None]] = {}

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown()
        self._forward.shutdown()

    async def embed(self, release: OpenRelease, picture: Image, whole: bool) -> Float32:
        """Return the (dim,) vector of a picture as a search in this release uses it.

        Raises `TooBusy` where too many pictures wait, and what `OpenRelease.fit_picture` raises.
        """
        if self._n_waiting >= MAX_WAITING:
            raise TooBusy("too many pictures are waiting; try again later")
        self._n_waiting += 1
        self._measurements.waiting_pictures.set(self._n_waiting)
        try:
            return await self._embed(release, await self._decode(release, picture, whole))
        finally:
            self._n_waiting -= 1
            self._measurements.waiting_pictures.set(self._n_waiting)

    async def _decode(self, release: OpenRelease, picture: Image, whole: bool) -> UInt8:
        self._n_decoding += 1
        self._decoded.clear()
        try:
            with self._measurements.stage("decode"):
                return await asyncio.get_running_loop().run_in_executor(
                    self._decoders, release.fit_picture, picture, whole
                )
        finally:
            self._n_decoding -= 1
            if not self._n_decoding:
                self._decoded.set()

    async def _embed(self, release: OpenRelease, pixels: UInt8) -> Float32:
        vector: asyncio.Future[Float32] = asyncio.get_running_loop().create_future()
        self._waiting[release].append(_Waiting(pixels, vector))
        if release not in self._runners:
            self._runners[release] = asyncio.create_task(self._run(release))
        with self._measurements.stage("embed"):
            return await vector

    async def _run(self, release: OpenRelease) -> None:
        """Embed the waiting pictures of a release, batch by batch, until none waits."""
        batch_size = min(release.encoder.batch_size, MAX_BATCH)
        try:
            while waiting := self._waiting[release]:
                if len(waiting) < batch_size and self._n_decoding:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._decoded.wait(), WAIT_S)
                self._waiting[release] = waiting[batch_size:]
                await self._embed_batch(release, waiting[:batch_size])
        finally:
            del self._runners[release]
            del self._waiting[release]

    async def _embed_batch(self, release: OpenRelease, batch: list[_Waiting]) -> None:
        self._measurements.batch_pictures.observe(len(batch))
        try:
            pixels = np.stack([one.pixels for one in batch])
            vectors = await asyncio.get_running_loop().run_in_executor(self._forward, release.encoder.embed, pixels)
        except Exception as error:
            for one in batch:
                if not one.vector.done():
                    one.vector.set_exception(error)
            return
        for one, vector in zip(batch, vectors, strict=True):
            if not one.vector.done():  # its client may have left
                one.vector.set_result(vector)
