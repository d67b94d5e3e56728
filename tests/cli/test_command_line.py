"""The command line as people type it: options, bare words, lists, names from elsewhere, paths of runs, completion."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import refusal

import es_rl
from es_rl import cli, completion
from es_rl.arguments import synonyms
from es_rl.arguments.unknown import check_keys
from es_rl.compare.config import parse_compare
from es_rl.config import pairs, parse
from es_rl.errors import CheckpointError, ConfigError
from es_rl.evaluate import main as evaluate
from es_rl.export.config import ExportConfig
from es_rl.plot import runs
from es_rl.plot.config import PlotConfig, parse_plot
from es_rl.rl.config import Config, PushConfig, RecordConfig, parse_train
from es_rl.run import directory
from es_rl.sweep import contenders, space
from es_rl.train import main as training

ROOT = Path(es_rl.__file__).parents[1]
OLD = ROOT / "tests/data/run-0.1.0"  # a run of generation 2


@pytest.mark.parametrize(
    "line",
    [
        "env=A-v0 env_steps=1000000", "--env=A-v0 --env-steps=1e6", "--env A-v0 --env_steps 1_000_000",
        "env A-v0 env_steps 10.0e5", "A-v0 env_steps=1000000", "env_steps=1E6 A-v0", "--env-steps 1e+6 A-v0",
    ],
)  # fmt: skip
def test_these_mean_the_same(line):
    assert parse_train(line.split()) == parse_train(["env=A-v0", "env_steps=1000000"])


def test_values_are_read_as_they_are_typed():
    line = "es_rl/Arm-v0 --target_return -100 --no-obs-norm mlp.hidden=1e2,64 es.population=1e1 --env_kwargs.a-b 3"
    config = parse_train(line.split())
    assert (config.env, config.target_return, config.obs_norm, config.mlp.hidden) == (
        "es_rl/Arm-v0",
        -100,
        False,
        [100, 64],
    )
    assert (config.es.population, config.env_kwargs) == (10, {"a-b": 3})
    assert [parse_train(["A-v0", f"mlp.hidden={text}"]).mlp.hidden for text in ("64", "[64]", "8,")] == [
        [64],
        [64],
        [8],
    ]
    assert parse_train(["A-v0", "seed=9007199254740993.0"]).seed == 9007199254740993
    assert parse_train(["my.robots:Walker", "obs_norm", "false"]).env == "my.robots:Walker"
    config, ours, _ = parse_compare(["Hopper-v5", "against=ppo,random", "es.population", "8"])
    assert (config.env, config.against, ours) == ("Hopper-v5", ["ppo", "random"], ["es.population=8"])
    searched, _ = space.parse(
        {"es.population": "8,16", "mlp.hidden": "64,64"}, contenders.make("es", "CartPole-v1", 1000)
    )
    assert searched == {"es.population": space.Choice(("8", "16"), (8, 16))}


REFUSED = {
    "A-v0 env_steps=1.5": "env_steps=1.5: wrong type. It must be a whole number",
    "A-v0 env_steps=1e30": "env_steps=1e+30: wrong type",
    "A-v0 B-v0": "env: given twice (A-v0 and B-v0)",
    "A-v0 env=B-v0": "env: given twice",
    "A-v0 --env": "--env: not of the form key=value. Write env=…",
    "A-v0 -x": "-x: not of the form key=value. Write x=…",
    "A-v0 generatons": "generatons: not of the form key=value. Did you mean generations",
    "xyzzy": "xyzzy: not of the form key=value. Write env=xyzzy, if that is meant",
    "A-v0 seed minutes=3": "seed: not of the form key=value. Write seed=…",
    "A-v0 --no-minutes": "--no-minutes: unknown key. Did you mean minutes?",
    "A-v0 keys.yaml": "keys.yaml: not of the form key=value. If it is a file of keys, write config=keys.yaml",
    "runs/A-v0": "To go on with the run in it, write resume=runs/A-v0, or init=runs/A-v0 to start from its policy",
    "A-v0 run": "run: not of the form key=value. Write run=…, or ./run for the directory",
    "--env_id A-v0 seed=1": "env_id: unknown key. Here it is env=A-v0.",
    "A-v0 learning_rate=3e-4": "learning_rate: unknown key. Here it is optim.lr=3e-4.",
    "A-v0 --total-timesteps 1e6": "total_timesteps: unknown key. Here it is env_steps=1e6.",
    "A-v0 lr=1": "lr: unknown key. Here it is optim.lr=1.",
    "A-v0 net_arch=[64,64]": "Here it is mlp.hidden=64,64.",
    "A-v0 es.pop_size=30": "es.pop_size: unknown key. Here it is es.population=30.",
    "A-v0 eval.freq=3": "Here it is eval.every=3.",
    "A-v0 n_directions=30": "Here it is es.population=60, for 30 pairs.",
    "A-v0 hours=2": "Here it is minutes=120, for 2 hours.",
    "A-v0 n_envs=8": "n_envs: unknown key. Simulations side by side follow from chunk",
    "A-v0 gpu=0": "Give inference=central device=cuda",
    "A-v0 algo=ppo": "For PPO beside it: python -m es_rl.compare env=ID against=ppo.",
    "A-v0 verbose=1": "Leave it out",
    "A-v0 tensorboard_log=x": "tensorboard --logdir runs",
    "A-v0 save_path=my runs": "Here it is 'run=my runs'.",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_not_understood_is_refused_with_the_remedy(line):
    Path("runs/A-v0").mkdir(parents=True)
    Path("run").mkdir()
    with pytest.raises(ConfigError) as caught:
        parse_train(line.split(maxsplit=1 if "my runs" in line else -1))
    assert REFUSED[line] in str(caught.value) and "\n" not in str(caught.value)


def test_a_bare_word_is_understood_by_what_it_is():
    Path("runs/A-v0").mkdir(parents=True)
    Path("B-v5").mkdir()
    for line, found in {
        "runs/A-v0": ("runs/A-v0", "", True), "last C-v1 --no-caption": ("last", "C-v1", False),
        "D-v0 ./run --caption out=x.mp4": ("./run", "D-v0", True), "/nowhere/x caption=no": ("/nowhere/x", "", False),
        "runs/none-v4 --caption false": ("runs/none-v4", "", False),
    }.items():  # fmt: skip
        config = parse(RecordConfig, line.split())
        assert (config.run, config.env, config.caption) == found
    with pytest.raises(ConfigError, match=r"B-v5: could be run or env. Write run=B-v5 or env=B-v5"):
        parse(RecordConfig, ["B-v5"])
    assert parse_train(["B-v5"]).env == "B-v5"


def test_all_unknown_keys_are_told_at_once():
    with pytest.raises(ConfigError, match=r"gru.hidden: unknown key. Of this group there are gru.width, gru.squash"):
        parse_train(["A-v0", "gru.hidden=8"])
    with pytest.raises(ConfigError) as caught:
        parse_train(["A-v0", "total_timesteps=9", "seed=1", "es.sigmaa=1", "lr=2"])
    assert str(caught.value).splitlines() == [
        "total_timesteps: unknown key. Here it is env_steps=9.",
        "es.sigmaa: unknown key. Did you mean es.sigma or es.sigma_decay or es.segment?",
        "lr: unknown key. Here it is optim.lr=2.",
    ]


def test_names_from_elsewhere_lead_to_keys_that_are_there():
    verbs = {verb: completion.keys_of(verb) for verb in cli.VERBS}
    everywhere = {"env_kwargs.max_episode_steps"}.union(*verbs.values())
    for key, names in synonyms.HERE.items():
        assert key in everywhere, key
        assert len({*names.split()}) == len(names.split()), key
    names = " ".join([*synonyms.HERE.values(), *(row[-1] for row in (*synonyms.BESIDE, *synonyms.SCALED.values()))])
    for verb, known in verbs.items():
        for name in {*names.split()} - {*known}:
            said = synonyms.elsewhere(name, "1", known)
            if offered := re.match(r" Here it is ([a-z._]+)=", said):
                assert offered[1] == "env_kwargs.max_episode_steps" or offered[1] in known, (verb, name)
    with pytest.raises(ConfigError, match=r"n_eval_episodes: unknown key. Here it is episodes=3"):
        check_keys({"n_eval_episodes": "3"}, verbs["evaluate"])
    with pytest.raises(ConfigError, match=r"n_eval_episodes: unknown key. Here it is episodes=3"):
        parse_compare(["n_eval_episodes=3"])


def test_bare_words_of_export_push_record_and_plot():
    run = old("runs/A-v0/one")
    Path("there.png").write_text("")
    assert parse(ExportConfig, [run, "policy.onnx"]) == ExportConfig(run=run, out="policy.onnx")
    assert parse(ExportConfig, ["last", "made/policy.npz"]) == ExportConfig(run="last", out="made/policy.npz")
    assert parse(RecordConfig, [run, "film.mp4", "A-v0"]) == RecordConfig(run=run, out="film.mp4", env="A-v0")
    assert parse(PushConfig, [run, "ann/x"]) == PushConfig(run=run, repo="ann/x")
    for line in (
        f"{run} {run} --x minutes there.png",
        f"--run {run} run={run} x=minutes out=there.png",
        f"x minutes {run},{run} there.png",
    ):
        assert parse_plot(line.split()) == PlotConfig(run=[run, run], x="minutes", out="there.png"), line
    for given in ("last", f"{run}/checkpoints/2", f"{run}/config.yaml", f"{run}/checkpoints/best"):
        config = parse_plot([given])
        assert config.run == [given] and [str(one) for one in runs._matches(given)] == [run]
    with pytest.raises(ConfigError, match="nowhere: not of the form key=value. Write run=nowhere or out=nowhere, if"):
        parse_plot(["nowhere"])


@pytest.mark.parametrize(("argument", "said"), [
    ("--no-video", "video is a group of keys. Set one of them: video.every, "), ("--wandb", "Give track=wandb, "),
    ("wandb_project=x", "Give track=wandb, "), ("use_wandb=true", "Give track=wandb, "),
    ("--capture-video", "by video.every. Leave it out"), ("--no-obs_nor", "Did you mean obs_norm"),
    ("--total-timesteps", "Here it is env_steps=VALUE"),
])  # fmt: skip
def test_options_from_elsewhere_without_a_value_are_answered(argument, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_train(["A-v0", argument])


def old(*places):
    for place in places:
        shutil.copytree(OLD, place, symlinks=True)
    return places[0]


def test_a_run_is_found_by_any_of_its_paths(capsys):
    run = old("runs/es_rl/PointMass-v0/one")
    for path, which in (("", ""), ("/checkpoints", ""), ("/checkpoints/2", "2"), ("/checkpoints/00000002", "2"),
                        ("/checkpoints/best", "best"), ("/checkpoints/2/model.safetensors", "2")):  # fmt: skip
        assert directory.find(run + path, "run") == (Path(run), which)
        assert es_rl.load(run + path).generation == 2
    assert directory.find("last", "run") == (Path(run), "")
    assert directory.find("checkpoints/my-runs/x", "run") == (Path("checkpoints/my-runs/x"), "")
    for bare in ("last", f"{run}/checkpoints/best"):
        assert evaluate([bare, "episodes=1"]) == 0
        assert f'"run": "{run}"' in capsys.readouterr().out
    code, said = refusal(evaluate, f"{run}/checkpoints/2", "checkpoint=best")
    assert code == 2 and "name two checkpoints" in said
    code, said = refusal(evaluate, f"{run}/checkpoints/7")
    assert code == 4 and "has no checkpoint 7; it has those of the generations 2" in said
    with pytest.raises(CheckpointError, match=r"resume=last: there is no run of es_rl.text under runs"):
        directory.find("last", "resume", "text")


def test_a_folder_of_runs_is_listed(tmp_path):
    old("runs/compare/C-v0/es-0/run", "runs/A-v0/new", *(f"runs/A-v0/{i:02}" for i in range(11)))
    index = tmp_path / "runs/A-v0/new/checkpoints/index.json"
    index.write_text("{}")
    assert directory.find("last", "run")[0].name == "new"
    (tmp_path / "runs/A-v0/new/command.txt").write_text("es_rl.ES('mlp', 'A-v0').learn()\x1b[2J\n")  # from Python
    assert directory.find("last", "run")[0].name == "new"
    keys = tmp_path / "runs/A-v0/new/config.yaml"
    keys.write_text(keys.read_text().replace("env: es_rl/PointMass-v0", "env: es_rl/PointMass-v0\x1b[2J"))
    said = refusal(evaluate, "runs/A-v0")[1]
    assert "\x1b" not in said and "generation 2  return -" in said
    keys.write_text(keys.read_text().replace("\x1b[2J", ""))
    code, said = refusal(evaluate, "runs/A-v0")
    lines = said.splitlines()
    assert code == 4 and lines[0] == "run=runs/A-v0: a folder of runs. Give one, here the newest first:"
    assert re.fullmatch(r"  run=runs/A-v0/new  es_rl/PointMass-v0  generation 2  return -[\d.]+", lines[1])
    assert len(lines) == 12 and lines[-1] == "  and 2 older ones"
    assert "init=runs: a folder of runs" in refusal(training, "es_rl/PointMass-v0", "init=runs", "workers=0")[1]


def test_a_finished_run_says_what_to_raise_and_a_new_one_starts_from_any_checkpoint(train, capsys):
    run = old("runs/here")
    assert training(["--resume", "last", "--workers", "0"]) == 0
    assert "finished: generations=2 was reached. To go on, give generations above 2" in capsys.readouterr().out
    code, said = refusal(training, f"resume={run}/checkpoints/best", "generations=3")
    assert code == 2 and f"newest checkpoint, that of generation 2. Give resume={run}, or start a new run with" in said
    new = train("es_rl/PointMass-v0", "policy=linear", "es.population=4", "generations=1", "init=last", run="runs/new")
    assert "init: runs/here\n" in (new / "config.yaml").read_text()
    train(f"resume={run}/checkpoints/2", "generations=3")


def test_help_and_wrong_keys_need_no_torch():
    code = """
