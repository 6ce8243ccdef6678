// Sends requests to the gateway and reads its event streams.

/** An error response of the gateway, with its message. */
class Refusal extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** Sends a request and returns its JSON. `key` is an API key, for gateways that require one. Throws Refusal. */
async function ask(path, { body, key, signal, accept = "application/json" } = {}) {
  const headers = { accept, ...(key && { authorization: `Bearer ${key}` }), ...(body && { "content-type": "application/json" }) };
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal("The gateway does not respond: check that it is running, then try again.", 0);
  }
  if (response.ok) return accept === "application/json" ? response.json() : response;
  const said = await response.json().catch(() => null);
  throw new Refusal(said?.error?.message ?? `The gateway answered ${response.status}.`, response.status);
}

/** Yields [event, data] while a story is told; the last event is "done" or "error". Throws Refusal if the stream breaks. */
async function* tale(body, key, signal) {
  const response = await ask("/v1/stories", { body, key, signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (signal.aborted) throw error;
      throw new Refusal("The connection to the gateway was lost.", 0);
    });
    const blocks = (rest + (value ?? "")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = block.split("\n").map((line) => /^(event|data): ?(.*)$/s.exec(line)).filter(Boolean);
      const event = fields.find(([, name]) => name === "event")?.[2];
      const data = fields.filter(([, name]) => name === "data").map(([, , text]) => text).join("\n");
      if (!event) continue; // a comment that keeps the connection alive
      yield [event, JSON.parse(data)];
      if (event === "done" || event === "error") return;
    }
    if (done) throw new Refusal("The stream ended before the answer was complete.", 0);
  }
}
