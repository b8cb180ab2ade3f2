"""The worker: claims executions and runs them. It moves data; Postgres decides whether it still may.

protocol.py   the calls of a lease holder, as the SQL functions answer them
engine.py     one execution: lease, heartbeat, commit, cancel, retry, time budget
forgetting.py secrets outside that nobody needs any more
loop.py       many executions: claim, reap, wake-up, shutdown
runners/      what a family does: a generator of batches
connectors/   how a system is read
"""
