// What is searched for, as an address that can be sent, and its history: Back shows what was there, as it was.

const NAMES = ["item", "image", "text", "where", "unlike", "show", "k", "whole", "mode", "release", "beside", "box"];
const FILTER = "f."; // begins the parameter of a chosen value: f.colour=red

// Return what an address asks for: texts by their names, and `filters` {name: [value, …]}.
export function readAddress() {
  const parameters = new URLSearchParams(location.search);
  const asked = Object.fromEntries(NAMES.map((name) => [name, parameters.get(name) || ""]));
  asked.filters = Object.create(null);
  for (const [name, value] of parameters) {
    if (name.startsWith(FILTER)) (asked.filters[name.slice(FILTER.length)] ||= []).push(value);
  }
  return {...asked, picture: null, pictureName: "", unlikePicture: null};
}

// Return the address of what is asked for; pictures that were chosen on this machine are in no address.
export function addressOf(asked) {
  const parameters = new URLSearchParams();
  for (const name of NAMES) if (asked[name]) parameters.set(name, asked[name]);
  for (const [name, values] of Object.entries(asked.filters)) {
    for (const value of values) parameters.append(FILTER + name, value);
  }
  return `./${parameters.size ? "?" : ""}${parameters}`;
}

// The entries of the browser's history that this page made: {asked, answers, scroll}.
export class Entries {
  #entries = new Map();
  #loaded = String(performance.timeOrigin);
  #n = 0;

  constructor() {
    history.scrollRestoration = "manual";
  }

  // Return the entry of the address, as it was left if it is one of ours.
  current() {
    const known = this.#entries.get(history.state?.id);
    if (known) return known;
    const entry = {asked: readAddress(), lostPicture: Boolean(history.state?.hasPicture)};
    this.#keep(entry, "replaceState", location.href);
    return entry;
  }

  // Add an entry and return it.
  push(asked) {
    const entry = {asked};
    this.#keep(entry, "pushState", addressOf(asked));
    return entry;
  }

  #keep(entry, change, address) {
    const id = `${this.#loaded}-${++this.#n}`;
    this.#entries.set(id, entry);
    history[change]({id, hasPicture: Boolean(entry.asked.picture || entry.lostPicture)}, "", address);
  }
}
