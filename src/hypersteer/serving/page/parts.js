// The steering prompts: each with a slider, what the checkpoint knows that is near, and a warning.

import { call } from "./api.js";
import { $, el, number } from "./dom.js";

const WAIT = 450; // milliseconds after the last key
let count = 0;

/** Show all steering prompts of a state; `changed` is called whenever the user changes one. */
export function draw(state, changed) {
  $("parts").replaceChildren(...state.parts.map((part) => row(state, part, changed)));
  $("add").hidden = state.parts.length >= 8;
}

function row(state, part, changed) {
  const id = `part-${++count}`;
  const near = el("p", { className: "near", id: `${id}-near` });
  const text = part.edit ? stored(part) : asText(id, part, near, state, changed);
  const remove = el("button", { type: "button", className: "quiet remove" }, "✕");
  remove.setAttribute("aria-label", `Remove ${part.edit ?? "this steering prompt"}`);
  remove.hidden = state.parts.length === 1;
  remove.addEventListener("click", () => {
    state.parts.splice(state.parts.indexOf(part), 1);
    draw(state, changed);
    changed();
    $("parts").querySelector("input")?.focus();
  });
  const made = el("div", { className: "part" }, el("div", { className: "line" }, text, remove));
  made.append(slider(id, part, changed), near);
  if (!part.edit) nearest(state.model, part.text, near);
  return made;
}

function asText(id, part, near, state, changed) {
  const input = el("input", { type: "text", value: part.text, maxLength: 2000, id: `${id}-text` });
  input.setAttribute("aria-label", "Steering prompt");
  input.setAttribute("aria-describedby", near.id);
  input.placeholder = "talk like a pirate";
  input.autocomplete = "off";
  let timer = 0;
  input.addEventListener("input", () => {
    part.text = input.value;
    changed();
    clearTimeout(timer);
    timer = setTimeout(() => nearest(state.model, part.text, near), WAIT);
  });
  return input;
}

function stored(part) {
  const name = el("span", { className: "stored" }, el("b", {}, part.edit));
  if (part.text) name.append(` saved from “${part.text}”`);
  return name;
}

/** A slider and a number for the strength of what steers. */
export function slider(id, part, changed, name = "Strength") {
  const options = { min: -2, max: 2, step: 0.05, value: part.strength };
  const range = el("input", { type: "range", ...options, id: `${id}-strength` });
  const exact = el("input", { type: "number", ...options, min: -4, max: 4 });
  range.setAttribute("aria-label", name);
  exact.setAttribute("aria-label", `${name}, exactly`);
  const take = (from, to) => () => {
    if (from.value === "" || !from.checkValidity()) return;
    part.strength = Number(from.value);
    to.value = from.value;
    changed();
  };
  range.addEventListener("input", take(range, exact));
  exact.addEventListener("input", take(exact, range));
  const label = el("label", { htmlFor: range.id }, "Strength");
  return el("div", { className: "strength" }, label, range, exact);
}

const known = new Map();

/** Show which concepts of the training are nearest to a text. */
async function nearest(model, text, place) {
  if (!model || !text.trim()) {
    place.replaceChildren();
    return;
  }
  const name = JSON.stringify([model, text]);
  try {
    if (!known.has(name)) {
      const asked = { method: "POST", json: { model, text, top: 3 } };
      known.set(name, await call("v1/steering/nearest", asked));
    }
  } catch {
    place.replaceChildren(); // what is wrong with it is told when it is to steer
    return;
  }
  const input = place.parentElement?.querySelector("input");
  if (input && input.value === text) place.replaceChildren(...told(known.get(name)));
}

function told(found) {
  if (!found.concepts.length) return [];
  const names = found.concepts.map((one) => `${one.text} (${number(one.similarity)})`).join(" · ");
  if (!found.far) return [el("span", {}, `Nearest in training: ${names}`)];
  const count = found.trained_on.toLocaleString("en");
  const warning = `⚠ Far from all ${count} concepts of the training: see in the answer whether it works.`;
  return [el("strong", { className: "far" }, warning), ` Nearest: ${names}`];
}
