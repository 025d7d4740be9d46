// Answers as they stream in: three side by side, and the row of a strength sweep.

import { stream } from "./api.js";
import { $, el, number, warn } from "./dom.js";
import { prompted, ruled, steered, unsteered } from "./requests.js";
import * as rules from "./rules.js";

/** Stream one answer into a place; return its text and what steered it. */
async function fill(place, body, signal) {
  const text = document.createTextNode("");
  let steering = null;
  place.replaceChildren(text);
  rules.show(place, null);
  place.setAttribute("aria-busy", "true");
  place.classList.remove("cut");
  place.classList.add("writing");
  try {
    for await (const piece of stream(body, signal)) {
      text.data += piece.text;
      place.classList.toggle("cut", piece.ending === "length");
      steering = piece.steering ?? steering;
    }
    if (!text.data.trim()) place.append(el("span", { className: "none" }, "(no text)"));
    rules.show(place, steering);
    return { text: text.data, steering };
  } finally {
    place.removeAttribute("aria-busy");
    place.classList.remove("writing");
  }
}

const place = (id) => $(id).querySelector(".answer");

/** Write the three answers at once; return the steered one: its text, and what steered it. */
export async function compare(state, about, words, signal) {
  const bodies = {
    unsteered: unsteered(state),
    prompted: prompted(state, words),
    steered: steered(state, about, words),
  };
  // What the rules will have act is not known yet, so it is not told.
  $("prompted-how").textContent = ruled(state) ? "told the steering prompts, no rules" : "only told the words";
  const ids = Object.keys(bodies);
  const found = await all(ids.map((id) => fill(place(id), bodies[id], signal)));
  return found[2];
}

/** Write one answer at each strength; `use` is called with the one that is chosen. */
export async function sweep(state, about, words, signal, use) {
  const rows = state.strengths.map((strength) => {
    const answer = el("div", { className: "answer" });
    const name = el("h3", {}, number(strength));
    if (strength === 0) name.append(el("small", {}, " unsteered"));
    const button = el("button", { type: "button", className: "quiet" }, "Use");
    button.setAttribute("aria-label", `Use strength ${number(strength)}`);
    button.addEventListener("click", () => use(strength));
    const head = el("header", {}, name, button);
    return { strength, answer, item: el("li", { className: "card" }, head, answer) };
  });
  $("sweep-row").replaceChildren(...rows.map((row) => row.item));
  await all(
    rows.map((row) => fill(row.answer, steered(state, about, words, row.strength), signal)),
  );
}

/** Wait for all, and only then fail as the first that did; what the server refuses is told at once. */
async function all(promises) {
  for (const one of promises) one.catch((error) => error.status === 400 && warn(error.message));
  const ended = await Promise.allSettled(promises);
  const failed = ended.find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
  return ended.map((one) => one.value);
}
