"""Installs locked requirements with uv, or with pip where uv will not run.

uv takes 2 s for what pip needs 15 s. It does not read pip's configuration, so that
is translated: an index, a certificate or a proxy set for pip must do for both.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from services.launcher.errors import SetupError

UV = Path(__file__).resolve().parents[2] / "requirements-uv.txt"
PIP_RETRIES = 2
ANSWER_CHARS_MAX = 160
# Later sections of pip's configuration override earlier ones; the environment all.
PIP_SECTIONS = ("global", "install", ":env:")
TEXT_OPTIONS = {
    "index-url": "UV_DEFAULT_INDEX",
    "cert": "SSL_CERT_FILE",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
}
FREE_BYTES_MIN = 4 * 1024 * 1024
DISK_FULL = "the disk is full: free some space"
# What tools print, and the one line that it means for the person who reads it.
CAUSES = (
    (("No space left on device", "Disk quota exceeded"), DISK_FULL),
    (
        ("do not match the hashes", "Hash mismatch", "DO NOT MATCH"),
        "the package index serves a file other than the locked one: check the index",
    ),
    (
        (
            "Retrying (",
            "Failed to fetch",
            "error sending request",
            "dns error",
            "Failed to establish a new connection",
            "ConnectionError",
            "NewConnectionError",
            "tunnel",
            "Could not connect",
            "SSLError",
            "CERTIFICATE_VERIFY_FAILED",
        ),
        "no package index can be reached: check the network, or name one in PIP_INDEX_URL"
        " (PIP_CERT for its certificate)",
    ),
    (
        ("Permission denied", "Read-only file system"),
        "no permission to write .venv: use a checkout of your own",
    ),
)


class CommandFailed(Exception):
    """A tool ended with an error; carries what it printed."""

    def __init__(self, command: str, printed: str) -> None:
        super().__init__(printed)
        self.command = command
        self.printed = printed

    @property
    def cause(self) -> str | None:
        """The line that explains it, when what was printed is recognised."""
        for signs, meaning in CAUSES:
            if any(sign in self.printed for sign in signs):
                return meaning
        full = shutil.disk_usage(UV.parent).free < FREE_BYTES_MIN
        return DISK_FULL if full else None  # venv swallows what its pip printed

    def in_one_line(self) -> str:
        """What is wrong and what to do, else the last thing the tool said."""
        lines = [line.strip() for line in self.printed.splitlines() if line.strip()]
        last = lines[-1][:ANSWER_CHARS_MAX] if lines else "it printed nothing"
        return f"{self.cause}, then run this again" if self.cause else f"{self.command}: {last}"


@contextmanager
def step(what: str) -> Iterator[None]:
    """Prints what is being done, and how long it took; raises SetupError when it failed."""
    started = time.monotonic()
    print(f"- {what} ...", end="", flush=True)
    try:
        yield
    except CommandFailed as error:
        print(" failed", flush=True)
        raise SetupError(error.in_one_line()) from error
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - started:.1f} s", flush=True)


def run(command: list[str], environ: Mapping[str, str] | None = None) -> str:
    """Runs a tool silently and returns what it printed; raises CommandFailed."""
    done = subprocess.run(
        command,
        env=dict(environ) if environ is not None else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(Path(command[0]).name, done.stdout)
    return done.stdout


def has_pip(venv: Path) -> bool:
    """Whether `venv` has a Python that runs and has pip."""
    try:
        run([str(venv / "bin" / "python"), "-c", "import pip"])
    except (OSError, CommandFailed):
        return False
    return True


def install(venv: Path, requirements: list[Path]) -> None:
    """Installs every file of `requirements`, hashes checked; raises SetupError."""
    files = [argument for path in requirements for argument in ("-r", str(path))]
    pip = [str(venv / "bin" / "python"), "-m", "pip"]
    named = ", ".join(path.name for path in requirements)
    if _has_uv(venv, pip):
        try:
            with step(f"installing {named} with uv"):
                _install_with_uv(venv, pip, files)
        except SetupError as error:
            print(f"- uv did not succeed ({error}); trying pip", flush=True)
        else:
            return
    with step(f"installing {named} with pip"):
        run([*pip, "install", "--require-hashes", "--retries", str(PIP_RETRIES), *files])


def _has_uv(venv: Path, pip: list[str]) -> bool:
    locked = ["--require-hashes", "--retries", str(PIP_RETRIES), "-r", str(UV)]
    try:
        with step("fetching uv"):
            run([*pip, "install", *locked])
            run([str(venv / "bin" / "uv"), "--version"])
    except SetupError as error:
        failure = error.__cause__
        if isinstance(failure, CommandFailed) and failure.cause:
            raise  # a full disk or an absent network stops pip as well
        print(f"- no uv on this machine ({error}); pip takes longer", flush=True)
        return False
    return True


def _install_with_uv(venv: Path, pip: list[str], files: list[str]) -> None:
    environ = {**uv_environment(pip_settings(run([*pip, "config", "list"]))), **os.environ}
    target = ["--python", str(venv / "bin" / "python"), "--require-hashes", "--quiet"]
    run([str(venv / "bin" / "uv"), "pip", "install", *target, *files], environ)


def pip_settings(listing: str) -> dict[str, str]:
    """What `pip config list` says, by option; the environment wins over files."""
    found: dict[str, dict[str, str]] = {section: {} for section in PIP_SECTIONS}
    for line in listing.splitlines():
        name, separator, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if separator and section in found:
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                found[section][option] = str(ast.literal_eval(value))
    return {option: value for section in PIP_SECTIONS for option, value in found[section].items()}


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings of pip in uv's words."""
    environ = {TEXT_OPTIONS[name]: text for name, text in settings.items() if name in TEXT_OPTIONS}
    if "extra-index-url" in settings:
        environ["UV_INDEX"] = " ".join(settings["extra-index-url"].split())
        environ["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip does; hashes are checked
    if "find-links" in settings:
        environ["UV_FIND_LINKS"] = ",".join(settings["find-links"].split())
    if "proxy" in settings:
        environ |= {"HTTPS_PROXY": settings["proxy"], "HTTP_PROXY": settings["proxy"]}
    return environ
