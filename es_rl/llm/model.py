"""A causal language model of Hugging Face, unchanged: open it safely, complete prompts, compute log-probabilities.

Shapes: n rows, T tokens of a row, V tokens of the vocabulary. A completion is the tokens after the prompt.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from es_rl.errors import ConfigError, EnvError, missing_extra
from es_rl.llm import chat
from es_rl.llm.config import DTYPES as NAMES

WEIGHTS = "*.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LOGITS = 1 << 25  # logits of one forward pass for log-probabilities, at most
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in NAMES}


def _transformers() -> Any:
    transformers: Any
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise missing_extra("language models need the package transformers", "llm") from error
    os.environ["TQDM_DISABLE"] = "1"  # some progress bars obey nothing else
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def fetch(name: str) -> Path:
    """Return the directory itself, or that of a Hub id, downloaded if needed. Raises `EnvError`, `ResourceError`."""
    path = Path(name)
    if path.is_dir():
        return path
    if path.exists() or name.startswith((".", "/", "~")):
        raise EnvError(f"model={name}: not a directory. Give one with config.json and {WEIGHTS}, or an id of the Hub.")
    _transformers()
    hub: Any = importlib.import_module("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=[WEIGHTS, "*.json", "*.txt", "*.model", "*.jinja"]))
    except Exception as error:
        raise EnvError(
            f"model={name}: not a directory, and not found on the Hub ({_line(error)}). Give a directory."
        ) from error


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check(path: Path) -> dict[str, Any]:
    """Return the options to open a directory with. Raises `EnvError` for weights that are missing or could run code."""
    name = str(path)
    described = path / "config.json"
    try:
        config = json.loads(described.read_text(encoding="utf-8")) if described.exists() else {}
    except (OSError, ValueError) as error:
        raise EnvError(f"model={name}: config.json cannot be read ({error}).") from error
    if "auto_map" in config:
        raise EnvError(
            f"model={name}: needs code of its own (auto_map in config.json, trust_remote_code), which is never run. "
            f"Use a model of an architecture that transformers knows."
        )
    quantized = sorted(path.glob("*.gguf"))
    if any(path.glob(WEIGHTS)):
        return {"use_safetensors": True}
    if len(quantized) == 1:
        return {"gguf_file": quantized[0].name}
    if any(file for pattern in PICKLED for file in path.glob(pattern)):
        raise EnvError(
            f"model={name}: its weights are pickled only, which can run code when they are read. Convert them where "
            f"you trust them: AutoModelForCausalLM.from_pretrained(…).save_pretrained(DIRECTORY) writes safetensors."
        )
    raise EnvError(f"model={name}: has neither {WEIGHTS} nor one *.gguf file.")


def open_model(path: Path, dtype: str) -> tuple[nn.Module, Any]:
    """Return the model, in evaluation mode on the CPU, and its tokenizer. Raises `EnvError`, `ResourceError`."""
    name, how, transformers = str(path), check(path), _transformers()
    source = {k: v for k, v in how.items() if k == "gguf_file"}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, dtype=DTYPES[dtype], **how
        )
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        raise EnvError(f"model={name}: cannot be opened: {_line(error)}") from error
    if source:  # its weights were dequantised: from now on an ordinary model
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise EnvError(f"model={name}: its tokenizer has neither a padding nor an end token.")
    return model.eval().requires_grad_(False), tokenizer


@dataclass(frozen=True)
class Completion:
    """The text that a model writes after a prompt."""

    text: str  # with what the prompt already holds of the answer, if it is chat messages
    tokens: list[int]  # up to and including the end token


class Language:
    """A model and its tokenizer on a device."""

    def __init__(self, model: nn.Module, tokenizer: Any, device: torch.device) -> None:
        self.model, self.tokenizer, self.device = model.to(device), tokenizer, device
        self._ends = _ends(model, tokenizer)
        self._pad = _padding(model, tokenizer)
        self._silent = {*self._ends, self._pad, tokenizer.pad_token_id, tokenizer.bos_token_id}  # not in a text
        self.text_config: Any = model.config.get_text_config()  # type: ignore[union-attr, operator]

    def encode(self, prompts: Sequence[Any]) -> list[list[int]]:
        """Return tokens: of a string as it is, of chat messages by the model's template. Raises `ConfigError`."""
        return [self._encode(prompt) for prompt in prompts]

    def _encode(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            ids: list[int] = self.tokenizer(prompt)["input_ids"]
            return ids
        templated: list[int] = self.tokenizer(chat.text(self.tokenizer, prompt), add_special_tokens=False)["input_ids"]
        return templated

    @torch.no_grad()
    def complete(
        self, prompts: Sequence[Any], *, copies: int, most: int, beat: Callable[[int], None]
    ) -> list[list[Completion]]:
        """Return the greedy completions, at most `most` tokens each, (copies, prompts): one list per member.

        The rows of a member are adjacent, as the population context expects. `beat(n)` is called at each token with the
        number of rows.
        """
        ids, mask = self._padded(self.encode(prompts))
        ids, mask = ids.repeat(copies, 1), mask.repeat(copies, 1)  # (copies·B, T)
        transformers = _transformers()

        class Beat(transformers.StoppingCriteria):  # type: ignore[misc, name-defined]
            def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
                beat(len(input_ids))
                return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        greedy = transformers.GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=most, eos_token_id=self._ends,
            pad_token_id=self._pad, use_cache=True,
        )  # fmt: skip
        model: Any = self.model
        # Otherwise the model's own settings, such as a repetition penalty, would be added to ours.
        own, model.generation_config = getattr(model, "generation_config", None), greedy
        try:
            out = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=greedy,
                stopping_criteria=transformers.StoppingCriteriaList([Beat()]),
            )[:, ids.shape[1] :].tolist()  # fmt: skip
        finally:
            model.generation_config = own
        begun = [chat.begun(self.tokenizer, prompt) for prompt in prompts] * copies
        said = [self._completion(row, text) for row, text in zip(out, begun, strict=True)]
        return [said[i : i + len(prompts)] for i in range(0, len(said), len(prompts))]

    def _completion(self, row: list[int], begun: str) -> Completion:
        end = next((i + 1 for i, token in enumerate(row) if token in self._ends), len(row))
        # Other special tokens stay, such as <think> in some vocabularies: a reward may look for them.
        shown = [token for token in row[:end] if token not in self._silent]
        return Completion(begun + self.tokenizer.decode(shown, skip_special_tokens=False), row[:end])

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return tokens (n, T), padded on the left, and their mask: 1 for tokens, 0 for padding."""
        longest = max(map(len, rows))
        pad = self._pad
        ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return ids.to(self.device), mask.to(self.device)

    @torch.no_grad()
    def log_probabilities(
        self, prompts: Sequence[Any], said: Sequence[Completion], beat: Callable[[int], None] = lambda rows: None
    ) -> list[Tensor]:
        """Return the log-probabilities of the tokens of each completion after its prompt, float32 on the host."""
        result: list[Tensor] = []
        asked = self.encode(prompts)
        longest = max(len(a) + len(c.tokens) for a, c in zip(asked, said, strict=True))
        rows = max(1, LOGITS // (longest * int(self.text_config.vocab_size)))
        for first in range(0, len(asked), rows):
            part = list(zip(asked[first : first + rows], said[first : first + rows], strict=True))
            ids, mask = self._padded([a + c.tokens for a, c in part])
            places = (mask.cumsum(-1) - 1).clamp(min=0)
            logits = self.model(input_ids=ids, attention_mask=mask, position_ids=places).logits
            for row, (_, c) in zip(logits, part, strict=True):
                count = len(c.tokens)
                before = row[-count - 1 : -1].float().log_softmax(-1)  # (count, V)
                chosen = before[torch.arange(count), torch.tensor(c.tokens, device=self.device)]
                result.append(chosen.cpu())
            beat(0)
        return result


def check_lengths(language: Language, rows: Sequence[dict[str, Any]], most: int, key: str) -> int:
    """Return the length of the longest prompt in tokens.

    Raises `ConfigError` for a prompt that is empty or leaves no room for its completion, and for chat messages if the
    model has no template.
    """
    if language.tokenizer.chat_template is None and any(not isinstance(row["prompt"], str) for row in rows):
        raise ConfigError(f"{key}: has chat messages, but the model has no chat template. Give prompts as strings.")
    limit = getattr(language.text_config, "max_position_embeddings", None)
    lengths = [len(ids) for ids in language.encode([row["prompt"] for row in rows])]
    for i, length in enumerate(lengths, 1):
        if length == 0:
            raise ConfigError(f"{key}, row {i}: the prompt has no tokens.")
        if isinstance(limit, int) and length + most > limit:
            raise ConfigError(
                f"{key}, row {i}: a prompt of {length} tokens and max_new_tokens={most} are more than the model's "
                f"context of {limit}. Shorten it, or lower max_new_tokens."
            )
    return max(lengths)


def kl(theta: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """Return the distance of theta from the start, per token: mean of exp(d) − d − 1, d = log start − log theta.

    The arguments are log-probabilities of theta's completions. This is the estimator k3 of KL(theta ‖ start) (Schulman
    2020, "Approximating KL divergence"), never negative. It assumes drawn tokens, while ours are the likeliest ones.
    """
    d = torch.cat(list(start)) - torch.cat(list(theta))
    return float((d.exp() - d - 1).mean())


def _padding(model: nn.Module, tokenizer: Any) -> int:
    """Return a token for padding that the model has a vector for; some tokenizers' own one has none. It is masked."""
    rows = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    return int(tokenizer.pad_token_id) if tokenizer.pad_token_id < rows else 0


def _ends(model: nn.Module, tokenizer: Any) -> list[int]:
    """Return the tokens that end a completion."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = configured if isinstance(configured, list) else [configured]
    return sorted({int(token) for token in [*found, tokenizer.eos_token_id] if token is not None})
