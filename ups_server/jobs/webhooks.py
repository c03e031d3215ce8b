"""Webhooks: a receiver elsewhere is told of every change of a job's state, signed, and again until it has taken it.

What is to be sent is written down in the transaction that changes the job (`store.change`), so that no kill loses it,
and is sent by the API process; who was killed while sending sends again, under the same id. Headers and signature are
those of Standard Webhooks: HMAC-SHA256 over ``id.timestamp.body``. Imports no torch.

The specification: https://github.com/standard-webhooks/standard-webhooks
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import httpx
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from ups_server.addresses import is_public
from ups_server.errors import UserError
from ups_server.jobs.database import Database, now
from ups_server.jobs.spec import FINAL, JobState
from ups_server.jobs.store import deliveries, webhooks
from ups_server.settings import Settings
from ups_server.specs import Spec

logger = logging.getLogger(__name__)

TIMEOUT_S = 15.0
"""For a receiver's whole answer; its body is not read."""
CLAIM_S = 2 * TIMEOUT_S
"""A delivery whose outcome is not known by then is begun anew."""
GROWTH = 4.0
LONGEST_PAUSE_S = 3600.0
KEPT_S = 7 * 86_400.0
"""How long a delivery that is done stays in the table."""
LONGEST_REASON = 500
AT_ONCE = 8
"""Deliveries on their way."""
MOST = 100
"""Webhooks of one service."""
PREFIX = "whsec_"


class WebhookRequest(Spec):
    """Where to send what becomes of jobs."""

    url: str = Field(
        max_length=2048,
        pattern=r"^https?://[^\s]+$",
        description="Of the receiver. Addresses of this machine and of private networks are refused unless "
        "UPS_WEBHOOKS_PRIVATE allows them.",
    )
    states: tuple[JobState, ...] = Field(
        default=FINAL, min_length=1, max_length=len(JobState), strict=False, description="The states it is told of."
    )


class Webhook(BaseModel):
    """A receiver, and how it fares. Times are Unix times in seconds."""

    model_config = ConfigDict(frozen=True)
    id: str
    url: str
    states: list[JobState]
    created_at: float
    waiting: int = Field(description="Deliveries that are still to be made.")
    delivered: int = Field(description="Of the last seven days.")
    given_up: int = Field(description="The same, after the last attempt failed.")
    last_error: str | None = Field(description="Of the latest delivery that failed at least once.")


class NewWebhook(Webhook):
    """A webhook with its secret, which is shown this once."""

    secret: str = Field(description="Of the signatures: `whsec_` and the key in base64.")


@dataclass(frozen=True)
class Delivery:
    """One message on its way. `attempt` counts from 1."""

    number: int
    id: str
    url: str
    secret: str
    body: str
    attempt: int


