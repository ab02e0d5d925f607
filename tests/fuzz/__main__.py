"""Every decoder against inputs that atheris makes up: `make fuzz DURATION=300 [TARGETS="..."]`.

atheris (libFuzzer) sees which lines an input reaches, and goes on from those that reached new
ones. What they are is kept in .fuzz/corpus, so that the next run begins where this one ended.
A finding does not end the run: it is written to .fuzz/found, once for each place where it was
raised, as the shortest input so far, and the run fails at its end. Put it among the target's
seeds, and `make test` tries it from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import os
import re
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import NoReturn

import atheris

from tests.fuzz.target import Target

KEPT = Path(__file__).resolve().parents[2] / ".fuzz"
AT_ONCE = 2
INPUT_BYTES_MAX = 4096
INPUT_TIMEOUT_S = 10
MEMORY_MAX_MB = 2048
INSTRUMENTED = ("balancer", "discovery", "services", "txn")
EXECUTED = re.compile(r"^stat::number_of_executed_units: *(\d+)", re.MULTILINE)


def main() -> int:
    """Tries all targets that are named, or all; 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together")
    parser.add_argument("targets", nargs="*")
    options = parser.parse_args()
    targets = _instrumented()
    names: Sequence[str] = options.targets or [*targets]
    if unknown := set(names) - targets.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(targets)}")
    each_s = max(1, AT_ONCE * options.seconds // len(names))
    _run([targets[name] for name in names], each_s)
    executions = sum(_executions(name) for name in names)
    findings = sum(_tell(name) for name in names)
    sys.stdout.write(f"targets={len(names)} executions={executions} findings={findings}\n")
    return 1 if findings else 0


def _instrumented() -> Mapping[str, Target]:
    # It says of each module that it does what it was asked to do.
    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=[*INSTRUMENTED]):
        from tests.fuzz.targets import TARGETS
    return TARGETS


def _run(targets: Sequence[Target], seconds: int) -> None:
    """Each in a child of its own, since libFuzzer ends its process; AT_ONCE at a time."""
    waiting, running = [*targets], 0
    while waiting or running:
        if waiting and running < AT_ONCE:
            target = waiting.pop(0)
            running += 1
            if os.fork() == 0:
                _fuzz(target, seconds)
        else:
            os.wait()
            running -= 1


def _fuzz(target: Target, seconds: int) -> NoReturn:
    corpus, found = _corpus(target), _found(target.name)
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    log = os.open(found / "log", os.O_CREAT | os.O_WRONLY, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.disable()

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except Exception as error:  # noqa: BLE001 - what it may be is what is looked for
            _keep(found, error, data)

    limits = {
        "max_total_time": seconds,
        "max_len": INPUT_BYTES_MAX,
        "timeout": INPUT_TIMEOUT_S,
        "rss_limit_mb": MEMORY_MAX_MB,
        "print_final_stats": 1,
        # What it ends on, by taking too long or too much.
        "artifact_prefix": f"{found}/",
    }
    if target.words:
        limits["dict"] = _dictionary(target)
    arguments = [f"-{limit}={value}" for limit, value in limits.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], check)
    atheris.Fuzz()
    raise AssertionError("libFuzzer ends the process")


def _corpus(target: Target) -> Path:
    corpus = KEPT / "corpus" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:40]).write_bytes(seed)
    return corpus


def _dictionary(target: Target) -> Path:
    path = _found(target.name) / "words"
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
    path.write_text("".join(f'"{word}"\n' for word in escaped), encoding="ascii")
    return path


def _found(name: str) -> Path:
    return KEPT / "found" / name


def _keep(folder: Path, error: Exception, data: bytes) -> None:
    """Writes down a finding, if it is the first or the shortest that was raised there."""
    raised_at = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__}-{Path(raised_at.filename).stem}-{raised_at.lineno}"
    kept = folder / f"{place}.input"
    if not kept.exists() or kept.stat().st_size > len(data):
        kept.write_bytes(data)
        text = f"{data!r}\n{''.join(traceback.format_exception(error))}"
        kept.with_suffix(".txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def _executions(name: str) -> int:
    counted = EXECUTED.search((_found(name) / "log").read_text(errors="replace"))
    return int(counted[1]) if counted else 0


def _tell(name: str) -> int:
    """Says what was found, and returns how much that is."""
    told = sorted(_found(name).glob("*.txt"))
    # timeout-..., oom-..., crash-...: libFuzzer's own; and a run that did not even begin.
    ended_on = [each for each in _found(name).iterdir() if not each.suffix and "-" in each.name]
    if not (count := _executions(name)):
        ended_on.append(_found(name) / "log")
    sys.stdout.write(f"{name:<20} {count:>9} executions, {len(told) + len(ended_on)} findings\n")
    for each in told:
        lines = each.read_text(encoding="utf-8").splitlines()
        sys.stdout.write(f"  {each}: {lines[-1][:200]}\n")
    for each in ended_on:
        sys.stdout.write(f"  {each}\n")
    return len(told) + len(ended_on)


if __name__ == "__main__":
    sys.exit(main())
