// The values that a filter can name, each with its number of items: click to choose, click again to let go.

import {byId, element} from "./dom.js";

const HIDDEN = ["split", "item_id", "product_id"];
const N_SHOWN = 8; // values of a name, until its others are asked for
const expanded = new Set();

// Show the counts {name: {value: n}}; `chosen` are {name: [value, …]}. `toggle(name, value)` is called for a click.
export function showFacets(counts, chosen, toggle) {
  const focused = document.activeElement?.dataset.value;
  const names = Object.keys({...chosen, ...counts}).filter((name) => chosen[name] || !HIDDEN.includes(name));
  const groups = names.map((name) => group(name, counts[name] || {}, chosen[name] || [], toggle));
  byId("facets").replaceChildren(...groups.filter(Boolean));
  const chips = allChips(), again = focused && chips.find((chip) => chip.dataset.value === focused);
  if (again) focusChip(again);
  else if (chips.length) chips[0].tabIndex = 0;
  const n = Object.values(chosen).flat().length;
  byId("n-filters").textContent = n ? `${n} chosen` : "";
  byId("clear").hidden = !n;
  byId("filters").hidden = !chips.length;
}

function group(name, counts, chosen, toggle) {
  const unseen = chosen.filter((value) => !(value in counts));
  const values = [...unseen, ...Object.keys(counts)];
  if (values.length < 2 && !chosen.length) return null;
  const isLong = values.length > N_SHOWN + 1 && !expanded.has(name);
  const listed = isLong ? values.filter((value, number) => number < N_SHOWN || chosen.includes(value)) : values;
  const chips = listed.map((value) => element("button", {
    type: "button",
    class: "chip",
    "data-value": `${name}\n${value}`,
    "aria-pressed": String(chosen.includes(value)),
    tabIndex: -1,
    onclick: () => toggle(name, value),
  }, element("span", {}, value), " ", element("span", {class: "count"}, (counts[value] || 0).toLocaleString("en"))));
  const choices = element("div", {role: "group", "aria-label": name}, ...chips);
  const made = element("section", {class: "facet"}, element("h3", {}, name), choices);
  if (isLong) {
    const showAll = () => {
      expanded.add(name);
      const whole = group(name, counts, chosen, toggle);
      made.replaceWith(whole);
      focusChip(whole.querySelectorAll(".chip")[listed.length]);
    };
    const text = `${values.length - listed.length} more`;
    choices.append(element("button", {
      type: "button",
      class: "chip others",
      "data-value": `${name}\n`,
      "aria-label": `${text} of ${name}`,
      tabIndex: -1,
      onclick: showAll,
    }, text));
  }
  return made;
}

const allChips = () => [...byId("facets").querySelectorAll(".chip")];

function focusChip(chip) {
  for (const other of allChips()) other.tabIndex = -1;
  chip.tabIndex = 0;
  chip.focus();
}

// All values are one stop of the Tab key: left and right go from value to value, up and down from name to name.
byId("facets").addEventListener("keydown", (event) => {
  const chips = allChips(), firsts = chips.filter((chip) => !chip.previousElementSibling);
  const number = chips.indexOf(event.target), nameNumber = firsts.indexOf(event.target.parentElement.firstChild);
  const next = {
    ArrowRight: chips[number + 1],
    ArrowLeft: chips[number - 1],
    ArrowDown: firsts[nameNumber + 1],
    ArrowUp: firsts[nameNumber - 1],
    Home: chips[0],
    End: chips.at(-1),
  }[event.key];
  if (!next) return;
  event.preventDefault();
  focusChip(next);
});
