"""Check the models in this folder with spin: `make model`. `make model-broken` prints the counterexamples.

Every check in CHECKS must hold in all states. Every check in BROKEN leaves out one thing on which the protocol relies,
and must fail, which shows that the checks detect faults. Each is built and run in a temporary folder of its own. Exit
status: 0 when all results are as expected, 1 when not, 2 when spin or gcc is missing and cannot be installed.
docs/design/model.md describes what is modelled.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MODELS = Path(__file__).parent
SEARCH_DEPTH = 10_000
MEMORY_MB = 3_500
PACKAGES = {"spin": ["spin"], "cpp": ["cpp"], "gcc": ["gcc", "libc6-dev"]}

Mode = Literal["states", "ltl", "cycles"]
COMPILE: dict[Mode, list[str]] = {"states": ["-DSAFETY"], "ltl": [], "cycles": ["-DNP"]}
RUN: dict[Mode, list[str]] = {"states": [], "ltl": ["-a"], "cycles": ["-l"]}


@dataclass(frozen=True)
class Check:
    """A run of spin: a description, a model, its bounds, and the mode of the check.

    `mode` checks every state (assertions, and that everything is settled at the end), a formula of temporal logic, or
    that no run is endless. With `hashed`, states are distinguished by 64 bits of hash only: for the largest checks."""

    what: str
    model: str
    faults: int
    changes: int
    defines: tuple[str, ...] = ()
    mode: Mode = "states"
    hashed: bool = False

    @property
    def options(self) -> list[str]:
        """The definitions that configure the model."""
        return [f"-DFAULTS={self.faults}", f"-DCHANGES={self.changes}", *(f"-D{name}" for name in self.defines)]


CHECKS = [
    Check("demand: etcd shows the gateway's demand", "demand", 3, 5),
    Check("demand: no run is endless", "demand", 3, 5, mode="cycles"),
    Check("keys: a refusal holds back nothing else", "keys", 3, 6),
    Check("keys: no run is endless", "keys", 3, 6, mode="cycles"),
    Check("watch: subscribers know what etcd holds", "watch", 2, 4),
    Check("watch: no run is endless", "watch", 2, 4, mode="cycles"),
    Check("election: the only candidate leads", "election", 3, 4),
    Check("election: no run is endless", "election", 3, 4, mode="cycles"),
    Check("ownership: no faults, many changes of demand", "ownership", 0, 5),
    Check("ownership: one fault", "ownership", 1, 3),
    Check("ownership: two faults", "ownership", 2, 2),
    Check("ownership: no run is endless", "ownership", 1, 2, mode="cycles"),
    Check("ownership: demand implies an owner in the end", "ownership", 1, 2, ("LTL_OWNED",), "ltl"),
    Check("ownership: no demand implies no owner in the end", "ownership", 1, 2, ("LTL_IDLE",), "ltl"),
    Check("updates: none is accepted after a newer one", "ownership", 1, 2, ("UPDATES",)),
]

LONG = [
    Check("ownership: three faults", "ownership", 3, 1),
    Check("ownership: two faults, more changes", "ownership", 2, 3, hashed=True),
    Check("watch: more writes", "watch", 2, 5),
    Check("updates: two faults", "ownership", 2, 1, ("UPDATES",), hashed=True),
]

BROKEN = [
    Check("release without the comparison of demand", "ownership", 0, 3, ("NO_RELEASE_COMPARE",)),
    Check("claim without the comparison of demand", "ownership", 0, 2, ("NO_CLAIM_COMPARE",)),
    Check("gateways without the fence", "ownership", 1, 1, ("UPDATES", "NO_FENCE")),
    Check("an answer counts although the mirror is past it", "ownership", 1, 1, ("NO_OVERTAKING",)),
    Check("a listing gives pollers differences only", "ownership", 2, 1, ("LIST_DIFFERENCES_ONLY",)),
    Check("a listing gives gateways differences only", "demand", 2, 1, ("LIST_DIFFERENCES_ONLY",)),
    Check("at its quota, etcd holds back deletes with the puts", "keys", 1, 4, ("HELD_TOGETHER",)),
    Check("at its quota, etcd gets deletes in transactions", "keys", 1, 4, ("DELETES_IN_TRANSACTIONS",), "cycles"),
    Check("a rejected key sets aside its whole transaction", "keys", 0, 2, ("ASIDE_TOGETHER",)),
    Check("a stream begins without looking for its witness", "watch", 1, 3, ("NO_WITNESS",)),
    Check("the fence stays in a new incarnation", "watch", 1, 3, ("FENCE_STAYS",)),
    Check("a new incarnation's listing tells differences only", "watch", 1, 3, ("TELL_DIFFERENCES_ONLY",)),
    Check("a watch advances by a fragment", "watch", 1, 3, ("ADVANCE_BY_FRAGMENT",)),
    Check("a watch advances by a message without events", "watch", 1, 3, ("ADVANCE_BY_HEADER",)),
    Check("a watch resumes from the present revision", "watch", 1, 3, ("RESUME_NOW",)),
    Check("a watch resumes from its last revision", "watch", 1, 3, ("RESUME_FROM_LAST",)),
    Check("a listing wakes a candidate by changes only", "election", 2, 1, ("WAKE_BY_CHANGES_ONLY",)),
    Check("a put replaces a witness that is to be checked", "watch", 1, 3, ("WRITE_BEFORE_CHECK",)),
    # Gaps that the code still has (docs/design/model.md): when one is closed, its rule becomes the model's.
    Check("gap: etcd restored, and a listing went beyond the witness", "watch", 1, 3, ("LISTED_PAST_WITNESS",)),
    Check("gap: etcd restored, and the witness was compacted", "watch", 1, 3, ("WITNESS_COMPACTED",)),
]


@dataclass(frozen=True)
class Result:
    """The result of a check. `failure` is spin's message, None when the check holds; `story` has the steps to it."""

    states: int
    seconds: float
    memory_mb: float
    failure: str | None
    story: tuple[str, ...] = ()


