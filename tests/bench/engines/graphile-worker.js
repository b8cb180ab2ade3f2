// graphile-worker: its pool fetches a batch ahead, runs its jobs at the same time and completes them in batches. Timed from
// the start of the first job to the end of the pool, when all are completed.
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { runDriver } from "./driver.js";

const connectionString = process.env.DATABASE_URL;
const utils = await makeWorkerUtils({ connectionString });
await utils.migrate();

await runDriver(async (batch, jobs) => {
  await utils.addJobs(Array.from({ length: jobs }, () => ({ identifier: "bench", payload: {} })));
  let begun;
  let left = jobs;
  let ended;
  const all = new Promise((resolve) => (ended = resolve));
  const bench = () => {
    begun ??= performance.now();
    left -= 1;
    if (left === 0) ended();
  };
  const batches = batch > 1 ? { localQueue: { size: batch }, completeJobBatchDelay: 0 } : {};
  const runner = await run({
    preset: { worker: { connectionString, concurrentJobs: batch, ...batches } },
    taskList: { bench },
    logger: new Logger(() => () => {}),
    noHandleSignals: true,
  });
  await all;
  await runner.stop();
  return (performance.now() - begun) / 1000;
});
