// A box on a picture: proposed, drawn with a pointer, or moved with the arrow keys.

import {element} from "./dom.js";

const LEAST = 0.04; // of a side
const STEPS = {ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowUp: [0, -0.02], ArrowDown: [0, 0.02]};
const SETTLES_MS = 500; // after a key
const WHOLE = [0, 0, 1, 1];

export class Crop {
  // `onChange` gets the box [left, top, right, bottom], as shares of the sides, when it was drawn or moved.
  constructor(place, onChange) {
    this.place = place;
    this.onChange = onChange;
    this.picture = element("img", {alt: "", draggable: false});
    this.corners = ["Top left", "Bottom right"].map((name, number) => element("button", {
      type: "button", class: `corner corner-${number}`, "aria-label": `${name} corner of the part: arrow keys move it`,
    }));
    this.shade = element("div", {class: "part"}, ...this.corners);
    place.replaceChildren(this.picture, this.shade);
    place.addEventListener("pointerdown", (event) => this.#begin(event));
    this.corners.forEach((corner, number) => {
      corner.addEventListener("keydown", (event) => this.#step(event, number));
    });
    this.show(null, null);
  }

  // Show the box that was searched with, or else one that is proposed; both may be null.
  show(box, proposed) {
    this.isProposed = !box && Boolean(proposed);
    this.#place(box || proposed || WHOLE);
  }

  get box() {
    return this.#box;
  }

  #box = WHOLE;

  #place(box) {
    this.#box = box;
    const [left, top, right, bottom] = box;
    const css = {left, top, width: right - left, height: bottom - top};
    for (const [side, share] of Object.entries(css)) this.shade.style[side] = `${100 * share}%`;
    this.place.classList.toggle("is-proposed", this.isProposed);
    this.place.classList.toggle("is-whole", box.every((side, number) => side === WHOLE[number]));
  }

  #at(event) {
    const {left, top, width, height} = this.picture.getBoundingClientRect();
    const share = (value) => Math.min(1, Math.max(0, value));
    return [share((event.clientX - left) / width), share((event.clientY - top) / height)];
  }

  #begin(event) {
    if (event.button || getComputedStyle(this.place).touchAction !== "none") return;
    event.preventDefault();
    const corner = this.corners.indexOf(event.target);
    const before = this.#box;
    const fixed = corner < 0 ? this.#at(event) : corner ? before.slice(0, 2) : before.slice(2);
    let box = null;
    const move = (moved) => {
      const [x, y] = this.#at(moved);
      box = [Math.min(x, fixed[0]), Math.min(y, fixed[1]), Math.max(x, fixed[0]), Math.max(y, fixed[1])];
      this.isProposed = false;
      this.#place(box);
    };
    const end = () => {
      controller.abort();
      if (box && box[2] - box[0] >= LEAST && box[3] - box[1] >= LEAST) this.onChange(box);
      else this.#place(before);
    };
    const controller = new AbortController();
    this.place.setPointerCapture(event.pointerId);
    this.place.addEventListener("pointermove", move, controller);
    this.place.addEventListener("pointerup", end, controller);
    this.place.addEventListener("pointercancel", end, controller);
  }

  #step(event, corner) {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    const box = [...this.#box];
    step.forEach((change, axis) => {
      const [least, most] = corner ? [box[axis] + LEAST, 1] : [0, box[2 + axis] - LEAST];
      const side = 2 * corner + axis;
      box[side] = Math.min(most, Math.max(least, box[side] + change));
    });
    this.isProposed = false;
    this.#place(box);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.onChange(box), SETTLES_MS);
  }
}
