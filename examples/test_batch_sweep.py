"""A sweep of batch sizes in one test: each measurement has a label, and all are there to be compared."""

from pytest_llmperf import llm_perf, random_weights

MODEL = random_weights("llama", num_hidden_layers=4, hidden_size=256, intermediate_size=688, vocab_size=8_000)


@llm_perf(model=MODEL, prompt_tokens=32, output_tokens=16)
def test_batching_pays(llm):
    rate = {}
    for batch_size in (1, 2, 4, 8):
        measured = llm.measure(f"batch {batch_size}", batch_size=batch_size)
        rate[batch_size] = measured.output_tokens_per_s
    # Decoding reads every weight once per step, whatever the batch: eight sequences cost little more than one.
    assert rate[8] > 1.5 * rate[1]
