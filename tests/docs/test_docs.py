"""The documentation says what is true: its Python runs, its links lead somewhere, its keys are keys."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch

import es_rl
from es_rl.config import leaves
from es_rl.llm.config import ExportConfig

ROOT = Path(es_rl.__file__).parents[1]
DOCS = ROOT / "docs"
CONF = runpy.run_path(str(DOCS / "conf.py"))
FILES = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts and path.name != "keys.md"]
PAGES = {path.relative_to(DOCS).with_suffix("").as_posix(): path.read_text() for path in FILES}
BLOCKS = {
    f"{page}-{i}": block
    for page, text in PAGES.items()
    for i, block in enumerate(re.findall(r"```python\n((?:import|from) .*?)```", text, re.DOTALL))
}
# Keys that a verb takes besides those that it declares.
EXPORT = {name for name, _ in leaves(ExportConfig)}
BESIDES = {"train": {"config", "resume"}, "text": {"resume"}, "llm": {"resume", *EXPORT}}
# The verbs whose keys a page names outside of commands; the others: every verb, or that of training.
OF = {"guides/text": ["text"], "guides/language_models": ["llm"], "guides/comparison": ["compare", "sweep"]}
OF |= {
    "guides/hub": ["push", "record"],
    "guides/tensorboard": ["train", "evaluate", "plot"],
    "guides/export": ["export", "train"],
    "guides/gpu": ["train", "llm"],
    "guides/resuming": ["train", "evaluate", "sweep"],
}
NOT_KEYS = ("tried", "when", "vector_envs", "performance", "results")  # pages that name keys of scripts


def declared(verb):
    return {name for name, _ in leaves(CONF["declared"](verb))}


def keys_of(verb):
    found = declared(verb) | BESIDES.get(verb, set())
    return found | (keys_of("train") if verb in ("compare", "sweep") else set())


def unknown(words, known):
    names = [match[1] for word in words if (match := re.match(r"([a-z_]+(?:\.[a-z_]+)*)=", word))]
    return [
        name
        for name in names
        if name not in known
        and not name.startswith(("env_kwargs.", "policy_kwargs.", "settings.", "cluster.runtime_env."))
    ]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.slow
def test_python_blocks_run(name, train):
    """As they stand; what a page trains before is trained, but shorter."""
    if name.startswith("tutorial"):
        train("env=HalfCheetah-v5", "generations=1", "es.population=8", "es.top=2", run="runs/cheetah")
    if "stable_baselines3" in BLOCKS[name]:
        pytest.importorskip("stable_baselines3")
    threads = torch.get_num_threads()
    try:
        exec(compile(BLOCKS[name], name, "exec"), {"__name__": name})
    finally:
        torch.set_num_threads(threads)


@pytest.mark.process
def test_the_environment_of_the_guide_is_trained(command):
    Path("my_module.py").write_text(BLOCKS["guides/environment-0"])
    keys = ["generations=2", "es.population=8", "workers=1", "video.every=-1", "env_kwargs.strength=0.5"]
    done = command("train", "env=my_module:Parking-v0", *keys)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_and_files_exist(page):
    text, folder = PAGES[page], (DOCS / page).parent
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|\{(?:image|include)\} (\S+)", text):
        target = "".join(link)
        assert (folder / target).exists() or target.startswith("https://arxiv.org/"), target
    for name in re.findall(r"\b((?:es_rl|scripts|benchmarks|examples)/[\w/]*\w+\.(?:py|jsonl?))", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_keys_that_are_named_are_keys_of_their_verb(page):
    text = re.sub(r"```python.*?```", "", PAGES[page], flags=re.DOTALL)
    known = set().union(*map(keys_of, OF.get(page, CONF["VERBS"] if "guides" not in page else ["train", "evaluate"])))
    commands = re.findall(r"(python -m es_rl\.\w[^`\n]*)", text)
    for command in commands:
        words = shlex.split(command, comments=True)
        assert unknown(words, keys_of(words[2].removeprefix("es_rl."))) == [], command
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        of_script = page in NOT_KEYS or span.startswith("python benchmarks/")
        if not of_script and span not in commands and not set(span) & set('("') and "learning_rate" not in span:
            assert unknown(span.strip("'").split(), known) == [], span


def test_the_page_of_keys_has_every_key():
    page = CONF["keys_page"]()
    assert page == (DOCS / "reference" / "keys.md").read_text(), "build the documentation, and commit the page of keys"
    for verb, (_, _, refused, _) in CONF["VERBS"].items():
        section = page.split(f"`es_rl.{verb}`\n")[1].split("\n## ")[0]
        assert [name for name in declared(verb) - {*refused} if f"| `{name}` |" not in section] == []
