// The page: its state, and what happens when something is clicked.

import { compare, sweep } from "./answers.js";
import { ApiError, call } from "./api.js";
import { FORMS } from "./code.js";
import { $, copied, el, tell, warn } from "./dom.js";
import * as edits from "./edits.js";
import * as effect from "./effect.js";
import * as frame from "./frame.js";
import * as parts from "./parts.js";
import { active, ruled } from "./requests.js";
import * as rules from "./rules.js";
import { fresh, fromLink } from "./state.js";

const NUMBERS = ["tokens", "temperature", "penalty", "seed"];
let state = fresh();
let models = [];
let words = "";
let form = "python";
let running = null; // what stops the answers that are on their way
let shown = ""; // the steered answer whose tokens are coloured, and the state it came from
let shownState = null;

const about = () => models.find((one) => one.id === state.model);

function draw() {
  $("prompt").value = state.prompt;
  for (const name of NUMBERS) $(name).value = state[name];
  $("strengths").value = state.strengths.join(", ");
  $("model").value = state.model;
  parts.draw(state, changed);
  rules.draw(state, changed);
  changed();
}

/** Whatever follows from the state, after each change. */
function changed() {
  edits.offer(state);
  $("code").textContent = about() ? FORMS[form](state, about(), words) : "";
}

/** Do what asks the server; tell what goes wrong, and ask for the key where that is it. */
async function attempt(act) {
  warn("");
  try {
    return await act();
  } catch (error) {
    if (error.name === "AbortError") tell("Stopped.");
    else if (error instanceof ApiError && error.status === 401) frame.askKey(error.message);
    else warn(error.message);
  }
}

/** Run what writes answers; one at a time. */
async function write(act) {
  running?.abort();
  const own = new AbortController();
  running = own;
  $("stop").hidden = false;
  effect.close();
  await attempt(() => act(own.signal));
  if (running === own) {
    running = null;
    $("stop").hidden = true;
  }
}

function ready() {
  if (!state.prompt.trim()) return refuse("prompt", "The base prompt is empty; ask something.");
  if (!active(state).length && !ruled(state))
    return refuse("parts", "There is no steering prompt and no rule; say how to steer.");
  return true;
}

function refuse(id, text) {
  warn(text);
  ($(id).querySelector("input") ?? $(id)).focus();
  return false;
}

const steer = () =>
  ready() &&
  write(async (signal) => {
    effect.hide();
    tell("Writing three answers.");
    look();
    const own = structuredClone(state);
    const { text, steering } = await compare(own, about(), words, signal);
    tell(`Done. ${rules.spoken(steering)}Steered: ${text}`);
    [shown, shownState] = [text, own];
    if (text) await effect.show(text, own, about(), words, signal);
  });

const sweeping = () =>
  ready() &&
  write(async (signal) => {
    tell(`Writing answers at ${state.strengths.length} strengths.`);
    scroll("sweep-title");
    await sweep(structuredClone(state), about(), words, signal, useStrength);
    tell("The sweep is done.");
  });

/** Bring the answers into view: by themselves where all is in one column, else below the form. */
function look(otherwise) {
  const id = matchMedia("(max-width: 859px)").matches ? "answers" : otherwise;
  if (id) scroll(id);
}

function scroll(id) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $(id).scrollIntoView({ block: "start", behavior: still ? "instant" : "smooth" });
}

function useStrength(factor) {
  for (const part of ruled(state) ? [...state.parts, state.rules] : state.parts)
    part.strength = Number((part.strength * factor).toFixed(4));
  draw();
  look("form");
  steer();
}

function load(edit) {
  const part = { edit: edit.name, text: edit.steering_prompt ?? "", strength: 1 };
  // In the place of the steering prompt that it was made of, or of an empty one.
  const same = state.parts.findIndex((one) => !one.edit && [part.text, ""].includes(one.text.trim()));
  if (same >= 0) {
    part.strength = state.parts[same].strength;
    state.parts[same] = part;
  } else state.parts.push(part);
  draw();
  tell(`${edit.name} steers now.`);
}

