"""Searches answered at the same time on one event loop, within bounds of number and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import TypeVar

from deployments.serve.api.answers import Problem, SearchAnswer, ViewAnswer
from deployments.serve.api.batching import PictureBatches
from deployments.serve.api.cursors import Cursor, read_cursor
from deployments.serve.api.problems import Refused, TooBusy, problem_of, refusal_of
from deployments.serve.api.requests import MAX_PICTURE_BYTES, PictureRequest, SearchRequest, ViewRequest
from deployments.serve.feedback import PICTURE_PX, Recorder
from deployments.serve.fetching import fetch_picture
from deployments.serve.service import SearchService, filter_of, is_whole, query_of
from retrieval_core.errors import BadConfig, NotFound
from retrieval_core.images import RGB, Box, cut, thumbnail
from retrieval_core.search.query import Image, Query
from retrieval_core.search.release import OpenRelease

MAX_SEARCHES = 128  # in progress; further ones are refused
SEARCH_S = 20.0  # for a search, with the pictures that it fetches
SEARCH_THREADS, FETCH_THREADS, PICTURE_THREADS = 4, 16, 8
BATCH_SEARCHES = 8  # of one batch at the same time
# A search by items or vectors takes about a millisecond of a processor in a release of this size, so it runs where it
# was asked for. Anything that may take longer goes to a thread and keeps nobody waiting.
QUICK_ROWS, QUICK_SEEN = 100_000, 100

T = TypeVar("T")


class Searches:
    """Answers requests for searches, and records them if there is a recorder; belongs to one event loop."""

    def __init__(self, service: SearchService, recorder: Recorder | None = None) -> None:
        self._service, self._recorder = service, recorder
        self._batches = PictureBatches(service.measurements)
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="search")
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._pictures = ThreadPoolExecutor(PICTURE_THREADS, thread_name_prefix="pictures")  # the store may be slow
        self._n_searches = 0

    def close(self) -> None:
        """End the threads."""
        self._batches.close()
        for pool in (self._threads, self._fetchers, self._pictures):
            pool.shutdown(cancel_futures=True)

    async def in_thread(self, work: Callable[..., T], *values: object) -> T:
        """Call something that may take long while other requests are answered. Raises `TimeoutError`."""
        async with self._bounded():
            return await self._run(work, *values)

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """Answer a search. Raises `VitrineError`, `TimeoutError`."""
        async with self._bounded():
            return await self._search(request)

    async def picture(self, request: PictureRequest, item_id: str) -> bytes:
        """Return an item's picture as a JPEG. Raises `VitrineError`, `TimeoutError`."""
        async with self._bounded():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pictures, self._service.picture, request, item_id)

    async def view(self, request: ViewRequest) -> ViewAnswer:
        """Return what a search makes of a picture. Raises `VitrineError`, `TimeoutError`."""
        async with self._bounded():
            release = await self._open(Cursor(request.release))
            files = await self._files(request.images, request.image_urls)
            return await self._run(self._service.view, request, release, files[0] if files else None)

    async def search_each(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer | Problem]:
        """Answer several searches, each with a problem where it fails."""
        turns = asyncio.Semaphore(BATCH_SEARCHES)

        async def answer(request: SearchRequest) -> SearchAnswer | Problem:
            async with turns:
                try:
                    return await self.search(request)
                except Exception as error:
                    return problem_of(refusal_of(error))

        return list(await asyncio.gather(*map(answer, requests)))

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """Count a search, and end it when its time is over."""
        if self._n_searches >= MAX_SEARCHES:
            raise TooBusy("too many searches are waiting; try again later")
        self._n_searches += 1
        try:
            async with asyncio.timeout(SEARCH_S):
                yield
        finally:
            self._n_searches -= 1

    async def _search(self, request: SearchRequest) -> SearchAnswer:
        if request.is_empty:
            raise BadConfig("nothing to look for: give texts, item_ids, images or image_urls")
        cursor = read_cursor(request) if request.cursor else Cursor(request.release)
        release = await self._open(cursor, is_page=bool(request.cursor))
        query, pictures = await self._query(release, request)
        if len(cursor.seen) <= QUICK_SEEN and self._is_quick(release, request, query):
            answer = self._service.answer(release, request, query, cursor.seen)
        else:
            answer = await self._run(self._service.answer, release, request, query, cursor.seen)
        if self._recorder:
            self._recorder.add_search(request, answer, filter_of(request), len(cursor.seen), pictures)
        return answer

    async def _open(self, cursor: Cursor, is_page: bool = False) -> OpenRelease:
        """Return the release to search, without a thread where it is production."""
        production = self._service.production(cursor.release)
        if production:
            return production
        try:
            return await self._run(self._service.open, cursor.release)
        except NotFound as error:
            if not is_page:
                raise
            raise Refused(410, "cursor: its release is gone; search again without a cursor") from error

    async def _query(self, release: OpenRelease, request: SearchRequest) -> tuple[Query, Sequence[bytes]]:
        """Return the query of a request, and the files of the pictures that it is for."""
        unlike = request.unlike
        if not (request.images or request.image_urls or unlike.images or unlike.image_urls):
            return query_of(request), ()
        return await self._picture_query(release, request)

    async def _picture_query(self, release: OpenRelease, request: SearchRequest) -> tuple[Query, Sequence[bytes]]:
        files, unlike = await asyncio.gather(
            self._files(request.images, request.image_urls),
            self._files(request.unlike.images, request.unlike.image_urls),
        )
        is_cropped = is_whole(request, release)
        like: tuple[Image, ...] = files
        if request.box:
            part = await self._run(_cut, release, files[0], request.box)
            like, files = (part,), (await self._run(thumbnail, part, PICTURE_PX),)
        if request.mode != "nearest":  # needs the pictures themselves
            images = request.unlike.model_copy(update={"images": unlike})
            return query_of(request.model_copy(update={"images": like, "unlike": images, "whole": is_cropped})), files
        vectors = await asyncio.gather(
            *(self._batches.embed(release, picture, is_cropped) for picture in like),
            *(self._batches.embed(release, picture, request.whole) for picture in unlike),
        )
        return query_of(request, vectors[: len(like)], vectors[len(like) :]), files

    async def _files(self, images: Sequence[bytes], urls: Sequence[str]) -> tuple[bytes, ...]:
        """Return the files of pictures, those at addresses fetched."""
        loop = asyncio.get_running_loop()
        fetched = [loop.run_in_executor(self._fetchers, _fetch, url) for url in urls]
        return (*images, *await asyncio.gather(*fetched))

    def _is_quick(self, release: OpenRelease, request: SearchRequest, query: Query) -> bool:
        is_plain = not (query.images or query.texts or query.unlike_texts)
        is_whole = not (request.where or request.filters or request.facets)
        is_small = release.release.counts["rows"] <= QUICK_ROWS
        return (
            is_plain
            and is_whole
            and is_small
            and all(release.find_row(item_id) is not None for item_id in request.item_ids)
        )

    async def _run(self, work: Callable[..., T], *values: object) -> T:
        context = copy_context()  # in which a stage is traced as one of this request
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work, *values)


def _cut(release: OpenRelease, data: bytes, box: Box) -> RGB:
    return cut(release.read_picture(data), box)


def _fetch(url: str) -> bytes:
    return fetch_picture(url, max_bytes=MAX_PICTURE_BYTES)
