"""Networks trained by several processes, as torchrun starts them: the network of one process, written by the first of them alone."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bids_app.app import find_app
from bids_app.run import main
from conform_bids.bids.tables import read_tsv
from conform_bids.encode.model_files import read_model
from conform_bids.encode.numerics.teamwork import Team
from conform_bids.errors import UsageError
from conform_bids.jobs import Processes
from conform_bids.store.inputs import find_inputs
from conform_bids.store.release import write_release

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
SIZES = """
from conform_bids.encode.numerics.incontext_fit import InContextOptions
from conform_bids.encode.numerics.transformer import Shape
from conform_bids.encode.numerics.unrolled import NetworkSize
from conform_bids.encode.numerics.unrolled_fit import UnrolledOptions
from conform_bids.encode.numerics.worlds import WorldSize, in_family_world

WORLD = in_family_world(3, WorldSize(n_features=10, n_people=2, n_units=100, n_stimuli=120, n_new=0))
UNROLLED = UnrolledOptions(steps=8, contexts=3, units=24, n_components=4, bf16=False, size=NetworkSize(16, 24, 2), save_every=3)
INCONTEXT = InContextOptions(steps=8, units=18, bf16=False, shape=Shape(10, width=16, n_blocks=2, n_heads=2, hidden=24), save_every=3)
"""
TRAIN = """
import sys
import numpy as np
from torch import distributed
from conform_bids.encode.numerics.incontext_fit import fit_incontext
from conform_bids.encode.numerics.teamwork import Team
from conform_bids.encode.numerics.unrolled_fit import fit_unrolled

distributed.init_process_group("gloo")
team = Team(distributed.get_rank(), distributed.get_world_size())
for name, fit, options in (("unrolled", fit_unrolled, UNROLLED), ("incontext", fit_incontext, INCONTEXT)):
    saved = []
    whole = fit(WORLD.training, options, save=saved.append, team=team)
    resumed = fit(WORLD.training, options, resume=saved[0] if team.leads else None, team=team)
    assert team.leads == bool(saved)
    if team.leads:
        np.savez(f"{sys.argv[1]}/{name}.npz", **whole.state()[0])
        np.savez(f"{sys.argv[1]}/{name}-resumed.npz", **resumed.state()[0])
distributed.destroy_process_group()
"""
KILLED = """
import os, signal, sys
from functools import partial
from bids_app.encode.__main__ import main
from conform_bids.encode import training
from conform_bids.encode.numerics.unrolled_fit import UnrolledOptions

training.UnrolledOptions = partial(UnrolledOptions, save_every=3)
write = training.write_checkpoint

def write_and_die(path, checkpoint):
    write(path, checkpoint)
    if checkpoint.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv.pop(1) == "die":
    training.write_checkpoint = write_and_die
