"""Access tokens, valid and forged."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from typing import TYPE_CHECKING, Any

import jwt

if TYPE_CHECKING:
    from tests.support.database import Database

ISSUER = "https://project.example/auth/v1"
SECRET = "a-secret-of-the-project-that-is-long-enough"


def encoded(part: object) -> str:
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def hmac_token(header: object, claims: object, secret: bytes) -> str:
    """An HS256 signature over any content, which a library would reject."""
    message = f"{encoded(header)}.{encoded(claims)}"
    return f"{message}.{encoded(hmac.digest(secret, message.encode(), hashlib.sha256))}"


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def new_user(database: Database) -> str:
    user_id = str(uuid.uuid4())
    database.admin.execute("insert into auth.users (id, email) values (%s, %s)", (user_id, "a@example.com"))
    return user_id
