"""The function bundle: one package per family, one module per endpoint; underscore packages are never endpoints."""