class WebhookStore:
    """The tables of webhooks. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, wanted: WebhookRequest) -> NewWebhook:
        """Raises UserError ``too_many_webhooks``."""
        secret = PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        new = {
            "id": f"wh-{secrets.token_hex(8)}",
            "url": wanted.url,
            "states": [state.value for state in wanted.states],
        }
        with self._database.write() as connection:
            if connection.execute(sa.select(sa.func.count()).select_from(webhooks)).scalar_one() >= MOST:
                raise UserError("too_many_webhooks", "there are webhooks enough", expected=f"at most {MOST}")
            insert = sa.insert(webhooks).values(secret=secret, created_at=now(), **new).returning(webhooks.c.created_at)
            created_at = connection.execute(insert).scalar_one()
        return NewWebhook.model_validate({**new, "created_at": created_at, **NOTHING_YET, "secret": secret})

    def all(self) -> list[Webhook]:
        """In order of their creation."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(webhooks).order_by(webhooks.c.created_at)).mappings().all()
            return [self._described(connection, row) for row in rows]

    def get(self, webhook_id: str) -> Webhook:
        """Raises UserError ``unknown_webhook``."""
        with self._database.read() as connection:
            query = sa.select(webhooks).where(webhooks.c.id == webhook_id)
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                raise _unknown(webhook_id)
            return self._described(connection, row)

    def delete(self, webhook_id: str) -> None:
        """With what is still to be sent. Raises UserError ``unknown_webhook``."""
        with self._database.write() as connection:
            connection.execute(sa.delete(deliveries).where(deliveries.c.webhook == webhook_id))
            if connection.execute(sa.delete(webhooks).where(webhooks.c.id == webhook_id)).rowcount == 0:
                raise _unknown(webhook_id)

    def claim(self, seconds: float = CLAIM_S) -> Delivery | None:
        """A delivery that is due, for so long; None where there is none. Two claims never get the same."""
        due = sa.and_(deliveries.c.done_at.is_(None), deliveries.c.due_at <= now())
        first = sa.select(deliveries.c.number).where(due).order_by(deliveries.c.due_at, deliveries.c.number).limit(1)
        with self._database.read() as connection:  # most looks find nothing, and need not wait for who writes
            if connection.execute(first).scalar_one_or_none() is None:
                return None
        with self._database.write() as connection:
            number = connection.execute(first.with_for_update(skip_locked=True)).scalar_one_or_none()
            if number is None:
                return None
            taken = sa.update(deliveries).where(deliveries.c.number == number)
            taken = taken.values(due_at=now() + seconds, attempts=deliveries.c.attempts + 1)
            row = connection.execute(taken.returning(*deliveries.c)).mappings().one()
            to = connection.execute(sa.select(webhooks).where(webhooks.c.id == row["webhook"])).mappings().one()
            return Delivery(row["number"], row["id"], to["url"], to["secret"], row["body"], row["attempts"])

    def delivered(self, delivery: Delivery) -> None:
        self._set(delivery, done_at=now(), delivered=True)

    def failed(self, delivery: Delivery, reason: str, pause_s: float | None) -> None:
        """Another attempt after a pause; None: that was the last one."""
        values = {"done_at": now()} if pause_s is None else {"due_at": now() + pause_s}
        self._set(delivery, error=reason, **values)

    def sweep(self, age_s: float = KEPT_S) -> None:
        """Forgets what was done long ago."""
        with self._database.write() as connection:
            connection.execute(sa.delete(deliveries).where(deliveries.c.done_at < now() - age_s))

    def _set(self, delivery: Delivery, **values: Any) -> None:
        with self._database.write() as connection:
            connection.execute(sa.update(deliveries).where(deliveries.c.number == delivery.number).values(**values))

    @staticmethod
    def _described(connection: sa.Connection, row: sa.RowMapping) -> Webhook:
        own = deliveries.c.webhook == row["id"]
        over = deliveries.c.done_at.is_not(None)
        counts = (
            sa.select(over, deliveries.c.delivered, sa.func.count()).where(own).group_by(over, deliveries.c.delivered)
        )
        found = {(bool(done), bool(taken)): count for done, taken, count in connection.execute(counts)}
        latest = sa.select(deliveries.c.error).where(own, deliveries.c.error.is_not(None))
        error = connection.execute(latest.order_by(deliveries.c.number.desc()).limit(1)).scalar_one_or_none()
        return Webhook(
            id=row["id"],
            url=row["url"],
            states=row["states"],
            created_at=row["created_at"],
            waiting=found.get((False, False), 0),
            delivered=found.get((True, True), 0),
            given_up=found.get((True, False), 0),
            last_error=error,
        )


NOTHING_YET: dict[str, Any] = {"waiting": 0, "delivered": 0, "given_up": 0, "last_error": None}


def _unknown(webhook_id: str) -> UserError:
    return UserError("unknown_webhook", f"there is no webhook {webhook_id!r}", got=webhook_id)


