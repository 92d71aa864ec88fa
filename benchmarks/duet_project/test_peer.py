import torch


def test_generate(benchmark, model, prompt, output):
    torch.set_num_threads(1)
    ids = torch.randint(1, 1000, (1, prompt))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": output}
    benchmark(model.generate, **given, do_sample=False, eos_token_id=None, pad_token_id=0)
