// The search page: what a visitor asks goes into the address and to the HTTP API, and the answers come back as cards.

import * as api from "./api.js";
import {Crop} from "./crop.js";
import {byId, element} from "./dom.js";
import {showFacets} from "./facets.js";
import {Larger, card, rankMark} from "./hits.js";
import {Entries, addressOf} from "./history.js";

const K = 12;
const QUERY_PX = 800;
const PART_PX = 1600; // of an item's picture, to search with a part of it
const SENT_PX = 1600; // of a side of a picture that is sent; the models see far less
const SENT_BYTES = 1_500_000; // smaller files are sent as they are
const UNSURE = 0.5; // below this confidence there may be nothing alike
const OF_A_QUERY = {item: "", image: "", text: "", picture: null, pictureName: "", box: ""};
const SELECTS = ["show", "k", "mode", "beside"];
const OPTIONS = [...SELECTS, "where", "unlike", "unlikePicture", "release", "whole"];
const WIDE = matchMedia("(min-width: 800px)");

const entries = new Entries();
const larger = new Larger();
const crop = new Crop(byId("crop"), searchPart);
const pictureUrls = new WeakMap(); // of files
const fetchedPictures = new Map(); // of addresses, as `data:` URIs
let entry = null; // that is shown
let releaseTold = ""; // by the head of the page
let searching = new AbortController();

// ---- What is asked ----

function queryOf(asked) {
  return {
    ...asked,
    images: asked.picture ? [asked.picture] : [],
    unlikeImages: asked.unlikePicture ? [asked.unlikePicture] : [],
    k: Number(asked.k) || K,
    whole: Boolean(asked.whole),
    box: asked.box ? asked.box.split(",").map(Number) : null,
  };
}

const isEmpty = (asked) => !(asked.picture || asked.image || asked.item || asked.text);
const likeItem = (itemId) => ({...entry.asked, ...OF_A_QUERY, item: itemId});

// Return what the fields say, as one would expect it to count with whatever is clicked next.
function typed() {
  const text = byId("text").value.trim();
  const values = {where: byId("where").value.trim(), unlike: byId("unlike").value.trim()};
  return /^https?:\/\//i.test(text) ? {...values, ...OF_A_QUERY, image: text} : {...values, text};
}

function go(changes, focus) {
  entry.scroll = scrollY;
  show(entries.push({...entry.asked, ...changes}), focus);
}

function toggleValue(name, value) {
  const filters = Object.assign(Object.create(null), entry.asked.filters), chosen = filters[name] || [];
  filters[name] = chosen.includes(value) ? chosen.filter((other) => other !== value) : [...chosen, value];
  if (!filters[name].length) delete filters[name];
  go({...typed(), filters});
}

async function choose(file) {
  if (!file) return;
  const picture = await shrunk(file);
  go({...typed(), ...OF_A_QUERY, text: typed().text || "", picture, pictureName: file.name || "your picture"});
}

// Return a large picture as a smaller one, so that it arrives sooner; a file that the browser cannot read as it is.
async function shrunk(file) {
  if (file.size <= SENT_BYTES) return file;
  try {
    const whole = await createImageBitmap(file);
    const scale = Math.min(1, SENT_PX / Math.max(whole.width, whole.height));
    const canvas = element("canvas", {width: Math.round(scale * whole.width), height: Math.round(scale * whole.height)});
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // behind what is transparent
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(whole, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve) => canvas.toBlob((smaller) => resolve(smaller || file), "image/jpeg", 0.92));
  } catch {
    return file;
  }
}

async function searchPart(box) {
  const text = box.map((side) => side.toFixed(3)).join(",");
  if (!entry.asked.item) return go({...typed(), box: text});
  const {item} = entry.asked;
  const response = await fetch(api.pictureAddress(item, releaseShown(), PART_PX));
  if (response.ok) go({...likeItem(""), picture: await response.blob(), pictureName: `part of ${item}`, box: text});
}

// ---- What is answered ----

const releaseShown = () => entry.answers?.[0].release || entry.asked.release || "production";

