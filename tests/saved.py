"""A model small enough to be made by a test, with a real tokenizer, to be saved to a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def words_of(sentences: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer that was trained on them."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([*sentences] * 20, vocab_size=vocabulary, special_tokens=["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, bos_token="<s>", eos_token="</s>")


def llama(tokenizer: Any) -> Any:
    """A Llama type of two layers for its words, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama",
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return AutoModelForCausalLM.from_config(config)
