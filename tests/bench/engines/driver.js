// Shared by the drivers in JavaScript: reads {batch, jobs} per line from stdin, writes the seconds taken to stdout.
import { createInterface } from "node:readline";

/** `work` queues jobs, then claims and completes all, and resolves to the seconds of the second part. */
export async function runDriver(work) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { batch, jobs } = JSON.parse(line);
    console.log(JSON.stringify({ seconds: await work(batch, jobs) }));
  }
  process.exit(0);
}