def signature(secret: str, message_id: str, timestamp: int, body: str) -> str:
    """The value of the header `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.{body}".encode(), hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def resolved(url: str, private: bool) -> str:
    """The address behind the name of a receiver, which every request of a delivery then goes to.

    The name is looked up once for each attempt: what it leads to may change, what was checked may not.

    Args:
        private: also addresses of this machine and of private networks.

    Raises:
        UserError: ``invalid_target``, ``unresolved_target``, ``private_target``.
    """
    try:
        parsed = httpx.URL(url)
        host, port = parsed.host, parsed.port or (443 if parsed.scheme == "https" else 80)
    except httpx.InvalidURL as error:
        raise UserError("invalid_target", "the address of the receiver cannot be read", got=str(error)) from None
    if parsed.scheme not in ("http", "https") or not host or parsed.userinfo or parsed.fragment:
        raise UserError("invalid_target", "this is no address of a receiver", expected="https://host/path")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UserError("unresolved_target", f"the name {host} leads to no address", got=host) from None
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    inside = [address for address in addresses if not is_public(ip_address(address))]
    if inside and not private:
        raise UserError(
            "private_target",
            f"{host} is on this machine or in a private network",
            got=inside,
            expected="an address that is public",
            hint="UPS_WEBHOOKS_PRIVATE=true allows private ones",
        )
    return addresses[0]


class WebhookSender:
    """Sends what is due, some deliveries at a time, until it is closed.

    Args:
        transport: replaces the network, as httpx understands it.
    """

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._transport = transport
        self._working: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[None]] = set()

    def start(self, database: Database) -> None:
        store = WebhookStore(database)
        self._working = [asyncio.create_task(self._work(store)), asyncio.create_task(self._sweep(store))]

    async def close(self) -> None:
        """What is on its way is sent again by the next start, once its claim has run out."""
        tasks = [*self._working, *self._sending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, store: WebhookStore) -> None:
        while True:
            with _logged():
                while len(self._sending) < AT_ONCE:
                    delivery = await asyncio.to_thread(store.claim)
                    if delivery is None:
                        break
                    task = asyncio.create_task(self._deliver(store, delivery))
                    self._sending.add(task)
                    task.add_done_callback(self._sending.discard)
            await asyncio.sleep(self._settings.job_poll_s)

    async def _sweep(self, store: WebhookStore) -> None:
        while True:
            with _logged():
                await asyncio.to_thread(store.sweep)
            await asyncio.sleep(LONGEST_PAUSE_S)

    async def _deliver(self, store: WebhookStore, delivery: Delivery) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reason = await self._send(delivery)
        except (httpx.HTTPError, UserError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}"[:LONGEST_REASON]
        with _logged():
            if reason is None:
                await asyncio.to_thread(store.delivered, delivery)
                return
            logger.warning("%s, attempt %d: %s", delivery.id, delivery.attempt, reason)
            await asyncio.to_thread(store.failed, delivery, reason, self._pause_s(delivery.attempt))

    def _pause_s(self, attempt: int) -> float | None:
        """After an attempt that failed; None after the last."""
        if attempt >= self._settings.webhook_attempts:
            return None
        return min(self._settings.webhook_retry_s * GROWTH ** (attempt - 1), LONGEST_PAUSE_S)

    async def _send(self, delivery: Delivery) -> str | None:
        """One attempt; why it failed, or None. Redirects are not followed: where they lead was not checked."""
        address = await asyncio.to_thread(resolved, delivery.url, self._settings.webhooks_private)
        url, sent_at = httpx.URL(delivery.url), int(time.time())
        headers = {
            "Host": url.netloc.decode(),
            "Content-Type": "application/json",
            "User-Agent": "ups-server",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": signature(delivery.secret, delivery.id, sent_at, delivery.body),
        }
        named = {"sni_hostname": url.host}
        async with (
            httpx.AsyncClient(transport=self._transport, timeout=TIMEOUT_S, trust_env=False) as http,
            http.stream(
                "POST", url.copy_with(host=address), content=delivery.body, headers=headers, extensions=named
            ) as answer,
        ):
            return None if answer.is_success else f"the receiver answered {answer.status_code}"


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """What the database refuses is tried again later."""
    try:
        yield
    except Exception:
        logger.exception("the table of webhooks does not answer")
