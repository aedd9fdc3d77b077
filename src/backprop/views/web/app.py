"""The routes: the page and its files, runs, curves, logs, the machine; and by POST: stop, pause, resume.

JSON; an error is {"error": one sentence}. Handlers that are plain functions run in worker threads, and may block.
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
from backprop.store.code.diff import difference, recorded
from backprop.store.home import HomeBusyError
from backprop.views.bands import band
from backprop.views.documents.comparison import comparison_rows
from backprop.views.documents.csv_text import csv_lines
from backprop.views.report import report
from backprop.views.terminal.comparison_table import Comparison, side
from backprop.views.terminal.params import differing as differing_params
from backprop.views.terminal.params import names
from backprop.views.web import columns, comparison, logs, params, serializers
from backprop.views.web.auth import AccessToken, Address, AuthMiddleware
from backprop.views.web.index_pool import IndexPool, NotYetError
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
_GOALS_OF = 50  # runs, by which it is judged what the main metric is, and which values of it are better
_MAX_BAND_RUNS = 100
_BAND_POINTS = 1000
_MAX_VALUES = 10_000  # runs
_RESPOND_WITHIN_S = 0.7  # the outcome of a slower request is sent as an event
_log = logging.getLogger("backprop")


def make(pages: "Pages", key: AccessToken, address: Address) -> ASGIApp:
    """The application, behind the auth middleware."""
    app = Starlette(
        routes=pages.routes(),
        exception_handlers={
            HTTPException: _failed,
            BackpropError: _failed,
            sqlite3.Error: _busy,
            HomeBusyError: _busy,
            NotYetError: _not_yet,
            ClientDisconnect: _disconnected,
            Exception: _bug,
        },
        lifespan=pages.lifespan,
    )
    return AuthMiddleware(app, key, address)


class Pages:
    """The handlers, and what they share."""

    streams: Streams

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pool = IndexPool(services)
        # a fixed list: no request can name any other file
        self._files = {str(path.relative_to(_STATIC)): path for path in _STATIC.rglob("*") if path.suffix in _TYPES}

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Start the event streams before the first request; end them and close the index after the last."""
        self.streams = Streams(self._services, self._pool)
        yield
        self.end_streams()
        self._pool.close()

    def end_streams(self) -> None:
        """Close all event streams: the server waits for them before it exits."""
        self.streams.end()

    def routes(self) -> list[Route]:
        """All that the server answers to. A path that is not here is a 404."""
        return [
            Route("/", self.page),
            Route("/static/{name:path}", self.static),
            Route("/api/runs", self.runs),
            Route("/api/groups", self.groups),
            Route("/api/runs/{id}", self.run),
            Route("/api/runs/{id}/log", self.log),
            Route("/api/runs/{id}/patch", self.patch),
            Route("/api/curves", self.curves),
            Route("/api/bands", self.bands),
            Route("/api/values", self.values),
            Route("/api/machine", self.machine),
            Route("/api/events", self.events),
            Route("/api/many", self.many, methods=["POST"]),
            Route("/api/compare", self.compare),
            Route("/api/compare/code", self.code),
            Route("/api/csv", self.csv),
            Route("/api/report", self.report),
            Route("/api/runs/{id}/stop", self.stop, methods=["POST"]),
            Route("/api/runs/{id}/pause", self.pause, methods=["POST"]),
            Route("/api/runs/{id}/resume", self.resume, methods=["POST"]),
        ]

    # -- the page

    def page(self, request: Request) -> Response:
        """The page itself."""
        return self._file(request, _PAGE)

    def static(self, request: Request) -> Response:
        """A file of the page: one of the fixed list. Raises HTTPException 404."""
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

    # -- data

    def runs(self, request: Request) -> Response:
        """Runs that match, a row each with the columns asked for; and what columns could be asked for."""
        wanted, keys = params.runs(request), params.columns(request)
        self._pool.catch_up()
        now = datetime.now(timezone.utc)
        with self._pool.connection() as index:
            views = query.runs(index, wanted)
            differing = differing_params(views)
            shown = columns.usual(differing) if keys is None else keys
            return _json(
                {
                    "total": query.count(index),
                    "shown_of": query.count(index, wanted),
                    "columns": columns.heads(shown, views),
                    "offered": columns.offered(views, differing),
                    "runs": [serializers.row(index, view, now, shown) for view in views],
                }
            )

    def groups(self, request: Request) -> Response:
        """Runs that match, counted by group, parameter or another field, with the spread of a metric."""
        wanted, by = msgspec.structs.replace(params.runs(request), limit=None), params.grouping(request)
        self._pool.catch_up()
        with self._pool.connection() as index:
            newest = query.runs(index, msgspec.structs.replace(wanted, sort="created", limit=_GOALS_OF))
            metric = request.query_params.get("metric") or metric_names.commonest_main_metric(newest)
            rows = query.groups(index, wanted, by, metric or "")
            return _json(serializers.groups(rows, by, metric, newest))

    def run(self, request: Request) -> Response:
        """One run in full."""
        self._pool.catch_up()
        with self._pool.connection() as index:
            view = self._pool.run(index, request.path_params["id"])
            return _json(serializers.details(index, view, datetime.now(timezone.utc), self._pool.is_valid))

    def log(self, request: Request) -> Response:
        """A piece of what a session wrote that ends at a byte offset, or at the end of the file."""
        stream = params.choice(request, "source", logs.STREAMS)
        session = params.whole(request, "session", None, 1, 10**9)
        end = params.whole(request, "end", None, 0, 2**53)
        max_bytes = params.whole(request, "bytes", 65_536, 1, logs.MAX_LOG_BYTES)
        with self._pool.connection() as index:
            view = self._pool.run(index, request.path_params["id"])
        return _json(logs.log_before(view, stream, session, end, max_bytes))

    def patch(self, request: Request) -> Response:
        """The uncommitted changes of a run as text. Raises HTTPException 404 where none were recorded."""
        with self._pool.connection() as index:
            view = self._pool.run(index, request.path_params["id"])
        text = logs.patch(view)
        if text is None:
            raise HTTPException(404, "this run has no recorded uncommitted changes.")
        return PlainTextResponse(text)

    def curves(self, request: Request) -> Response:
        """Points of metrics of several runs, reduced for drawing."""
        axis = params.axis(request)
        points = params.whole(request, "points", serializers.DEFAULT_POINTS, 10, serializers.MAX_POINTS)
        begin, end = params.number(request, "begin"), params.number(request, "end")
        documents = []
        views: dict[str, RunView] = {}  # each run is read once
        with self._pool.connection() as index:
            for run_id, metric in params.curves_of(request):
                if run_id not in views:
                    views[run_id] = self._pool.run(index, run_id)
                view = views[run_id]
                name = metric_names.main_metric(view.summaries) if metric is None else metric
                if name is not None:
                    documents.append(serializers.curve_document(index, view, name, axis, points, begin, end))
        return _json({"axis": axis, "curves": documents})

    def values(self, request: Request) -> Response:
        """Columns of the newest runs that match, for plots of parameters against metrics."""
        wanted, keys = params.runs(request), params.columns(request) or []
        self._pool.catch_up()
        with self._pool.connection() as index:
            newest = msgspec.structs.replace(wanted, sort="created", limit=_MAX_VALUES)
            rows = query.values(index, newest, keys)
            document = serializers.values(rows, len(keys), query.count(index, wanted))
        of = request.query_params.get("of", "")
        return _json({**document, "importance": serializers.importance(rows, keys, of)})

    def bands(self, request: Request) -> Response:
        """Mean and spread of the curves of the newest runs that a filter finds; and which metrics these have."""
        axis = params.axis(request)
        metric = request.query_params.get("metric") or ""
        wanted = msgspec.structs.replace(params.runs(request), sort="created", limit=_MAX_BAND_RUNS)
        self._pool.catch_up()
        with self._pool.connection() as index:
            views = query.runs(index, wanted)
            found = [query.curve(index, view, metric, axis, max_points=_BAND_POINTS) for view in views if metric]
        return _json(serializers.band_document(band(found), views))

    def report(self, request: Request) -> Response:
        """Some runs in one file, as `backprop report` writes it."""
        run_ids = params.run_ids(request)
        with self._pool.connection() as index:
            views = [self._pool.run(index, run_id) for run_id in run_ids]
            text = report(index, views, datetime.now(timezone.utc))
        return Response(text.encode(errors="backslashreplace"), media_type="application/octet-stream")

    def compare(self, request: Request) -> Response:
        """Runs side by side, as `backprop compare` shows them."""
        run_ids, with_all = params.compared(request), params.choice(request, "all", ("0", "1")) == "1"
        self._pool.catch_up()
        with self._pool.connection() as index:
            views = [self._pool.run(index, run_id) for run_id in run_ids]
        return _json(comparison.comparison_document(views, datetime.now(timezone.utc), with_all=with_all))

    def code(self, request: Request) -> Response:
        """How the code of two runs differs, as `backprop compare --diff` finds it. May take git some seconds."""
        run_ids = params.compared(request, most=2)
        with self._pool.connection() as index:
            views = [self._pool.run(index, run_id) for run_id in run_ids]
        one, other = (recorded(self._services.home, view) for view in views)
        return _json(comparison.difference_document(difference(one, other, comparison.MAX_DIFF_BYTES)))

    def csv(self, request: Request) -> Response:
        """A row for each run, as `backprop compare --all --csv` prints them."""
        run_ids = params.run_ids(request)
        with self._pool.connection() as index:
            views = [self._pool.run(index, run_id) for run_id in run_ids]
        now = datetime.now(timezone.utc)
        table = Comparison(
            sides=tuple(side(view, now, {}) for view in views),
            metrics=tuple(metric_names.in_order(views)),
            params=tuple(names(views)),
            at_step=None,
            with_all=True,
        )
        return PlainTextResponse("".join(csv_lines(comparison_rows(table))), media_type="text/csv; charset=utf-8")

    def machine(self, request: Request) -> Response:  # noqa: ARG002
        """The machine and who uses it, as it was read last."""
        return _json_bytes(self.streams.poller.read_machine())

    def events(self, request: Request) -> Response:
        """A stream of server-sent events about the runs that the query names: see sse.py."""
        with self._pool.connection() as index:
            subscription = params.subscription(request, index)
        return StreamingResponse(self.streams.open(subscription), media_type="text/event-stream")

    # -- requests to runs

    async def stop(self, request: Request) -> Response:
        """Ask a run to stop; the answer does not wait for its end. `now` skips the grace period."""
        asked = await params.body(request, params.StopRequest)
        return await self._carry_out(request, lambda run: self._services.stop(run, now=asked.now))

    async def pause(self, request: Request) -> Response:
        """Ask a run to pause."""
        await params.body(request, params.PauseRequest)
        return await self._carry_out(request, self._services.pause)

    async def resume(self, request: Request) -> Response:
        """Resume a paused run, or start another session of one that has ended."""
        asked = await params.body(request, params.ResumeRequest)
        return await self._carry_out(request, lambda run: self._services.resume(run, asked.minutes))

    async def many(self, request: Request) -> Response:
        """Do something to several runs, as the command line does."""
        asked = await params.body(request, params.ManyRequest)
        words = asked.command
        return await anyio.to_thread.run_sync(self._respond_soon, asked.runs[0], lambda: self._services.call(words))

    async def _carry_out(self, request: Request, action: Callable[[Run], str]) -> Response:
        return await anyio.to_thread.run_sync(self._respond_for, request.path_params["id"], action)

    def _respond_for(self, run_id: str, action: Callable[[Run], str]) -> Response:
        self._pool.catch_up()
        with self._pool.connection() as index:
            run = self._pool.run(index, run_id).run
        return self._respond_soon(run_id, lambda: action(run))

    def _respond_soon(self, run_id: str, action: Callable[[], str]) -> Response:
        """Do it in a thread, and respond within a second: a later outcome is sent to all pages as an event."""
        done: futures.Future[str] = futures.Future()

        def work() -> None:
            try:
                done.set_result(action())
            except Exception as error:  # noqa: BLE001  raised again below, or sent to the pages
                done.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            message = done.result(_RESPOND_WITHIN_S)
        except futures.TimeoutError:
            done.add_done_callback(lambda late: self._send_outcome(run_id, late))
            message = "requested; this takes a moment"
        return _json({"said": message}, status_code=202)

    def _send_outcome(self, run_id: str, done: "futures.Future[str]") -> None:
        error = done.exception()
        self.streams.send_outcome(run_id, str(error) if error else done.result(), is_error=error is not None)


# -- responses


def _json(document: Any, status_code: int = 200) -> Response:
    return _json_bytes(msgspec.json.encode(document), status_code)


def _json_bytes(data: bytes, status_code: int = 200) -> Response:
    return Response(data, status_code=status_code, media_type="application/json")


def _failed(request: Request, error: Exception) -> Response:
    """One sentence about what cannot be done."""
    if isinstance(error, HTTPException):
        response = _json({"error": error.detail}, error.status_code)
        response.headers.update(error.headers or {})
        return response
    status_code = 409 if request.method == "POST" else 400
    return _json({"error": str(error)}, 404 if isinstance(error, NoSuchRunError) else status_code)


def _busy(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return _json({"error": f"the index cannot be read right now: {error}"}, 503)


def _not_yet(request: Request, error: Exception) -> Response:  # noqa: ARG001
    response = _json({"error": str(error)}, 503)
    response.headers["retry-after"] = "1"  # second
    return response


def _disconnected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """A response that nobody reads: the client has gone."""
    return Response(status_code=400)


def _bug(request: Request, error: Exception) -> Response:
    """A bug: its traceback goes to the server's terminal, not to the page."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _json({"error": "internal error; see the terminal of backprop ui."}, 500)
