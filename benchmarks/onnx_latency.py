"""Latency of ONNX files on ONNX Runtime, side by side: one thread, processor time, taking turns, median of ratios."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np

STEP = {"sequence_length": 1, "decoder_sequence_length": 1}
ONE = {"batch_size": 1}
DECODER = [
    ("model.onnx", "prompt of 128", {**ONE, "sequence_length": 128, "past_sequence_length": 0}),
    ("model.onnx", "step after 128", {**ONE, **STEP, "past_sequence_length": 128}),
    ("model.onnx", "step after 900", {**ONE, **STEP, "past_sequence_length": 900}),
    ("model.onnx", "4 rows after 900", {**STEP, "batch_size": 4, "past_sequence_length": 900}),
]
MERGED, TEXTS = "decoder_model_merged.onnx", "encoder_batch_size"
CASES = {
    "bert": [("model.onnx", "128 tokens", {**ONE, "sequence_length": 128})],
    "gpt2": DECODER,
    "llama": DECODER,
    "vit": [("model.onnx", "one image", {**ONE, "num_channels": 3, "height": 224, "width": 224})],
    "whisper": [
        ("encoder_model.onnx", "encoder", {**ONE, "feature_size": 80, "encoder_sequence_length": 3000}),
        (MERGED, "step after 64", {"encoder_sequence_length": 1500, **STEP}),
        (MERGED, "5 beams after 64", {"encoder_sequence_length": 1500, **STEP, "batch_size": 5}),
    ],
    "t5": [
        ("encoder_model.onnx", "encoder, 128 tokens", {**ONE, "encoder_sequence_length": 128}),
        (MERGED, "step after 64", {"encoder_sequence_length": 128, **STEP}),
        (MERGED, "4 beams, 512 tokens", {"encoder_sequence_length": 512, **STEP, "batch_size": 4}),
        (MERGED, "4 texts, 4 beams", {"encoder_sequence_length": 512, **STEP, "batch_size": 16, TEXTS: 4}),
    ],
}
SIZES = {"batch_size": 1, TEXTS: 1, "past_decoder_sequence_length": 64, "past_decoder_sequence_length_out": 64}
ROUNDS, ROOM, HEAD = 20, 100, 64
PAST, PRESENT = "past_key_values.", "present."


def session(path: Path):
    """A session with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(model, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Inputs of a session for these sizes."""
    random, inputs = np.random.default_rng(0), {}
    total = sizes.get("past_sequence_length", 0) + sizes.get("sequence_length", 0)
    sizes = (
        SIZES
        | {"total_sequence_length": total, "kv_cache_dim": HEAD}
        | {f"{name}_out": size for name, size in sizes.items()}
        | sizes
    )
    for entry in model.get_inputs():
        shape = [eval(size, {}, sizes) if isinstance(size, str) else size for size in entry.shape]
        if entry.type == "tensor(bool)":
            inputs[entry.name] = np.ones(shape, bool)
        elif "mask" in entry.name:
            inputs[entry.name] = np.ones(shape, np.int64)
        elif entry.name == "position_ids":
            inputs[entry.name] = np.broadcast_to(sizes["past_sequence_length"] + np.arange(shape[1]), shape)
        elif entry.type == "tensor(int64)":
            inputs[entry.name] = random.integers(0, 2 if "type" in entry.name else 900, shape)
        else:
            inputs[entry.name] = random.standard_normal(shape).astype(np.float32) / 2
    return inputs


class Side:
    """One file with its inputs and outputs bound.

    Args:
        path: The file.
        sizes: Of its dimensions.
        in_place: Whether its caches are appended to in place.
        inputs: Tensors that take the place of random ones.
    """

    def __init__(self, path: Path, sizes: dict[str, int], in_place: bool = False, inputs=None) -> None:
        self.session = session(path)
        self.inputs = feeds(self.session, sizes) | (inputs or {})
        self.names = {entry.name for entry in self.session.get_outputs() if ".encoder." not in entry.name}
        self.in_place, self.times, self.memory = in_place, [], []
        self.binding = self.session.io_binding()

    def bind(self, names: list[str]) -> None:
        """Bind these outputs and all inputs, caches with some room."""
        self.outputs = [name for name in names if not (self.in_place and name.startswith(PRESENT))]
        for entry in self.session.get_inputs():
            if self.in_place and entry.name.startswith(PAST):
                self._cache(entry.name)
            else:
                self.binding.bind_cpu_input(entry.name, np.ascontiguousarray(self.inputs[entry.name]))
        for name in self.outputs:
            self.binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(self.binding)

    def _cache(self, name: str) -> None:
        import onnxruntime

        given = self.inputs[name]
        batch, heads, length, size = given.shape
        memory = np.zeros((batch, heads, length + self.inputs["input_ids"].shape[1] + ROOM, size), np.float32)
        memory[:, :, :length] = given
        value = onnxruntime.OrtValue.ortvalue_from_numpy(memory)
        self.memory.append(memory)
        self.binding.bind_ortvalue_input(name, value)
        self.binding.bind_ortvalue_output(name.replace(PAST, PRESENT), value)

    def results(self) -> dict[str, np.ndarray]:
        """Outputs by name, without caches in place."""
        values = self.binding.get_outputs()[-len(self.outputs) :]
        return {name: value.numpy() for name, value in zip(self.outputs, values, strict=True)}

    def run(self) -> None:
        """One timed run."""
        start = time.process_time()
        self.session.run_with_iobinding(self.binding)
        self.times.append(time.process_time() - start)


def latency(
    ours: Path, theirs: Path, sizes: dict[str, int], in_place: tuple[bool, bool] = (False, False), gap: float = 1e-4
) -> tuple[float, float, float]:
    """Milliseconds of both, and the median ratio of theirs to ours.

    Outputs of the encoder's states are left out, as loaders leave them out too. Which session is made first decides
    about some 2 %, so half of the rounds run on sessions that are made in the other order.
    """
    times: list[list[float]] = [[], []]
    for first in (0, 1):
        pairs = list(zip((ours, theirs), in_place, strict=True))
        made = {i: Side(pairs[i][0], sizes, pairs[i][1]) for i in (first, 1 - first)}
        _agree(made[0].inputs, made[1].inputs)
        names = sorted(made[0].names & made[1].names)
        for side in made.values():
            side.bind(names)
        _compare(made[0].results(), made[1].results(), gap)
        for turn in range(ROUNDS // 2):
            for i in (0, 1) if turn % 2 else (1, 0):
                made[i].run()
        for i in (0, 1):
            times[i] += made[i].times
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    return 1e3 * statistics.median(times[0]), 1e3 * statistics.median(times[1]), ratio


def _agree(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Give both sides the same inputs; rows that ours has once for several are repeated for theirs."""
    for name in ours.keys() & theirs.keys():
        theirs[name] = ours[name].repeat(len(theirs[name]) // len(ours[name]), axis=0)


def _compare(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], gap: float) -> None:
    for name in ours.keys() & theirs.keys():
        found = np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name])
        if not found < gap:
            raise ValueError(f"{name} differs by {found:.2g}, allowed is {gap}")
