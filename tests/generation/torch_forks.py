"""Runs Python scripts for tests, each in a fork of this process, which has imported torch and diffusers once.

Lines in: {"argv": [SCRIPT, …], "environment": {…}, "out": FILE, "err": FILE}; lines out: "ready", then exit codes.
"""

import json
import os
import runpy
import sys
import traceback

import torch  # noqa: F401
import transformers  # noqa: F401
from diffusers import AutoencoderKL, AutoPipelineForText2Image, StableDiffusionPipeline, UNet2DModel  # noqa: F401
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # noqa: F401


def run(argv: list[str], environment: dict[str, str], out: str, err: str) -> int:
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
        return 0
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os._exit(run(**asked))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
