"""An Optuna study in a folder, shared by processes: each trial belongs to one, and abandoned ones are taken over."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aejax.errors import AejaxError, InputError, StorageError, kind_and_words, not_installed
from aejax.files import append, inside, parse_object

_NAME = "study"


class Study:
    """Trials that the processes of one machine share.

    They are stored in study.db, which survives `kill -9`. A process holds a lock on study.lock for its trial until it
    ends: a trial that is unfinished and not locked was abandoned, and `claim` returns it again.

    What a trial suggests is a function of the seed, its number, and the trials that were finished when it began: with
    one process, it is the same on every machine with the same version of Optuna.
    """

    def __init__(
        self, folder: Path, direction: str, about: Mapping[str, str], *, seed: int = 0, prune: bool = True
    ) -> None:
        """Opens the study of the folder, or creates it.

        Args:
          direction: "minimize" or "maximize".
          about: what the study is about, by name; stored with it.
          prune: whether a trial ends early that is worse than the median of the others.

        Raises InputError where the folder's study is `about` something else.
        """
        optuna = _optuna()
        self._samples = lambda number: optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        )
        self._open = contextlib.ExitStack()
        self._file = inside(folder, "study.db")
        self._lock = self._open.enter_context(append(folder / "study.lock"))
        with contextlib.ExitStack() as unless_open, self._alone(), self._readable():
            unless_open.push(self._open)
            self._storage = optuna.storages.RDBStorage(
                f"sqlite:///{self._file.absolute()}",
                engine_kwargs={"connect_args": {"timeout": 60}},  # seconds to wait for another process
            )
            self._open.callback(self._storage.engine.dispose)
            self._open.callback(self._storage.remove_session)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=_NAME,
                direction=direction,
                pruner=optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            before = self._study.user_attrs
            for key, value in about.items():
                if before.get(key, value) != value:
                    raise InputError(
                        f"{folder} holds a study of another {key} ({_difference(before[key], value)}); "
                        f"choose another workdir, or the {key} that it began with"
                    )
                self._study.set_user_attr(key, value)
            unless_open.pop_all()

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def claim(self, trials: int) -> Any | None:
        """Returns an Optuna trial for this process: an abandoned one, or a new one if there are fewer than `trials`."""
        states = _optuna().trial.TrialState
        with self._alone(), self._readable():
            begun = [trial for trial in self.trials if trial.state != states.WAITING]
            running = [trial.number for trial in begun if trial.state == states.RUNNING]
            left = next((number for number in running if self._take(number)), None)
            if left is None and len(begun) >= trials:
                return None
            trial = self._study.ask() if left is None else self._again(left)
            self._take(trial.number)
        self._study.sampler = self._samples(trial.number)
        return trial

    def tell(self, trial: Any, *, value: float | None = None, pruned: str = "", failed: str = "") -> None:
        """Records the trial's value, or why it has none; samplers avoid what was pruned, but not what failed."""
        states = _optuna().trial.TrialState
        state = states.FAIL if failed else states.PRUNED if pruned else states.COMPLETE
        with self._readable():
            if pruned or failed:
                trial.set_user_attr("why", pruned or failed)
        # Under the lock: else another process might see it running, then unlocked, and take it for abandoned.
        with self._alone(), self._readable():
            self._study.tell(trial, value, state)
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 1 + trial.number)

    @property
    def trials(self) -> list[Any]:
        """Returns all trials as Optuna stores them, in their order."""
        with self._readable():
            return self._study.get_trials(deepcopy=False)

    @property
    def best(self) -> Any | None:
        """Returns the complete trial of the best value; None where there is none."""
        complete = _optuna().trial.TrialState.COMPLETE
        return self._study.best_trial if any(trial.state == complete for trial in self.trials) else None

    def _again(self, number: int) -> Any:
        """Returns the Optuna trial of this number."""
        study_id = self._storage.get_study_id_from_name(_NAME)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return _optuna().trial.Trial(self._study, trial_id)

    def _take(self, number: int) -> bool:
        """Locks the trial, if it is free, and returns whether it was. Byte 0 locks the study, byte 1 + n trial n."""
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + number)
        except (BlockingIOError, PermissionError):
            return False
        return True

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Turns any error of Optuna, SQLAlchemy or JSON for a damaged file or a full disk into a StorageError."""
        try:
            yield
        except (AejaxError, OSError):
            raise
        except Exception as error:
            raise StorageError(
                f"{self._file} cannot be used ({kind_and_words(error)}); free some space, restore it, or choose "
                "another workdir"
            ) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Locks the whole study."""
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, 0)
        except OSError as error:
            raise StorageError(
                f"{self._lock.name} cannot be locked ({error}); choose a workdir on a disk of this machine"
            ) from error
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 0)


def tried(search: Callable[[Any], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the overrides of a trial outside any study; InputError where `search` cannot make them."""
    trial = _optuna().create_study().ask()
    try:
        given = search(trial)
    except Exception as error:
        raise InputError(f"search(trial) of the config raised {error!r}; it takes an Optuna trial") from error
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"search(trial) of the config returned {given!r}; return overrides, e.g. {{'optim.lr': 1e-3}}")
    return given


def _difference(before: str, now: str) -> str:
    """Describes what differs between two texts, or between two objects in JSON."""
    try:
        old, new = parse_object(before), parse_object(now)
    except (TypeError, ValueError):
        return f"{str(before)[:100]} -> {now}"
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return "; ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys[:4])


def _optuna() -> Any:
    """Imports Optuna; InputError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise not_installed("a search", "optuna") from error
    return optuna
