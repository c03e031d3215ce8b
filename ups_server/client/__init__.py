"""Python clients: rollouts as `xarray.Dataset`, problem documents as `UserError`. Import no torch."""

from ups_server.client.asynchronous import AsyncClient
from ups_server.client.blocking import Client
from ups_server.client.rollouts import Step

__all__ = ["AsyncClient", "Client", "Step"]
