"""The key a request shows: for clients that want to know what they may do. Keys are made by `ups keys`."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ups_server.access.keys import ApiKey, KeyLimits
from ups_server.access.scopes import Scope, granted
from ups_server.api.access import Admitted
from ups_server.api.problems import documented
from ups_server.api.quotas import computed_today, limits_of, stored_bytes
from ups_server.api.service import CurrentService

router = APIRouter(prefix="/v1/keys", tags=["keys"])


class CurrentKey(BaseModel):
    """What whoever asks may do."""

    required: bool = Field(description="Does this service ask for keys?")
    key: ApiKey | None = Field(description="The key that was shown; null where none is required.")
    scopes: list[Scope] = Field(description="All rights, those that others include among them.")
    limits: KeyLimits | None = Field(description="What the key may use; null where none is required.")
    stored_bytes: int = Field(
        description="Of all files this key uploaded and all results of its asynchronous rollouts."
    )
    compute_seconds: float = Field(description="Computed for this key today, UTC.")


@router.get("/current", responses=documented(401))
def get_current_key(service: CurrentService, caller: Admitted) -> CurrentKey:
    """The key of this request, what it allows and what it has used."""
    key = caller.key if caller is not None else None
    allowed = frozenset(Scope) if key is None else granted(key.scopes)
    return CurrentKey(
        required=key is not None,
        key=key,
        scopes=sorted(allowed, key=list(Scope).index),
        limits=None if key is None else limits_of(key, service),
        stored_bytes=0 if key is None else stored_bytes(key, service),
        compute_seconds=0.0 if key is None else computed_today(key, service),
    )
