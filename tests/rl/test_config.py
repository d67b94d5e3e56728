"""Keys: parsing, ranges, precedence, help."""

import dataclasses
import re
from operator import attrgetter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from es_rl.compare.config import CompareConfig
from es_rl.config import build, check_saved, flatten, help_text, leaves, read_file, to_yaml, tree_of
from es_rl.envs.worlds import WORLDS
from es_rl.errors import ConfigError
from es_rl.es.chunks import idle_workers
from es_rl.llm.config import LlmConfig
from es_rl.rl.config import Config, parse_resume, parse_train, read_train
from es_rl.rl.presets import BY_STEPS, JUDGED, OF_THE_POLICY, PRESETS, preset
from es_rl.rl.segments.config import asks_for_episodes
from es_rl.sweep.config import SweepConfig
from es_rl.text.config import TextConfig

BAD = {
    "": "env is missing: give a Gymnasium id",
    "env=": "env is missing",
    "env=A-v0 es.sigmaa=1": "es.sigmaa: unknown key. Did you mean es.sigma",
    "env=A-v0 population=4": "population: unknown key. Did you mean es.population",
    "env=A-v0 generations": "generations: not of the form key=value",
    "env=A-v0 =3": "=3: not of the form key=value",
    "env=A-v0 seed=1 seed=2": "seed: given twice",
    "env=A-v0 es=3": "es: a group of keys. Set one of them: es.noise",
    "env=A-v0 es.population=7": "es.population=7: members come in antithetic pairs, so it must be even: 6 or 8",
    "env=A-v0 es.population=0": "es.population=0: must be >= 2",
    "env=A-v0 es.population=-4": "es.population=-4: must be >= 2",
    "env=A-v0 es.population=many": "es.population=many: wrong type",
    "env=A-v0 es.population=": "es.population=None: wrong type",
    "env=A-v0 env_kwargs=": "env_kwargs=None: wrong type. It must be names with values",
    f"env=A-v0 es.population=1{400 * '0'}": "too large a number",
    f"env=A-v0 optim.lr=1{400 * '0'}": "wrong type. It must be a number",
    "env=A-v0 env_kwargs.a=[1,2] env_kwargs.a.b=1": "env_kwargs.a.b=1: wrong type",
    "env=A-v0 es.sigma=0": "es.sigma=0.0: must be > 0",
    "env=A-v0 es.sigma=-1": "es.sigma=-1.0: must be > 0",
    "env=A-v0 es.sigma=nan": "es.sigma=nan: must be > 0",
    "env=A-v0 es.sigma=inf": "es.sigma=inf: must be > 0",
    "env=A-v0 es.sigma_decay=1.1": "es.sigma_decay=1.1: must be > 0 and <= 1",
    "env=A-v0 target_return=nan": "target_return=nan: must be a finite number",
    "env=A-v0 workers=-1": "workers=-1: must be >= 0",
    "env=A-v0 workers=1.5": "workers=1.5: wrong type",
    "env=A-v0 seed=-1": "seed=-1: must be >= 0",
    "env=A-v0 seed=9223372036854775808": "must be >= 0 and <= 9223372036854775807",
    "env=A-v0 chunk=3": "chunk=3: must be even",
    "env=A-v0 es.top=33": "es.top=33: at most es.population/2 = 32",
    "env=A-v0 minutes=0": "minutes=0.0: must be > 0",
    "env=A-v0 obs_norm=perhaps": "obs_norm=perhaps: wrong type",
    "env=A-v0 mlp.hidden=wide": "mlp.hidden=wide: wrong type. It must be a list, such as 64,64",
    "env=A-v0 mlp.hidden=[64,0]": "mlp.hidden=0: must be >= 1",
    "env=A-v0 mlp.hidden=[": "mlp.hidden=[: not readable",
    "env=A-v0 mlp.activation=tan": "must be one of tanh, relu, elu, gelu, silu, leaky_relu. Did you mean tanh",
    "env=A-v0 config=missing.yaml": "missing.yaml: cannot be read (No such file",
    "env=A-v0 run=${seed}": "run=${seed}: must not contain ${",
    "env=A-v0 env_kwargs.a=[1,'${oc.env:HOME}']": "must not contain ${",
    "env=A-v0 env_kwargs=3": "env_kwargs=3: wrong type",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: line or "nothing")
