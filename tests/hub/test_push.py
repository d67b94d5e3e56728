"""push and hf://: what is published, what comes back, what is refused. The Hub is a stand-in on this machine."""

import json
import re
import shlex
import socket
import sys

import numpy as np
import pytest
from conftest import model_hash, refusal
from hub_server import TOKEN, Hub
from networks import small

import es_rl
from es_rl import errors
from es_rl.config import parse
from es_rl.evaluate import main as evaluate
from es_rl.hub.address import Address, check_repo, parsed
from es_rl.push import main as push
from es_rl.record import main as record
from es_rl.rl.config import EvaluateConfig
from es_rl.rl.verbs.publishing import _arguments

TINY = ["generations=2", "es.population=4"]
FILES = ["MANIFEST.json", "README.md", "config.yaml", "model.safetensors", "state.json"]
FILM = b"a film"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # between two libraries


@pytest.fixture
def offline(monkeypatch):
    """No connection can be opened."""

    def refuse(self, address):
        raise AssertionError(f"something connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, in the place of the Hub, and somebody who is logged in there."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with Hub() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        told = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }
        told |= {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_TOKEN_PATH": str(tmp_path / "token")}
        for name, value in told.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def run(train):
    return train("env=CartPole-v1", *TINY)


def printed(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def actions(policy):
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    return [policy(row).item() for row in rows]


def filmed(run, generation=2):
    """Put a film where record would."""
    (run / "videos").mkdir(exist_ok=True)
    (run / f"videos/CartPole-v1-{generation}.mp4").write_bytes(FILM)


def test_a_dry_run_needs_neither_the_library_nor_a_network(train, offline, monkeypatch, capsys, tmp_path):
    """Nor does any other verb open a connection for a run on this machine."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    run = train("env=CartPole-v1", *TINY, "minutes=5")
    assert es_rl.load(run)(np.zeros(4, np.float32)) in (0, 1)
    assert evaluate([f"run={run}", "episodes=7", "seed=3"]) == 0
    found = printed(capsys)
    assert push([f"run={run}", "repo=ann/pole", "out=made/here", "episodes=7", "seed=3"]) == 0
    assert "made/here: written, nothing uploaded" in capsys.readouterr().out
    folder = tmp_path / "made/here"
    assert sorted(path.name for path in folder.iterdir()) == FILES and [*folder.parent.iterdir()] == [folder]
    text = (folder / "README.md").read_text()
    assert f"**{found['return_mean']:.1f} ± {found['return_std']:.1f}**" in text
    assert f"value: {found['return_mean']:.2f} +/- {found['return_std']:.2f}" in text
    assert "in 7 episodes, evaluation seed 3" in text and "one seed: 0" in text and "2 generations" in text
    assert "\n```sh\npython -m es_rl.train env=CartPole-v1 generations=2 es.population=4 minutes=5 workers=0" in text
    assert f"| torch | `{found['versions']['torch']}` |" in text
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in folder.iterdir())  # nobody else's business
    said = refusal(push, f"run={run}", "repo=ann/pole", "out=made/here")
    assert said == (2, "out=made/here: is there already. Give the name of a new directory.")
    for main, keys in ((push, [f"run={run}", "repo=ann/pole"]), (evaluate, ["run=hf://ann/pole"])):
        code, said = refusal(main, *keys)
        assert (
            code == 6
            and "the Hub needs the package huggingface_hub. In the checkout of es_rl: pip install -c constraints.txt -e '.[hub]'"
            in said
        )


def test_what_is_published_comes_back_and_acts_the_same(run, hub, capsys):
    assert push([f"run={run}", "repo=ann/pole", "episodes=5", "seed=2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == f"{hub.url}/ann/pole"
    repo = hub.repos["ann/pole"]
    assert repo.messages[1:] == [f"Generation 2: {told[-2]}"] and not repo.private  # one commit
    assert sorted(repo.commits[repo.head]) == [".gitattributes", *FILES]
    assert repo.commits[repo.head]["model.safetensors"] == (run / "checkpoints/last/model.safetensors").read_bytes()

    repo.commits[repo.head]["policy.pkl"] = repo.commits[repo.head]["setup.py"] = b"what must not come here"
    hub.asked.clear()
    for address in ("hf://ann/pole", "hf://ann/pole@main", f"hf://ann/pole@{repo.head}"):
        assert actions(es_rl.load(address)) == actions(es_rl.load(run))
    fetched = {path.rpartition("/")[2] for method, path in hub.asked if "/resolve/" in path}
    assert fetched == {*FILES} - {"README.md"}

    card = repo.commits[repo.head]["README.md"].decode()
    (words,) = (shlex.split(line) for line in card.splitlines() if line.startswith("python -m es_rl.evaluate"))
    assert evaluate(words[3:]) == 0
    found = printed(capsys)
    assert f"value: {found['return_mean']:.2f} +/- {found['return_std']:.2f}" in card
    assert (found["run"], found["episodes"], found["seed"]) == ("hf://ann/pole", 5, 2)


def test_the_library_reads_the_card_as_it_would_write_it(run, tmp_path):
    library = pytest.importorskip("huggingface_hub")
    assert push([f"run={run}", "repo=ann/pole", "out=out", "episodes=2", "checkpoint=0"]) == 0
    data = library.ModelCard.load(tmp_path / "out/README.md").data.to_dict()
    (model,) = data["model-index"]
    (result,) = model["results"]
    value = result["metrics"][0]["value"]
    assert re.fullmatch(r"\d+\.\d\d \+/- \d+\.\d\d", value)
    written = library.metadata_eval_result(
        model_pretty_name=model["name"], task_pretty_name="reinforcement-learning", task_id="reinforcement-learning",
        metrics_pretty_name="mean_reward", metrics_id="mean_reward", metrics_value=value,
        dataset_pretty_name="CartPole-v1", dataset_id="CartPole-v1",
    )  # fmt: skip
    written["model-index"][0]["results"][0]["metrics"][0].setdefault("verified", False)
    assert data["model-index"] == written["model-index"]
    assert data["tags"] == ["reinforcement-learning", "CartPole-v1", "es_rl", "evolution-strategies"]
    assert data["library_name"] == "es_rl" and data["pipeline_tag"] == "reinforcement-learning"


def test_a_later_commit_takes_away_what_is_no_longer_true(run, hub):
    filmed(run)
    for name, of in (("a", "another"), ("policy", model_hash(run))):
        (run / f"{name}.json").write_text(json.dumps({"model_sha256": of}))
    assert push([f"run={run}", "repo=ann/pole", "episodes=1", "private=true"]) == 0
    repo = hub.repos["ann/pole"]
    first, files = repo.head, repo.commits[repo.head]
    assert repo.private and files["replay.mp4"] == FILM and files["contract.json"] == (run / "policy.json").read_bytes()
    assert b"[Film](replay.mp4)" in files["README.md"]
    assert (
        push([f"run={run}", "repo=ann/pole", "episodes=1", "checkpoint=0", "message=Untrained"]) == 0
    )  # neither film nor export
    assert repo.messages[2:] == ["Untrained"] and "replay.mp4" in repo.commits[first]
    assert not {"replay.mp4", "contract.json"} & {*repo.commits[repo.head]} and ".gitattributes" in repo.commits[first]
    assert (es_rl.load("hf://ann/pole").generation, es_rl.load(f"hf://ann/pole@{first}").generation) == (0, 2)
    repo.private = False
    code, said = refusal(push, f"run={run}", "repo=ann/pole", "episodes=1", "private=true")
    assert code == 2 and "is there and public" in said and len(repo.messages) == 3


def test_the_film_is_that_of_the_checkpoint(run, monkeypatch, tmp_path):
    filmed(run, generation=1)
    keys = [f"run={run}", "repo=ann/pole", "episodes=1"]
    asked = []

    def film(keys):
        asked.append((keys.run, keys.checkpoint))
        filmed(run)
        return run / "videos/CartPole-v1-2.mp4"

    monkeypatch.setattr("es_rl.rl.verbs.publishing.record", film)
    for i, (more, there) in enumerate([([], False), (["video=true"], True), ([], True), (["video=false"], False)]):
        assert push([*keys, *more, f"out=out{i}"]) == 0
        assert (tmp_path / f"out{i}/replay.mp4").exists() == there
    assert asked == [(str(run), "2")]


def test_no_link_is_followed_into_what_is_published(run, tmp_path):
    (tmp_path / "secret").write_text("mine")
    (run / "videos").mkdir()
    (run / "videos/CartPole-v1-2.mp4").symlink_to(tmp_path / "secret")
    code, said = refusal(push, f"run={run}", "repo=ann/pole", "out=out")
    assert code == 4 and "is a link to" in said and not (tmp_path / "out").exists()


def test_a_module_must_be_named_again(train, hub):
    run = train("env=hostile:Good-v0", *TINY)
    code, said = refusal(push, f"run={run}", "repo=ann/good", "out=out")
    assert code == 2 and "add env=hostile:Good-v0" in said
    assert push([f"run={run}", "repo=ann/good", "env=hostile:Good-v0", "episodes=1"]) == 0
    card = hub.repos["ann/good"].commits[hub.repos["ann/good"].head]["README.md"].decode()
    assert "es_rl.evaluate run=hf://ann/good episodes=1 seed=0 env=hostile:Good-v0" in card
    code, said = refusal(evaluate, "run=hf://ann/good")
    assert code == 2 and "env=hostile:Good-v0 in hf://ann/good" in said


def test_a_network_from_python_is_published_with_what_others_must_give(tmp_path, capsys):
    model = es_rl.ES(small, "CartPole-v1", workers=0, es={"population": 4}, eval={"episodes": 1}, run=tmp_path / "own")
    model.learn(generations=1, progress_bar=False)
    code, said = refusal(push, "run=own", "repo=ann/pole", "out=out")
    assert code == 4 and "policy=python:small" in said
    assert push(["run=own", "repo=ann/pole", "out=out", "policy=networks:small", "episodes=2"]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "es_rl.evaluate run=hf://ann/pole episodes=2 seed=0 policy=networks:small\n" in text
    assert 'es_rl.load("hf://ann/pole", policy="networks:small")' in text
    (began,) = re.findall(r"```python\n(es_rl\.ES.*)\n```", text)
    assert began.startswith("es_rl.ES('python:small', 'CartPole-v1', ") and began.endswith(".learn(generations=1)")
    assert str(tmp_path) not in text and "run=" not in began
    read = es_rl.config.read_file(tmp_path / "out/config.yaml", es_rl.rl.config.Config)
    assert read["policy"] == "networks:small"


@pytest.mark.parametrize(
    "value",
    ["robot.xml", "a b", "1.5", "on", "null", "", " x ", "a: b", "é\n", 1.5, None, [1, "2"], {}, [float("inf")],
     {1: 5.0, "left.hip": [1, {}], 2.5: {False: None}}],
)  # fmt: skip
def test_arguments_on_the_card_are_typed_as_they_are_read(value):
    typed = _arguments({"x": value, "y": [value]})
    assert all("\n" not in argument for argument in typed)
    read = parse(EvaluateConfig, ["run=run", *typed]).env_kwargs
    assert repr(read) == repr({"x": value, "y": [value]})


def test_no_text_of_a_run_leaves_its_place_on_the_card(train, tmp_path):
    start = train("env=CartPole-v1", *TINY, run="start")
    run = train("env=CartPole-v1", f"init={start}", "cluster.cpus=3", *TINY)
    (run / "command.txt").write_text(
        "python -m es_rl.train --run /home/ann --init 'a\n```\n# Odd\n````' run=/home/ann\n"
    )
    (run / "versions.json").write_text(json.dumps({"a|b\n# Odd": "1`|\n# Odd<b>"}))
    assert push([f"run={run}", "repo=ann/pole", "out=out", "episodes=1"]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert not [line for line in text.splitlines() if line.startswith(("# Odd", "````'"))]
    assert "\n`````sh\npython -m es_rl.train --init " in text and "/home/ann" not in text
    assert "\n| ab\N{REPLACEMENT CHARACTER}# Odd | `1\N{REPLACEMENT CHARACTER}# Odd<b>` |" in text
    published = (tmp_path / "out/config.yaml").read_text()
    assert "cpus: 3" in (run / "config.yaml").read_text() and "cpus: 3" not in published
    assert str(tmp_path) not in published  # where it started from is nobody's business


@pytest.mark.parametrize("repo", ["", "pole", "ann/po/le", "ann/", "/pole", "ann/po le", "../pole", "ann/a--b", "ann/-a",
                                  "https://hub/ann/pole", "ann/pole.git", "ann/" + 93 * "x", "ann/pole@main", "ann/p\n"])  # fmt: skip
def test_other_names_are_refused(repo):
    with pytest.raises(errors.ConfigError, match="USER/NAME"):
        check_repo(repo)


def test_addresses():
    assert parsed("hf://ann/pole") == Address("ann/pole") and check_repo("a_b.c/D-1") == "a_b.c/D-1"
    assert str(parsed("hf://ann/pole@refs/pr/1")) == "hf://ann/pole@refs/pr/1"
    for odd in ("hf://ann", "hf://ann/pole@", "hf://ann/pole@../../x", "hf://ann/pole@a b"):
        with pytest.raises(errors.ConfigError, match=re.escape(odd)):
            es_rl.load(odd)
    assert refusal(push, "run=hf://ann/pole", "repo=ann/pole")[0] == 2
    assert refusal(record, "run=hf://ann/pole")[0] == 2


def test_refusals_of_the_hub_are_one_line_and_leave_nothing_half_done(run, hub, monkeypatch):
    keys = [f"run={run}", "repo=ann/pole", "episodes=1"]
    assert push(keys) == 0
    repo = hub.repos["ann/pole"]

    def refused(*keys, main=push):
        code, said = refusal(main, *keys)
        assert "\n" not in said and len(repo.messages) == 2
        return code, said

    code, said = refused(f"run={run}", "repo=bob/pole", "episodes=1")
    assert code == 6 and "repo=bob/pole: the Hub refuses it: You don't have the rights" in said
    hub.refuse = (403, "This token may only read")
    assert refused(*keys, "seed=1") == (6, "repo=ann/pole: the Hub refuses it: This token may only read. Use a token that may do this: log in with `hf auth login`, or set HF_TOKEN.")  # fmt: skip
    hub.refuse = (412, "A commit has happened since")
    assert "published there meanwhile" in refused(*keys, "seed=1")[1]
    hub.refuse = (507, "Quota exceeded.")
    assert refused(*keys, "seed=1") == (6, "repo=ann/pole: the Hub refuses it (507): Quota exceeded.")
    hub.refuse = None

    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    evaluations = len(hub.asked)
    code, said = refused(*keys)
    assert code == 6 and "the Hub does not know this token: log in with `hf auth login`, or set HF_TOKEN" in said
    assert len(hub.asked) == evaluations + 1  # it was asked before the work
    monkeypatch.delenv("HF_TOKEN")
    assert "wants to know who publishes: log in with `hf auth login`" in refused(*keys)[1]

    repo.private = True
    for name in ("ann/nobody", "ann/pole"):
        code, said = refused(f"run=hf://{name}", main=evaluate)
        assert code == 4 and f"hf://{name}: not on the Hub, or private" in said


def test_what_comes_back_damaged_or_not_at_all_is_one_line(run, hub):
    assert push([f"run={run}", "repo=ann/pole", "episodes=1"]) == 0
    repo = hub.repos["ann/pole"]
    sound = repo.commits[repo.head]
    assert es_rl.load("hf://ann/pole", "2").generation == 2

    def refused(address, *more, kind=errors.CheckpointError):
        with pytest.raises(kind) as caught:
            es_rl.load(address, *more)
        return str(caught.value)

    assert refused("hf://ann/pole", "best") == (
        "checkpoint=best: hf://ann/pole has one, of generation 2. Leave checkpoint out."
    )
    assert "hf://ann/pole@old: has no such revision" in refused("hf://ann/pole@old")
    repo.add({**sound, "model.safetensors": sound["model.safetensors"][:-1] + b"\x7f"}, "theta has changed")
    assert "model.safetensors: damaged, it is not what MANIFEST.json says" in refused("hf://ann/pole")
    repo.add({**sound, "config.yaml": b"env: Other-v0\n"}, "keys have changed")
    assert "config.yaml: damaged" in refused("hf://ann/pole")
    repo.add({name: sound[name] for name in ("model.safetensors", "config.yaml")}, "another library's")
    assert "hf://ann/pole: holds no policy of es_rl, state.json is missing" in refused("hf://ann/pole")

    hub.shutdown()
    hub.server_close()
    said = refused("hf://ann/new", kind=errors.ResourceError)
    assert "hf://ann/new: the Hub cannot be reached" in said and "HF_ENDPOINT" in said and "\n" not in said
    code, said = refusal(push, f"run={run}", "repo=ann/pole")
    assert code == 6 and "the Hub cannot be reached" in said
