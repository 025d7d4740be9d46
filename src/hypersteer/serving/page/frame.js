// What stands around the page: its theme, the API key, and the link to share.

import { key, setKey } from "./api.js";
import { $, copied } from "./dom.js";
import { toLink } from "./state.js";

/** Ask for the key, and say what was wrong with the one there was. */
export function askKey(told) {
  $("key-open").hidden = false;
  $("key-told").textContent = key() ? told : "";
  $("key-told").hidden = !key();
  if (!$("key").open) $("key").showModal();
}

/** Show the link that holds a state, and copy it if the browser lets us. */
export async function share(state) {
  const link = new URL(toLink(state), document.baseURI).href;
  history.replaceState(null, "", link);
  $("link-value").value = link;
  $("link-told").textContent = (await copied(link))
    ? "Copied. It holds all that is set on this page, and no key."
    : "Copy it: it holds all that is set on this page, and no key.";
  $("link").showModal();
  $("link-value").select();
}

/** Show which theme is on. */
function showTheme() {
  const set = document.documentElement.dataset.theme;
  const dark = set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  $("theme").setAttribute("aria-pressed", String(dark));
  return dark;
}

function turnTheme() {
  const next = showTheme() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("hypersteer-theme", next);
  showTheme();
}

/** Listen to what is around the page; `again` is called once there is a new key. */
export function listen(again) {
  $("theme").addEventListener("click", turnTheme);
  $("key-open").addEventListener("click", () => askKey(""));
  $("key-cancel").addEventListener("click", () => $("key").close());
  $("key-form").addEventListener("submit", () => {
    setKey($("key-value").value.trim());
    $("key-value").value = "";
    again();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
  showTheme();
}
