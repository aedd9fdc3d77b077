"""What the server answers: the page and its files, runs, curves, logs, the machine; and three orders, by POST.

All JSON; an error is {"error": one sentence}. Handlers that are plain functions run in worker threads, and may block.
"""

import hashlib
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from concurrent import futures
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from backprop.errors import BackpropError, NoSuchRunError
from backprop.records import Run, RunView
from backprop.store import metric_names, query
from backprop.store.home import HomeBusyError
from backprop.views.web import logs, params, serializers
from backprop.views.web.auth import AccessToken, Address, AuthMiddleware
from backprop.views.web.index_pool import Library, NotYetError
from backprop.views.web.services import Services
from backprop.views.web.sse import Streams

_STATIC = Path(__file__).with_name("static")
_PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
_ANSWER_WITHIN_S = 0.7  # an order that takes longer is told about in the stream
_log = logging.getLogger("backprop")


def make(pages: "Pages", key: AccessToken, address: Address) -> ASGIApp:
    """The application, behind its gate."""
    app = Starlette(
        routes=pages.routes(),
        exception_handlers={
            HTTPException: _refused,
            BackpropError: _refused,
            sqlite3.Error: _busy,
            HomeBusyError: _busy,
            NotYetError: _not_yet,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
        lifespan=pages.lifespan,
    )
    return AuthMiddleware(app, key, address)


class Pages:
    """The handlers, and what they share."""

    streams: Streams

    def __init__(self, desk: Services) -> None:
        self._desk = desk
        self._library = Library(desk)
        # a fixed list: no request can name any other file
        self._files = {str(path.relative_to(_STATIC)): path for path in _STATIC.rglob("*") if path.suffix in _TYPES}

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.streams = Streams(self._desk, self._library)
        yield
        self.end_streams()
        self._library.close()

    def end_streams(self) -> None:
        """Let go of all pages that listen; a server that ends would wait for them."""
        self.streams.end()

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/static/{name:path}", self.static),
            Route("/api/runs", self.runs),
            Route("/api/runs/{id}", self.run),
            Route("/api/runs/{id}/log", self.log),
            Route("/api/runs/{id}/patch", self.patch),
            Route("/api/curves", self.curves),
            Route("/api/machine", self.machine),
            Route("/api/events", self.events),
            Route("/api/runs/{id}/stop", self.stop, methods=["POST"]),
            Route("/api/runs/{id}/pause", self.pause, methods=["POST"]),
            Route("/api/runs/{id}/resume", self.resume, methods=["POST"]),
        ]

    # -- the page

    def page(self, request: Request) -> Response:
        return self._file(request, _PAGE)

    def static(self, request: Request) -> Response:
        return self._file(request, request.path_params["name"])

    def _file(self, request: Request, name: str) -> Response:
        path = self._files.get(name)
        if path is None:
            raise HTTPException(404, "there is no such file.")
        data = path.read_bytes()
        headers = {"cache-control": "no-cache", "etag": f'"{hashlib.sha256(data).hexdigest()[:32]}"'}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=_TYPES[path.suffix], headers=headers)

    # -- what there is

    def runs(self, request: Request) -> Response:
        wanted = params.runs(request)
        self._library.catch_up()
        now = datetime.now(timezone.utc)
        with self._library.lent() as index:
            return _json(
                {
                    "total": query.count(index),
                    "shown_of": query.count(index, wanted),
                    "runs": [serializers.row(index, view, now) for view in query.runs(index, wanted)],
                }
            )

    def run(self, request: Request) -> Response:
        self._library.catch_up()
        with self._library.lent() as index:
            view = self._library.run(index, request.path_params["id"])
            return _json(serializers.details(index, view, datetime.now(timezone.utc), self._library.is_valid))

    def log(self, request: Request) -> Response:
        stream = params.choice(request, "source", logs.STREAMS)
        session = params.whole(request, "session", None, 1, 10**9)
        end = params.whole(request, "end", None, 0, 2**53)
        max_bytes = params.whole(request, "bytes", 65_536, 1, logs.MAX_LOG_BYTES)
        with self._library.lent() as index:
            view = self._library.run(index, request.path_params["id"])
        return _json(logs.log_before(view, stream, session, end, max_bytes))

    def patch(self, request: Request) -> Response:
        with self._library.lent() as index:
            view = self._library.run(index, request.path_params["id"])
        text = logs.patch(view)
        if text is None:
            raise HTTPException(404, "there are no uncommitted changes in the record of this run.")
        return PlainTextResponse(text)

    def curves(self, request: Request) -> Response:
        axis = params.axis(request)
        points = params.whole(request, "points", serializers.DEFAULT_POINTS, 10, serializers.MAX_POINTS)
        begin, end = params.number(request, "begin"), params.number(request, "end")
        told = []
        views: dict[str, RunView] = {}  # each run is read once
        with self._library.lent() as index:
            for run_id, metric in params.curves_of(request):
                if run_id not in views:
                    views[run_id] = self._library.run(index, run_id)
                view = views[run_id]
                name = metric_names.main_metric(view.summaries) if metric is None else metric
                if name is not None:
                    told.append(serializers.curve_document(index, view, name, axis, points, begin, end))
        return _json({"axis": axis, "curves": told})

    def machine(self, request: Request) -> Response:  # noqa: ARG002
        return _json_bytes(self.streams.hub.read_machine())

    def events(self, request: Request) -> Response:
        with self._library.lent() as index:
            listening = params.listening(request, index)
        return StreamingResponse(self.streams.open(listening), media_type="text/event-stream")

    # -- orders

    async def stop(self, request: Request) -> Response:
        order = await params.order(request, params.StopOrder)
        return await self._order(request, lambda run: self._desk.stop(run, order.now))

    async def pause(self, request: Request) -> Response:
        await params.order(request, params.PauseOrder)
        return await self._order(request, self._desk.pause)

    async def resume(self, request: Request) -> Response:
        order = await params.order(request, params.ResumeOrder)
        return await self._order(request, lambda run: self._desk.resume(run, order.minutes))

    async def _order(self, request: Request, order: Callable[[Run], str]) -> Response:
        return await anyio.to_thread.run_sync(self._promptly, request.path_params["id"], order)

    def _promptly(self, run_id: str, order: Callable[[Run], str]) -> Response:
        """Give an order. What becomes of one that takes its time is told to all pages that listen."""
        self._library.catch_up()
        with self._library.lent() as index:
            run = self._library.run(index, run_id).run
        done: futures.Future[str] = futures.Future()

        def work() -> None:
            try:
                done.set_result(order(run))
            except Exception as error:  # noqa: BLE001  raised again where it is waited for, or told
                done.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            said = done.result(_ANSWER_WITHIN_S)
        except futures.TimeoutError:
            done.add_done_callback(lambda late: self._tell_late(run_id, late))
            said = "asked; it takes a moment"
        return _json({"said": said}, status_code=202)

    def _tell_late(self, run_id: str, done: "futures.Future[str]") -> None:
        error = done.exception()
        self.streams.say(run_id, str(error) if error else done.result(), is_error=error is not None)


# -- answers


def _json(document: Any, status_code: int = 200) -> Response:
    return _json_bytes(msgspec.json.encode(document), status_code)


def _json_bytes(data: bytes, status_code: int = 200) -> Response:
    return Response(data, status_code=status_code, media_type="application/json")


def _refused(request: Request, error: Exception) -> Response:
    """What cannot be done, in one sentence."""
    if isinstance(error, HTTPException):
        answer = _json({"error": error.detail}, error.status_code)
        answer.headers.update(error.headers or {})
        return answer
    status_code = 409 if request.method == "POST" else 400
    return _json({"error": str(error)}, 404 if isinstance(error, NoSuchRunError) else status_code)


def _busy(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return _json({"error": f"the index cannot be read just now: {error}"}, 503)


def _not_yet(request: Request, error: Exception) -> Response:  # noqa: ARG001
    answer = _json({"error": str(error)}, 503)
    answer.headers["retry-after"] = "1"  # second
    return answer


def _gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """To nobody: whoever asked did not wait."""
    return Response(status_code=400)


def _broken(request: Request, error: Exception) -> Response:
    """A bug: told in full to whoever started the server, and not to the page."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _json({"error": "something went wrong in the server; its terminal shows what."}, 500)
