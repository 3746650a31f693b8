"""A small model server for the demonstration: one ONNX model behind the Open Inference Protocol v2.

``python -m streamproc.model_server MODEL.onnx --inputs a,b,c --port 8001``. It says ``ready`` on its output.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from aiohttp import web

from streamproc.io.onnx import OnnxModel

LARGEST = 64 << 20


def application(model: OnnxModel, inputs: list[str]) -> web.Application:
    """``POST /v2/models/loans/infer`` with one tensor of shape (n,) for each input; answers the scores."""

    async def infer(request: web.Request) -> web.Response:
        try:
            asked = orjson.loads(await request.read())
            columns = {one["name"]: np.array(one["data"], np.float64) for one in asked["inputs"]}
            scores = model.score(columns, len(columns[inputs[0]])).values
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        output: dict[str, Any] = {"name": "score", "shape": [len(scores)], "datatype": "FP64", "data": scores}
        body = {"model_name": "loans", "model_version": model.version, "outputs": [output]}
        return web.Response(body=orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), content_type="application/json")

    async def ready(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=LARGEST)
    app.router.add_post("/v2/models/loans/infer", infer)
    app.router.add_get("/v2/health/ready", ready)
    return app


def main() -> None:
    """Serve on loopback until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    inputs = arguments.inputs.split(",")
    app = application(OnnxModel(arguments.model, inputs), inputs)
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=lambda *_: _say_ready())


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
