"""A Ray Serve application: the whole service of `fromzero serve`, page and all, in as many replicas as are needed."""

from __future__ import annotations

from fromzero.deployments import MODEL, REQUIREMENTS, Service

UNUSED = ("image",)
PACKAGED = True
RAY = "2.60"  # what this was run with


def files(service: Service) -> dict[str, str]:
    return {"application.py": _application(service), "serve.yaml": _config(service)}


def after(service: Service) -> list[str]:
    return [f"pip install --requirement {REQUIREMENTS} 'ray[serve]~={RAY}'", "serve run serve.yaml"]


def _application(service: Service) -> str:
    return f'''"""The service as a Ray Serve application: `serve run serve.yaml` in this folder."""

import os
from pathlib import Path

from ray import serve

FOLDER = Path(__file__).resolve().parent  # every node needs this folder, under the same path


def service():
    """Called by each replica, which opens the model itself."""
    from fromzero.serving.access import keys
    from fromzero.serving.app import application

    return application({{"{service.name}": FOLDER / "{MODEL}"}}, keys=keys([], None, os.environ))


@serve.deployment
@serve.ingress(service)
class Service:
    pass


app = Service.bind()
'''


def _config(service: Service) -> str:
    card = "\n          num_gpus: 1" if service.gpu else ""
    return f"""proxy_location: EveryNode
http_options:
  host: 127.0.0.1
  port: {service.port}
applications:
  - name: {service.name}
    route_prefix: /
    import_path: application:app
    deployments:
      - name: Service
        max_ongoing_requests: 64
        ray_actor_options:
          num_cpus: 1{card}
        autoscaling_config:
          min_replicas: {service.replicas}
          max_replicas: {4 * service.replicas}
          target_ongoing_requests: 16
"""
