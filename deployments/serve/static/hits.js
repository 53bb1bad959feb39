// Hits as cards, and one of them larger.

import {pictureAddress} from "./api.js";
import {byId, element} from "./dom.js";

const CARD_PX = 400;
const LARGER_PX = 1200;
const MAX_LABELS = 4;

// Return the value of a field as people read it: an amount as the shop wrote it.
const shown = (value) => String(typeof value === "object" ? value.text : value);
const field = (item, name) => item.fields[name] === undefined ? "" : shown(item.fields[name]);
const nameOf = (item) => field(item, "title") || item.category || "item";
const scoreOf = (item) => item.score === undefined ? "" : item.score.toFixed(3);
const shopAddress = (item) => /^https?:\/\//i.test(field(item, "link")) ? field(item, "link") : "";

// Return a card. `search` is the address that searches with the item, `mark` how its rank changed.
export function card(item, release, search, mark, enlarge) {
  const name = nameOf(item), what = `${name}, ${item.item_id}`;
  const picture = element("img", {alt: "", loading: "lazy", src: pictureAddress(item.item_id, release, CARD_PX)});
  picture.addEventListener("error", () => picture.replaceWith(element("i", {}, "picture unavailable")));
  const labels = item.labels.filter((label) => label !== item.category).slice(0, MAX_LABELS);
  const price = field(item, "price") && element("b", {}, field(item, "price"));
  const offer = [price, field(item, "title") && item.category].filter(Boolean);
  return element("li", {class: "card", "data-item": item.item_id},
    element("button", {type: "button", class: "picture", "aria-label": `Larger: ${what}`, onclick: enlarge}, picture),
    mark,
    element("div", {class: "about"},
      element("p", {class: "name"}, element("b", {title: name}, name), scored(item)),
      offer.length ? element("p", {class: "offer"}, ...offer.flatMap((part) => [part, " "])) : null,
      element("p", {class: "id", title: item.item_id}, item.item_id),
      labels.length ? element("ul", {class: "labels"}, ...labels.map((label) => element("li", {}, label))) : null,
      element("p", {class: "actions"}, ...actions(item, what, search))));
}

function scored(item) {
  const label = element("span", {class: "only-read"}, "score ");
  return scoreOf(item) && element("span", {class: "score"}, label, scoreOf(item));
}

function actions(item, what, search) {
  const like = element("a", {class: "more", href: search, "aria-label": `More like this: ${what}`}, "More like this");
  const shop = shopAddress(item) && element("a", {
    href: shopAddress(item), target: "_blank", rel: "noopener noreferrer", "aria-label": `In the shop: ${what}`,
  }, "In the shop");
  return [like, shop];
}

// Return a mark that compares the rank of a hit with that of the same item in the answer to the left.
export function rankMark(rank, leftRank) {
  if (leftRank === undefined) return element("span", {class: "moved new"}, "only here");
  const moved = leftRank - rank;
  const text = moved ? `${moved > 0 ? "↑" : "↓"}${Math.abs(moved)}` : "=";
  return element("span", {class: "moved", title: `number ${leftRank} on the left`}, text);
}

function factsOf(item) {
  const others = Object.keys(item.fields).filter((name) => !["title", "link"].includes(name));
  const facts = [
    ["item", item.item_id],
    ["product", item.product_id],
    ["category", item.category],
    ["labels", item.labels.join(", ")],
    ...others.map((name) => [name, field(item, name)]),
    ["score", scoreOf(item) && `${scoreOf(item)}, the cosine with the query: at most 1`],
  ];
  return facts.filter(([, value]) => value);
}

// The dialog that shows one of the hits of an answer, and leads to the one before and after it.
export class Larger {
  constructor() {
    this.dialog = byId("larger");
    byId("close").onclick = () => this.dialog.close();
    byId("previous").onclick = () => this.#step(-1);
    byId("next").onclick = () => this.#step(1);
    this.dialog.addEventListener("keydown", (event) => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (step) this.#step(step);
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog || event.target.closest(".more")) this.dialog.close();
    });
  }

  open(items, number, release, searchOf) {
    Object.assign(this, {items, number, release, searchOf});
    this.#show();
    this.dialog.showModal();
  }

  #step(by) {
    this.number = Math.min(this.items.length - 1, Math.max(0, this.number + by));
    this.#show();
  }

  #show() {
    const item = this.items[this.number], name = nameOf(item);
    const picture = this.dialog.querySelector("img");
    picture.src = pictureAddress(item.item_id, this.release, LARGER_PX);
    picture.alt = name;
    byId("larger-name").textContent = name;
    const rows = factsOf(item).map(([key, value]) => element("div", {}, element("dt", {}, key), element("dd", {}, value)));
    this.dialog.querySelector(".facts").replaceChildren(element("dl", {}, ...rows));
    const links = actions(item, `${name}, ${item.item_id}`, this.searchOf(item));
    this.dialog.querySelector(".actions").replaceChildren(...links.filter(Boolean));
    byId("previous").disabled = this.number === 0;
    byId("next").disabled = this.number === this.items.length - 1;
  }
}
