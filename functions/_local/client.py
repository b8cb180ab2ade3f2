"""A small client of the functions, with a user's token."""

from __future__ import annotations

from typing import Any

import httpx


class Client:
    """Raises RuntimeError with the function's message for an error response."""

    def __init__(self, functions_url: str, access_token: str) -> None:
        headers = {"authorization": f"Bearer {access_token}"}
        self._http = httpx.Client(base_url=functions_url, headers=headers, timeout=30)

    def get(self, path: str, **query: str) -> dict[str, Any]:
        return self._call("GET", path, params=query)

    def post(self, path: str, body: object = None) -> dict[str, Any]:
        return self._call("POST", path, json=body)

    def delete(self, path: str) -> dict[str, Any]:
        return self._call("DELETE", path)

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401 (httpx's own)
        response = self._http.request(method, path, **options)
        body: dict[str, Any] = response.json()
        if not response.is_success:
            raise RuntimeError(f"{path}: {body.get('message') or body['error']} ({response.status_code})")
        return body

    def close(self) -> None:
        self._http.close()
