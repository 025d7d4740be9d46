// The request of the page as code. The key is named, never shown.

import { key, root } from "./api.js";
import { active, ruled, steered } from "./requests.js";

const KEY = "HYPERSTEER_API_KEY";
const text = (value) => JSON.stringify(value); // a JSON string is a string of Python, too

/** A text with quotation marks in it, as Python, and easy to read where that can be. */
const quoted = (value) => (/['\\\p{Cc}]/u.test(value) ? text(value) : `'${value}'`);

/** A JSON value as Python. */
function python(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return text(value);
  const deeper = `${indent}    `;
  const items = Array.isArray(value)
    ? value.map((one) => python(one, deeper))
    : Object.entries(value).map(([name, one]) => `${text(name)}: ${python(one, deeper)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const flat = `${open}${items.join(", ")}${close}`;
  if (flat.length + indent.length < 80 && !flat.includes("\n")) return flat;
  return `${open}\n${items.map((one) => `${deeper}${one},\n`).join("")}${indent}${close}`;
}

function asPython(state, about, words) {
  const parts = active(state);
  const prompt = steered(state, about, words).messages[0].content;
  const stored = parts.filter((part) => part.edit);
  const loads = stored.map((part, n) => `edit_${n} = hs.load_edit(${text(`${part.edit}.safetensors`)})\n`);
  const names = parts.map((part) => (part.edit ? `edit_${stored.indexOf(part)}` : text(part.text)));
  const pairs = parts.map((part, n) => [names[n], part.strength]);
  if (ruled(state)) pairs.push([`hs.rules(${quoted(state.rules.text)})`, state.rules.strength]);
  const steers =
    pairs.length === 1
      ? `steer=${pairs[0][0]},\n    strength=${pairs[0][1]},`
      : `edits=[${pairs.map((pair) => `(${pair.join(", ")})`).join(", ")}],`;
  const sampling = state.temperature > 0 ? `\n    temperature=${state.temperature},\n    seed=${state.seed},` : "";
  return `import hypersteer as hs

steerer = hs.load()  # or hs.load("folder of a checkpoint")
${loads.join("")}answer = steerer.generate(
    ${text(prompt)},
    ${steers}
    max_new_tokens=${state.tokens},
    repetition_penalty=${state.penalty},${sampling}
)
print(answer)
`;
}

function asCurl(state, about, words) {
  const json = JSON.stringify(steered(state, about, words), null, 2).replaceAll("'", "'\\''");
  const bearer = key() ? ` \\\n  -H "Authorization: Bearer $${KEY}"` : "";
  return `curl ${root()}/v1/chat/completions \\
  -H 'Content-Type: application/json'${bearer} \\
  -d '${json}'
`;
}

function asClient(state, about, words) {
  const { steering, repetition_penalty, ...body } = steered(state, about, words);
  const named = Object.entries(body).map(([name, one]) => `    ${name}=${python(one, "    ")},\n`);
  const extra = python({ repetition_penalty, steering }, "    ");
  const secret = key() ? `os.environ["${KEY}"]` : `"none"`;
  return `${key() ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${root()}/v1", api_key=${secret})
reply = client.chat.completions.create(
${named.join("")}    extra_body=${extra},
)
print(reply.choices[0].message.content)
`;
}

export const FORMS = { python: asPython, curl: asCurl, openai: asClient };
