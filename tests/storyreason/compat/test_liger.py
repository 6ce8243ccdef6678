"""Liger's rotary embedding in Qwen2.5-VL's language model, in Triton's interpreter: the kernel without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storyreason.training import TrainingConfig, setup
from storyreason.training.config import Recompute

GRADIENTS = """
import sys
import torch
from storyreason import model
from storyreason.compat import liger

def gradient(recompute):
    torch.manual_seed(0)
    net.zero_grad()
    net.gradient_checkpointing_disable()
    if recompute:
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    words = torch.randint(0, 200, (1, 24))
    net(input_ids=words, labels=words).loss.backward()
    return torch.cat([one.grad.flatten() for one in net.model.language_model.parameters()])

net = model.load(sys.argv[1], None, dtype="float32").train()
as_it_was = gradient(recompute=False)
liger.rotate(net)
assert "liger" in sys.modules[type(net).__module__].apply_rotary_pos_emb.__module__
for recompute in (False, True):
    print(float((gradient(recompute) - as_it_was).norm() / as_it_was.norm()))
"""


@pytest.mark.server
def test_gradients_are_those_of_transformers_also_with_recomputed_layers(tiny_base: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", GRADIENTS, str(tiny_base)]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    differences = [float(line) for line in done.stdout.split()]
    assert len(differences) == 2
    assert max(differences) < 1e-4


@pytest.mark.parametrize(
    ("recompute", "rotates"), [("none", True), ("long", True), ("all", True), ("selective", False)]
)
def test_products_that_are_kept_are_not_rotated_twice(tiny_base: Path, recompute: Recompute, rotates: bool) -> None:
    from transformers import AutoConfig

    base = AutoConfig.from_pretrained(tiny_base)
    assert setup.rotates(base, TrainingConfig(recompute=recompute)) is rotates
