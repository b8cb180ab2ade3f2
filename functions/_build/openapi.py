"""`make openapi`: prints the API as OpenAPI 3.1."""

from __future__ import annotations

import json

from functions._shared import openapi, registry


def main() -> None:
    print(json.dumps(openapi.document(registry.endpoints()), indent=2))


if __name__ == "__main__":
    main()
