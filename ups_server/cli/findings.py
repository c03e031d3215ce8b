"""What a rollout's diagnostics and comparison come to, in a few lines."""

from collections.abc import Iterator, Mapping
from typing import Any


def findings(attributes: Mapping[str, Any]) -> Iterator[str]:
    """One line each, from the attributes of an answer for a single state."""
    if found := attributes.get("super_resolution"):
        yield f"{found['method']}: {found['reason']}"
        yield from found["explained"]
    if found := attributes.get("ensemble"):
        yield f"{found['members']} members; along the first axis: {', '.join(found['statistics'])}"
    if found := attributes.get("diagnostics"):
        yield from _diagnosed(found)
    if found := attributes.get("reference"):
        yield from _compared(found)


def _diagnosed(found: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in found["conserved"].items():
        moved = max((abs(value) for value in entry["drift"] if value is not None), default=0.0)
        yield f"conserved: the mean of {name} moves by at most {moved:.3g} from {entry['initial']:.4g}"
    if not found["conserved"]:
        yield "conserved: the equation conserves no mean over the box"
    for name, energy in found["energy"].items():
        yield f"energy of {name}: {energy[0]:.4g} at the start, {energy[-1]:.4g} at the end"
    expected = found["expected_error"]
    if not expected["available"]:
        yield f"expected error: unknown; {expected['reason']}"
    for name, bounds in expected["bounds"].items():
        last = bounds[-1]
        yield f"expected error of {name}: at most {last:.3g} at the last calibrated frame, level {expected['level']:g}"
    training = found["out_of_distribution"]
    if training["flagged"] is None:
        yield "training: nothing to compare with"
    elif training["flagged"]:
        yield "training: outside of it; " + "; ".join(reason["message"] for reason in training["reasons"])
    else:
        yield f"training: nothing unusual in {', '.join(training['checked'])}"


def _compared(found: Mapping[str, Any]) -> Iterator[str]:
    if found["reason"] is not None:
        yield f"reference: incomplete; {found['reason']}"
    yield f"reference: {found['accuracy']}"
    for name, error in found["nrmse_trajectory_per_field"].items():
        last = found["nrmse_per_field"][name][-1]
        yield f"true error of {name}: nRMSE {error:.3g} over the trajectory, {last:.3g} at the end"
    if found["remark"] is not None:
        yield f"reference: {found['remark']}"
