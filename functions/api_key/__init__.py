"""API keys: with one, an agency's own servers call the APIs that take keys. Only users manage them."""