def test_bad_keys_are_refused_in_one_line(line):
    with pytest.raises(ConfigError) as caught:
        parse_train(line.split())
    assert BAD[line] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_values_of_every_kind():
    config = parse_train(
        [
            "env=A-v0",
            "es.population=10",
            "es.sigma=1e-2",
            "mlp.hidden=[8,4]",
            "obs_norm=false",
            "workers=0",
            "run=007",
            "seed=0",
            "env_kwargs.xml_file=a.xml",
            "env_kwargs.range=[0,1.5]",
            "env_kwargs.deep.er=true",
            "target_return=-5",
        ]
    )
    assert (config.es.population, config.es.sigma, config.mlp.hidden) == (10, 0.01, [8, 4])
    assert (config.obs_norm, config.workers, config.run, config.target_return) == (False, 0, "007", -5.0)
    assert config.env_kwargs == {"xml_file": "a.xml", "range": [0, 1.5], "deep": {"er": True}}


def test_later_sources_win(tmp_path):
    (tmp_path / "keys.yaml").write_text("env: HalfCheetah-v4\nes:\n  sigma: 0.5\n  top: 3\nseed: 4\n")
    config = parse_train(["config=keys.yaml", "seed=9"])
    assert (config.env, config.seed, config.es.sigma, config.es.top) == ("HalfCheetah-v4", 9, 0.5, 3)
    assert config.optim.name == PRESETS["HalfCheetah"]["optim.name"] != Config().optim.name
    assert parse_train(["env=HalfCheetah-v5", "es.segment=0"]).es.limit == PRESETS["HalfCheetah"]["es.limit"]
    assert parse_train(["env=Other-v4"]).es == Config().es


@pytest.mark.parametrize("family", JUDGED)
def test_presets_of_judged_steps_are_valid_and_asked_for_by_the_segment(family):
    env = f"env=es_rl/{family}-v0" if f"es_rl/{family}-v0" in WORLDS else f"env={family}-v4"
    config = parse_train([env, "es.segment=32"])
    known = {**JUDGED[family], "es.segment": 32}
    assert {k: v for k, v in flatten(dataclasses.asdict(config)).items() if k in known} == known
    assert config.es.population == Config().es.population
    whole = PRESETS.get(family, {}).get("es.population", Config().es.population)
    assert parse_train([env, "es.segment=0"]).es.population == whole
    assert (parse_train([env]).es.segment > 0) == (family in BY_STEPS)


@pytest.mark.parametrize(
    "keys",
    [
        "es.population=64", "es.noise=dense", "es.limit=200", "chunk=2", "serial=true", "inference=central",
        "policy=transformer", "backend=gymnasium", "optim.name=torch.optim.Adam", "es.segment=0",
    ],
)  # fmt: skip
def test_what_only_whole_episodes_have_asks_for_them(keys, tmp_path):
    assert parse_train(["env=Ant-v4", keys]).es.segment == 0
    name, value = keys.split("=")
    (tmp_path / "keys.yaml").write_text(f"env: Ant-v4\n{name}: {value}\n")
    assert parse_train(["config=keys.yaml"]).es.segment == 0


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("credit.epochs=5 es.population=64", "credit.epochs=5: is for judged steps, and here whole episodes judge"),
        ("critic.lr=0.1 es.segment=0", "critic.lr=0.1: is for judged steps"),
        ("es.segment=64 es.population=64", "es.population=64: is for members that play episodes"),
        ("es.segment=64 chunk=4", "chunk=4: is for members that play episodes"),
        ("es.segment=64 serial=true", "serial=true: is for members that play episodes"),
    ],
)
def test_keys_without_effect_are_refused(keys, said):
    with pytest.raises(ConfigError, match=said):
        parse_train(["env=HalfCheetah-v4", *keys.split()])


def test_defaults_of_whole_episodes_ask_for_nothing():
    assert parse_train(["env=HalfCheetah-v4", "serial=false", "chunk=null"]).es.segment > 0
    assert parse_train(["env=HalfCheetah-v4", "es.segment=00"]).mlp.hidden == [32, 32]
    assert not asks_for_episodes({"serial": False, "chunk": None}) and asks_for_episodes({"serial": True})


def test_judged_steps_are_not_the_default_where_simulations_may_not_be_saved():
    assert parse_train(["env=es_rl/Ant-v5", "mlp.hidden=[8]", "es.sigma=0.01", "seed=3"]).es.segment > 0
    for env in ("module:Ant-v4", "Ant-v3", "other/Ant-v4"):
        assert parse_train([f"env={env}"]).es.segment == 0