// Show an entry: at once if it was answered before, else when its answers come.
async function show(next, focus) {
  searching.abort();
  searching = new AbortController();
  entry = next;
  const {signal} = searching;
  fillFields();
  showQueryPicture();
  const isBack = Boolean(entry.answers);
  byId("results").setAttribute("aria-busy", String(!isBack));
  quietly(loadFacets(signal));
  if (!isBack) {
    const {release, beside} = entry.asked;
    const names = beside && beside !== (release || "production") && !isEmpty(entry.asked) ? [release, beside] : [release];
    next.answers = await Promise.all(names.map((name) => answer(name, signal)));
    if (signal.aborted) return void delete next.answers;
  }
  showAnswers();
  byId("results").setAttribute("aria-busy", "false");
  if (focus === "results") {
    byId("results").focus({preventScroll: true});
    scrollTo(0, 0);
  } else if (isBack) {
    scrollTo(0, entry.scroll || 0);
  }
  quietly(loadRelease(signal));
  quietly(loadView(signal));
}

// What accompanies the hits may fail by itself: the search says why.
function quietly(promise) {
  promise.catch((error) => {
    if (!(error instanceof api.Problem) && error.name !== "AbortError") throw error;
  });
}

// Return {name, release, items, cursor, seconds}, or {problem}.
async function answer(name, signal) {
  const query = queryOf(entry.asked), started = performance.now();
  try {
    if (isEmpty(entry.asked)) {
      const {release, items} = await api.items(query, name, signal);
      return {name, release, items, isStart: true};
    }
    const {release, hits, next_cursor: cursor} = await api.search(query, name, "", signal);
    return {name, query, release, items: hits, cursor, milliseconds: performance.now() - started};
  } catch (error) {
    if (error instanceof api.Problem) return {name, problem: error.message};
    if (error.name === "AbortError") return {name};
    throw error;
  }
}

function showAnswers() {
  const {answers, asked, lostPicture} = entry;
  const lost = "The picture is not kept when the page is loaded again: choose it again.";
  const notes = lostPicture && isEmpty(asked) ? [note(lost)] : [];
  byId("results").replaceChildren(...notes, ...answers.map(column));
  byId("results").classList.toggle("is-beside", answers.length > 1);
  markRanks();
  const n = answers[0].items?.length ?? 0;
  byId("status").textContent = answers[0].problem ? "" : answers[0].isStart ? `${n} items to start from` : `${n} hits`;
}

const problem = (text) => element("p", {class: "problem", role: "alert"}, text);
const note = (text) => element("p", {class: "note"}, text);

function column(answer) {
  if (answer.problem) return element("section", {class: "answer"}, problem(answer.problem));
  answer.list = element("ol", {class: "grid"}, ...answer.items.map((item, number) => cardOf(answer, item, number)));
  const confidence = answer.items[0]?.confidence;
  const isUnsure = confidence !== null && confidence !== undefined && confidence < UNSURE;
  const likely = `only ${Math.round(100 * confidence)}% likely that one of the first five fits`;
  const hasFilter = Object.keys(entry.asked.filters).length || entry.asked.where;
  const none = `No item fits${hasFilter ? " the filters" : ""}.`;
  return element("section", {class: "answer"},
    element("h2", {class: "line"}, ...lineOf(answer)),
    isUnsure ? note(`There may be nothing like it: it is ${likely}.`) : null,
    answer.items.length ? answer.list : note(none),
    answer.cursor ? moreButton(answer) : null);
}

function moreButton(answer) {
  const onclick = (event) => more(answer, event.target);
  return element("button", {type: "button", class: "button more-hits", onclick}, "Show more");
}

function lineOf({isStart, items, cursor, name, release, milliseconds}) {
  if (isStart) return ["Drop a picture, paste one, or start from one of these"];
  const where = `${name ? "" : "production "}${release.slice(0, 8)}`;
  const n = element("b", {}, String(items.length));
  const what = cursor ? "nearest" : items.length === 1 ? "hit" : "hits";
  return [n, ` ${what} · ${where} · ${Math.round(milliseconds)} ms`];
}

function cardOf(answer, item, number) {
  const searchOf = ({item_id: itemId}) => addressOf(likeItem(itemId));
  const mark = answer === entry.answers[1] ? element("span", {class: "moved"}) : null;
  const enlarge = () => larger.open(answer.items, number, answer.release, searchOf);
  return card(item, answer.release, searchOf(item), mark, enlarge);
}

