"""Compose file and Kubernetes manifests: valid by the schemas, and true of the settings, routes and times they name."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ups_server.api.access import OPEN
from ups_server.api.server import FAREWELL_S
from ups_server.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
KUBERNETES = REPOSITORY / "docker" / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("*/kustomization.yaml"))
VERSION = "1.34"
"""Of Kubernetes, whose schemas the manifests are held against."""
COMMANDS = (["serve"], ["jobs", "work", "--data-dir", "/data"])
"""What the entry point gets: `serve`, or words of a command."""

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge patch, as far as ours need one: lists of what has a name are merged by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {key: merged(base.get(key), patch[key]) if key in patch else base[key] for key in {**base, **patch}}
    named = isinstance(patch, list) and all(isinstance(entry, dict) and "name" in entry for entry in patch)
    if isinstance(base, list) and named:
        changes = {entry["name"]: entry for entry in patch}
        known = [merged(entry, changes.pop(entry["name"], {})) for entry in base]
        return [*changes.values(), *known]  # as kustomize has it
    return base if patch == {} else patch


def rendered(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` makes of our overlays, which consist of resources and patches."""
    (todo,) = documents(folder / "kustomization.yaml")
    assert todo.keys() <= {"apiVersion", "kind", "resources", "patches"}, "nothing that this does not render"
    found: list[Manifest] = []
    for name in todo["resources"]:
        place = (folder / name).resolve()
        found += rendered(place) if place.is_dir() else documents(place)
    for entry in todo.get("patches", []):
        for patch in documents(folder / entry["path"]):
            (target,) = [one for one in found if identity(one) == identity(patch)]
            found[found.index(target)] = merged(target, patch)
    return found


def identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Name and template of everything that makes pods."""
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(KUBERNETES / request.param)


def test_merging_is_by_name() -> None:
    base = {"a": [{"name": "x", "v": 1, "w": 2}, {"name": "y"}], "b": {"c": 1}, "d": [1]}
    patch = {"a": [{"name": "x", "v": 3}, {"name": "z"}], "b": {"e": 2}, "d": [2]}
    assert merged(base, patch) == {
        "a": [{"name": "z"}, {"name": "x", "v": 3, "w": 2}, {"name": "y"}],
        "b": {"c": 1, "e": 2},
        "d": [2],
    }


def test_manifests_follow_the_schemas(manifests: list[Manifest]) -> None:
    assert len({identity(manifest) for manifest in manifests}) == len(manifests)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_a_wrong_manifest_is_found(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**manifest, "metadata": {"name": 1}}, VERSION, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_renders_the_same(overlay: str) -> None:
    words = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    made = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert {identity(one): one for one in yaml.safe_load_all(made)} == {
        identity(one): one for one in rendered(KUBERNETES / overlay)
    }


def test_every_overlay_has_the_service_guarded(manifests: list[Manifest]) -> None:
    kinds = {identity(manifest): manifest for manifest in manifests}
    budget, deployment = kinds["PodDisruptionBudget", "ups"]["spec"], kinds["Deployment", "ups"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert 1 <= budget["minAvailable"] < deployment["replicas"]
    service = kinds["Service", "ups"]["spec"]
    assert service["selector"].items() <= labels.items()
    for name, template in pods(manifests):
        (owner,) = [one for one in manifests if one["metadata"]["name"] == name and "template" in one.get("spec", {})]
        assert owner["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"]["drop"] == ["ALL"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            claims = {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}
            assert mounted == {volume["name"] for volume in template["spec"]["volumes"]} | claims


def settings_in(names: Iterator[str]) -> set[str]:
    return {name.removeprefix("UPS_").lower() for name in names if name.startswith("UPS_")}


def test_manifests_name_what_there_is(manifests: list[Manifest]) -> None:
    """Settings, commands, probed routes, volumes, and a time to end that is long enough."""
    kinds = {identity(manifest): manifest for manifest in manifests}
    configuration = kinds["ConfigMap", "ups"]["data"]
    known = Settings.model_fields.keys()
    given = {name.removeprefix("UPS_").lower(): value for name, value in configuration.items()}
    found = Settings.model_validate(given)
    for name, template in pods(manifests):
        if name == "ups-database":
            continue
        (container,) = template["spec"]["containers"]
        names = settings_in(entry["name"] for entry in container["env"])
        assert names <= known
        assert not names & given.keys(), "said once"
        assert container["args"] in COMMANDS
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if name == "ups":
                assert container[probe]["httpGet"]["path"] in OPEN
                assert container[probe]["httpGet"]["port"] in {port["name"] for port in container["ports"]}
        for volume in template["spec"]["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in kinds
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = pause + found.shutdown_grace_s + FAREWELL_S if name == "ups" else found.worker_grace_s
        assert template["spec"]["terminationGracePeriodSeconds"] > needed


def test_two_gpus_have_an_engine_each() -> None:
    (spec,) = [template["spec"] for name, template in pods(rendered(KUBERNETES / "cuda")) if name == "ups"]
    (container,) = spec["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    devices = Settings(devices=tuple(environment["UPS_DEVICES"].split(","))).engine_devices
    assert len(devices) == container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["resources"]["limits"]["memory"], "what the base says stays"
    assert "UPS_DATABASE_URL" in environment


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    (document,) = documents(REPOSITORY / "docker" / "compose.yaml")
    return dict(document)


def test_compose_starts_database_engines_and_worker(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == {"ups", "ups-cuda", "worker", "database"}
    known = Settings.model_fields.keys()
    hardened = {"read_only", "cap_drop", "security_opt", "tmpfs", "restart", "stop_grace_period", "depends_on"}
    for name in ("ups", "ups-cuda", "worker"):
        service = services[name]
        assert settings_in(iter(service["environment"])) <= known
        assert service["environment"]["UPS_WORKER"] == "false"
        assert {key: service[key] for key in hardened} == {key: services["ups"][key] for key in hardened}
    assert services["worker"]["command"] in COMMANDS
    default = re.fullmatch(r"\$\{UPS_DEVICES:-(.*)\}", services["ups"]["environment"]["UPS_DEVICES"])
    assert default is not None
    assert len(default[1].split(",")) == 2
    mounted = {entry.split(":")[0] for service in services.values() for entry in service["volumes"]}
    assert mounted == compose["volumes"].keys()
    settings = Settings()
    grace = float(services["ups"]["stop_grace_period"].removesuffix("s"))
    assert grace > max(settings.shutdown_grace_s + FAREWELL_S, settings.worker_grace_s)
