"""Proof that an environment's PyTorch works: real kernels on every device, checked against float64.

Run as a file by that environment's own Python (`python -I proof.py`), where fromzero need not be installed: it imports
nothing but torch. Prints one JSON object; exit status 0 if everything asked of the devices worked.
"""

import json
import platform
import sys

SIDE, CHANNELS, PICTURE = 256, 16, 32
# What each precision may be off by, relative to the largest value of the right answer.
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 1e-2, "bf16": 5e-2}


def prove():
    """What works, device by device."""
    import torch

    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "cudnn": "",
        "torchvision": _torchvision(torch),
        "devices": [],
    }
    if torch.cuda.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version() or "")
        for index in range(torch.cuda.device_count()):
            found["devices"].append(_device(torch, f"cuda:{index}", torch.cuda.get_device_name(index)))
    else:
        found["devices"].append(_device(torch, "cpu", platform.processor() or platform.machine()))
    found["ok"] = all(each["ok"] for each in found["devices"])
    return found


def _device(torch, device, name):
    capability = torch.cuda.get_device_capability(device) if device != "cpu" else None
    results = {}
    for precision in _precisions(capability):
        for kernel in (_matmul, _convolution):
            try:
                error = kernel(torch, device, precision)
                works = error <= TOLERANCE[precision]
                answer = {"ok": works, "error": error}
            except Exception as problem:
                answer = {"ok": False, "problem": str(problem).splitlines()[0] if str(problem) else repr(problem)}
            results[f"{kernel.__name__.strip('_')} {precision}"] = answer
    if device != "cpu":
        results["cudnn"] = {"ok": bool(torch.backends.cudnn.is_available())}
    return {
        "device": device,
        "name": name,
        "capability": ".".join(map(str, capability)) if capability else "",
        "ok": all(each["ok"] for each in results.values()),
        "results": results,
    }


def _precisions(capability):
    """fp16 from compute capability 5.3 on, tf32 and bf16 from 8.0 on; a CPU computes bf16 too, slowly or not."""
    if capability is None:
        return ("fp32", "bf16")
    half = ("fp16",) if capability >= (5, 3) else ()
    ampere = ("tf32", "bf16") if capability >= (8, 0) else ()
    return ("fp32", *half, *ampere)


def _matmul(torch, device, precision):
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    return _error(torch, device, precision, torch.mm, left, right)


def _convolution(torch, device, precision):
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    picture, weight = torch.randn(4, CHANNELS, PICTURE, PICTURE), torch.randn(2 * CHANNELS, CHANNELS, 3, 3)
    return _error(torch, device, precision, torch.nn.functional.conv2d, picture, weight)


def _error(torch, device, precision, kernel, *values):
    """How far the device's answer is from the same product in float64, relative to the largest value."""
    dtype = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    given = [each.to(device=device, dtype=dtype) for each in values]
    answer = kernel(*given).double().cpu()
    right = kernel(*(each.double().cpu() for each in given))  # from the rounded inputs: only the kernel is judged
    return float((answer - right).abs().max() / right.abs().max())


def _torchvision(torch):
    """Version and whether its compiled operators load: a torchvision of another build fails here."""
    try:
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
        return {"version": torchvision.__version__, "ok": len(kept) == 1}
    except ImportError as problem:
        return {"version": "", "ok": False, "problem": str(problem).splitlines()[0]}
    except Exception as problem:
        return {"version": "?", "ok": False, "problem": str(problem).splitlines()[0]}


if __name__ == "__main__":
    try:
        answer = prove()
    except Exception as problem:
        answer = {"ok": False, "problem": f"{type(problem).__name__}: {problem}", "devices": []}
    print(json.dumps(answer))
    sys.exit(0 if answer["ok"] else 1)