@pytest.mark.parametrize(
    ("keys", "fits", "left"),
    [
        ("env=Swimmer-v4 policy=mlp", {}, "es.population=8 es.sigma=0.2142 es.shaping=zscore"),
        ("env=Swimmer-v4 policy=module:function es.sigma=0.2142", {"es.sigma": 0.2142}, "es.population=8 es.shaping="),
        ("env=Ant-v4 es.segment=0 policy=transformer", {"es.limit": 200, "es.reward_shift": 1.0}, "es.population=32"),
        ("env=HumanoidStandup-v4 policy=mlp", {"obs_first": 45, "obs_clip": 5.0}, "optim.name=sgd"),
        ("env=Quadruped-v0 policy=linear es.segment=24", {"es.segment": 24, "credit.simulations": 256, "es.sigma": 0.004,
         "optim.lr": 6e-4, "critic.discount": 0.98, "eval.every": 50}, "optim.lr=0.001 credit.batch=1024"),
        ("env=Other-v0 policy=linear es.segment=64", {"es.sigma": 0.004}, ""),
        ("env=Swimmer-v4 policy=linear", {"es.population": 8}, ""),
        ("env=HalfCheetah-v4 policy=mlp mlp.hidden=7", {"optim.lr": 0.001234}, ""),
    ],
)  # fmt: skip
def test_what_a_preset_found_for_another_policy_is_left_out_and_told(keys, fits, left):
    config, origins = read_train(keys.split())
    flat = flatten(dataclasses.asdict(config))
    assert {name: flat[name] for name in fits} == fits
    assert left in "".join(origins.notes) and bool(origins.notes) == bool(left)
    if left:
        plain = flatten(dataclasses.asdict(parse_train(["env=Other-v0", *keys.split()[1:]])))
        changed = {name for name in flat if name.startswith(("es.", "optim.")) and flat[name] != plain[name]}
        assert changed <= {*fits, "es.limit"}
        again = read_train([*keys.split(), *origins.notes[0].rpartition(" give ")[2].split()])
        known = preset(config.env, {"es.segment": config.es.segment})
        got = flatten(dataclasses.asdict(again[0]))
        assert again[1].notes == ()
        assert {name: got[name] for name in known if not name.startswith(OF_THE_POLICY)}.items() <= known.items()


@pytest.mark.parametrize("env", PRESETS)
def test_presets_are_valid(env):
    config = parse_train([f"env={env}-v4", "es.segment=0"])
    assert {k: v for k, v in flatten(dataclasses.asdict(config)).items() if k in PRESETS[env]} == PRESETS[env]


