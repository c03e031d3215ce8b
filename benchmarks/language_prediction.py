r"""What a language model adds to a prediction where the text alone says which terms an equation has.

A small model of lead times (`ups_server.model.lead`) is trained on random equations of `evolution_1d`. Of every term it
is given a feature of a wording, drawn anew in each batch, and the coefficient as a number; nothing else says what the
term does: no exact linear steps, no list of terms, no identity. Arms differ in the features alone, which are computed
once, so that as many steps take as many minutes in all of them:

- pretrained: layers of the pretrained language model;
- random_body: of the same architecture with random weights, behind the same tokenizer;
- word_embeddings: the mean of its word embeddings;
- bag_of_words: words and their pieces, weighted by rarity;
- learned_id: which term it is, an oracle that no text has to be read for;
- no_text: nothing;
- with `--body FOLDER`: layers of another pretrained language model, in a folder as Hugging Face's libraries write them.

Every arm is tested on

- unseen_combinations: sets of trained terms that training never sees, told in wordings of training;
- unseen_wordings: the same equations, told in sentences of other styles that training never sees;
- unseen_term: sets with the term that training never sees, told in its own words;
- families: advection, Burgers' equation and diffusion-reaction, told by the texts of their terms.

    python -m benchmarks.language_prediction --runs runs/language --json models/ups-line/language.json \
        [--seeds 3] [--body FOLDER]

Every run is kept in the folder of runs: the command goes on where it was stopped.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.descriptions import sentences, training_wordings
from benchmarks.equations import FAMILIES, FAMILY, SEED, Equations, kinds, of_family
from benchmarks.language import Body
from ups_server.catalog import shipped_folder
from ups_server.language.reader import Bag
from ups_server.model.lead import LeadModel, Problems, problems
from ups_server.model.lead_config import ANY, NUMBERS, EquationCard, LatentConfig, ScalesCard
from ups_server.pde import Grid
from ups_server.pde.equation import EVOLUTION, TERMS
from ups_server.pde.families.evolution_1d import UNSEEN_TERM
from ups_server.pde.metrics import error_moments, nrmse_trajectory
from ups_server.processes import keep_freed_memory
from ups_server.train.config import FamilyData
from ups_server.train.lead_loop import relative_change
from ups_server.train.lead_time import FamilyTriples, LeadFamily, StoreData, generated

ARMS = ("pretrained", "random_body", "word_embeddings", "bag_of_words", "learned_id", "no_text")
CARD = EquationCard(terms=ANY, scales=ScalesCard(kind="level", level=(0, 0, 0, 0), unit=(1, 1, 1, 1)))
"""No exact steps (`known`): what the terms do is in the texts alone."""
MODEL = LatentConfig(
    ndim=1, patches=64, degree=4, channels=32, blocks=3, modes=24, local=16, width=5, condition=96, transport=False
)
DATA = FamilyData(count=512, resolution=128, frame_dt=0.05, t_final=1.0, single=True)
DATA_SEED = 73
"""Of the recipe of ups-line: the data are the same."""
HORIZON, BATCH, STEPS, WARMUP, COOLDOWN, RATE = 0.1, 24, 4000, 100, 1500, 1e-3
UNSEEN, OF_A_FAMILY = 144, 24
WORST = 10.0
"""An error counts as at most this: a rollout that blew up is no further from the truth."""
RESAMPLES = 2000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Texts:
    """Wordings of each term: of training and of tests."""

    training: dict[str, list[str]]
    unseen: dict[str, list[str]]

    @classmethod
    def read(cls) -> "Texts":
        training: dict[str, list[str]] = {name: [] for name in TERMS}
        unseen: dict[str, list[str]] = {name: [] for name in TERMS}
        for wording in training_wordings():
            if len(wording.terms) == 1 and wording.source >= 0:
                training[wording.terms[0]].append(wording.text)
        for file in ("test.jsonl", "validation.jsonl", "calibration.jsonl"):
            for entry in sentences(file):
                if len(entry["terms"]) == 1:
                    unseen[entry["terms"][0]].append(entry["text"])
        for name, term in zip(TERMS, ANY, strict=True):
            training[name].append(term.text)
        return cls(training, unseen)

    @property
    def all(self) -> list[str]:
        return sorted({text for part in (self.training, self.unseen) for texts in part.values() for text in texts})


class Features:
    """The feature of every text, for one arm; of a term itself where the arm reads no text.

    Over the wordings of training their mean is zero and their mean square one, in every arm alike: none of them learns
    faster for being larger.
    """

    def __init__(self, arm: str, texts: Texts, seed: int, model: Path, body: Path | None = None) -> None:
        self._by_text: dict[str, NDArray[np.float32]] = {}
        self._by_term: dict[str, NDArray[np.float32]] = {}
        if arm in ("learned_id", "no_text"):
            known = np.eye(len(TERMS), dtype=np.float32) - 1 / len(TERMS)
            known *= (arm == "learned_id") / known.std()
            self._by_term = dict(zip(TERMS, known, strict=True))
            self.size = len(TERMS)
            return
        if arm == "bag_of_words":
            bag = Bag.of([text for name in TERMS if name != UNSEEN_TERM for text in texts.training[name]])
            self._by_text = {text: bag.features(text) for text in texts.all}
        elif body is not None and arm == body.name:
            self._by_text = layers_of(body, tuple(texts.all))
        else:
            encoder = Body.random(model, seed) if arm == "random_body" else Body.pretrained(model)
            encoder.read(texts.all)
            read = encoder.word_embeddings if arm == "word_embeddings" else encoder.layers
            self._by_text = {text: read(text) for text in texts.all}
        self.size = len(next(iter(self._by_text.values())))
        learned = [text for name in TERMS if name != UNSEEN_TERM for text in texts.training[name]]
        mean = np.mean([self._by_text[text] for text in learned], axis=0)
        size = np.sqrt(np.mean([(self._by_text[text] - mean) ** 2 for text in learned]))
        self._by_text = {text: (feature - mean) / size for text, feature in self._by_text.items()}

    def drawn(self, rng: np.random.Generator, wordings: Mapping[str, Sequence[str]], count: int) -> Tensor:
        """(count, K, E): each term of each problem told by one of its wordings."""
        rows = np.zeros((count, len(TERMS), self.size), dtype=np.float32)
        for number, name in enumerate(TERMS):
            own = wordings[name]
            for row, choice in enumerate(rng.integers(len(own), size=count)):
                rows[row, number] = self._by_term[name] if self._by_term else self._by_text[own[choice]]
        return torch.from_numpy(rows)


@cache
@torch.no_grad()
def layers_of(folder: Path, texts: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Of any body, what `Encoder.layers` is of the shipped one: means over the tokens before the first layer and after
    each third of them, each of unit length, beside each other."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, body = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = {}
    for text in texts:
        states = body(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        depths = [round((len(states) - 1) * share / 3) for share in range(4)]
        means = torch.stack([states[depth][0, 1:-1].mean(0) for depth in depths])
        found[text] = torch.nn.functional.normalize(means, dim=-1).flatten().numpy() / len(depths) ** 0.5
    return found


def told(given: Problems, names: Tensor) -> Problems:
    """The problems with other features of their terms, and nothing else that says what these do."""
    return replace(given, equations=(CARD,), names=names)


def new_model(features: Features, seed: int) -> LeadModel:
    """Random weights. Lead time and points are told apart without words, in every arm alike."""
    torch.manual_seed(seed)
    model = LeadModel(MODEL, features.size)
    model.number_names.copy_(torch.eye(len(NUMBERS), features.size) * features.size**0.5)
    return model


def trained(arm: str, features: Features, texts: Texts, seed: int, data: Path, steps: int) -> tuple[LeadModel, float]:
    """A model after so many steps, and the seconds that they took."""
    entry = LeadFamily(stores=(StoreData(data=DATA, n=(128,)),), horizon=HORIZON, batch=BATCH, units=True)
    blank = {term.text: torch.zeros(1) for term in ANY}
    drawing = FamilyTriples(EVOLUTION, entry, [generated(EVOLUTION, DATA, DATA_SEED, data)], blank)
    model = new_model(features, seed)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    seconds = 0.0
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        states, leads, given = drawing.batch(rng)
        names = features.drawn(rng, texts.training, len(states))
        began = time.process_time()
        rate = min(1.0, (step + 1) / WARMUP, (steps - step) / min(COOLDOWN, steps))
        for group in optimiser.param_groups:
            group["lr"] = RATE * rate
        found = model(states[:, 0], leads[:, 0], told(given, names))
        loss = relative_change(found, states[:, 1], states[:, 0], given.slots)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite():
            optimiser.step()
        seconds += time.process_time() - began
        if step % 500 == 0:
            print(f"{arm} seed {seed} step {step} loss {loss.item():.3f} {seconds:.0f} s", flush=True)
    return model.eval().requires_grad_(False), seconds


@torch.no_grad()
def errors(model: LeadModel, equations: Equations, names: Tensor) -> Array:
    """(N,) nRMSE of rollouts over the trajectory; `WORST` where they are not finite or worse."""
    truth, static = (torch.from_numpy(part).float() for part in (equations.truth, equations.static))
    state = torch.zeros(*truth[:, 0].shape[:-1], MODEL.fields)
    slot = FAMILY.fields[0].slot
    state[..., slot] = truth[:, 0, ..., 0]
    numbers = {name: torch.from_numpy(values) for name, values in equations.coefficients.items()}
    blank = {term.text: torch.zeros(1) for term in ANY}
    grid: Grid = FAMILY.default_grid()
    given = told(problems(CARD, blank, numbers, [slot], FAMILY.boundary, grid, state, static), names)
    lead, frames = torch.full((len(state),), FAMILY.dt), []
    for _ in range(truth.shape[1] - 1):
        state = model(state, lead, given)
        frames.append(state[..., slot, None].double().numpy())
    found = np.stack(frames, axis=1)
    finite = np.isfinite(found).all(axis=(1, 2, 3))
    worst = nrmse_trajectory(error_moments(np.where(np.isfinite(found), found, 0.0), equations.truth[:, 1:]))
    return np.minimum(np.where(finite, worst, WORST), WORST)


def test_problems(folder: Path) -> dict[str, Equations]:
    """Problems by name, drawn once."""
    return {
        **{name: Equations.kept(folder, name, sets, count) for name, sets, count in kinds(UNSEEN)},
        **{name: of_family(name, OF_A_FAMILY) for name in FAMILIES},
    }


def scores(
    model: LeadModel, features: Features, texts: Texts, tests: Mapping[str, Equations]
) -> dict[str, list[float]]:
    """Errors by test, the same wordings in every arm."""
    canonical = {name: [term.text] for name, term in zip(TERMS, ANY, strict=True)}
    asked = {
        "unseen_combinations": ("unseen_combinations", texts.training),
        "unseen_wordings": ("unseen_combinations", texts.unseen),
        "unseen_term": (f"unseen_term_{UNSEEN_TERM}", texts.training),
        **{f"family {name}": (name, canonical) for name in FAMILIES},
    }
    found = dict[str, list[float]]()
    for name, (problem, wordings) in asked.items():
        equations = tests[problem]
        names = features.drawn(np.random.default_rng(SEED), wordings, len(equations.truth))
        found[name] = [round(value, 6) for value in errors(model, equations, names).tolist()]
    return found


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By test and arm: the median error of each seed and of all, its interval of 95 % over problems, and how many times
    the error of `pretrained` it is (geometric mean over problems and seeds, with its interval over problems)."""
    by_arm = {arm: [run for run in runs if run["arm"] == arm] for arm in dict.fromkeys(run["arm"] for run in runs)}
    tests = list(runs[0]["errors"])
    found: dict[str, Any] = {}
    for test in tests:
        rows = {arm: np.array([run["errors"][test] for run in own]) for arm, own in by_arm.items()}
        best = np.log(rows["pretrained"]).mean(0)
        found[test] = {}
        for arm, values in rows.items():
            rng = np.random.default_rng(0)
            pick = rng.integers(values.shape[1], size=(RESAMPLES, values.shape[1]))
            medians = np.median(values[:, pick], axis=(0, 2))
            more = np.log(values).mean(0) - best
            times = np.exp(more[pick].mean(1))
            found[test][arm] = {
                "median": float(np.median(values)),
                "interval": np.quantile(medians, [0.025, 0.975]).tolist(),
                "median_by_seed": np.median(values, axis=1).tolist(),
                "times_pretrained": float(np.exp(more.mean())),
                "times_pretrained_interval": np.quantile(times, [0.025, 0.975]).tolist(),
            }
    seconds = {arm: float(np.mean([run["seconds"] for run in own])) for arm, own in by_arm.items()}
    return {"steps": runs[0]["steps"], "seconds_of_a_core": seconds, "seeds": len(by_arm["pretrained"]), "tests": found}


