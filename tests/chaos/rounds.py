"""A round: a fit that is killed up to three times, let through, and looked at each time."""

import gzip
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from nlsq_sklearn import JSONCheckpoint
from tests.chaos.fits import KINDS, LATEST
from tests.chaos.injection import STEPS
from tests.fork_server import ForkServer

KILLS = {
    "SIGKILL any moment": (signal.SIGKILL, None),
    "SIGKILL in the write": (signal.SIGKILL, "write"),
    "SIGKILL in the rename": (signal.SIGKILL, "rename"),
    "SIGKILL in the pruning": (signal.SIGKILL, "prune"),
    "SIGTERM": (signal.SIGTERM, None),
    "SIGINT": (signal.SIGINT, None),
}
CASES = [(kind, kill) for kind in KINDS for kill in KILLS]
FAULTS = ("differing", "unreadable", "leftovers", "lost", "failed")
COLUMNS = ("rounds", "kills", "resumed", *FAULTS)
_EVERY_CHUNK = {"interval": 0.0, "compression": False, "max_checkpoints": 5}


def run_rounds(numbers, seed=0, kinds=KINDS, most_kills=3, seconds=float("inf"), jobs=1):
    """Run the rounds of these numbers, side by side in some processes.

    Parameters
    ----------
    numbers : sequence of int
        Each stands for a kind of fit and a kind of kill, in turn.
    seed : int
        With the number of a round it decides all that is random in it.
    kinds : sequence of str
        Of fits; rounds of others are left out.
    most_kills : int
        In a round.
    seconds : float
        No round starts later.
    jobs : int

    Returns
    -------
    counts : dict of Counter
        What came of the rounds of each kind of fit and of kill.
    faults : list of str
    """
    cases = [case for case in CASES if case[0] in kinds]
    # A round stands for the same whichever kinds are chosen.
    rounds = [(n, CASES[n % len(CASES)]) for n in numbers if CASES[n % len(CASES)] in cases]
    # All rounds of a kind of fit go to one process, which lets it run undisturbed once.
    shares = [[r for r in rounds if r[1][0] in kinds[job::jobs]] for job in range(jobs)]
    counts, faults = {case: Counter() for case in cases}, []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        arguments = ((share, seed, most_kills, seconds) for share in shares)
        for future in [pool.submit(_run_share, *a) for a in arguments]:
            counted, told = future.result()
            faults += told
            for case in cases:
                counts[case] += counted[case]
    return counts, faults


def _run_share(rounds, seed, most_kills, seconds):
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, ForkServer("tests.chaos.fits") as server:
        chaos = Chaos(server, Path(directory), seed, most_kills)
        for number, case in rounds:
            if time.monotonic() - started_at > seconds:
                break
            n_told = len(chaos.faults)
            _Round(chaos, number, case).run()
            for fault in chaos.faults[n_told:]:
                print(fault, file=sys.stderr, flush=True)
    return chaos.counts, chaos.faults


class Chaos:
    """What rounds have in common: the server, the fits undisturbed, the counts."""

    def __init__(self, server, directory, seed, most_kills):
        self._server = server
        self.directory = directory
        self.seed = seed
        self.most_kills = most_kills
        self._undisturbed = {}
        self.seconds = {}
        self.counts = {case: Counter() for case in CASES}
        self.faults = []

    def undisturbed(self, kind):
        """Return how a fit ends that nothing disturbs, with its calls of each step."""
        if kind not in self._undisturbed:
            plain = self.fit(kind, None, _EVERY_CHUNK)
            saved = self.fit(kind, str(self.directory / kind), _EVERY_CHUNK)
            assert plain.answer["bits"] == saved.answer["bits"]
            self._undisturbed[kind] = saved
            self.seconds[kind] = saved.seconds
        return self._undisturbed[kind]

    def fit(self, kind, directory, settings, **how):
        """Return the outcome of a fit in a fork of its own."""
        return self._server.do("tests.chaos.fits:run", kind, directory, settings, **how)


