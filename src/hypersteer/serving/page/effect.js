// Each token of the steered answer, coloured by how far steering moved it, with what else was likely.

import { call } from "./api.js";
import { $, el, number } from "./dom.js";
import { messages, ruled, steering, unsteered } from "./requests.js";

export const LEVELS = [0.1, 0.5, 1, 2, 4];
const NAMES = ["hardly moved", "a little", "somewhat", "clearly", "far", "very far"];

export const level = (kl) => LEVELS.filter((least) => kl >= least).length;

export function legend() {
  const bounds = [0, ...LEVELS];
  return bounds.map((least, rank) => {
    const most = bounds[rank + 1];
    const range = most === undefined ? `over ${least}` : rank === 0 ? `under ${most}` : `${least}–${most}`;
    const swatch = el("span", { className: `token level-${rank}`, "aria-hidden": "true" }, "abc");
    return el("li", {}, swatch, ` ${range}`);
  });
}

/** Show no effect, until there is one. */
export function hide() {
  $("effect").hidden = $("uncoloured").hidden = true;
}

/** Ask how far an answer was moved, and show it in its place. */
export async function show(answer, state, about, words, signal) {
  const against = $("against").value;
  const asked = {
    model: state.model,
    messages: messages(state, about, words),
    steering: steering(state),
    answer,
    against,
    unsteered: unsteered(state).messages,
  };
  let found;
  try {
    found = await call("v1/steering/effect", { method: "POST", json: asked, signal });
  } catch (error) {
    // Some rules are decided only as an answer is written. The answer stands, so no alarm.
    if (error.status !== 400 || !ruled(state)) throw error;
    $("uncoloured").textContent = `Not coloured: ${error.message}`;
    $("uncoloured").hidden = false;
    return;
  }
  const place = $("steered").querySelector(".answer");
  place.replaceChildren(bar(whole(found.tokens), against));
  $("mean").textContent = `${number(found.mean_kl)} nats per token`;
  $("effect").hidden = false;
}

/** Tokens that can be seen: one that is only part of a character goes with those that end it. */
function whole(tokens) {
  const made = [];
  let held = null; // of the parts, the one that was moved farthest speaks for all
  for (const token of tokens) {
    const farthest = held && held.kl > token.kl ? held : token;
    if (token.text === "") held = farthest;
    else {
      made.push({ ...farthest, text: token.text });
      held = null;
    }
  }
  return made;
}

/** One stop of the Tab key; arrows go from token to token, as in a toolbar. */
function bar(tokens, against) {
  const label = "Tokens of the steered answer; arrow keys go from one to the next";
  const made = el("div", { className: "tokens", role: "toolbar", "aria-label": label });
  const spans = tokens.map((token, place) => {
    const rank = level(token.kl);
    const span = el("span", { className: `token level-${rank}`, role: "button" }, token.text);
    span.tabIndex = place === 0 ? 0 : -1;
    const shown = spelled(token.text);
    span.setAttribute("aria-label", `${shown}, moved ${NAMES[rank]}, ${number(token.kl)} nats`);
    span.setAttribute("aria-describedby", "tip");
    span.addEventListener("pointerenter", () => open(span, token, against));
    span.addEventListener("focus", () => open(span, token, against));
    span.addEventListener("click", () => open(span, token, against));
    span.addEventListener("blur", close);
    return span;
  });
  made.append(...spans);
  made.addEventListener("pointerleave", (event) => {
    if (!$("tip").contains(event.relatedTarget)) close();
  });
  made.addEventListener("keydown", (event) => step(event, spans));
  return made;
}

function step(event, spans) {
  const here = spans.indexOf(document.activeElement);
  const places = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: spans.length - 1 };
  if (event.key === "Escape") close();
  const there = spans[places[event.key]];
  if (!there) return;
  event.preventDefault();
  for (const span of spans) span.tabIndex = span === there ? 0 : -1;
  there.focus();
}

/** A token as it can be seen: white space by its signs. */
export function spelled(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

const share = (p) => (p >= 0.9995 ? "100 %" : p < 0.001 ? "<0.1 %" : `${(100 * p).toFixed(1)} %`);

function open(span, token, against) {
  const tip = $("tip");
  const head = el("p", {}, el("b", {}, spelled(token.text)), ` moved ${number(token.kl)} nats`);
  const sides = el("div", { className: "sides" }, side("Steered", token.steered, token.text));
  const other = against === "prompted" ? "Prompted" : "Unsteered";
  sides.append(side(other, token.unsteered, token.text));
  tip.replaceChildren(head, sides);
  tip.hidden = false;
  put(tip, span.getClientRects()[0] ?? span.getBoundingClientRect());
  for (const one of document.querySelectorAll(".token.open")) one.classList.remove("open");
  span.classList.add("open");
}

function side(name, found, text) {
  const rows = found.top.map((one) => {
    const row = el("li", { className: one.text === text ? "own" : "" });
    row.style.setProperty("--share", one.p);
    row.append(el("span", {}, spelled(one.text)), el("span", {}, share(one.p)));
    return row;
  });
  return el("div", {}, el("p", {}, `${name}: ${share(found.p)}`), el("ol", {}, ...rows));
}

/** Below the token, or above it where there is no room; never beyond the window's sides. */
function put(tip, at) {
  const { width, height } = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth - width - 8;
  const below = at.bottom + 6 + height < window.innerHeight || at.top < height + 6;
  const top = below ? at.bottom + 6 : at.top - height - 6;
  tip.style.left = `${window.scrollX + Math.max(8, Math.min(at.left, room))}px`;
  tip.style.top = `${window.scrollY + top}px`;
}

export function close() {
  $("tip").hidden = true;
  for (const one of document.querySelectorAll(".token.open")) one.classList.remove("open");
}