// Tell of each hit on the right how its rank differs from that on the left.
function markRanks() {
  const [left, right] = entry.answers;
  if (!right?.list || !left.items) return;
  // Where a hit stands for its product, the releases may show different pictures of it.
  const nameOf = (item) => (entry.asked.show ? "" : item.product_id) || item.item_id;
  const ranks = new Map(left.items.map((item, number) => [nameOf(item), number + 1]));
  right.items.forEach((item, number) => {
    right.list.children[number].querySelector(".moved").replaceWith(rankMark(number + 1, ranks.get(nameOf(item))));
  });
}

async function more(answer, button) {
  button.disabled = true;
  const shown = entry, n = answer.items.length;
  try {
    const {hits, next_cursor: cursor} = await api.search(answer.query, answer.name, answer.cursor, searching.signal);
    if (shown !== entry) return;
    answer.items.push(...hits);
    answer.cursor = cursor;
    answer.list.append(...hits.map((hit, number) => cardOf(answer, hit, n + number)));
    answer.list.parentElement.querySelector(".line").replaceChildren(...lineOf(answer));
    markRanks();
    byId("status").textContent = hits.length ? `${hits.length} more hits` : "There are no more hits";
    answer.list.children[n]?.querySelector("button").focus();
    if (!cursor) button.remove();
  } catch (error) {
    if (error.name === "AbortError") return;
    button.replaceWith(problem(error.message));
  } finally {
    button.disabled = false;
  }
}

// ---- Around the answers ----

async function loadFacets(signal) {
  const shown = entry;
  shown.facets ||= (await api.facets(queryOf(shown.asked), shown.asked.release, signal)).facets;
  if (shown === entry) showFacets(shown.facets, shown.asked.filters, toggleValue);
}

async function loadRelease(signal) {
  if (entry.answers[0].release === releaseTold) return;
  const {release, created, rows, reads_text: readsText, modes} = await api.details(entry.asked.release, signal);
  const moment = new Date(created).toLocaleString("en-GB", {dateStyle: "medium", timeStyle: "short", timeZone: "UTC"});
  const facts = [`${rows.toLocaleString("en")} items`, `release ${release.slice(0, 8)}`, `${moment} UTC`];
  byId("release").replaceChildren(...facts.map((fact) => element("span", {}, fact)),
    element("span", {}, element("a", {href: `reports/${release}`}, "report")));
  document.body.classList.toggle("reads-text", readsText);
  document.body.classList.toggle("has-classes", modes.includes("classified"));
  byId("text").placeholder = readsText ? "red dress, or https://…" : "https://… of a picture";
  const label = readsText ? "Words, or the address of a picture" : "Address of a picture";
  document.querySelector("label[for=text]").textContent = label;
  releaseTold = release;
  await listReleases();
}

async function listReleases() {
  if (byId("in-release").options.length) return;
  const {releases} = await api.releases();
  const label = ({release, created, gate}) => {
    const day = new Date(created).toLocaleDateString("en-GB", {dateStyle: "medium", timeZone: "UTC"});
    return `${release.slice(0, 8)} · ${day}${gate === "held" ? " · held" : ""}`;
  };
  const named = releases.map((each) => [each.release, label(each)]);
  const production = ["production", "production, as it moves"];
  fillSelect(byId("in-release"), [["", production[1]], ...named]);
  fillSelect(byId("beside"), [["", "none"], production, ...named]);
  selectAsked(); // and leave alone what is being typed
}

function fillSelect(select, choices) {
  select.replaceChildren(...choices.map(([value, text]) => element("option", {value}, text)));
}

function select(id, value) {
  const field = byId(id), isListed = [...field.options].some((option) => option.value === value);
  if (!isListed && field.options.length) field.append(element("option", {value}, value.slice(0, 8)));
  field.value = value;
}

function selectAsked() {
  SELECTS.forEach((id) => select(id, entry.asked[id]));
  select("in-release", entry.asked.release);
}

