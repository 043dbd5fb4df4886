"""The floor of any HTTP answer: an empty FastAPI route on the very server that Tact uses."""

import sys
from typing import Any, cast

from fastapi import FastAPI

from api.http.server import bind, serve

app = FastAPI()


@app.get("/")
async def empty() -> dict[str, str]:
    """Answer with nothing."""
    return {}


if __name__ == "__main__":
    serve(cast("Any", app), [bind("127.0.0.1", int(sys.argv[1]))])