sys.exit(main())
"""


def torchrun(script: Path, *arguments: object, n: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_the_network_of_one(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SIZES + TRAIN)
    done = torchrun(script, tmp_path)
    assert done.returncode == 0, done.stderr
    here: dict[str, Any] = {}
    exec(SIZES, here)
    from conform_bids.encode.numerics.incontext_fit import fit_incontext
    from conform_bids.encode.numerics.unrolled_fit import fit_unrolled

    alone = {
        "unrolled": fit_unrolled(here["WORLD"].training, here["UNROLLED"]),
        "incontext": fit_incontext(here["WORLD"].training, here["INCONTEXT"]),
    }
    for name, model in alone.items():
        together, resumed = np.load(tmp_path / f"{name}.npz"), np.load(tmp_path / f"{name}-resumed.npz")
        for key, values in model.state()[0].items():
            np.testing.assert_array_equal(resumed[key], together[key], err_msg=f"{name} {key}")
            if not key.endswith("attention.key.bias"):  # softmax does not depend on it: its gradient is rounding alone
                np.testing.assert_allclose(together[key], values, rtol=2e-3, atol=2e-5, err_msg=f"{name} {key}")
    other = fit_unrolled(here["WORLD"].training, replace(here["UNROLLED"], contexts=2))
    assert not np.allclose(other.losses, alone["unrolled"].losses), "a batch that lacks a context is another batch"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_level_group_is_shared_killed_and_taken_up(tmp_path: Path, make_world: Any, world_spec: Any, run_encode: Any) -> None:
    world = make_world(tmp_path, world_spec(people=("01", "02"), stimuli=60, test=15, maker="conform-glm", shared=0.8))
    write_release([find_inputs("images", world.dataset, prefix=False)], tmp_path / "store")
    script = tmp_path / "encode.py"
    script.write_text(KILLED)
    flags = [tmp_path / "store", tmp_path / "out", "group", "-w", tmp_path / "work", "--features", world.features / "truth.h5"]
    flags += ["--contexts", "10", "--draws", "1", "--max-units", "60", "--engine", "unrolled", "--training-steps", "8", "--nprocs", "2"]
    died = torchrun(script, "die", *flags)
    assert died.returncode != 0
    assert len(list((tmp_path / "work").rglob("training-*.safetensors"))) == 1
    assert not (tmp_path / "out" / "model" / "model.safetensors").exists()
    done = torchrun(script, "live", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("conform-encode: ") == 1, done.stdout
    assert not list((tmp_path / "work").rglob("training-*"))
    model, card = read_model(tmp_path / "out")
    losses = read_tsv(tmp_path / "out" / "model" / "losses.tsv", quoted=False)
    steps = losses.assign(without=losses["without"].fillna("n/a")).groupby("without")["step"].agg(list).to_dict()
    assert steps == {name: [str(k) for k in range(1, 9)] for name in (*card.people, "n/a")}
    scores = read_tsv(tmp_path / "out" / "model" / "scores.tsv", quoted=False)
    assert len(scores) == 2 * 3

    flags[1] = tmp_path / "alone"
    alone = run_encode(*flags)
    assert alone.status == 0, alone.stderr
    other, _ = read_model(tmp_path / "alone")
    for key, values in other.state()[0].items():
        np.testing.assert_allclose(model.state()[0][key], values, atol=5e-3, err_msg=key)  # bfloat16 rounds


def test_the_environment_says_which_process_this_is() -> None:
    assert Processes.of({}) == Processes()
    assert Processes.of({"RANK": "1", "WORLD_SIZE": "2"}) == Processes(), "MASTER_ADDR and others are missing: no torchrun"
    assert Processes.of(TORCHRUN) == Processes(1, 2, 1, 2)
    with pytest.raises(UsageError, match="not which: RANK=2"):
        Processes.of({**TORCHRUN, "RANK": "2"})


def test_tasks_are_dealt_out() -> None:
    assert [list(Team(rank, 3).tasks(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    with pytest.raises(ValueError, match="larger batch"):
        Team(0, 3).tasks(2)


@pytest.mark.parametrize(
    ("app", "flags", "words"),
    [
        ("glm", ["participant"], "would all do the same"),
        ("encode", ["participant"], "would all do the same"),
        ("encode", ["group", "--features", "FEATURES"], "no work for 2 processes"),
        ("encode", ["group", "--features", "FEATURES", "--engine", "unrolled", "--training-batch", "1"], "too few for 2 processes"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_without_a_share_are_refused(
    app: str, flags: list[str], words: str, rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**TORCHRUN, "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, value)
    store = tmp_path / "store"
    (store / "v1.0.0").mkdir(parents=True)
    monkeypatch.setattr("conform_bids.encode.group.versions", lambda folder: ["1.0.0"] if folder == store else [])
    monkeypatch.setattr("conform_bids.encode.group.Store", lambda path: SimpleNamespace(path=path))
    typed = [str(tmp_path / "table.h5") if flag == "FEATURES" else flag for flag in flags]
    status = main(find_app(app), [str(store), str(tmp_path / "out"), *typed, "--skip-bids-validation"])
    assert status in (1, 2)
    printed = capsys.readouterr()
    assert words in printed.out + printed.err
    assert rank == "0" or not (tmp_path / "out").exists()