function choose(name) {
  form = name;
  for (const one of Object.keys(FORMS)) {
    $(`tab-${one}`).setAttribute("aria-selected", String(one === name));
    $(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  $("code").setAttribute("aria-labelledby", `tab-${name}`);
  changed();
}

function turnTab(event) {
  const names = Object.keys(FORMS);
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  choose(names[(names.indexOf(form) + by + names.length) % names.length]);
  $(`tab-${form}`).focus();
}

async function drawGallery() {
  const examples = await (await fetch("gallery.json")).json();
  const items = examples.map((one) => {
    const steered = one.steer.map((part) => part.text).join(" + ");
    const button = el("button", { type: "button" }, el("b", {}, steered), el("span", {}, one.prompt));
    button.addEventListener("click", () => {
      const { rules } = fresh();
      state = { ...state, prompt: one.prompt, parts: structuredClone(one.steer), rules };
      draw();
      look("form");
      steer();
    });
    return el("li", {}, button);
  });
  $("gallery").replaceChildren(...items);
}

function drawModels() {
  $("model").replaceChildren(...models.map((one) => el("option", { value: one.id }, one.id)));
  if (!about()) state.model = models[0]?.id ?? "";
  const { steering, base_lm } = about() ?? {};
  if (!steering) return;
  const from = steering.concepts ? `, trained on ${steering.concepts.toLocaleString("en")} steering prompts` : "";
  $("about").textContent = `Here: ${base_lm}${from}.`;
  $("steered-how").textContent = steering.prompted ? "told the words, and its states edited" : "its states edited";
  $("edits-note").textContent = steering.prompted
    ? "An edit is kept as a file. This checkpoint's edits were learnt beside the words, so a loaded one says its words, too."
    : "An edit is kept as a file, and steers with no words said.";
}

async function start() {
  words = (await (await fetch("words.json")).json()).prompted;
  await attempt(async () => {
    models = (await call("v1/models")).data;
    drawModels();
    await edits.list(load);
  });
  draw();
}

function listen() {
  $("prompt").addEventListener("input", () => {
    state.prompt = $("prompt").value;
    changed();
  });
  for (const name of NUMBERS) {
    $(name).addEventListener("input", () => {
      if ($(name).value !== "" && $(name).checkValidity()) state[name] = Number($(name).value);
      changed();
    });
  }
  $("strengths").addEventListener("change", () => {
    const found = $("strengths").value.split(/[\s,;]+/).filter(Boolean).map(Number);
    if (found.length && found.length <= 12 && found.every(Number.isFinite)) state.strengths = found;
    else warn("Strengths are up to 12 numbers with commas between, such as -1, 0, 0.5, 1.");
    $("strengths").value = state.strengths.join(", ");
  });
  $("model").addEventListener("change", () => {
    state.model = $("model").value;
    drawModels();
    draw();
  });
  $("add").addEventListener("click", () => {
    state.parts.push({ text: "", strength: 1 });
    draw();
    $("parts").lastElementChild.querySelector("input").focus();
  });
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    steer();
  });
  $("sweep").addEventListener("click", sweeping);
  $("stop").addEventListener("click", () => running?.abort());
  $("against").addEventListener("change", () => {
    if (shown) write((signal) => effect.show(shown, shownState, about(), words, signal));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) steer();
    if (event.key !== "Escape") return;
    effect.close();
    running?.abort();
  });
  $("tip").addEventListener("pointerleave", effect.close);
  listenAside();
}

function listenAside() {
  $("save").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      await edits.save(state, about());
      delete $("save-name").dataset.typed;
      await edits.list(load);
    });
  });
  $("save-name").addEventListener("input", () => ($("save-name").dataset.typed = "yes"));
  $("save-part").addEventListener("change", () => edits.offer(state));
  $("edit-file").addEventListener("change", () =>
    attempt(async () => {
      load(await edits.send($("edit-file").files[0]));
      $("edit-file").value = "";
      await edits.list(load);
    }),
  );
  for (const name of Object.keys(FORMS)) {
    $(`tab-${name}`).addEventListener("click", () => choose(name));
    $(`tab-${name}`).addEventListener("keydown", turnTab);
  }
  $("copy").addEventListener("click", async () => {
    const done = await copied($("code").textContent);
    tell(done ? "Copied." : "It could not be copied; select it and copy.");
    $("copy").textContent = done ? "Copied" : "Select it";
    setTimeout(() => ($("copy").textContent = "Copy"), 2000);
  });
  $("share").addEventListener("click", () => frame.share(state));
  window.addEventListener("hashchange", () => {
    const found = fromLink(location.hash);
    if (!found) return;
    state = found;
    if (!about()) state.model = models[0]?.id ?? "";
    draw();
  });
}

state = fromLink(location.hash) ?? state;
$("legend").replaceChildren(...effect.legend());
listen();
frame.listen(start);
choose(form);
drawGallery();
start();
