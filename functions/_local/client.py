"""A front end in a few lines: calls the functions with a user's token."""

from __future__ import annotations

from typing import Any

import httpx


class Client:
    """Raises RuntimeError with the function's own sentence for an answer that is no success."""

    def __init__(self, functions_url: str, access_token: str) -> None:
        headers = {"authorization": f"Bearer {access_token}"}
        self._http = httpx.Client(base_url=functions_url, headers=headers, timeout=30)

    def start(self, connection_id: str, date_from: str, date_to: str, resources: list[str]) -> str:
        body = {"connection_id": connection_id, "date_from": date_from, "date_to": date_to, "resources": resources}
        return str(self._call("POST", "start-historical-sync", body)["job_id"])

    def get(self, job_id: str) -> dict[str, Any]:
        return self._call("GET", f"get-historical-sync?job_id={job_id}")

    def cancel(self, job_id: str, reason: str) -> dict[str, Any]:
        return self._call("POST", "cancel-historical-sync", {"job_id": job_id, "reason": reason})

    def retry(self, job_id: str) -> str:
        return str(self._call("POST", "retry-historical-sync", {"job_id": job_id})["job_id"])

    def _call(self, method: str, function: str, body: object = None) -> dict[str, Any]:
        response = self._http.request(method, f"/{function}", json=body)
        answer: dict[str, Any] = response.json()
        if not response.is_success:
            raise RuntimeError(f"{function}: {answer['error']} ({answer['code']})")
        return answer

    def close(self) -> None:
        self._http.close()