class _Round:
    def __init__(self, chaos, number, case):
        self._chaos = chaos
        self._number = number
        self._case = case
        self._kind, kill = case
        self._signum, self._step = KILLS[kill]
        self._random = np.random.default_rng([chaos.seed, number])
        self._counts = chaos.counts[case]
        self._path = chaos.directory / f"round {number}"

    def run(self):
        undisturbed = self._chaos.undisturbed(self._kind)
        self._counts["rounds"] += 1
        n_kills, settings = self._random.integers(1, self._chaos.most_kills + 1), self._settings()
        n_killed = n_directories = 0
        while n_killed < n_kills:
            directory = self._path / str(n_directories)
            outcome = self._attempt(directory, settings, undisturbed, n_killed)
            if outcome.answer is None:
                n_killed += 1
                self._look_at(directory, outcome)
            elif n_killed:
                break
            else:  # it was quicker than the kill: the machine is idler now
                self._chaos.seconds[self._kind] = outcome.seconds
                n_directories += 1
                if n_directories == 20:
                    self._fault("failed", "the kill never came")
                    return
        self._counts["kills"] += n_killed
        if outcome.answer is None:
            outcome = self._chaos.fit(self._kind, str(directory), settings)
        self._look_at_the_end(directory, outcome, undisturbed)

    def _settings(self):
        settings = {
            "interval": float(self._random.choice([0.0, 0.0, 0.02, 0.1, np.inf])),
            "compression": bool(self._random.integers(2)),
            "max_checkpoints": int(self._random.choice([1, 2, 5])),
        }
        if self._step == "prune":
            # So that each fit prunes, at its last save if not before.
            settings["max_checkpoints"] = 1
            if self._kind == "stream":
                settings["interval"] = 0.0
        return settings

    def _attempt(self, directory, settings, undisturbed, n_killed):
        step, signum = self._step, int(self._signum)
        if step is None and signum != signal.SIGKILL and self._random.random() < 0.5:
            step = str(self._random.choice(list(STEPS)))
        if step is None:
            after = self._random.uniform(0.05, 1.0) * self._chaos.seconds[self._kind]
            how = {"signal": signum, "after": after}
        else:
            most = undisturbed.answer["counts"][step] if settings["interval"] == 0 else 2
            if step == "prune" and settings["interval"] > 0:
                most = 1
            injection = {
                "step": step,
                "n_calls": int(self._random.integers(1, max(2, most >> n_killed))),
                "when": str(self._random.choice(self._moments(step))),
                "signum": signum,
            }
            how = {"injection": injection}
        outcome = self._chaos.fit(self._kind, str(directory), settings, **how)
        was_killed = outcome.signal == self._signum
        was_killed |= self._signum == signal.SIGINT and outcome.is_interrupted
        if outcome.answer is None and not was_killed:
            self._fault("failed", f"exit status {outcome.code}, signal {outcome.signal}")
        return outcome

    def _moments(self, step):
        if step == "write" and self._signum == signal.SIGKILL:
            return ["before", "after", "half"]
        return ["before", "after"]

    def _look_at(self, directory, outcome):
        """Look at what a kill left."""
        for folder in _folders(directory):
            for problem in _unreadable(folder):
                self._fault("unreadable", problem)
            # Opened as any fit opens it that goes on.
            if self._random.integers(2):
                JSONCheckpoint(folder).prepare()
                if left := _temporaries(folder):
                    self._fault("leftovers", f"{folder}: {left}")
        if self._signum != signal.SIGKILL:
            if left := [f for folder in _folders(directory) for f in _temporaries(folder)]:
                self._fault("leftovers", f"{directory}: {left}")
            self._look_for_what_is_lost(directory, outcome)

    def _look_for_what_is_lost(self, directory, outcome):
        """Check that the save on the way out holds all that the fit had summed."""
        if outcome.mark is None:
            return
        name, *reached = outcome.mark
        folder = directory if directory.name == name else directory / name
        try:
            record = JSONCheckpoint(folder).load()
        except ValueError as error:  # a CheckpointError
            self._fault("lost", str(error))
            return
        if record["phase"] == "partial_fit":
            saved = [record["iteration"], 0]
        else:
            saved = [record["state"]["n_passes"], record["state"]["next_chunk"]]
        if saved < reached:
            self._fault("lost", f"{folder}: {reached} was reached, {saved} was saved")

    def _look_at_the_end(self, directory, outcome, undisturbed):
        if outcome.answer is None:
            self._fault("failed", f"the last: exit status {outcome.code}, signal {outcome.signal}")
            return
        self._counts["resumed"] += 1
        if outcome.answer["bits"] != undisturbed.answer["bits"]:
            self._fault("differing", str(directory))
        for folder in _folders(directory):
            for problem in _unreadable(folder):
                self._fault("unreadable", problem)
            if left := _temporaries(folder):
                self._fault("leftovers", f"{folder}: {left}")

    def _fault(self, fault, words):
        self._counts[fault] += 1
        self._chaos.faults.append(
            f"round {self._number}, {', '.join(self._case)}: {fault}: {words}"
        )


def _folders(directory):
    """Return the directories below, itself included, that hold files."""
    return [Path(path) for path, _, names in os.walk(directory) if names]


def _temporaries(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("checkpoint_"))


def _unreadable(folder):
    """Yield what is wrong with the checkpoints of a folder."""
    names = sorted(path.name for path in folder.glob("checkpoint_*"))
    for name in names:
        content = (folder / name).read_bytes()
        try:
            json.loads(gzip.decompress(content) if name.endswith(".gz") else content)
        except (ValueError, OSError, EOFError) as error:
            yield f"{folder / name}: {error}"
    whole = {Path(info.path).name for info in JSONCheckpoint(folder).list()}
    for name in set(names) - whole - {LATEST}:
        yield f"{folder / name} can't be loaded"
    if names:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                JSONCheckpoint(folder).load()
            except (ValueError, Warning) as error:
                yield f"{folder}: {error}"


def table(counts):
    """Return the counts as text, one row for each kind of fit and of kill, and their sum."""
    total = sum(counts.values(), Counter())
    rows = [("fit", "kill", *COLUMNS)]
    rows += [(*case, *(str(c[column]) for column in COLUMNS)) for case, c in counts.items() if c]
    rows.append(("all", "", *(str(total[column]) for column in COLUMNS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _line(row, widths):
    words = [word.ljust(width) for word, width in zip(row[:2], widths, strict=False)]
    numbers = [word.rjust(width) for word, width in zip(row[2:], widths[2:], strict=True)]
    return "| " + " | ".join(words + numbers) + " |"