import sys
from es_rl import cli
def leaves(*argv):
    sys.argv = ["es-rl", *argv]
    try:
        cli.main()
    except SystemExit as left:
        return left.code
assert leaves() == leaves("--version") == leaves("completion", "zsh") == 0
for verb in cli.VERBS:
    assert leaves(verb, "--help") == 0 and leaves(verb, "no_such_key=1") == 2, verb
    assert "torch" not in sys.modules, verb
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no_such_key: unknown key") == len(cli.VERBS) - 1  # completion has a word


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_verbs_keys_and_values(capsys):
    assert completion.main(["bash"]) == 0
    script = (
        capsys.readouterr().out
        + """
compopt() { :; }
typed() { COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _es_rl; echo "${COMPREPLY[@]}"; }
typed es-rl ev
typed es-rl train es.noise_
typed es-rl train --es.noise_
typed es-rl train es.noise = low
typed es-rl record --caption =
typed es-rl train env = HalfCheetah
typed es-rl evaluate ke
"""
    )
    Path("keys.yaml").touch()
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "evaluate", "es.noise_reuse=", "--es.noise_reuse=", "lowrank lowrank_orthogonal", "true false",
        "HalfCheetah-v4 HalfCheetah-v5", "keys.yaml",
    ]  # fmt: skip
    assert all(completion.keys_of(verb) for verb in cli.VERBS if verb != "completion")
    code, said = refusal(completion.main, "fish")
    assert code == 2 and "Known: bash, zsh" in said


def test_commands_can_be_pasted_into_any_shell_and_name_no_package_index_for_us():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "es_rl").rglob("*.py")]
    for path in pages:
        text = path.read_text()
        for command in re.findall(r"(?:python -m es_rl|es-rl )[^`\n]*", text):
            assert "=[" not in re.sub(r"'[^']*'", "", command), f"{path}: {command}"
        assert not re.search(r"pip install '?es[-_]rl", text), path


def test_an_environment_of_version_4_serves_without_a_word(train, capsys, recwarn):
    train("InvertedPendulum-v4", "generations=1", "es.population=4", "eval.episodes=1")
    es_rl.envs.make_vec("InvertedPendulum-v4", 2).close()
    assert "out of date" not in capsys.readouterr().out and not [w for w in recwarn if "make_vec" in str(w.filename)]


def test_pairs_without_declared_keys_are_plain():
    assert pairs(["a=1", "b=c=d"]) == {"a": "1", "b": "c=d"}
    assert pairs(["--no-obs-norm", "x=1"], Config) == {"obs_norm": "false", "x": "1"}
