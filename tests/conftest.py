"""What tests share: no network, a tiny model, a saved model with a real tokenizer, a fake target."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

pytest_plugins = ["pytester"]
