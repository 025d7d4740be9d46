// What the page shows, as one value; and as the text of a link. No key is ever in it.

export const STRENGTHS = [-1, 0, 0.5, 1, 1.25, 1.5];
const MOST_PARTS = 8;

export const fresh = () => ({
  model: "",
  prompt: "Tell me about your day.",
  parts: [{ text: "talk like a pirate", strength: 1 }],
  rules: { text: "", strength: 1 },
  tokens: 64,
  temperature: 0,
  // Greedy text of small models goes round in circles without one.
  penalty: 1.15,
  seed: 0,
  strengths: STRENGTHS,
});

export function toLink(state) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return `#s=${text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

/** Read a link; null where it holds no state. Whoever made it, only what is expected is taken. */
export function fromLink(hash) {
  if (!hash.startsWith("#s=")) return null;
  try {
    const text = atob(hash.slice(3).replaceAll("-", "+").replaceAll("_", "/"));
    const given = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    return cleaned(given);
  } catch {
    return null;
  }
}

function cleaned(given) {
  const state = fresh();
  if (typeof given.model === "string") state.model = given.model.slice(0, 200);
  if (typeof given.prompt === "string") state.prompt = given.prompt.slice(0, 8000);
  if (Array.isArray(given.parts)) {
    const parts = given.parts.slice(0, MOST_PARTS).map(part).filter(Boolean);
    if (parts.length) state.parts = parts;
  }
  const { text, strength } = part(given.rules) ?? state.rules;
  state.rules = { text, strength };
  state.tokens = Math.round(within(given.tokens, 1, 512, state.tokens));
  state.temperature = within(given.temperature, 0, 2, state.temperature);
  state.penalty = within(given.penalty, 1, 2, state.penalty);
  state.seed = Math.round(within(given.seed, 0, 2147483647, state.seed));
  if (Array.isArray(given.strengths)) {
    const found = given.strengths.filter(Number.isFinite).slice(0, 12);
    if (found.length) state.strengths = found;
  }
  return state;
}

function part(given) {
  if (typeof given?.text !== "string") return null;
  const made = { text: given.text.slice(0, 2000), strength: within(given.strength, -4, 4, 1) };
  if (typeof given.edit === "string") made.edit = given.edit.slice(0, 64);
  return made;
}

const within = (value, least, most, otherwise) =>
  Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : otherwise;
