"""A container image: Python's own slim image, this fromzero, the artifact, a user without rights, a health check."""

from __future__ import annotations

from fromzero.deployments import MODEL, REQUIREMENTS, Service

UNUSED = ()
PACKAGED = True
SITE = "/usr/local/lib/python{python}/site-packages/nvidia"


def files(service: Service) -> dict[str, str]:
    return {"Dockerfile": _dockerfile(service), ".dockerignore": _ignored()}


def after(service: Service) -> list[str]:
    card = " --gpus all" if service.gpu else ""
    return [
        f"docker build --tag {service.tag} .",
        f"docker run --rm --read-only --tmpfs /tmp{card} --env FROMZERO_API_KEYS"
        f" --publish {service.port}:{service.port} {service.tag}",
    ]


def _dockerfile(service: Service) -> str:
    return f"""# syntax=docker/dockerfile:1
FROM python:{service.python}-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# First what changes seldom: a new model costs one layer.
WORKDIR /install
COPY *.whl {REQUIREMENTS} ./
RUN pip install --no-cache-dir --requirement {REQUIREMENTS}{_cuda(service)}

WORKDIR /app
COPY {MODEL} {MODEL}
RUN useradd --system --uid 10001 --no-create-home fromzero
USER 10001

EXPOSE {service.port}
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \\
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:{service.port}/readyz', timeout=2)"]
CMD ["fromzero", "serve", "/app/{MODEL}", "--host", "0.0.0.0", "--port", "{service.port}"{_workers(service)}]
"""


def _workers(service: Service) -> str:
    """Processes in the one container, where more than one was asked for."""
    return f', "--workers", "{service.replicas}"' if service.replicas > 1 else ""


def _cuda(service: Service) -> str:
    """ONNX Runtime for NVIDIA cards, with CUDA and cuDNN from wheels; the driver comes from the host. Its files lie
    where those of the CPU build lie, so that one goes first."""
    if not service.gpu:
        return ""
    libraries = SITE.format(python=service.python)
    return f""" \\
 && pip uninstall --yes onnxruntime \\
 && pip install --no-cache-dir "onnxruntime-gpu[cuda,cudnn]~={service.onnxruntime}.0"
ENV LD_LIBRARY_PATH={libraries}/cu13/lib:{libraries}/cudnn/lib NVIDIA_DRIVER_CAPABILITIES=compute,utility"""


def _ignored() -> str:
    """Nothing goes into the image but what the Dockerfile copies."""
    return f"*\n!*.whl\n!{REQUIREMENTS}\n!{MODEL}\n"
