"""Download from the Hub and upload to it. Errors of the library, the network and the Hub become one line each."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from es_rl.errors import CheckpointError, ConfigError, EsRlError, ResourceError, missing_extra
from es_rl.hub.address import Address

# What a policy needs to act, and all that is ever downloaded: weights, numbers, keys, and their checksums. No code.
WEIGHTS, STATE, KEYS, MANIFEST = "model.safetensors", "state.json", "config.yaml", "MANIFEST.json"
NEEDED = (WEIGHTS, STATE, KEYS, MANIFEST)
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
LONGEST = 300  # characters of what the Hub says


def download(address: Address) -> Path:
    """Return a directory with the files of a published policy, downloaded unless they are there.

    They lie in the cache of the Hub's library, as links. Raises `CheckpointError` if there is no such policy, and
    `ResourceError` if the Hub cannot be reached or refuses.
    """
    hub = _library()
    with _reporting(str(address), CheckpointError):
        folder = Path(hub.snapshot_download(address.repo, revision=address.revision, allow_patterns=[*NEEDED]))
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{address}: holds no policy of es_rl, {missing[0]} is missing. python -m es_rl.push publishes one."
        )
    return folder


def check_login(repo: str) -> None:
    """Raise `ResourceError` if the library is missing, nobody is logged in, or the Hub does not know the token."""
    hub = _library()
    if hub.get_token() is None:
        raise ResourceError(f"repo={repo}: the Hub wants to know who publishes: {LOGIN} to a token that may write.")
    with _reporting(f"repo={repo}", ResourceError):
        hub.HfApi().whoami()


def upload(folder: Path, repo: str, *, private: bool, message: str, ours: Collection[str]) -> str:
    """Publish the files of a folder in one commit, and make the repository if there is none. Return its URL.

    Those of `ours` that are there from an earlier time and not in the folder are deleted in the same commit. Raises
    `ConfigError` if a public repository is there although a private one is asked for, and `ResourceError` if the Hub
    cannot be reached or refuses.
    """
    hub = _library()
    api = hub.HfApi(library_name="es_rl")
    files = sorted(path.name for path in folder.iterdir())
    with _reporting(f"repo={repo}", ResourceError):
        api.create_repo(repo, private=private, exist_ok=True)
        info = api.model_info(repo)
        if private and not info.private:
            raise ConfigError(
                f"repo={repo}: is there and public; private=true is for a new one. Give another name, or make it "
                f"private on its page."
            )
        there = {file.rfilename for file in info.siblings or ()}
        changes = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files]
        changes += [hub.CommitOperationDelete(path_in_repo=name) for name in sorted((there & {*ours}) - {*files})]
        # upload_folder may cut a folder into several commits
        api.create_commit(repo, changes, commit_message=message, parent_commit=info.sha)
    return f"{api.endpoint}/{repo}"


def _library() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise missing_extra("the Hub needs the package huggingface_hub", "hub") from error


@contextmanager
def _reporting(what: str, missing: type[EsRlError]) -> Iterator[None]:
    """Turn any error of the Hub's library into one line that begins with `what`: a `missing` if there is none such."""
    errors: Any = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except EsRlError:
        raise
    except errors.GatedRepoError as error:
        raise missing(f"{what}: its owner wants to be asked first. Ask on its page, then log in here.") from error
    except errors.RepositoryNotFoundError as error:
        raise missing(f"{what}: not on the Hub, or private. Correct the name, or {LOGIN}.") from error
    except errors.RevisionNotFoundError as error:
        raise missing(f"{what}: has no such revision. Name a branch, a tag or a commit, or leave it out.") from error
    except errors.HfHubHTTPError as error:
        raise ResourceError(f"{what}: {_refusal(error)}") from error
    except OSError as error:
        if error.errno is not None and error.filename is not None:  # the disk's, not the network's
            raise ResourceError(f"{error.filename}: {error.strerror}. HF_HOME names another place.") from error
        raise ResourceError(f"{what}: {_unreachable(error)}") from error
    except errors.HfHubHTTPError.__bases__ as error:  # those of the library that makes connections
        raise ResourceError(f"{what}: {_unreachable(error)}") from error
    except Exception as error:
        raise ResourceError(f"{what}: failed ({type(error).__name__}: {_line(error)}). Try again.") from error


def _refusal(error: Any) -> str:
    code, said = error.response.status_code, error.server_message or _line(error)
    if code == 401:
        return f"the Hub does not know this token: {LOGIN} to another one."
    if code == 403:
        return f"the Hub refuses it: {_line(said)}. Use a token that may do this: {LOGIN}."
    if code == 412:
        return "somebody else has published there meanwhile. Try again."
    return f"the Hub refuses it ({code}): {_line(said)}."


def _unreachable(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"the Hub cannot be reached ({_line(cause)}). Check the network, HF_ENDPOINT and HF_HUB_OFFLINE."


def _line(said: object) -> str:
    lines = str(said).strip().splitlines() or [type(said).__name__]
    return lines[0].rstrip(".")[:LONGEST]
