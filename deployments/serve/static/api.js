// The HTTP API of the service that this page comes from; docs/serving.md describes it.

const RELEASE = "production";

export class Problem extends Error {}

// Return the answer to a request. Throws a `Problem` with a sentence, and an `AbortError` when `signal` ends it.
async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer. Look whether it runs, and search again.");
  }
  if (response.ok) return response.json();
  const told = await response.json().catch(() => ({}));
  throw new Problem(sentence(told.detail || `The service answers ${response.status} ${response.statusText}`));
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}

function get(path, parameters, signal) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value) query.set(name, value);
  return call(`${path}?${query}`, {signal});
}

function post(path, parameters, signal) {
  const headers = {"Content-Type": "application/json"};
  return call(path, {method: "POST", headers, body: JSON.stringify(parameters), signal});
}

// The parameters of a filter, for an address: `filters` are {name: [value, …]}.
function filtered({where, filters}) {
  return {where, filters: Object.keys(filters).length ? JSON.stringify(filters) : ""};
}

// `query` has: images (files), image, item, text, unlikeImages, unlike, where, filters, k, show, whole, mode, box.
export async function search(query, release, cursor, signal) {
  const {where, filters, whole} = query;
  return post("v1/search", {
    images: await Promise.all(query.images.map(base64)),
    image_urls: listed(query.image),
    item_ids: listed(query.item),
    texts: listed(query.text),
    unlike: {images: await Promise.all(query.unlikeImages.map(base64)), texts: listed(query.unlike)},
    where, filters, whole, k: query.k, box: query.box, mode: query.mode || "nearest",
    all_items: query.show === "all", collapse: query.show === "distinct",
    release: release || RELEASE, ...(cursor ? {cursor} : {}),
  }, signal);
}

export const view = async (query, release, sidePx, signal) => post("v1/view", {
  images: await Promise.all(query.images.map(base64)),
  image_urls: listed(query.image),
  item_ids: query.images.length || query.image ? [] : listed(query.item),
  whole: query.whole, box: query.box, release: release || RELEASE, side_px: sidePx,
}, signal);

export const items = (query, release, signal) => get("v1/items", {k: query.k, release, ...filtered(query)}, signal);
export const facets = (query, release, signal) => get("v1/facets", {release, ...filtered(query)}, signal);
export const releases = () => get("v1/releases", {});
export const details = (release, signal) => get(`v1/releases/${encodeURIComponent(release || RELEASE)}`, {}, signal);

export function pictureAddress(itemId, release, sidePx) {
  const query = new URLSearchParams({release, side_px: sidePx});
  return `v1/items/${encodeURIComponent(itemId)}/picture?${query}`;
}

const listed = (value) => value ? [value] : [];

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Problem("The file cannot be read. Choose it again."));
    reader.readAsDataURL(file);
  });
}
