"""An engine of which a test plays the rollouts; everything else about it is quiet."""

from ups_server.engine.engine import Engine, Health


class QuietEngine(Engine):
    """Ready from the start, and holds no model."""

    async def start(self) -> None:
        pass

    def beside(self, model: str) -> bool:
        return False

    def uses(self, model: str) -> bool:
        return False

    def health(self) -> Health:
        return Health("ready")

    async def close(self) -> None:
        pass
