"""The README says what is true: its commands run, its files exist, its keys are keys."""

import re
import shlex
from pathlib import Path

import pytest

from es_rl.config import leaves
from es_rl.llm.__main__ import main as llm
from es_rl.rl.config import Config
from es_rl.text.__main__ import main as text

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDES = {"text": text, "llm": llm}
SHORT = "es.population=8 es.top=2 eval.episodes=2 video.seconds=1 env_kwargs.max_episode_steps=30"


def commands(text):
    """The commands of a text which begin a run, or use one that another has begun."""
    found = [
        shlex.split(line, comments=True)
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    ours = [words for words in found if words[:2] == ["python", "-m"]]
    return [words for words in ours if not any("/RUN" in word or word.startswith("export=") for word in words)]


def shortened(keys, short):
    """Keys with others in place of some, or in addition."""
    replaced = {word.partition("=")[0] for word in short}
    return [*(key for key in keys if key.partition("=")[0] not in replaced), *short]


@pytest.mark.timeout(600)  # all commands, one after the other
def test_the_commands_run_in_their_order(command, renderer):
    """As they stand, with keys added that make them short."""
    added = {
        "train": f"generations=1 {SHORT}",
        "resume": "generations=2 video.every=-1",
        "evaluate": "",
        "record": "seconds=1",
    }
    added["compare"] = f"film=0 minutes=0.02 seeds=1 against=random episodes=2 {SHORT}".replace("video.seconds=1 ", "")
    added["sweep"] = "env_steps=2000 trials=1 seeds=7"
    done = []
    for words in commands(README):
        verb, keys = words[2].removeprefix("es_rl."), words[3:]
        kind = "resume" if keys[0].startswith("resume=") else verb
        given = added[kind].split()
        given = shortened(keys, given) if kind in ("compare", "sweep") else [*keys, *given]
        result = command(verb, *given, cold=kind == "train" and not done)  # the first as readers begin it
        if kind == "record" and result.returncode == 3 and "MuJoCo needs EGL or OSMesa" in result.stderr:
            assert not renderer
            pytest.skip("no off-screen renderer here")
        assert result.returncode == 0, result.stderr
        done.append(kind)
    assert done == ["train", "resume", "evaluate", "record", "compare", "sweep"]
    assert Path("runs/cheetah.mp4").exists() and Path("runs/cheetah.gif").exists()

    code = "\n".join(re.findall(r"```python\n(import es_rl.*?)```", README, re.DOTALL))
    for long, short in (
        ("learn(200_000)", "learn(2_000)"),
        ("seed=1)", "seed=1, workers=0)"),
        ("train(100)", "train(3)"),
    ):
        assert long in code
        code = code.replace(long, short)
    names = {"obs": __import__("numpy").zeros(17)}
    exec(code, names)
    assert names["action"].shape == (6,)


@pytest.mark.soak  # their keys are checked beside those of all pages
@pytest.mark.parametrize(("guide", "least"), [("text", 3), ("language_models", 2)])
def test_the_commands_of_guides_run(guide, least, tiny, monkeypatch):
    monkeypatch.syspath_prepend("")  # modules in this directory are found, as with `python -m`
    added = {"text": "workers=0 minutes=0.01 es.population=8 ctx=16 gpt.width=8 eval.sample=5 eval.bytes=64"}
    added["llm"] = f"model={tiny} data=my.jsonl reward=my_rewards:politeness generations=1 es.population=2 minutes=1"
    added["llm"] += " max_new_tokens=4 workers=0"
    Path("my.jsonl").write_text('{"prompt": "a"}\n' * 4)
    Path("my.txt").write_text("What I have written, I have written.\n" * 50)
    Path("my_rewards.py").write_text("def politeness(prompts, completions):\n    return [1.0] * len(prompts)\n")
    found = commands((ROOT / f"docs/guides/{guide}.md").read_text())
    for words in found:
        verb = words[2].removeprefix("es_rl.")
        assert GUIDES[verb](shortened(words[3:], added[verb].split())) == 0
    assert len(found) >= least


def test_the_two_commands_that_do_everything_are_there_as_they_are_run_elsewhere():
    lines = README.splitlines()
    assert "pip install -c constraints.txt -e . && python -m es_rl.train env=Humanoid-v4" in lines
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in lines


def test_files_that_are_named_exist():
    rooms = README.split("| where | what |")[1].split("\n\n")[0]
    for name in re.findall(r"`([\w/]+/[\w/.]*)`", rooms) + re.findall(r"\]\((?!http)(.*?)\)", README):
        assert (ROOT / name).exists(), name
    for path in (ROOT / "es_rl").iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"`es_rl/{path.name}/`" in rooms, f"{path.name} is not in the map"
    assert len(README.splitlines()) <= 150


def test_keys_that_are_named_are_keys():
    known = {name for name, _ in leaves(Config)} | {"config"}
    table = README.split("| key | meaning |")[1].split("\n\n")[0]
    for name in re.findall(r"([a-z_]+(?:\.[a-z_]+)?)=", table):
        assert name in known or name.startswith("env_kwargs."), name
