"""Connections, as the functions and the worker both see them: configuration models, their secrets, and read errors.

errors.py            how a read fails
http_config.py       configuration and secret of a connection of type `http`
http_credentials.py  the secret, as a request carries it
addresses.py         which IP addresses belong to the public internet
"""
