// pg-boss: fetches a batch and completes a batch.
import { PgBoss } from "pg-boss";
import { runDriver } from "./driver.js";

const QUEUE = "bench";
const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, supervise: false, schedule: false });
boss.on("error", (error) => console.error(error));
await boss.start();
await boss.createQueue(QUEUE);

await runDriver(async (batch, jobs) => {
  await boss.insert(QUEUE, Array.from({ length: jobs }, () => ({})));
  const begun = performance.now();
  for (let left = jobs; left > 0;) {
    const taken = await boss.fetch(QUEUE, { batchSize: batch });
    if (taken.length === 0) throw new Error("the queue has lost jobs");
    await boss.complete(QUEUE, taken.map((job) => job.id));
    left -= taken.length;
  }
  return (performance.now() - begun) / 1000;
});
