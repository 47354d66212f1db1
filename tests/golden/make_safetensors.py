#!/usr/bin/env python3
"""Writes python.safetensors with the reference implementation: one tensor of each dtype that Nibble has.

    python3 make_safetensors.py python.safetensors        (needs torch and safetensors)
"""
import sys

import torch
from safetensors.torch import save_file

save_file(
    {
        "f64": torch.tensor(0.1, dtype=torch.float64),
        "f32": torch.tensor([[1.5, -0.25, 3e38], [0, 1e-40, 7]]),
        "ids": torch.tensor([-1, 50256], dtype=torch.int32),
        "bf16": torch.tensor([1.0, -2.5, 0.15625]).bfloat16(),
        "e4m3": torch.tensor([1.5, -448.0]).to(torch.float8_e4m3fn),
        "e5m2": torch.tensor([0.25]).to(torch.float8_e5m2),
        "codes": torch.tensor([-128, 0, 127], dtype=torch.int8),
        "bytes": torch.tensor([[0, 255], [7, 8]], dtype=torch.uint8),
        "none": torch.zeros(0, 4),
    },
    sys.argv[1],
    metadata={"made_by": "safetensors"},
)