BEGIN, END = "<!-- language -->", "<!-- end of language -->"
NAMES = {
    "unseen_combinations": "unseen combinations", "unseen_wordings": "unseen wordings", "unseen_term": "unseen term",
}  # fmt: skip


def with_table(card: str, found: Mapping[str, Any]) -> str:
    """A card with the table of what was found between its marks: medians over problems and seeds with their intervals,
    and in brackets how many times the error of `pretrained` it is."""
    tests = found["tests"]
    seconds = found["seconds_of_a_core"].values()
    lines = [
        f"{found['seeds']} seeds, {found['steps']} steps each, {min(seconds):.0f} to {max(seconds):.0f} s of a core.",
        "",
        "| features | " + " | ".join(NAMES.get(name, name) for name in tests) + " |",
        "|---" * (1 + len(tests)) + "|",
    ]
    for arm in tests["unseen_combinations"]:
        cells = []
        for test in tests:
            own = tests[test][arm]
            (low, high), times = own["interval"], own["times_pretrained_interval"]
            cell = f"{own['median']:.3f} ({low:.3f}–{high:.3f})"
            if arm != "pretrained":
                cell += f" [{own['times_pretrained']:.2f}, {times[0]:.2f}–{times[1]:.2f}]"
            cells.append(cell)
        lines.append(f"| {arm.replace('_', ' ')} | " + " | ".join(cells) + " |")
    before, after = card.split(BEGIN)[0], card.split(END)[1]
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/language"), help="folder of runs; data lie beside it")
    parser.add_argument("--model", type=Path, default=shipped_folder() / "ups-mini", help="whose language model reads")
    parser.add_argument("--body", type=Path, metavar="FOLDER", help="another language model: one more arm of its name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--card", type=Path, help="a card in whose marks the table is written")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    given.runs.mkdir(parents=True, exist_ok=True)
    texts, tests = Texts.read(), test_problems(given.runs)
    runs = []
    arms = (*ARMS, *([given.body.name] if given.body else ()))
    for seed in range(given.seeds):
        for arm in arms:
            file = given.runs / f"{arm}-{seed}-{given.steps}.json"
            if not file.exists():
                features = Features(arm, texts, seed, given.model, given.body)
                model, seconds = trained(arm, features, texts, seed, given.runs.parent / "data", given.steps)
                run = {"arm": arm, "seed": seed, "steps": given.steps, "seconds": seconds,
                       "errors": scores(model, features, texts, tests)}  # fmt: skip
                file.write_text(json.dumps(run) + "\n")
            runs.append(json.loads(file.read_text()))
            medians = {name: round(float(np.median(found)), 4) for name, found in runs[-1]["errors"].items()}
            print(arm, seed, medians, flush=True)
        given.json.write_text(json.dumps(summary(runs), indent=1) + "\n")
    if given.card is not None:
        given.card.write_text(with_table(given.card.read_text(encoding="utf-8"), summary(runs)), encoding="utf-8")


if __name__ == "__main__":
    main()
