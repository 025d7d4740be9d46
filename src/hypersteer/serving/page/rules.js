// Rules: when to steer. Their field, and under each answer what they decided.

import { $, el, number } from "./dom.js";
import { slider } from "./parts.js";
import { ruled } from "./requests.js";

/** Show the rules of a state; `changed` is called whenever the user changes them. */
export function draw(state, changed) {
  const { rules } = state;
  $("rules").value = rules.text;
  const note = el("p", { className: "near" }, "Multiplies the strengths that stand in the rules after “at”.");
  $("rules-strength").replaceChildren(slider("ruling", rules, changed, "Strength of the rules"), note);
  const show = () => ($("rules-strength").hidden = !ruled(state));
  // In the place of a listener, since each state has rules of its own.
  $("rules").oninput = () => {
    rules.text = $("rules").value;
    show();
    changed();
  };
  show();
}

const share = (p) => (p > 0.995 ? "over 99 %" : p < 0.005 ? "under 1 %" : `${Math.round(100 * p)} %`);

/** What the rules of an answer decided, as lines: of each condition, and of what acts. */
function lines(steering) {
  const check = steering?.answers[0]?.decisions?.at(-1);
  if (!check) return [];
  const made = Object.entries(check.scores).map(([name, score]) => {
    const p = check.probabilities?.[name]; // there is none of a condition that is not calibrated
    const fired = check.conditions.includes(name);
    const how = p === undefined ? `score ${number(score)}` : share(p);
    return { about: `${name}: ${how}, `, verdict: fired ? "fired" : "did not fire", fired };
  });
  const still = steering.parts.some((part) => "rules" in part && part.strength === 0);
  const acting = still ? [] : check.edits;
  const what = acting.length ? `“${acting.join("”, “")}”` : still ? "nothing, at strength 0" : "nothing";
  return [...made, { about: "By rules acts: ", verdict: what, fired: acting.length > 0 }];
}

/** The decisions as one text, for those who hear them. */
export const spoken = (steering) =>
  lines(steering).map((line) => `${line.about}${line.verdict}. `).join("");

/** Put what was decided under an answer, in place of what is there. */
export function show(place, steering) {
  place.parentElement.querySelector(".decided")?.remove();
  const found = lines(steering);
  if (!found.length) return;
  const items = found.map((line) =>
    el("li", { className: line.fired ? "fired" : "" }, line.about, el("b", {}, line.verdict)),
  );
  const list = el("ul", { className: "decided" }, ...items);
  list.setAttribute("aria-label", "What the rules decided");
  place.after(list);
}
