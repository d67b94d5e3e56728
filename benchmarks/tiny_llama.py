"""A random Llama with about 24,000 weights and a tokenizer of bytes, for tests and benchmarks. Downloads nothing."""

from __future__ import annotations

from pathlib import Path

END = "<end>"


def write(path: Path) -> None:
    """Write the model and its tokenizer into a directory. They are the same each time."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)} | {END: len(letters)}
    tokens = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ends = {"eos_token": END, "pad_token": END}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **ends).save_pretrained(path)
    torch.manual_seed(0)
    end = len(letters)
    config = transformers.LlamaConfig(
        vocab_size=end + 1, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=end, bos_token_id=end, pad_token_id=end,
        tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
