#!/usr/bin/env python3
"""Writes events.tfevents: the file that tests/test_run_events.cpp must write byte for byte.

Independent of Nibble: the messages are built and serialized by TensorBoard's own protocol buffers,
framed by its record format, and read back by its loader. Needs `pip install tensorboard`; the
tests need only the file.
"""

import bisect
import pathlib
import struct
import sys

from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

VALUES = [-2.5, -1.0, 0.0, 0.0, 2**-10, 0.5, 0.5, 3.0]
START = 1.7e9


def masked_crc(data: bytes) -> bytes:
    return struct.pack("<I", pywrap_tensorflow.masked_crc32c(data))


def histogram(values):
    positive, limit = [], 1e-12
    while limit < 1e20:
        positive.append(limit)
        limit *= 1.1
    positive.append(sys.float_info.max)
    limits = [-x for x in reversed(positive)] + [0.0] + positive
    counts = [0.0] * len(limits)
    for value in values:
        counts[bisect.bisect_right(limits, value)] += 1
    merged = []
    for limit, count in zip(limits, counts):
        if merged and count == 0 and merged[-1][1] == 0:
            merged.pop()
        merged.append((limit, count))
    return summary_pb2.HistogramProto(
        min=min(values), max=max(values), num=len(values), sum=sum(values),
        sum_squares=sum(v * v for v in values),
        bucket_limit=[m[0] for m in merged], bucket=[m[1] for m in merged])


def events():
    value = summary_pb2.Summary.Value
    yield event_pb2.Event(file_version="brain.Event:2")
    yield event_pb2.Event(step=1, summary=summary_pb2.Summary(
        value=[value(tag="loss", simple_value=3.25), value(tag="lr", simple_value=3e-4)]))
    yield event_pb2.Event(step=2, summary=summary_pb2.Summary(
        value=[value(tag="h.0/weight", histo=histogram(VALUES))]))
    text = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=["*Once* upon a time".encode()])
    text.tensor_shape.dim.add(size=1)
    metadata = summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text"))
    yield event_pb2.Event(step=300, summary=summary_pb2.Summary(
        value=[value(tag="sample", tensor=text, metadata=metadata)]))
    yield event_pb2.Event(step=5000000000, summary=summary_pb2.Summary(
        value=[value(tag="loss", simple_value=0.0)]))


def main():
    path = pathlib.Path(__file__).with_name("events.tfevents")
    with path.open("wb") as out:
        for number, event in enumerate(events()):
            event.wall_time = START + number
            payload = event.SerializeToString(deterministic=True)
            length = struct.pack("<Q", len(payload))
            out.write(length + masked_crc(length) + payload + masked_crc(payload))
    for event in event_file_loader.EventFileLoader(str(path)).Load():
        print(event.step, event.wall_time, [v.tag for v in event.summary.value])


if __name__ == "__main__":
    main()
