"""What keys are called in other programs, so that an unknown one is answered with the argument to write here.

They are not accepted, only named: a name that means something else elsewhere must not start a training in silence. The
programs are Stable-Baselines3 and its zoo, CleanRL, RLlib, EvoTorch, evosax, pycma, OpenAI's and Uber's scripts, and
those that fine-tune language models. Of several keys that fit, the first one that the command has is named.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection
from typing import Any

HERE = {  # key → its names elsewhere
    "env": "env_id env_name envname environment gym_id task domain",
    "env_steps": "total_timesteps timesteps n_timesteps num_timesteps max_timesteps total_env_steps total_steps "
    "max_steps num_env_steps frames total_frames timesteps_total",
    "generations": "total_generations num_generations n_generations max_generations generation max_iterations "
    "maxiter n_iterations num_iterations iterations iters n_iter max_iters max_steps num_iters "
    "training_iteration epochs max_epochs",
    "minutes": "max_minutes time_limit time_budget",
    "target_return": "target reward_threshold stop_reward target_score ftarget episode_reward_mean",
    "target_reward": "target reward_threshold stop_reward",
    "tokens": "total_tokens max_tokens num_tokens total_timesteps",
    "seed": "random_seed rng_seed np_seed torch_seed",
    "workers": "n_jobs num_workers n_workers num_cpus num_cpu n_cpus n_cpu ncpu cpus nproc n_proc num_processes "
    "num_actors n_actors num_rollout_workers num_env_runners",
    "policy": "policy_type network actor arch",
    "mlp.hidden": "net_arch hidden hidden_sizes hidden_size hidden_layers hidden_dims hidden_layer_sizes layer_sizes "
    "fcnet_hiddens",
    "mlp.activation": "activation_fn activation_function nonlinearity",
    "obs_norm": "normalize normalize_obs norm_obs normalize_observations observation_normalization obs_normalization",
    "obs_clip": "clip_obs clip_observations",
    "es.population": "popsize pop_size population_size pop npop n_pop num_individuals n_members lambda lam",
    "es.sigma": "sigma noise_std noise_stdev noise_scale std stdev stdev_init sigma_init init_stdev init_sigma "
    "delta_std perturbation_scale perturb_std sigma0",
    "es.sigma_decay": "noise_decay stdev_decay",
    "es.top": "n_top num_top top_k deltas_used num_deltas_used elite_size n_elites",
    "es.episodes": "num_eval_rollouts n_rollouts num_rollouts rollouts episodes_per_member num_episodes_per_member",
    "es.shaping": "fitness_shaping ranking ranking_method shaping_fn fitness_transform",
    "es.segment": "n_steps num_steps rollout_length unroll_length horizon rollout_fragment_length",
    "optim.name": "optimizer optim_name optimizer_name opt",
    "optim.lr": "learning_rate lr lrate lr_init step_size stepsize alpha center_learning_rate init_lr "
    "learning_rate_init",
    "optim.weight_decay": "l2 l2coeff l2_coeff l2_coefficient",
    "critic.discount": "gamma discount_factor",
    "critic.gae": "gae_lambda gae lambda_",
    "critic.lr": "vf_lr value_lr value_learning_rate",
    "credit.clip": "clip_range clip_coef clip_param clip_epsilon",
    "credit.epochs": "n_epochs update_epochs num_sgd_iter num_epochs",
    "credit.batch": "batch_size minibatch_size sgd_minibatch_size",
    "batch": "batch_size per_device_train_batch_size train_batch_size minibatch_size",
    "env_kwargs.max_episode_steps": "max_episode_steps episode_length max_episode_length max_ep_len",
    "episodes": "n_eval_episodes eval_episodes num_episodes n_episodes num_eval_episodes n_evaluations",
    "eval.episodes": "n_eval_episodes eval_episodes num_eval_episodes evaluation_num_episodes evaluation_duration",
    "eval.every": "eval_freq eval_interval eval_every eval_frequency evaluation_interval eval_steps test_freq",
    "checkpoint.every": "save_freq checkpoint_freq save_interval checkpoint_interval checkpoint_frequency save_every "
    "save_steps",
    "checkpoint.keep": "save_total_limit keep_checkpoints_num num_to_keep",
    "out": "save_path output output_dir out_dir outdir output_path log_path logdir log_dir video_folder video_path",
    "gif": "gif_path",
    "seconds": "length duration video_length",
    "init": "load_path pretrained pretrained_model trained_agent init_from warm_start from_pretrained initial_policy",
    "resume": "resume_from resume_from_checkpoint load_checkpoint checkpoint_path restore ckpt",
    "trials": "n_trials num_trials num_samples",
    "parallel": "n_jobs num_workers max_concurrent_trials",
    "seeds": "n_seeds num_seeds",
    "model": "model_name model_id model_name_or_path base_model pretrained_model checkpoint_path",
    "corpus": "data dataset text file data_path train_file input",
    "data": "dataset dataset_name train_file data_path train_data",
    "reward": "reward_fn reward_func reward_funcs reward_function reward_model",
    "ctx": "block_size context_length context seq_len sequence_length max_seq_length seq_length",
    "gpt.layers": "n_layer n_layers num_layers depth",
    "gpt.width": "n_embd d_model hidden_size embed_dim width",
    "gpt.heads": "n_head n_heads num_heads",
    "max_new_tokens": "max_completion_length max_tokens max_length",
    "modules": "target_modules",
    "es.noise": "perturbation noise_type",
    "es.rank": "lora_rank lora_r",
}
# The same, for verbs that have another key besides: a training writes into its run, other verbs read one.
BESIDE = (
    ("checkpoint.every", "run", "save_path output output_dir out_dir outdir output_path log_path logdir log_dir "
     "log_folder save_dir experiment_dir run_dir exp_name experiment_name run_name folder"),
    ("checkpoint", "run", "load_path model_path trained_agent model folder logdir log_dir run_dir experiment_dir"),
)  # fmt: skip
SCALED = {  # key → (factor, what is counted elsewhere, its names): there, the value has another unit
    "es.population": (
        2, "pairs", "n_directions num_directions directions n_delta n_deltas num_deltas n_pairs num_pairs",
    ),
    "minutes": (60, "hours", "hours max_hours"),
}  # fmt: skip
GPU = "gpu cuda use_gpu gpus num_gpus n_gpus use_cuda accelerator"
SAID = (  # the key that the command must have, names elsewhere, what to do here
    (
        "es.segment",
        "n_envs num_envs n_env nenv num_envs_per_worker num_envs_per_env_runner vec_envs",
        "Simulations side by side follow from chunk, or are credit.simulations where steps are judged; processes are "
        "workers. Leave it out, or give one of these.",
    ),
    ("inference", GPU, "A GPU is for central inference. Give inference=central device=cuda, or leave it out."),
    ("device", GPU, "Give device=cuda, or leave it out."),
    (
        "es.sigma",
        "algo algorithm agent trainer alg",
        "Every training is by evolution strategies; es.noise, es.shaping, es.segment and optim.name choose among them. "
        "For PPO beside it: python -m es_rl.compare env=ID against=ppo.",
    ),
    ("", "deterministic stochastic", "What is judged is always theta itself, without noise. Leave it out."),
    (
        "",
        "verbose verbosity progress_bar quiet log_interval log_level debug",
        "A terminal shows a live panel; a file or a pipe gets a line for each generation. Leave it out.",
    ),
    (
        "",
        "tensorboard_log tensorboard tb_log tb use_tensorboard log_to_tensorboard tensorboard_dir",
        "Every run writes TensorBoard's files. Leave it out; to see them: tensorboard --logdir runs.",
    ),
    (
        "track",
        "wandb use_wandb with_wandb log_wandb wandb_project wandb_project_name wandb_entity wandb_mode report_to "
        "mlflow use_mlflow trackio use_trackio",
        "Give track=wandb, track=trackio or track=mlflow, or leave it out. Variables of the library name its project, "
        "such as WANDB_PROJECT.",
    ),
    ("", "render render_mode human", "Leave it out; to watch a run's policy: python -m es_rl.play run=RUN."),
    (
        "video.every",
        "capture_video record_video save_video record",
        "A film is made at the end, or every so many generations by video.every. Leave it out.",
    ),
)


def elsewhere(name: str, value: Any, known: Collection[str]) -> str:
    """Return what an unknown key is here, if it has this name in another program; else an empty string.

    `known` are the keys that the command has. The argument to write is complete, so that it can be pasted.
    """
    spelt = name.lower().replace("-", "_")
    names = {spelt, spelt.rpartition(".")[2], spelt.replace(".", "_")}
    has = {*known} | ({"resume"} if "checkpoint.every" in known else set())
    has |= {"env_kwargs.max_episode_steps"} if "env_kwargs" in known else set()
    rows = [(key, key, there) for key, there in HERE.items()] + list(BESIDE)
    for needed, key, there in rows:
        if names & {*there.split()} and needed in has:
            return f" Here it is {_argument(key, str(value))}."
    for key, (factor, unit, there) in SCALED.items():
        if names & {*there.split()} and key in known and (number := _number(str(value))) is not None:
            return f" Here it is {key}={factor * number:g}, for {value} {unit}."
    for needed, there, text in SAID:
        if names & {*there.split()} and (not needed or needed in known):
            return f" {text}"
    return ""


def _argument(key: str, value: str) -> str:
    """Return key=value as it can be typed in any shell: a list without its brackets, the rest quoted if need be."""
    plain = re.fullmatch(r"\s*\[([^][]*)\]\s*", value)
    return shlex.quote(f"{key}={plain[1].replace(' ', '') if plain else value}")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
