#!/usr/bin/env python3
"""Writes the arrays of test_npy.cpp as numpy does, in format version 1.0.

    python3 make_npy.py npy        (needs numpy)
"""
import pathlib
import sys

import numpy as np

ARRAYS = {
    "f64": np.array(0.1),
    "f32": np.array([[1.5, -0.25, 3e38], [0, 1e-40, 7]], np.float32),
    "bf16": np.array([1, -2.5, 0.15625], np.float32),
    "i32": np.array([[[-1], [50256]]], np.int32),
    "i8": np.array([-128, 0, 127], np.int8),
    "u8": np.array([[0, 255], [7, 8]], np.uint8),
    "codes": np.array([[1, 2, 3, 15], [0, 9, 8, 7]], np.uint8),
    "none": np.zeros((0, 4), np.float32),
}
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
for name, array in ARRAYS.items():
    with open(folder / f"{name}.npy", "wb") as file:
        np.lib.format.write_array(file, array, version=(1, 0))
