"""How near population models come to the best answer, on synthetic populations with a known truth.

``python benchmarks/encode.py [--worlds in out retinotopic combinations] [--features 64 128] [--seeds 0 1 2] [--engines ...]`` prints, for
each number of stimuli in a context, the mean correlation over units of predictions with the noiseless responses of new people, and in
brackets its ratio to Bayes for each unit by itself; and the CPU seconds of training, and of networks whether the loss still falls.
``--guard KIND KIND`` prints how often the guard keeps a right prior and accepts a wrong one. ``--samples`` asks how many stimuli ridge
needs for what a population model reaches with 100. ``--whole-brain`` prints the time and memory of a whole brain in context.

Bayes is exact in the world ``in`` and approximated by samples elsewhere (``--manifold-samples``). An engine is a line of `ENGINES`: a
function of the training people and the seed.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from conform_bids.encode.numerics.baselines import ridge
from conform_bids.encode.numerics.guard import Decision, adapt_guarded, decide
from conform_bids.encode.numerics.incontext import InContextModel
from conform_bids.encode.numerics.incontext_fit import InContextOptions, fit_incontext
from conform_bids.encode.numerics.mixture import PriorModel, PriorOptions, fit_prior
from conform_bids.encode.numerics.population import Adapted, Context, PopulationModel, TrainingPerson
from conform_bids.encode.numerics.unrolled import UnrolledModel
from conform_bids.encode.numerics.unrolled_fit import UnrolledOptions, fit_unrolled
from conform_bids.encode.numerics.worlds import World, WorldSize, in_family_world, out_of_family_world
from conform_bids.encode.numerics.worlds_continua import combination_world, retinotopic_world
from conform_bids.numerics.compute import limit_threads

WORLDS: dict[str, Callable[[int, WorldSize], World]] = {
    "in": in_family_world,
    "out": out_of_family_world,
    "retinotopic": retinotopic_world,
    "combinations": combination_world,
}
Trainer = Callable[[Sequence[TrainingPerson], int], PopulationModel]
ENGINES: dict[str, Trainer] = {
    "one Gaussian": lambda people, seed: fit_prior(people, PriorOptions(n_components=1, pooling_rounds=0, seed=seed)),
    "prior": lambda people, seed: fit_prior(people, PriorOptions(seed=seed)),
    "unrolled": lambda people, seed: fit_unrolled(people, UnrolledOptions(seed=seed)),
    "incontext": lambda people, seed: fit_incontext(people, InContextOptions(seed=seed)),
    "prior, 12 components": lambda people, seed: fit_prior(people, PriorOptions(n_components=12, seed=seed)),
    "prior, 60 components": lambda people, seed: fit_prior(people, PriorOptions(n_components=60, seed=seed)),
}
CONTEXTS = (10, 20, 30, 50, 100)


def score(world: World, answer: Callable[[Context], Adapted | np.ndarray], k: int, draws: int) -> float:
    """Mean over new people, units and contexts of the correlation with the noiseless response."""
    scores = []
    for person in world.new:
        for draw in range(draws):
            found = answer(person.context(k, draw))
            scores.append(person.score(found if isinstance(found, np.ndarray) else found.weights).mean())
    return float(np.mean(scores))


def compare(name: str, n_features: int, seeds: Sequence[int], engines: Sequence[str], size: WorldSize, draws: int) -> None:
    """Print the table of a kind of world."""
    scores: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {}

    def note(engine: str, values: list[float], taken: float) -> None:
        scores.setdefault(engine, []).append(values)
        seconds.setdefault(engine, []).append(taken)

    for seed in seeds:
        world = WORLDS[name](seed, replace(size, n_features=n_features))
        note("Bayes, per unit", [score(world, world.bayes, k, draws) for k in CONTEXTS], 0.0)
        note("ridge", [score(world, ridge, k, draws) for k in CONTEXTS], 0.0)
        for engine in engines:
            start = time.process_time()
            model = ENGINES[engine](world.training, seed)
            taken = time.process_time() - start
            if (plain := _without_pooling(model)) is not None:
                note(f"{engine}, per unit", [score(world, plain.adapt, k, draws) for k in CONTEXTS], taken)
                engine = f"{engine}, pooled"
            note(engine, [score(world, model.adapt, k, draws) for k in CONTEXTS], taken)
            if told := falls(model):
                print(f"{engine}, seed {seed}: loss at the end of each phase, by tenths: {told}", flush=True)
    best = np.array(scores["Bayes, per unit"])
    print(f"\n### {name}, {n_features} features, seeds {' '.join(map(str, seeds))}, {draws} contexts a person\n")
    print("| engine | CPU s |" + "".join(f" k = {k} |" for k in CONTEXTS) + " worst ratio |")
    print("|---|---|" + "---|" * (len(CONTEXTS) + 1))
    for engine, values in scores.items():
        found = np.array(values)
        ratio = found.mean(axis=0) / best.mean(axis=0)
        cells = "".join(f" {value:.3f} ({part:.3f}) |" for value, part in zip(found.mean(axis=0), ratio, strict=True))
        taken = f"{np.mean(seconds[engine]):.1f}" if any(seconds[engine]) else "-"
        print(f"| {engine} | {taken} |{cells} {(found / best).min():.3f} |", flush=True)


def _without_pooling(model: PopulationModel) -> PopulationModel | None:
    """The model that looks at each unit by itself; None where it does so anyway."""
    if isinstance(model, PriorModel) and model.options.pooling_rounds:
        return replace(model, options=replace(model.options, pooling_rounds=0))
    return replace(model, pools=False) if isinstance(model, UnrolledModel) and model.pools else None


def falls(model: PopulationModel) -> str:
    """How a network's loss changed over the last two tenths of each phase of its training, which may end before it has learned all."""
    losses = getattr(model, "losses", None)
    if losses is None or len(losses) < 20:
        return ""
    parts, n = [], len(losses)
    shares = model.settings["shares"] if isinstance(model, InContextModel) else (UnrolledOptions.simulated, 1 - UnrolledOptions.simulated)
    ends = [round(n * sum(shares[: place + 1])) for place in range(len(shares))]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        step = max(1, (end - start) // 10)
        parts.append(f"{losses[end - 2 * step : end - step].mean():.4f} -> {losses[end - step : end].mean():.4f}")
    return "; ".join(parts)


def guard(seeds: Sequence[int], size: WorldSize, kinds: Sequence[str], *, folds: bool) -> None:
    """Print how the guard decides on right and on wrong priors: all pairs of kinds of worlds and the seeds."""
    small = replace(size, n_new=8, n_new_units=150, n_units=800, n_stimuli=600, n_test=500, n_samples=100)
    worlds = [WORLDS[kind](seed, small) for seed in seeds for kind in kinds]
    models = [fit_prior(world.training) for world in worlds]
    print(f"\n### The guard: {' and '.join(kinds)}, {size.n_people} people to train on, seeds {' '.join(map(str, seeds))}\n")
    print("| k | right priors | kept | wrong priors | accepted | cost unguarded | cost guarded, mean | worst | in folds: kept | accepted |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for k in (10, 15, 20, 30, 50, 100):
        rows = []
        for i, world in enumerate(worlds):
            for number, person in enumerate(world.new):
                context = person.context(k, number)
                own = person.score(ridge(context).weights).mean()
                for j, model in enumerate(models):
                    if i == j or number < 2:
                        decision = decide(model, context)
                        folded = _in_folds(model, context) if folds else decision
                        gain = person.score(model.adapt(context).weights).mean() - own
                        rows.append((i == j, decision.accepted, gain, folded.accepted))
        table = np.array(rows, dtype=float)
        right, wrong = table[table[:, 0] == 1], table[table[:, 0] == 0]
        guarded = wrong[:, 1] * wrong[:, 2]
        in_folds = f"{right[:, 3].mean():.2f} | {int(wrong[:, 3].sum())}" if folds else "- | -"
        print(
            f"| {k} | {len(right)} | {right[:, 1].mean():.2f} | {len(wrong)} | {int(wrong[:, 1].sum())} | {wrong[:, 2].mean():.3f} | "
            f"{guarded.mean():.4f} | {guarded.min():.3f} | {in_folds} |",
            flush=True,
        )


class _Opaque:
    """An engine of which nothing is known but its answers."""

    name = "opaque"

    def __init__(self, inner: PriorModel) -> None:
        self.inner = inner

    def adapt(self, context: Context, queries: np.ndarray | None = None) -> Adapted:
        """The inner model's."""
        return self.inner.adapt(context, queries)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        """The inner model's."""
        arrays, settings = self.inner.state()
        return arrays, dict(settings)


def _in_folds(model: PriorModel, context: Context) -> Decision:
    return decide(_Opaque(model), context)


def samples(seeds: Sequence[int], size: WorldSize) -> None:
    """Print what ridge reaches with more stimuli than a population model is given."""
    counts = (100, 150, 200, 300, 500)
    print(f"\n### Stimuli that ridge needs, world in, seeds {' '.join(map(str, seeds))}\n")
    print("| | " + " | ".join(f"k = {k}" for k in counts) + " |")
    print("|---|" + "---|" * len(counts))
    rows: dict[str, list[list[float]]] = {"ridge": [], "prior, pooled": []}
    for seed in seeds:
        world = in_family_world(seed, size)
        model = fit_prior(world.training, PriorOptions(seed=seed))
        rows["ridge"].append([score(world, ridge, k, 1) for k in counts])
        rows["prior, pooled"].append([score(world, model.adapt, k, 1) for k in counts])
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in np.mean(values, axis=0)) + " |")


