"""A model in a folder, with its tokenizer, driven by text: then tokenization is measured too.

Yours comes from `save_pretrained()` or the Hub; here a small Llama type is made on the spot, with a real
byte-level BPE tokenizer trained on this very file.
"""

from pathlib import Path

import pytest

from pytest_llmperf import detokenize_ms, llm_perf, peak_memory_mib, tokenize_ms, ttft_ms

PROMPT = "The model is in the session's cache by now, and a prompt of text is tokenized first."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(Path(__file__).read_text().splitlines(), vocab_size=1_000)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    path = tmp_path_factory.mktemp("models") / "small-llama"
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@llm_perf(ttft_ms < 2_000, tokenize_ms < 500, detokenize_ms < 500, prompt=PROMPT, output_tokens=32)
def test_text_prompt(llm, folder):
    llm.load(folder)
    llm.measure()


@llm_perf(peak_memory_mib < 64, prompt_tokens=256, output_tokens=8)
def test_token_ids(llm, folder):
    """Without a text, prompts are random token ids of exactly the length asked for."""
    llm.load(folder)
    measured = llm.measure()
    assert measured.workload.prompt_tokens == 256
    assert measured.unknown["tokenize_ms"].startswith("the prompt was token ids")
