"""Runs a handler as a cloud's runtime does: an event per line on stdin, a response per line on stdout.

Arguments: folders (separated by colons), module, handler. With `-I -S -B` nothing else is on the path, and no file is
written.
"""

import sys

sys.path[:0] = sys.argv[1].split(":")
import importlib  # noqa: E402
import json  # noqa: E402
from functools import reduce  # noqa: E402
from typing import Any  # noqa: E402

handler: Any = reduce(getattr, sys.argv[3].split("."), importlib.import_module(sys.argv[2]))
for line in sys.stdin:
    print(json.dumps(handler(json.loads(line), None)), flush=True)
