"""The SECURITY DEFINER functions, which bypass row-level security, and the roles that may execute them."""

from __future__ import annotations

CALLERS = ["authenticated", "service_role"]
DEFINERS = {
    "app.copy_secret_for_check": ["authenticated"],
    "app.delete_secret": [],
    "app.exists_in_other_agency": CALLERS,
    "app.get_secret": ["service_role"],
    "app.identify": ["anon", "authenticated"],
    "app.record_event": [],
    "app.reserve_secret": ["authenticated"],
    "app.secret_fingerprint": CALLERS,
    "app.store_secret": ["authenticated"],
    "app.touch_api_key": ["anon"],
    "app.use_secret": ["authenticated"],
}
