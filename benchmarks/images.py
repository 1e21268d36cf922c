"""Build every image from nothing, one after another; how long each took and what it adds to its base.

python -m benchmarks.images [ROLE…]

Base and tool are build.sh's (BASE_IMAGE, CONTAINER_TOOL). Layers are made anew; pip's download cache is used as found.
Each image is written down as soon as it stands; naming roles replaces those only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks import common

ROLES = sorted(file.stem for file in (common.CHECKOUT / "deploy/images").glob("*.Containerfile"))
FILE = common.RESULTS / "images.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("roles", nargs="*", metavar="ROLE", help=f"of {', '.join(ROLES)}; default: all")
    roles = parser.parse_args().roles or ROLES
    result: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"images": {}}
    for role in roles:
        result["images"][role] = build(role)
        result["machine"] = common.machine()
        common.write_result("images", result)


def build(role: str) -> dict[str, Any]:
    """Build one image; its sizes in MB and the build's seconds."""
    environment = {**os.environ, "BUILD_ARGS": f"--no-cache {os.environ.get('BUILD_ARGS', '')}"}
    start = time.perf_counter()
    subprocess.run(["scripts/containers/build.sh", role], cwd=common.CHECKOUT, env=environment, check=True, stdout=2)
    seconds = time.perf_counter() - start
    image = f"{os.environ.get('IMAGES', 'localhost/cifake')}/{role}:{os.environ.get('TAG', '0.1.0')}"
    whole, base = size(image), size(os.environ["BASE_IMAGE"])
    return {"build_seconds": round(seconds), "size_mb": whole, "over_base_mb": round(whole - base, 1)}


def size(image: str) -> float:
    """An image's uncompressed size in MB (10^6 bytes)."""
    tool = os.environ.get("CONTAINER_TOOL", "podman")
    asked = [tool, "image", "inspect", "--format", "{{.Size}}", image]
    return round(int(subprocess.run(asked, cwd=common.CHECKOUT, check=True, capture_output=True).stdout) / 1e6, 1)


if __name__ == "__main__":
    if "BASE_IMAGE" not in os.environ:
        sys.exit("set BASE_IMAGE (see scripts/containers/build.sh): sizes are told over it")
    main()
