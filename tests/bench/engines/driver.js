// What the drivers in JavaScript share: a line {batch, jobs} on stdin, the seconds that it took on stdout.
import { createInterface } from "node:readline";

/** `work` queues so many jobs, claims and finishes all, and resolves to the seconds that the latter took. */
export async function obey(work) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { batch, jobs } = JSON.parse(line);
    console.log(JSON.stringify({ seconds: await work(batch, jobs) }));
  }
  process.exit(0);
}
