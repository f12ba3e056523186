"""A search on several machines: Optuna's own storage in a database, and one `fit` for each trial.

    pip install -e ".[sweep]" "psycopg[binary]"
    python examples/optuna_study.py postgresql+psycopg://USER:PASSWORD@HOST/DATABASE --trials 40

Start it with the same URL on each machine. A worker that dies sends no more heartbeats; then another one trains the
same point again, from its first epoch, as a new trial. Options that are not listed here go to each `fit`.
"""

import argparse
import sys
from pathlib import Path

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback

from fmnist.__main__ import main
from fmnist.runs.folder import newest_run
from fmnist.runs.tables import read_history

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("url", help="the database, as SQLAlchemy writes it")
parser.add_argument("--study", default="mlp", help="name of the search, and of the folder for the runs of this machine")
parser.add_argument("--trials", type=int, default=40, help="number of complete trials, of all workers together")
parser.add_argument("--heartbeat", type=int, default=60, help="seconds; a worker that is silent for two is dead")


def objective(trial: optuna.Trial) -> float:
    """Trains one point and returns val/loss of its last epoch."""
    lr = trial.suggest_float("model.optimizer.lr", 0.02, 0.5, log=True)
    dropout = trial.suggest_float("model.dropout", 0.0, 0.3, step=0.1)
    folder = Path(args.study) / f"trial_{trial.number:03}"  # the number is unique over all machines
    point = [f"--model.optimizer.lr={lr}", f"--model.dropout={dropout}"]
    code = main(["fit", "--config", "configs/mlp.yaml", "--trainer.default_root_dir", str(folder), *point, *options])
    run = newest_run(folder)
    if run is None or code > 2:  # this machine lacks something, or the worker was told to stop: others go on
        sys.exit(code)
    if code:
        raise optuna.TrialPruned("this point cannot be trained")
    return read_history(run)[-1]["val/loss"]


if __name__ == "__main__":
    args, options = parser.parse_known_args()
    retry = RetryHeartbeatStaleTrialCallback(max_retry=3)
    storage = RDBStorage(args.url, heartbeat_interval=args.heartbeat, heartbeat_stale_trial_callback=retry)
    study = optuna.create_study(storage=storage, study_name=args.study, load_if_exists=True)
    study.optimize(objective, callbacks=[MaxTrialsCallback(args.trials)])
    print(f"best: trial {study.best_trial.number}, val/loss {study.best_value:.4f}, {study.best_params}")
