// Edits that the server keeps: save, list, load, fetch as a file, send a file, delete.

import { bytes, call } from "./api.js";
import { $, el, tell, warn } from "./dom.js";

const NAME = /^[a-z0-9][a-z0-9_-]{0,63}$/;

/** Offer the steering prompts of the page to be saved. */
export function offer(state) {
  const texts = state.parts.filter((part) => !part.edit && part.text.trim());
  const chosen = $("save-part").selectedIndex;
  const shown = texts.map((part) => el("option", { value: part.text }, part.text));
  $("save-part").replaceChildren(...shown);
  if (chosen > 0 && chosen < shown.length) $("save-part").selectedIndex = chosen;
  if (!$("save-name").dataset.typed) $("save-name").value = named($("save-part").value);
}

export const named = (text) =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 40);

/** Keep the chosen steering prompt's edit at strength 1, so that a slider means the same on it. */
export async function save(state, about) {
  const [name, text] = [$("save-name").value, $("save-part").value];
  if (!text) throw new Error("there is no steering prompt to save; type one above");
  const asked = { name, text, model: state.model };
  if (about.steering.variant !== "no-context") asked.prompt = state.prompt;
  await call("v1/edits", { method: "POST", json: asked });
  tell(`Saved as ${name}.`);
}

/** List the stored edits; `load` is called with one to steer by. */
export async function list(load) {
  const { data } = await call("v1/edits");
  const rows = data.map((edit) => row(edit, load));
  $("edits").replaceChildren(...(rows.length ? rows : [el("li", { className: "none" }, "None yet.")]));
}

function row(edit, load) {
  const about = edit.error ?? edit.steering_prompt ?? "";
  const text = el("span", {}, el("b", {}, edit.name), " ", el("small", {}, about));
  const made = el("li", {}, text);
  const button = (name, act) => {
    const one = el("button", { type: "button", className: "quiet" }, name);
    one.setAttribute("aria-label", `${name} ${edit.name}`);
    one.addEventListener("click", () => act().catch((error) => warn(error.message)));
    made.append(one);
  };
  if (!edit.error) {
    button("Load", async () => load(edit));
    button("File", () => fetched(edit.name));
  }
  button("Delete", async () => {
    await call(`v1/edits/${edit.name}`, { method: "DELETE" });
    tell(`Deleted ${edit.name}.`);
    await list(load);
  });
  return made;
}

async function fetched(name) {
  const address = URL.createObjectURL(await bytes(`v1/edits/${name}/file`));
  el("a", { href: address, download: `${name}.safetensors` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Send a file to the server, under its own name as far as that can be one. */
export async function send(file) {
  const name = named(file.name.replace(/\.safetensors$/i, ""));
  if (!NAME.test(name)) throw new Error("the file's name holds no letter or digit; rename it");
  const path = `v1/edits/${name}/file`;
  const found = await call(path, { method: "PUT", body: file });
  tell(`Loaded ${name}.`);
  return found;
}
