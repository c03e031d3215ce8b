"""The resources. A new one is a router here."""

from fastapi.routing import APIRoute

from ups_server.api.routes import catalogue, files, jobs, page, rollouts, status, stored_rollouts, super_resolution

ROUTERS = (
    page.router,
    status.router,
    catalogue.family_routes,
    catalogue.equation_routes,
    files.router,
    catalogue.model_routes,
    rollouts.router,
    stored_rollouts.router,
    super_resolution.router,
    jobs.evaluations,
    jobs.fine_tuning,
)


def methods(path: str) -> set[str]:
    """All methods that a path answers, whichever routes they belong to."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
