from pytest_llmperf import llm_perf


@llm_perf()
def test_generate(llm, model, prompt, output):
    llm.load(model)
    llm.measure(prompt_tokens=prompt, output_tokens=output)
