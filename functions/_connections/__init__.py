"""Connections, as the functions and the worker both use them.

errors.py            how a read fails
http_config.py       configuration and secret of a connection of type `http`
http_credentials.py  the secret, as a request carries it
source_check.py      waits for a worker's check of a source, for endpoints
addresses.py         which IP addresses belong to the public internet
"""
