"""API keys, with which an agency's servers call the published APIs. Only users manage keys."""
