// Requests to the server that the page came from.

const ROOT = new URL("../", document.baseURI);
const KEPT = "hypersteer-key";

export const root = () => ROOT.href.replace(/\/$/, "");
export const key = () => sessionStorage.getItem(KEPT) ?? "";
export const setKey = (value) => sessionStorage.setItem(KEPT, value);

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function send(path, { method = "GET", json, body, signal } = {}) {
  const headers = {};
  if (key()) headers.Authorization = `Bearer ${key()}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, signal, body: json === undefined ? body : JSON.stringify(json) };
  let response;
  try {
    response = await fetch(new URL(path, ROOT), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server does not answer; is it still running?", 0);
  }
  if (!response.ok) throw new ApiError(await told(response), response.status);
  return response;
}

async function told(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

export const call = async (path, options) => (await send(path, options)).json();
export const bytes = async (path, options) => (await send(path, options)).blob();

/** Yield the pieces of one streamed chat answer: a text each, with the last why it ended and what steered. */
export async function* stream(json, signal) {
  const asked = { method: "POST", json: { ...json, stream: true }, signal };
  const response = await send("v1/chat/completions", asked);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new ApiError(event.error.message, 500);
      const [choice] = event.choices;
      if (!choice) continue;
      const { delta, finish_reason: ending } = choice;
      yield { text: delta.content ?? "", ending, steering: event.steering };
    }
  }
}
