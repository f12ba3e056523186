"""Two workers of `examples/optuna_study.py` that share a database; one of them is killed while it trains.

    python benchmarks/study.py                database of SQLite, in a temporary folder
    python benchmarks/study.py --postgres     server of PostgreSQL, for this run only: `apt-get install postgresql`
                                              and `pip install psycopg[binary]`; as root it runs as the user postgres

Prints the trials as the database has them. Exit code 1 if the point of the killed worker was not trained again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

ROOT = Path(__file__).parent.parent
WORKER = [sys.executable, "-m", "examples.optuna_study"]
OPTIONS = ("--study=study", "--heartbeat=1", "--model.hidden_dims=[32]", "--trainer.logger=false")


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Runs a PostgreSQL server in a folder, reached through a socket in it. Yields its URL."""
    (program,) = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))[-1:] or [shutil.which("pg_ctl")]
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL does not run as root
    if user:
        folder.chmod(0o755)
        shutil.chown(folder, user)

    def control(*words: str) -> None:
        command = [str(program), "--pgdata", str(folder / "data"), *words]
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    control("init", "--options", "--auth=trust --username=fmnist")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
    control("start", "--wait", "--log", str(folder / "log"), "--options", options)
    try:
        yield f"postgresql+psycopg://fmnist@/postgres?host={folder}"
    finally:
        control("stop", "--mode", "fast")


@contextmanager
def start(url: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a worker, waits until it trains, and kills it in the end if it still runs."""
    command = [*WORKER, url, *OPTIONS, *options]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        begun = any(line.startswith("epoch 1/") for line in worker.stdout)
        try:
            assert begun, "the worker has ended before its first epoch"
            yield worker
        finally:
            worker.kill()


def kill_one(url: str, folder: Path, *options: str) -> bool:
    """Runs the search. Returns whether the point of the worker that was killed was trained again."""
    (folder / "configs").symlink_to(ROOT / "configs")
    short = ("--trials=4", "--trainer.max_epochs=2", *options)
    with start(url, folder, *options, "--trainer.max_epochs=1000") as killed, start(url, folder, *short) as other:
        killed.kill()
        out, _ = other.communicate()
    trials = optuna.load_study(study_name="study", storage=url).trials
    for trial in trials:
        point = [f"{name}={number:.4g}" for name, number in trial.params.items()]
        value = [] if trial.value is None else [f"val/loss {trial.value:.4f}"]
        number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
        again = [] if number is None else [f"(trial {number} again)"]
        print(f"trial {trial.number}", f"{trial.state.name:8}", *point, *value, *again, sep="  ")
    print(out.splitlines()[-1])
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return trials[0].state == TrialState.FAIL and trials[0].params in [trial.params for trial in done]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", action="store_true", help="a server of PostgreSQL instead of SQLite")
    args, options = parser.parse_known_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as top:
        folder, data = Path(top) / "work", Path(top) / "database"
        folder.mkdir()
        data.mkdir()
        Path(top).chmod(0o755)
        if not args.postgres:
            return 0 if kill_one(f"sqlite:///{data}/study.db", folder, *options) else 1
        with serve(data) as url:
            return 0 if kill_one(url, folder, *options) else 1


if __name__ == "__main__":
    sys.exit(main())
