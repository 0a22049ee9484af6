"""The part of the group's page on the population model: what it is, and how well it predicts people whom it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from conform_bids.bids.tables import read_tsv
from conform_bids.encode.model_files import ModelCard, read_card, read_losses
from conform_bids.errors import ConformError
from conform_bids.report.page import Cell, Facts, Figure, Item, Note, Number, Section, Table
from conform_bids.wording import counted

__all__ = ["model_section"]

_COLUMNS = ("participant_id", "n_context", "draw", "engine", "correlation", "normalised")


def model_section(output_dir: Path) -> tuple[list[Section], list[str]]:
    """Section of the model in ``output_dir/model``, and what could not be read; nothing where there is no model."""
    folder = output_dir / "model"
    if not (folder / "model_card.json").is_file():
        return [], []
    try:
        card = read_card(folder)
        table = read_tsv(folder / "scores.tsv", required=_COLUMNS, quoted=False)
        numbers = ("n_context", "draw", "correlation", "normalised")
        scores = table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in numbers})
    except ConformError as error:
        return [], [str(error).replace(f"{output_dir}/", "")]
    items: list[Item] = [_facts(card)]
    if (losses := read_losses(folder)) is not None:
        others = _left_out_losses(folder / "losses.tsv")
        caption = "Loss of every step (grey) and its running mean: squared error on stimuli outside of the context, up to a constant."
        caption += " Thin lines: the trainings without each of the people." if others else ""
        path = _plot_losses(losses, others, folder / "losses.svg")
        items.append(Figure(path, caption, "Loss against the step of the training", "Training"))
    if scores.empty:
        items.append(Note("There are no scores of left-out people: that takes two people or more with test stimuli."))
    else:
        path = _plot(scores, card.engine, folder / "scores.svg")
        caption = (
            "Each person left out of the training in turn: mean over units of the correlation with responses to test stimuli, after the "
            "model was given some train stimuli of the person. Thin lines are people (mean over contexts), thick ones their mean."
        )
        items += [Figure(path, caption, "Scores against the number of stimuli in the context", "Left-out people"), _table(scores)]
    return [Section("Population model", "population-model", items)], []


def _left_out_losses(path: Path) -> list[pd.DataFrame]:
    """Step and loss of the trainings without one person each, as they were written while the networks were trained."""
    if not path.is_file():
        return []
    table = read_tsv(path, required=("without", "step", "loss"), quoted=False)
    numbers = table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in ("step", "loss")})
    return [own for name, own in numbers.groupby("without") if name != "n/a"]


def _plot_losses(losses: NDArray[np.float64], others: list[pd.DataFrame], path: Path) -> Path:
    from conform_bids.report.style import ACCENT, MUTED, finish_axes, new_figure

    window = max(1, len(losses) // 50)
    mean = np.convolve(losses, np.full(window, 1 / window), mode="valid")
    with new_figure(path, 5.4, 2.8) as figure:
        axes = figure.add_subplot()
        axes.plot(np.arange(1, len(losses) + 1), losses, color=MUTED, linewidth=0.4, alpha=0.5)
        for own in others:
            smooth = own["loss"].rolling(max(1, len(own) // 20), min_periods=1).mean()
            axes.plot(own["step"], smooth, color=ACCENT, linewidth=0.6, alpha=0.5)
        axes.plot(np.arange(window, len(losses) + 1), mean, color=ACCENT)
        axes.set_ylim(*np.quantile(losses, [0.002, 0.998]) + np.array([-0.01, 0.01]))
        finish_axes(axes, "Step", "Loss", grid="both")
    return path


def _facts(card: ModelCard) -> Facts:
    spaces = ", ".join(f"{space['name']} ({space['n_features']} features)" for space in card.feature_spaces)
    rows = [
        ("Engine", card.engine, ""),
        (
            "Trained on",
            counted(len(card.people), "person", "people"),
            ", ".join(card.people[:8]) + (", ..." if len(card.people) > 8 else ""),
        ),
        ("Units", f"{card.n_units:,}", f"space {card.space}"),
        ("Responses to train stimuli", f"{sum(card.n_stimuli):,}", f"store version {card.store_version}"),
        ("Feature spaces", spaces, ""),
        ("Trained for contexts of", f"{' to '.join(map(str, card.context_range)) or 'any number of'} stimuli", ""),
        ("Seed", str(card.seed), ""),
        ("Licences of the features", ", ".join(card.licences) or "not stated", ""),
    ]
    return Facts(rows)


def _order(scores: pd.DataFrame, engine: str) -> list[str]:
    """The engine first, then the baselines."""
    return sorted(scores["engine"].unique(), key=lambda name: (name != engine, name))


def _table(scores: pd.DataFrame) -> Table:
    mean = scores.groupby(["n_context", "engine"], as_index=False)[["correlation", "normalised"]].mean()
    rows: list[list[Cell]] = []
    for values in mean.to_dict("records"):
        numbers = [Number(float(values[name]), 3) for name in ("correlation", "normalised")]
        rows.append([int(values["n_context"]), str(values["engine"]), *numbers])
    note = (
        "Means over people, contexts and units; r / √ceiling over units with a noise ceiling above 10 %. Ridge was fitted on the same "
        "context; average is the mean map of the other people."
    )
    return Table(["Stimuli in the context", "Engine", "Correlation", "r / √ceiling"], rows, note)


def _plot(scores: pd.DataFrame, engine: str, path: Path) -> Path:
    from conform_bids.report.style import PALETTE, finish_axes, new_figure

    counts = np.sort(scores["n_context"].unique())
    with new_figure(path, 5.4, 3.6) as figure:
        axes = figure.add_subplot()
        for colour, name in zip(PALETTE, _order(scores, engine), strict=False):
            own = scores[scores["engine"] == name]
            people = own.pivot_table(index="n_context", columns="participant_id", values="correlation")
            axes.plot(people.index, people.to_numpy(), color=colour, linewidth=0.7, alpha=0.45)
            axes.plot(people.index, people.mean(axis=1), color=colour, linewidth=2.2, marker="o", markersize=4, label=name)
        if len(counts) > 1:
            axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:g}" for count in counts])
        axes.set_xticks([], minor=True)
        axes.legend(loc="lower right")
        finish_axes(axes, "Stimuli in the context", "Correlation", grid="both")
    return path
