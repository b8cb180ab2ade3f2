"""The worker: claims executions and runs them. Postgres decides whether a worker may still write. See README.md.

client.py              the calls to the database
completion_batcher.py  completions of one moment, and the claim that follows them, in one call
engine.py              one execution: lease, heartbeat, commit, cancel, retry, time budget
loop.py                many executions: claim, reap, notifications, shutdown
periodic_task.py       work that repeats: outbox.py (events about ended executions), secret_cleanup.py
context.py             all of these from the environment, for __main__.py (a process) and lambda_handler.py (AWS Lambda)
runners/               what each family does: a generator of batches
connectors/            how an external system is read, and how webhooks are sent
"""
