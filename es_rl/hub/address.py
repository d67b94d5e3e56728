"""Names on the Hub: `USER/NAME`, and the address of a published policy, `hf://USER/NAME` or `hf://USER/NAME@REVISION`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from es_rl.errors import ConfigError

SCHEME = "hf://"
LONGEST = 96  # characters of a name, with the user's
PART = r"\w|\w[\w.-]*\w"
NAME = re.compile(rf"({PART})/({PART})", re.ASCII)
REVISION = re.compile(r"\w[\w./-]*", re.ASCII)  # a branch, a tag or a commit
RULE = (
    f"must be USER/NAME: letters, digits, - _ and . in both, neither .. nor --, no - or . at an end, no .git, at most "
    f"{LONGEST} characters"
)


@dataclass(frozen=True)
class Address:
    """A published policy: a repository of the Hub, and a revision of it if one was named."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_address(run: str | Path) -> bool:
    """Tell whether a run is named by an address on the Hub instead of a directory."""
    return str(run).startswith(SCHEME)


def parsed(run: str | Path) -> Address:
    """Return the address in a text for which `is_address` is true. Raises `ConfigError`."""
    text = str(run)
    repo, at, revision = text.removeprefix(SCHEME).partition("@")
    if not _sound(repo):
        raise ConfigError(f"{text}: {RULE}. Write {SCHEME}USER/NAME or {SCHEME}USER/NAME@REVISION.")
    if at and (not REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(f"{text}: a revision is a branch, a tag or a commit. Leave @{revision} out, or name one.")
    return Address(repo, revision or None)


def check_repo(name: str) -> str:
    """Return the name of a repository to publish in. Raises `ConfigError` if it is none."""
    if not name:
        raise ConfigError("repo is missing: give the name that the policy gets on the Hub, repo=USER/NAME.")
    if not _sound(name):
        raise ConfigError(f"repo={name}: {RULE}.")
    return name


def _sound(repo: str) -> bool:
    odd = ".." in repo or "--" in repo or repo.endswith(".git") or len(repo) > LONGEST
    return NAME.fullmatch(repo) is not None and not odd