def test_files_of_keys_are_checked(tmp_path):
    (tmp_path / "a.yaml").write_text("env: X-v0\nes:\n  sigm: 1\n")
    with pytest.raises(ConfigError, match=r"a.yaml: es.sigm: unknown key. Did you mean es.sigma"):
        parse_train(["config=a.yaml"])
    (tmp_path / "a.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="must hold keys"):
        parse_train(["config=a.yaml"])
    (tmp_path / "a.yaml").write_text("env: [\n")
    with pytest.raises(ConfigError, match="not a YAML file"):
        parse_train(["config=a.yaml"])
    (tmp_path / "a.yaml").write_text("env: !!python/object/apply:os.system ['touch hacked']\n")
    with pytest.raises(ConfigError, match="not a YAML file"):
        parse_train(["config=a.yaml"])
    assert not (tmp_path / "hacked").exists()


def test_a_module_is_taken_from_the_command_line_only(tmp_path):
    (tmp_path / "a.yaml").write_text("env: evil:Thing-v0\n")
    with pytest.raises(ConfigError, match="command line only. If you trust it, add env=evil:Thing-v0"):
        parse_train(["config=a.yaml"])
    assert parse_train(["config=a.yaml", "env=evil:Thing-v0"]).env == "evil:Thing-v0"
    (tmp_path / "a.yaml").write_text("env: ${run}\nrun: evil:Thing-v0\n")
    with pytest.raises(ConfigError, match="must not contain"):
        parse_train(["config=a.yaml"])
    saved = flatten(dataclasses.asdict(parse_train(["env=evil:Thing-v0"])))
    with pytest.raises(ConfigError, match="command line only"):
        parse_resume(saved, [], "config.yaml")
    assert parse_resume(saved, ["env=evil:Thing-v0"], "config.yaml").env == "evil:Thing-v0"
    saved = {"env": "python:<lambda>", "policy": "python:small"}  # these tell nothing: any name may be given
    with pytest.raises(ConfigError, match="env=NAME or env=module:Name with the same spaces"):
        parse_resume(saved, ["policy=networks:small"], "config.yaml")
    config = parse_resume(saved, ["env=A-v0", "policy=networks:small"], "config.yaml")
    assert (config.env, config.policy) == ("A-v0", "networks:small")


def test_a_saved_configuration_is_read_back_whole(tmp_path):
    config = parse_train(["env=Humanoid-v4", "env_kwargs.a=1", "env_kwargs.b.c=x", "mlp.hidden=[3]", "run=here"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert build(Config, [(read_file(tmp_path / "config.yaml", Config), "")]) == config


VALUES = [
    "{1: 5.0}", "{left.hip: 1.0}", "{true: 1, 2.5: x}", "{a: {b: {1: 2}}, c: {}}", "[1, [2, {a: 3}]]", "null", "'null'",
    "'1'", "yes", "'yes'", "1e3", "'1e3'", "0x10", "1_000", "2020-01-01", "12:30:00", "''", "' a'", "é😀", ".inf", "-.inf",
    ".nan", "5e-324", "-0.0", "123456789012345678901234567890", "!!binary aGk=", "'a#b: c'", "'- a'", "1.", "'~'",
    "'y'", "{N: 1}", "!!python/object/apply:pathlib.PosixPath [a/b]",
]  # fmt: skip


@pytest.mark.parametrize("way", ["command line", "file", "dotted file"])
def test_arguments_of_an_environment_arrive_as_yaml_has_them_and_are_saved_unchanged(tmp_path, way):
    lines = {f"x{i}": text for i, text in enumerate(VALUES)}
    found = [OmegaConf.create(f"x: {text}")["x"] for text in VALUES]
    expected = [OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for value in found]
    if way == "command line":
        config = parse_train(["env=A-v0", *(f"env_kwargs.{name}={text}" for name, text in lines.items())])
    else:
        start, before = ("env_kwargs:\n", "  ") if way == "file" else ("", "env_kwargs.")
        (tmp_path / "keys.yaml").write_text(
            start + "".join(f"{before}{name}: {text}\n" for name, text in lines.items()), encoding="utf-8"
        )
        config = parse_train(["env=A-v0", "config=keys.yaml"])
    assert [*map(repr, config.env_kwargs.items())] == [*map(repr, zip(lines, expected, strict=True))]
    check_saved(config)
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    saved = read_file(tmp_path / "config.yaml", Config)
    assert repr(build(Config, [(saved, "config.yaml: ")])) == repr(config)
    assert repr(parse_resume(saved, [], "config.yaml")) == repr(config)


def test_a_configuration_is_written_as_omegaconf_writes_it():
    config = parse_train(["env=A-v0", *(f"env_kwargs.x{i}={text}" for i, text in enumerate(VALUES))])
    assert to_yaml(config) == OmegaConf.to_yaml(OmegaConf.create(tree_of(config)))


@pytest.mark.parametrize("kind", [Config, TextConfig, LlmConfig, CompareConfig, SweepConfig])
def test_defaults_have_the_types_of_their_keys(kind):
    given = {name: attrgetter(name)(kind()) for name, _ in leaves(kind)}
    assert repr(build(kind, [(given, "file: ")])) == repr(build(kind, []))


@pytest.mark.parametrize(
    "text", ["'???'", "[1, '???']", "{a: '${b}'}", "!!set {a}", "{null: 1}", "{[1]: 2}", "*a", "\udcff"]
)
def test_an_argument_that_cannot_be_kept_is_refused_at_the_start(text):
    with pytest.raises(ConfigError, match=r"env_kwargs.x=|cannot be saved"):
        check_saved(parse_train(["env=A-v0", f"env_kwargs.x={text}"]))
    with pytest.raises(ConfigError, match="wrong type. Key 1"):
        parse_train(["env=A-v0", "env_kwargs={1: 2}"])


@pytest.mark.parametrize("change", ["policy=linear", "env=B-v0", "es.sigma=0.2", "seed=1", "chunk=4", "env_kwargs.x=1"])
def test_what_theta_depends_on_may_not_change_on_resume(change):
    saved = flatten(dataclasses.asdict(parse_train(["env=A-v0", "policy=mlp"])))
    with pytest.raises(
        ConfigError, match=rf"{re.escape(change)}: the run has .*Start a new run, or change only: .*generations, "
    ):
        parse_resume(saved, [change], "config.yaml")


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("{1: 5}", "{'1': 5}"),
        ("{a: {1: x}}", "{a: {'1': x}}"),
        ("{}", "null"),
        ("1", "'1'"),
        ("1", "1.0"),
        ("1", "true"),
    ],
)
def test_a_number_and_its_text_are_not_the_same_on_resume(was, now):
    saved = read_file_of(parse_train(["env=A-v0", f"env_kwargs.x={was}"]))
    with pytest.raises(ConfigError, match=r"env_kwargs.x=.*: the run has .* cannot change when it goes on"):
        parse_resume(saved, [f"env_kwargs.x={now}"], "config.yaml")
    assert (
        parse_resume(saved, [f"env_kwargs.x={was}"], "config.yaml").env_kwargs
        == parse_train(["env=A-v0", f"env_kwargs.x={was}"]).env_kwargs
    )


def test_an_entry_of_nothing_is_not_one_that_is_missing():
    saved = read_file_of(parse_train(["env=A-v0"]))
    with pytest.raises(ConfigError, match=r"env_kwargs.x=None: the run has nothing, and this cannot change"):
        parse_resume(saved, ["env_kwargs.x=null"], "config.yaml")


def test_stop_rules_and_workers_may_change_on_resume():
    saved = flatten(dataclasses.asdict(parse_train(["env=A-v0", "generations=3"])))
    config = parse_resume(saved, ["generations=9", "workers=1", "eval.every=2", "seed=0"], "config.yaml")
    assert (config.generations, config.workers, config.eval.every) == (9, 1, 2)


def test_the_chunk_follows_from_population_and_episodes_alone():
    chunks = {p: parse_train(["env=A-v0", f"es.population={p}"]).chunk for p in (2, 10, 16, 64, 256, 1024)}
    assert chunks == {2: 2, 10: 6, 16: 8, 64: 16, 256: 32, 1024: 64}
    assert parse_train(["env=A-v0", "es.population=460", "es.episodes=4"]).chunk == 16


@pytest.mark.parametrize("population", [2, 64, 256, 4096])
def test_two_chunks_take_turns_where_one_place_acts_for_all(population):
    chunk = parse_train(["env=A-v0", f"es.population={population}", "inference=central"]).chunk
    assert chunk == max(2, min(1024, population // 2))


@pytest.mark.parametrize("name", ["beta1", "beta2"])
def test_a_moment_must_forget(name):
    with pytest.raises(ConfigError, match=rf"optim.{name}=1.0: must be >= 0 and < 1"):
        parse_train(["env=A-v0", f"optim.{name}=1"])


def test_idle_workers_are_told_of():
    assert idle_workers(64, 16, 4) == idle_workers(64, 16, 0) == ""
    assert idle_workers(2, 2, 4).endswith(
        "2 members in chunks of 2 keep 1 of 4 workers busy. Give a larger es.population."
    )
    assert idle_workers(64, 16, 16) == (
        "warning: 64 members in chunks of 16 keep 4 of 16 workers busy. Give chunk=4, or a larger es.population."
    )


def test_help_explains_every_key():
    text = help_text(Config, "usage")
    for name, field in leaves(Config):
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert len(field.metadata["help"]) > 5 and field.metadata["help"] in line


def test_what_is_saved_is_what_was_given():
    given = [
        "env=A-v0",
        "env_kwargs.mode='\"off\"'",
        "env_kwargs.level='1'",
        "env_kwargs.range=[0.9,.inf]",
        "env_kwargs.empty={}",
    ]
    config = parse_train(given)
    assert config.env_kwargs == {"mode": '"off"', "level": "1", "range": [0.9, float("inf")], "empty": {}}
    saved = read_file_of(config)
    assert parse_resume(saved, ["generations=9"], "config.yaml").env_kwargs == config.env_kwargs
    for argument in ("env_kwargs={}", "env_kwargs={level: 2}", "env_kwargs.more=3"):
        with pytest.raises(ConfigError, match="this cannot change when it goes on"):
            parse_resume(saved, [argument], "config.yaml")


def read_file_of(config):
    Path("saved.yaml").write_text(to_yaml(config))
    return read_file(Path("saved.yaml"), Config)


@pytest.mark.parametrize(("run", "kept"), [("{}", ""), ("other", "other"), ("7", "7"), ("''", "")])
def test_the_file_of_a_run_does_not_name_the_new_one(tmp_path, run, kept):
    (tmp_path / "config.yaml").write_text(f"env: A-v0\nes:\n  population: 8\nrun: {run.format(tmp_path)}\n")
    config = parse_train([f"config={tmp_path / 'config.yaml'}"])
    assert (config.es.population, config.run) == (8, kept)