def parse(output: str) -> Result:
    """Parse the output of a verifier. Raises ValueError when the verifier did not finish."""
    states = re.search(r"^ *(\d+) states, stored", output, re.MULTILINE)
    errors = re.search(r"errors: (\d+)", output)
    seconds = re.search(r"elapsed time ([\d.e+-]+)", output)
    memory = re.search(r"([\d.]+)\ttotal actual memory usage", output)
    cut = re.search(r"max search depth too small|out of memory|reached -DMEMLIM|VECTORSZ is too small", output)
    if not (states and errors and seconds and memory) or cut:
        raise ValueError(output)
    failure = re.search(r"^pan:\d+: (.*)$", output, re.MULTILINE)
    failed = failure[1] if failure else None
    if (failed is None) != (errors[1] == "0"):
        raise ValueError(output)
    return Result(int(states[1]), float(seconds[1]), float(memory[1]), failed)


def steps_of(trail: str, model: str) -> tuple[str, ...]:
    """Return the steps of a replayed counterexample, and at its end the line of the model that it violates."""
    source = model.splitlines()
    steps = []
    for line in map(str.strip, trail.splitlines()):
        if wrong := re.match(r"spin: .*:(\d+), Error: assertion violated", line):
            steps.append(f"WRONG: {source[int(wrong[1]) - 1].strip()}")
        elif line and not line.startswith("spin: "):
            steps.append(line)
    return tuple(sorted(steps, key=lambda step: step.startswith("WRONG")))  # spin prints a step when it is complete


def run(check: Check, folder: Path, shortest: bool = False) -> Result:
    """Build and run the verifier in the folder. With `shortest`, search for the shortest way to a failure."""
    model = MODELS / f"{check.model}.pml"
    storage = ["-DHC4"] if check.hashed else ["-DCOLLAPSE"]
    flags = [*COMPILE[check.mode], *storage, f"-DMEMLIM={MEMORY_MB}", *(["-DREACH"] if shortest else [])]
    _call(["spin", "-a", *check.options, str(model)], folder)
    _call(["gcc", "-O2", "-w", *flags, "-o", "pan", "pan.c"], folder)
    search = [f"-m{SEARCH_DEPTH}", "-n", *(["-w27"] if check.hashed else []), *(["-i"] if shortest else [])]
    result = parse(_call(["./pan", *search, *RUN[check.mode]], folder))
    if result.failure is None:
        return result
    trail = _call(["spin", "-t", "-B", *check.options, "-k", f"{model.name}.trail", str(model)], folder)
    return Result(result.states, result.seconds, result.memory_mb, result.failure, steps_of(trail, model.read_text()))


def _call(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode and command[0] != "./pan":
        raise ValueError(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout


def install_missing() -> str | None:
    """Install spin and gcc where apt-get can. Return a message about what is still missing, None when nothing is."""
    missing = _missing()
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        print(f"Installing {', '.join(missing)} ...", flush=True)
        for step in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", *step], stdout=subprocess.DEVNULL, check=False)
        missing = _missing()
    if not missing:
        return None
    return f"The model needs {', '.join(missing)}. Debian, Ubuntu: apt install {' '.join(missing)}"


def _missing() -> list[str]:
    return [package for tool, packages in PACKAGES.items() if shutil.which(tool) is None for package in packages]


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the models of coordination with spin.")
    parser.add_argument("--long", action="store_true", help="check the largest configurations as well (minutes)")
    parser.add_argument("--broken", action="store_true", help="only break the protocol, and print how it fails")
    arguments = parser.parse_args()
    if missing := install_missing():
        print(missing, file=sys.stderr)
        return 2
    checks = [] if arguments.broken else CHECKS + (LONG if arguments.long else [])
    wrong = 0
    for check in checks + BROKEN:
        broken = check in BROKEN
        with tempfile.TemporaryDirectory(prefix="pollcast-model-") as folder:
            result = run(check, Path(folder), shortest=broken)
        expected = broken == (result.failure is not None)
        wrong += not expected
        verdict = (
            ("fails, as it should" if broken else "FAILS") if result.failure else "DOES NOT FAIL" if broken else "holds"
        )
        cost = f"{result.states:>10,} states {result.seconds:6.1f} s {result.memory_mb:5.0f} MB"
        print(f"{('broken: ' if broken else '') + check.what:58} {cost}  {verdict}", flush=True)
        if arguments.broken or not expected:
            print("".join(f"    {line}\n" for line in result.story), end="", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
