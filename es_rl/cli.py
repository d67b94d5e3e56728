"""The parts that all verbs share: the command `es-rl VERB …`, exit codes, and errors as one line."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import es_rl
from es_rl.errors import EsRlError, ResourceError, in_lines, lookup, text_of

VERBS = {
    "train": "train a policy: env=ID [key=value …]; resume=RUN goes on",
    "evaluate": "returns of a trained policy, as JSON: run=RUN",
    "record": "a video of a trained policy: run=RUN",
    "plot": "the curves of runs, as a picture and a page: run=RUN[,RUN…]",
    "play": "watch a trained policy in a window, and steer it: run=RUN",
    "export": "a trained policy as ONNX, torch.export or NumPy: run=RUN out=policy.onnx",
    "push": "publish a trained policy on the Hugging Face Hub: run=RUN repo=USER/NAME",
    "text": "train a byte-level GPT: corpus=FILE",
    "llm": "fine-tune a language model: model=DIR data=FILE reward=NAME",
    "sweep": "search for settings: env=ID es.sigma=0.01..0.5:log",
    "compare": "evolution strategies, PPO, ARS and the random policy, with a report: env=ID",
    "completion": "a script that completes keys in a shell: bash or zsh",
}
# Errors of the system that are printed as one line; any other OSError shows its traceback.
REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE,
    errno.ENOMEM, errno.EIO,
)  # fmt: skip


def main() -> NoReturn:
    """Run the console script `es-rl`."""
    run(_dispatch)


def run(verb: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a verb and exit with its code; print an expected error as one line. `argv` defaults to the process's."""
    if argv is None:
        _use_utf8()
        sys.unraisablehook = _tell_ignored
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not have every character
            stream.close = stream.flush  # type: ignore[method-assign] # an environment may close what is not its own
    warnings.filterwarnings("ignore", r".* \w+-v4 is out of date", DeprecationWarning)  # v4 serves on purpose
    try:
        _check_directory()
        code = verb(sys.argv[1:] if argv is None else argv)
    except EsRlError as error:
        code = _complain(error)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader is gone: avoid a second error when stdout is flushed
        code = 141
    except MemoryError:
        code = _complain(ResourceError("the memory is full. Give a smaller es.population, chunk or workers."))
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        code = _complain(ResourceError(f"{error.filename or 'the system'}: {error.strerror}."))
    sys.exit(code)


def _tell_ignored(ignored: sys.UnraisableHookArgs) -> None:
    """Print an error that Python ignores, such as one in the `__del__` of an environment, as one line."""
    name, error = getattr(ignored.object, "__qualname__", "Python"), ignored.exc_value
    text = f": {' '.join(text_of(error).split())}" if error is not None else ""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed or gone
        sys.stderr.write(f"warning: {name} raised {ignored.exc_type.__name__}{text}\n")


def _check_directory() -> None:
    """Raise `ResourceError` if the current directory is gone: libraries end the process without a word then."""
    try:
        Path.cwd()
    except OSError as error:
        raise ResourceError(f"the current directory: {error.strerror}. Change to another one.") from error


def _use_utf8() -> None:
    """Start the program again in Python's UTF-8 mode if the locale has another encoding for names and arguments."""
    if not sys.flags.utf8_mode and sys.getfilesystemencoding().lower().replace("-", "") != "utf8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def command(verb: str, argv: Sequence[str]) -> str:
    """Return the command that runs a verb, as it is typed into a shell."""
    return f"python -m es_rl.{verb} {shlex.join(argv)}"


def asks_for_help(argv: Sequence[str]) -> bool:
    """Tell whether the arguments ask for help."""
    return any(argument in ("-h", "--help", "help") for argument in argv)


def show(text: str) -> int:
    """Write a text to stdout; return exit code 0."""
    sys.stdout.write(text + "\n")
    return 0


def _dispatch(argv: Sequence[str]) -> int:
    if len(argv) > 1 and asks_for_help(argv[:1]):  # es-rl help train
        argv = [argv[1], "--help"]
    if not argv or asks_for_help(argv[:1]):
        width = max(map(len, VERBS)) + 2
        verbs = "\n".join(f"  {verb:<{width}}{text}" for verb, text in VERBS.items())
        return show(f"es-rl VERB [key=value …]\n\n{verbs}\n\nes-rl VERB --help lists the keys of one.")
    if argv[0] in ("--version", "-V", "version"):
        return show(f"es-rl {es_rl.__version__}")
    lookup(VERBS, argv[0], "verb")
    verb = f"es_rl.{argv[0]}"
    module = importlib.import_module(verb)
    if hasattr(module, "__path__"):  # a package
        module = importlib.import_module(f"{verb}.__main__")
    code: int = module.main(argv[1:])
    return code


def _complain(error: EsRlError) -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream may be closed, full, or None
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"es_rl: {in_lines(str(error))}\n")
        sys.stderr.flush()
    return error.exit_code