function fillFields() {
  const {asked} = entry;
  byId("text").value = asked.text;
  byId("where").value = asked.where;
  byId("unlike").value = asked.unlike;
  byId("whole").checked = Boolean(asked.whole);
  byId("forget-unlike").hidden = !asked.unlikePicture;
  if (!asked.unlikePicture) byId("unlike-picture").value = "";
  selectAsked();
  const set = OPTIONS.filter((name) => asked[name]);
  byId("n-options").textContent = set.length ? `${set.length} set` : "";
  const what = asked.item || asked.text || asked.pictureName || asked.image;
  document.title = what ? `${what} · Vitrine` : "Vitrine";
}

// Show the picture that is searched with as soon as the browser has it.
function showQueryPicture() {
  const {asked, view} = entry;
  byId("query").hidden = !(asked.picture || asked.image || asked.item);
  byId("query-name").textContent = asked.item || asked.pictureName || asked.image;
  byId("query-name").title = byId("query-name").textContent;
  if (byId("query").hidden) return;
  if (asked.picture && !pictureUrls.has(asked.picture)) {
    pictureUrls.set(asked.picture, URL.createObjectURL(asked.picture));
  }
  const ofItem = asked.item && api.pictureAddress(asked.item, releaseShown(), QUERY_PX);
  const source = pictureUrls.get(asked.picture) || fetchedPictures.get(asked.image) || ofItem;
  if (!source) crop.picture.removeAttribute("src");
  else if (crop.picture.src !== new URL(source, location.href).href) crop.picture.src = source;
  const {box} = queryOf(asked);
  crop.show(box, view?.box);
  byId("use-box").hidden = !crop.isProposed;
  byId("no-box").hidden = !box;
  byId("view").hidden = !view?.view;
  if (view?.view) byId("view").querySelector("img").src = view.view;
}

crop.picture.addEventListener("error", () => { // a format that only the service reads
  if (entry.view) crop.picture.src = entry.view.picture;
});

async function loadView(signal) {
  const shown = entry;
  if (byId("query").hidden || shown.answers[0].problem) return;
  shown.view ||= await api.view(queryOf(shown.asked), shown.asked.release, QUERY_PX, signal);
  if (shown.asked.image) fetchedPictures.set(shown.asked.image, shown.view.picture);
  if (shown !== entry) return;
  showQueryPicture();
  if (crop.picture.complete && !crop.picture.naturalWidth) crop.picture.src = shown.view.picture;
}

// ---- What a visitor does ----

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  go(typed());
});
byId("picture").addEventListener("change", (event) => {
  choose(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});
byId("unlike-picture").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  go({...typed(), unlikePicture: file ? await shrunk(file) : null});
});
byId("forget-unlike").onclick = () => {
  go({...typed(), unlikePicture: null});
  byId("unlike-picture").focus();
};
SELECTS.forEach((id) => byId(id).addEventListener("change", (event) => go({...typed(), [id]: event.target.value})));
byId("in-release").addEventListener("change", (event) => go({...typed(), release: event.target.value}));
byId("whole").addEventListener("change", (event) => go({...typed(), whole: event.target.checked ? "1" : ""}));
byId("clear").onclick = () => {
  go({...typed(), filters: Object.create(null)});
  byId("filters").querySelector("h2").focus();
};
byId("forget").onclick = () => {
  go({...typed(), ...OF_A_QUERY, text: byId("text").value.trim()});
  byId("text").focus();
};
byId("use-box").onclick = () => searchPart(crop.box);
byId("no-box").onclick = () => {
  go({...typed(), box: ""});
  byId("forget").focus();
};
byId("enlarge").onclick = (event) => {
  const isLarge = byId("query").classList.toggle("is-large");
  event.target.setAttribute("aria-expanded", String(isLarge));
  event.target.textContent = isLarge ? "Done" : "Crop";
};

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.more, h1 a, a.skip");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.matches(".skip")) return byId("results").focus();
  entry.scroll = scrollY;
  history.pushState(null, "", link.href);
  show(entries.current(), "results");
});
addEventListener("popstate", () => {
  entry.scroll = scrollY;
  show(entries.current());
});

document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files || [];
  if (file) choose(file);
});
for (const [name, isOver] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("is-over", isOver);
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}

byId("filters").open = WIDE.matches;
WIDE.addEventListener("change", () => { byId("filters").open = WIDE.matches; });
show(entries.current());