def whole_brain(seed: int, n_units: int = 91_282, n_features: int = 512, k: int = 100, n_queries: int = 200) -> None:
    """Print what it takes to adapt `prior` to a person with as many units as fsLR has grayordinates: guard, weights, posterior variances.

    Units are 3,000 that are repeated, so that drawing them takes less memory than adapting them. Memory is the most that the process had,
    with all that Python holds.
    """
    size = WorldSize(n_features, n_units=500, n_stimuli=600, n_new=1, n_new_units=3000, n_test=n_queries)
    world = in_family_world(seed, size)
    model, person = fit_prior(world.training, PriorOptions(seed=seed)), world.new[0]
    context = person.context(k)
    context = replace(context, responses=context.responses[:, np.arange(n_units) % context.responses.shape[1]])
    before, cpu, start = _peak_gb(), time.process_time(), time.perf_counter()
    adapted, decision = adapt_guarded(model, context, person.test_features)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert adapted.prediction_variance is not None
    print(f"\n### {n_units} units, {k} stimuli in context, {n_features} features, {n_queries} posterior variances of each\n")
    used = "prior" if decision.accepted else "ridge"
    print(f"{wall:.1f} s, {cpu:.1f} CPU s; {_peak_gb():.2f} GB at most, {before:.2f} GB before; {used} used")


def _peak_gb() -> float:
    """Most memory that this process had so far (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--features", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--engines", nargs="*", default=["one Gaussian", "prior"], choices=list(ENGINES))
    parser.add_argument("--draws", type=int, default=2, help="contexts of each new person")
    parser.add_argument("--people", type=int, default=6, help="to train on")
    parser.add_argument("--manifold-samples", type=int, default=20_000)
    parser.add_argument("--guard", nargs="+", default=[], choices=list(WORLDS))
    parser.add_argument("--folds", action="store_true", help="of the guard: also the way of engines without an evidence (slow)")
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("--whole-brain", action="store_true", help="time and memory of adapting 91,282 units")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    size = WorldSize(n_people=asked.people, n_samples=asked.manifold_samples)
    with limit_threads(asked.threads):
        for name in asked.worlds:
            for n_features in asked.features:
                compare(name, n_features, asked.seeds, asked.engines, size, asked.draws)
        if asked.guard:
            guard(asked.seeds, size, asked.guard, folds=asked.folds)
        if asked.samples:
            samples(asked.seeds, size)
        if asked.whole_brain:
            whole_brain(asked.seeds[0])


if __name__ == "__main__":
    main()
