"""A small model of about 2 ms per token, and what `duet.py` edits in it."""

import functools
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

PREFILL, DECODE = 0.0, 0.0  # shares of a step's own time for which it is held up
DTYPE = torch.float32
ATTENTION = "sdpa"
USE_CACHE = True
READS = False
KEEPS = False


class Model(GPT2LMHeadModel):
    @functools.wraps(GPT2LMHeadModel.generate)
    def generate(self, *args, **kwargs):
        self.began = time.thread_time()  # stands still while the other side has its turn
        return super().generate(*args, **kwargs)

    @functools.wraps(GPT2LMHeadModel.forward)
    def forward(self, input_ids=None, **kwargs):
        output = super().forward(input_ids=input_ids, **kwargs)
        if KEEPS:
            self.kept.append(output.logits.repeat(1, 1, 16))
        share, ended = DECODE if input_ids.shape[1] == 1 else PREFILL, time.thread_time()
        while time.thread_time() < ended + share * (ended - self.began):
            pass
        self.began = time.thread_time()
        return output


def build():
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=3, n_embd=256, n_head=4, vocab_size=1000, bos_token_id=0, eos_token_id=0)
    shape._attn_implementation = ATTENTION
    model = Model(shape).to(DTYPE).eval()
    model.generation_config.use_cache = USE_CACHE
    model.began, model.kept = 0.0, []
    for block in model.transformer.h if READS else ():
        block.register_forward_hook(lambda block, given, made: made[0].abs().max().item() and None)
    return model
