"""The engine on this machine: a process for trained models, and one beside it for the built-in solvers."""

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ups_server.catalog import BUILTIN, Catalog
from ups_server.errors import UserError
from ups_server.settings import Settings
from ups_server.solve.engine import Engine, Event, Health, RolloutSpec, Standing
from ups_server.solve.engine_supervised import SupervisedProcess
from ups_server.solve.solver import Frames


class LocalEngine(Engine):
    """Supervises two engine processes: a numerical method that computes for seconds holds up no trained model.

    The process of the default model is started at once, the other one when it is first needed.
    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._learned, self._builtin = (SupervisedProcess(settings, learned) for learned in (True, False))
        self._used: Counter[str] = Counter()

    @property
    def _default(self) -> SupervisedProcess:
        return self._process(self._settings.default_model)

    def _process(self, model: str) -> SupervisedProcess:
        return self._builtin if model in BUILTIN else self._learned

    async def start(self) -> None:
        self._default.start(self._default_source()[0])

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        self._used[spec.model] += 1
        try:
            async with aclosing(self._process(spec.model).rollout(spec, initial, static, standing)) as events:
                async for event in events:
                    yield event
        finally:
            self._used[spec.model] -= 1

    def uses(self, model: str) -> bool:
        return self._used[model] > 0

    def health(self) -> Health:
        processes = (self._learned, self._builtin)
        connection = self._default.connection
        state, reason = self._state()
        return Health(
            state=state,
            reason=reason,
            device=connection.device if connection else None,
            models=tuple(sorted(name for p in processes if p.connection for name in p.connection.loaded)),
            process_id=connection.process.pid if connection else None,
            restarts=sum(process.restarts for process in processes),
            active=sum(process.admission.active for process in processes),
            queued=sum(process.admission.waiting for process in processes),
            detail={
                "learned" if p.learned else "builtin": {**p.connection.work, "process_id": p.connection.process.pid}
                for p in processes
                if p.connection is not None
            },
        )

    async def close(self) -> None:
        for process in (self._learned, self._builtin):
            await process.close()

    def _default_source(self) -> tuple[str | None, str | None]:
        """What the default model is loaded from, or why there is none."""
        try:
            return self._catalog.model(self._settings.default_model).source, None
        except UserError as error:
            return None, str(error)

    def _state(self) -> tuple[str, str | None]:
        connection = self._default.connection
        if connection is None:
            return "down", "the engine process is not running"
        if not connection.ready.is_set():
            return "starting", "the engine process is starting"
        source, problem = self._default_source()
        if source is None:
            return "loading", problem
        if source in connection.failed:
            return "loading", f"{self._settings.default_model} cannot be loaded: {connection.failed[source]}"
        if source not in connection.loaded:
            return "loading", f"{self._settings.default_model} is being loaded"
        return "ready", None
