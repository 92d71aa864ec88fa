"""scratch"""
import pytest
HEAD = "import pytest\nfrom pytest_llmperf import *\ndef fast(ids, n):\n    yield from range(n)\nFAST = stream(fast)\n"
@pytest.mark.parametrize("n", range(3))
@pytest.mark.parametrize("a", [[], ["-p", "no:hypothesispytest"], ["-p", "no:hypothesispytest", "-p", "no:benchmark"]])
def test_x(suite, n, a):
    suite.makepyfile(HEAD + """
@llm_perf(ttft_ms < 1000, model=stream(fast), prompt_tokens=8, output_tokens=4)
def test_a(llm):
    llm.measure()
""")
    r = suite.runpytest(*a)
    r.assert_outcomes(passed=1)
