"""fromzero deploy ARTIFACT --to docker|kubernetes|ray|systemd|triton"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.commands import _words
from fromzero.deployments import known
from fromzero.language import say


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, help=say("flag.deploy.artifact"))
    parser.add_argument("--to", metavar="|".join(known()), required=True, help=say("flag.deploy.to"))
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help=say("flag.deploy.output"))
    parser.add_argument("--name", help=say("flag.deploy.name"))
    parser.add_argument("--gpu", action="store_true", help=say("flag.deploy.gpu"))
    parser.add_argument("--port", type=_words.within(int, 1, 65535), help=say("flag.deploy.port"))
    parser.add_argument("--replicas", type=_words.within(int, 1), help=say("flag.deploy.replicas"))
    parser.add_argument("--image", default="", help=say("flag.deploy.image"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.deploying import deploy
    from fromzero.records import to_json

    settings = {name: getattr(options, name) for name in ("name", "gpu", "port", "replicas", "image")}
    deployment = deploy(options.artifact, options.to, options.output, **settings)
    if options.json:
        print(json.dumps({**to_json(deployment), "path": str(deployment.path)}, indent=1, ensure_ascii=False))
        return 0
    count = len(deployment.files)
    print(say("deploy.done", path=deployment.path, count=count))
    print("\n".join(["", f"  cd {deployment.path}", *(f"  {each}" for each in deployment.after)]))
    return 0
