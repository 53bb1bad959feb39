// Elements, made from text alone: whatever a catalogue says is shown, and never run.

export const byId = (id) => document.getElementById(id);

// Return an element. Of `properties`, those with a dash are attributes, null and undefined are left out.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name.includes("-") || name === "role" || name === "class") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}
