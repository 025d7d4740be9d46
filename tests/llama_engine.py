"""llama.cpp itself, steered by a control vector: next-token logits of tokens, from its own C API.

The shared library inside the `xllamacpp` package is asked through ctypes, since the package lets
nobody name a control vector. `--control-vector FILE` of llama.cpp's programs does the same three
things: `common_control_vector_load` reads the file, `llama_set_adapter_cvec` puts it in force for
blocks 1 to L, `llama_decode` runs. In a process of its own, which a wrong guess about a layout in
memory would end.
"""

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

LOADS = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"
OLD_STRINGS = "_Z15common_tokenizePK11llama_vocabRKSsbb"
"""Is there where `std::string` is a pointer behind length, capacity and count (before C++11)."""
WARNING = 3

Pointer, Int = ctypes.c_void_p, ctypes.c_int32


class Settings(ctypes.Structure):
    """Settings, or a batch, as llama.cpp makes them: we only hand them on, so more bytes do."""

    _fields_ = (("bytes", ctypes.c_char * 4096),)


class Vector(ctypes.Structure):
    """A `std::vector`."""

    _fields_ = (("begin", Pointer), ("end", Pointer), ("capacity", Pointer))


class Info(ctypes.Structure):
    """A `common_control_vector_load_info`."""

    _fields_ = (("strength", ctypes.c_float), ("name", Pointer))


class Data(ctypes.Structure):
    """A `common_control_vector_data`."""

    _fields_ = (("width", Int), ("data", Vector))


def logits(model, tokens, vector=None, strength=1.0):
    """Logits [T, V] of the tokens after each of T tokens, which llama.cpp reads one by one.

    Args:
        model: path of a GGUF file.
        tokens: token ids.
        vector: path of a control vector, if any.
        strength: its factor.

    Raises:
        RuntimeError: with what llama.cpp says, where it takes no such file.
    """
    import torch  # here, since the process that runs llama.cpp starts sooner without it

    given = {"model": str(model), "tokens": tokens, "strength": strength}
    given["vector"] = None if vector is None else str(vector)
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(given).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))
    return torch.from_numpy(np.frombuffer(done.stdout, np.float32).reshape(len(tokens), -1).copy())


def main():
    given = json.load(sys.stdin)
    folder = Path(importlib.util.find_spec("xllamacpp").origin).parent
    library = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))

    def call(name, result, *args):
        """Call a function of the library; numbers are ints there, all else is passed as it is."""
        function = getattr(library, name)
        function.restype = result
        function.argtypes = [Int if isinstance(value, int) else type(value) for value in args]
        return function(*args)

    def told(level, text, _):
        if level >= WARNING:
            sys.stderr.write(text.decode(errors="replace"))

    log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, Pointer)(told)
    call("llama_log_set", None, log, Pointer())
    call("llama_backend_init", None)
    path = ctypes.c_char_p(given["model"].encode())
    defaults = call("llama_model_default_params", Settings)
    model = Pointer(call("llama_model_load_from_file", Pointer, path, defaults))
    defaults = call("llama_context_default_params", Settings)
    context = Pointer(call("llama_init_from_model", Pointer, model, defaults))
    call("llama_set_n_threads", None, context, 1, 1)
    if given["vector"] is not None:
        steer(library, call, context, model, given["vector"], given["strength"])
    vocab = Pointer(call("llama_model_get_vocab", Pointer, model))
    size = call("llama_vocab_n_tokens", Int, vocab)
    for token in given["tokens"]:
        one = (Int * 1)(token)
        batch = call("llama_batch_get_one", Settings, one, 1)
        if call("llama_decode", Int, context, batch):
            sys.exit("llama_decode failed")
        found = call("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), context, -1)
        sys.stdout.buffer.write(np.ctypeslib.as_array(found, (size,)).tobytes())


def steer(library, call, context, model, path, strength):
    """Let llama.cpp read a control vector and put it in force."""
    assert hasattr(library, OLD_STRINGS), "std::string is laid out in another way now"
    name = path.encode()
    lead = np.array([len(name), len(name), 0], np.uint64).tobytes()
    held = ctypes.create_string_buffer(lead + name + b"\0")
    info = Info(strength, ctypes.addressof(held) + len(lead))
    end = ctypes.addressof(info) + ctypes.sizeof(info)
    files = Vector(ctypes.addressof(info), end, end)
    found = call(LOADS, Data, ctypes.pointer(files))
    if found.width < 0:
        sys.exit("llama.cpp does not take the control vector")
    size = (found.data.end - found.data.begin) // 4
    blocks = call("llama_model_n_layer", Int, model)
    library.llama_set_adapter_cvec.argtypes = [Pointer, Pointer, ctypes.c_size_t, Int, Int, Int]
    if library.llama_set_adapter_cvec(context, found.data.begin, size, found.width, 1, blocks):
        sys.exit("llama.cpp does not take the control vector for this model")


if __name__ == "__main__":
    main()
