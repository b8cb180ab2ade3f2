// Runs the edge function as its runtime does: an event per line on stdin, a response per line on stdout.
type Handler = (request: Request) => Promise<Response>;
let handle: Handler | undefined;
(Deno as { serve: unknown }).serve = (_options: unknown, handler: Handler) => {
  handle = handler;
};
await import("./index.ts");

let received = "";
for await (const piece of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const lines = (received + piece).split("\n");
  received = lines.pop()!;
  for (const line of lines) {
    const event = JSON.parse(line);
    const url = `http://127.0.0.1${event.rawPath}`;
    const response = await handle!(new Request(url, { method: "POST", headers: event.headers, body: event.body }));
    console.log(JSON.stringify({ statusCode: response.status, body: await response.text() }));
  }
}
