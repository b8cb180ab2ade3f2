// graphile-worker: its pool fetches a batch ahead and completes in batches, so many jobs at once. Timed from the first
// job's start to the end of the pool, which is when all are completed.
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { obey } from "./driver.js";

const connectionString = process.env.DATABASE_URL;
const utils = await makeWorkerUtils({ connectionString });
await utils.migrate();

await obey(async (batch, jobs) => {
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
