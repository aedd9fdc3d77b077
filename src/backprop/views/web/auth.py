"""Access to the page: only with the token, not for scripts of other sites, not under another host name.

The server can stop and start a user's programs, and every page in every browser on this machine can send it requests.
The page itself is for everybody: it is in the package, and nothing of the user's is in it. It has the token from the
address that it was opened by and sends it along. There is no cookie: cookies know no ports, and a browser would show
the token to every other server of this machine, other users' among them, who could then stop runs by themselves.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_HOW_TO_GET_IN = "This page needs its token: open the address that `backprop ui` printed, with ?token= and all.\n"
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_PAGE = "/"
_FILES = "/static/"


@dataclass
class AccessToken:
    """The token of one server."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    on_used: Callable[[], None] = lambda: None  # called whenever the page is opened with it

    def fits(self, word: str | None) -> bool:
        """Whether this is the token. Takes as long for every wrong one."""
        return word is not None and hmac.compare_digest(word.encode(errors="replace"), self.token.encode())


@dataclass(frozen=True)
class Address:
    """Where the server answers."""

    host: str  # as it was asked for
    port: int
    names: frozenset[str]  # what a browser may call it, without a port: behind a tunnel that is another one
    is_everywhere: bool = False  # it listens at all addresses of this machine

    def is_ours(self, host_header: str) -> bool:
        """Whether a request was meant for us. A page of another site whose name leads here says that site's name."""
        name = _name_in(host_header)
        return name is not None and (name in self.names or (self.is_everywhere and _is_number(name)))


def _name_in(host_header: str) -> str | None:
    try:
        return urlsplit(f"//{host_header}").hostname
    except ValueError:
        return None


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True  # no name, so nobody can have made it lead elsewhere


class AuthMiddleware:
    """ASGI middleware: refuses with 403, or lets in; and puts the headers on that bind a browser."""

    def __init__(self, app: ASGIApp, key: AccessToken, address: Address) -> None:
        self._app = app
        self._key = key
        self._address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it, for each request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # there are none here
            return
        answer = self._answer(scope)

        async def send_bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await (self._app if answer is None else answer)(scope, receive, send_bound)

    def _answer(self, scope: Scope) -> Response | None:
        """What to say to a request that goes no further; None: it may."""
        headers = Headers(scope=scope)
        if not self._address.is_ours(headers.get("host", "")):
            return _refusal("This server does not answer to that name: use the address that `backprop ui` printed.\n")
        is_order = scope["method"] not in _SAFE_METHODS
        has_address = not is_order and self._key.fits(QueryParams(scope["query_string"]).get("token"))
        if not is_order and (scope["path"] == _PAGE or scope["path"].startswith(_FILES)):
            if has_address:
                self._key.on_used()
            return None
        # an order needs the header, which no form and no plain request of another site can send
        if not (has_address or self._key.fits(headers.get("x-backprop-token"))):
            return _refusal(_HOW_TO_GET_IN)
        if is_order and not _is_from_our_page(headers):
            return _refusal("Only the page itself may ask for that: it is of the same origin.\n")
        return None


def _is_from_our_page(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    # the scheme may differ behind a proxy that speaks TLS; what counts is that the page is one of ours
    try:
        return urlsplit(origin).netloc == headers.get("host")
    except ValueError:
        return False


def _refusal(text: str) -> Response:
    return PlainTextResponse(text, status_code=403)
