// From the state of the page to the bodies of requests; the exported code shows the same.

/** Put words into a prompt as the server itself does; `words` comes from it. */
export function said(prompt, texts, words) {
  // A function, since "$&" in a user's text would mean something to replace().
  return texts.reduce(
    (so_far, text) =>
      words.replace(/\{steering\}|\{prompt\}/g, (name) => (name === "{prompt}" ? so_far : text)),
    prompt,
  );
}

export const active = (state) => state.parts.filter((part) => part.edit || part.text.trim());

export const ruled = (state) => Boolean(state.rules.text.trim());

/** What steers, as the API takes it, every strength times a factor; the rules are one part. */
export function steering(state, factor = 1) {
  const times = (strength) => Number((strength * factor).toFixed(4));
  const parts = active(state).map((part) => {
    const strength = times(part.strength);
    return part.edit ? { edit: part.edit, strength } : { text: part.text, strength };
  });
  const { text, strength } = state.rules;
  return ruled(state) ? [...parts, { rules: text, strength: times(strength) }] : parts;
}

/** The user's message: a stored edit says nothing by itself, so its words are put in here. */
export function messages(state, about, words, factor = 1) {
  const texts = about?.steering.prompted
    ? active(state).filter((part) => part.edit && part.text && part.strength * factor > 0)
    : [];
  return asUser(said(state.prompt, texts.map((part) => part.text), words));
}

const asUser = (content) => [{ role: "user", content }];

function decoding(state) {
  const found = {
    model: state.model,
    temperature: state.temperature,
    max_tokens: state.tokens,
    repetition_penalty: state.penalty,
  };
  return state.temperature > 0 ? { ...found, seed: state.seed } : found;
}

export const unsteered = (state) => ({ ...decoding(state), messages: asUser(state.prompt) });

export function prompted(state, words) {
  const texts = active(state).filter((part) => part.text.trim() && part.strength > 0);
  const prompt = said(state.prompt, texts.map((part) => part.text), words);
  return { ...decoding(state), messages: asUser(prompt) };
}

export const steered = (state, about, words, factor = 1) => ({
  ...decoding(state),
  messages: messages(state, about, words, factor),
  steering: steering(state, factor),
});
