"""The other side of `benchmarks.onnx_export`, run by the Python of an environment with optimum-onnx.

`python onnx_peer.py make NAME FOLDER` saves a model with random weights; `... export NAME FOLDER OUT` exports it with
Optimum from the loaded model, and prints seconds and the peak of resident memory as JSON; `... generate NAME OUT` loads
the export with Optimum's class and prints the seconds of a `generate()`; `... other NAME FOLDER OUT` exports with
`torch.onnx` and ONNX Runtime's transformer optimizer, or with the model builder of onnxruntime-genai.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

TASKS = {
    "bert": "feature-extraction",
    "gpt2": "text-generation-with-past",
    "llama": "text-generation-with-past",
    "vit": "image-classification",
    "whisper": "automatic-speech-recognition-with-past",
    "t5": "text2text-generation-with-past",
}
LLAMA = {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12,
         "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 2048}  # fmt: skip
WHISPER = {"d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
           "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536}  # fmt: skip
T5 = {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
      "decoder_start_token_id": 0}  # fmt: skip
GENERATE = {"gpt2": "CausalLM", "llama": "CausalLM", "whisper": "SpeechSeq2Seq", "t5": "Seq2SeqLM"}
BEAMS = {"gpt2": 4, "llama": 4, "whisper": 5, "t5": 4}
PROMPT, NEW = {"gpt2": 512, "llama": 512, "t5": 512}, 64
MODELS = {
    "bert": ("BertModel", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "llama": ("LlamaForCausalLM", LLAMA),
    "vit": ("ViTForImageClassification", {}),
    "whisper": ("WhisperForConditionalGeneration", WHISPER),
    "t5": ("T5ForConditionalGeneration", T5),
}


def build(name):
    """A model with random weights."""
    import torch
    import transformers

    cls, config = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, cls)
    return model(model.config_class(**config)).eval()


def load(name, folder):
    """The saved model, with every weight in memory."""
    import transformers

    model = getattr(transformers, MODELS[name][0]).from_pretrained(folder).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def peak():
    """Most resident memory of this program in bytes; what `getrusage` has is at least that of the process before it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def export(name, folder, out):
    """Export with Optimum."""
    from optimum.exporters.onnx import onnx_export_from_model

    model = load(name, folder)
    start = time.process_time()
    onnx_export_from_model(model, Path(out), task=TASKS[name], do_validation=False)
    return time.process_time() - start


def optimized(name, folder, out):
    """Export an encoder with `torch.onnx.export(dynamo=True)`, and run ONNX Runtime's transformer optimizer on it."""
    import torch
    from onnxruntime.transformers import optimizer

    model = load(name, folder)
    Path(out).mkdir()
    file = str(Path(out, "model.onnx"))
    tokens = {key: torch.ones(2, 7, dtype=torch.int64) for key in ("input_ids", "attention_mask", "token_type_ids")}
    inputs = tokens if name == "bert" else {"pixel_values": torch.randn(2, 3, 224, 224)}
    axes = ("batch_size", "sequence_length") if name == "bert" else ("batch_size",)
    shapes = {key: dict(enumerate(torch.export.Dim(axis) for axis in axes)) for key in inputs}
    names = {"output_names": ["last_hidden_state" if name == "bert" else "logits"]}
    start = time.process_time()
    torch.onnx.export(model, (), file, kwargs=inputs, dynamo=True, dynamic_shapes=shapes, external_data=False, **names)
    made = optimizer.optimize_model(file, model_type=name, num_heads=12, hidden_size=768)
    made.save_model_to_file(file)
    return time.process_time() - start


def built(folder, out):
    """Write a Llama with the model builder of onnxruntime-genai, which wants a tokenizer beside the model."""
    import tokenizers
    import transformers
    from onnxruntime_genai.models import builder

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    words = (None, folder, out, "fp32", "cpu", str(Path(out, "cache")))
    start = time.process_time()
    builder.create_model(*words, **builder.parse_extra_options(*words, []))
    return time.process_time() - start


def timed_generation(model, name, beams=1):
    """Processor seconds of the fastest of two `generate()` after a first one: 64 tokens of one text."""
    import torch

    torch.manual_seed(0)
    if name == "whisper":
        inputs = {"input_features": torch.randn(1, 80, 3000)}
    else:
        ids = torch.randint(10, 900, (1, PROMPT[name]))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "num_beams": beams}
    times = []
    for _ in range(3):
        start = time.process_time()
        tokens = model.generate(**inputs, **options)
        times.append(time.process_time() - start)
    if tokens.shape[-1] < NEW:
        raise ValueError(f"{name} stopped after {tokens.shape[-1]} tokens")
    return min(times[1:])


def generate(name, folder, beams):
    """Generate with Optimum's class for the model."""
    import onnxruntime
    import optimum.onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    cls = getattr(optimum.onnxruntime, f"ORTModelFor{GENERATE[name]}")
    return timed_generation(cls.from_pretrained(folder, session_options=options), name, int(beams))


if __name__ == "__main__":
    action, name, folder, *rest = sys.argv[1:]
    if action == "make":
        build(name).save_pretrained(folder)
    elif action == "generate":
        print(json.dumps({"seconds": generate(name, folder, *rest)}))
    else:
        other = built if name == "llama" else partial(optimized, name)
        seconds = other(folder, *rest) if action == "other" else export(name, folder, *rest)
        print(json.dumps({"seconds": seconds, "peak": peak()}))
