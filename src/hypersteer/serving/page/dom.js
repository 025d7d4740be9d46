// The few things that all modules do to the document. Text only ever goes in as text.

export const $ = (id) => document.getElementById(id);

/** Make an element: properties, then children; a string becomes a text node. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Tell a screen reader what has come about; quietly, once. */
export function tell(text) {
  $("status").textContent = text;
}

/** Show what went wrong, or hide it. */
export function warn(text) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
}

export const number = (value, digits = 2) => String(Number(value.toFixed(digits)));

export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no permission, or a page that is not served securely
  }
}
