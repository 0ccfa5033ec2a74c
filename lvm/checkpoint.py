"""Checkpoints of a training: where it stands, in one safetensors file laid out and written as a model file is.

`class` is "Checkpoint", `params` are the settings that must be the same to go on, `fitted` are the numbers below, and
the arrays are those of the state, of the best parameters, and of the history.
"""

import json
import os
from typing import Any

import numpy as np
import safetensors.numpy

from . import __version__, modelfile
from .modelfile import ModelFileError

_NUMBERS = {"epochs": int, "bound": float, "waited": int, "converged": bool}


def write(path, settings: dict[str, Any], state, best, history, numbers: dict[str, Any]) -> None:
    """Replace the file as a whole.   state: {name: array}; best: an array or None; history: {name: list of floats}."""
    arrays = {f"state_{name}": a for name, a in state.items()}
    arrays |= {f"history_{name}": np.array(values, float) for name, values in history.items()}
    if best is not None:
        arrays["best"] = best
    info = {
        "format": modelfile._FORMAT,
        "class": "Checkpoint",
        "schema": 1,
        "lvm": __version__,
        "params": _packed(settings),
        "fitted": {name: modelfile._pack(value, name, {}) for name, value in numbers.items()},
    }
    info["sha256"] = modelfile._digest(arrays, info)
    data = safetensors.numpy.save(arrays, {"lvm": json.dumps(info)})
    modelfile._replace(os.path.realpath(os.fsdecode(path)), data)


def read(path, settings: dict[str, Any], state):
    """What `write` was given after the settings, or None where there is no file.

    ModelFileError for a file that is no whole checkpoint, ValueError for one of another training. `state`: an example
    of what to expect."""
    path = os.fspath(path)
    try:
        with open(path, "rb", opener=modelfile._open_regular) as f:
            info, arrays = modelfile._read(f, os.fstat(f.fileno()).st_size)
        if (info["class"], info["schema"]) != ("Checkpoint", 1):
            raise modelfile._Wrong(f"it holds a {info['class'][:50]} of schema {info['schema']}")
        there, here = info["params"], _packed(settings)
        for name in {**here, **there}:
            if there.get(name) != here.get(name):
                raise ValueError(
                    f"The checkpoint {path!r} is of another training: {name} is {_shown(there.get(name))} there and "
                    f"{_shown(here.get(name))} here. Fit with the same, or name another file."
                )
        numbers = {name: modelfile._unpack(value, {}) for name, value in info["fitted"].items()}
        if {name: type(value) for name, value in numbers.items()} != _NUMBERS:
            raise modelfile._Wrong("its numbers are not those of a checkpoint")
        found = {name: arrays.pop(f"state_{name}", None) for name in state}
        best = arrays.pop("best", None)
        for name, a in (*found.items(), ("theta", found["theta"] if best is None else best)):
            if a is None or (a.shape, a.dtype) != (state[name].shape, state[name].dtype):
                raise modelfile._Wrong(f"its {name} does not fit")
        for name, a in arrays.items():
            if not name.startswith("history_") or (a.shape, a.dtype) != ((numbers["epochs"],), np.float64):
                raise modelfile._Wrong(f"its {name} is none of a checkpoint")
    except FileNotFoundError:
        return None
    except modelfile._Wrong as e:
        raise ModelFileError(
            f"Cannot go on from {path!r}: {e}. {e.advice or 'Delete it to begin anew.'}"
        ) from e.__cause__
    history = {name.removeprefix("history_"): a.tolist() for name, a in arrays.items()}
    return found, best, history, numbers


def _packed(settings):
    """As JSON gives it back."""
    return json.loads(json.dumps({name: modelfile._pack(value, name, {}) for name, value in settings.items()}))


def _shown(value):
    return repr(modelfile._unpack(value, {}))[:80]
