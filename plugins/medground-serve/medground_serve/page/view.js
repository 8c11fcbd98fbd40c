// Which plane, slice and window of the image is shown. Slices come from the server when they are asked for, and the last ones are kept.
import * as server from "./server.js";
import { bitmapOf } from "./stage.js";

const $ = (id) => document.getElementById(id);
const MOST_PIXELS = 32_000_000;  // of all pictures that are kept

export class View {
  // shown(bitmap, facts): a picture is there; failed(error): it could not be had.
  constructor({ shown, failed }) {
    Object.assign(this, { shown, failed });
    this.clear();
    $("plane").addEventListener("change", () => this.choosePlane());
    $("slice").addEventListener("input", () => this.show());
    $("window").addEventListener("change", () => this.chooseWindow());
    for (const id of ["centre", "width"]) $(id).addEventListener("change", () => this.show());
  }

  clear() {
    Object.assign(this, { image: null, facts: null, pictures: new Map(), loading: null, seen: {} });
    $("view").hidden = $("slices").hidden = true;
    $("window").value = "";
  }

  async open(image) {
    this.clear();
    const facts = await server.show(image, {});
    Object.assign(this, { image, facts });
    const { planes, frames } = facts;
    $("plane-field").hidden = !planes;
    $("plane").replaceChildren(...Object.keys(planes || {}).map((plane) => new Option(plane, plane)));
    $("view").hidden = !planes && !facts.view.window;
    $("slices").hidden = !planes && !frames;
    $("slice-name").textContent = planes ? "Slice" : "Frame";
    $("plane").value = facts.plane ?? "";
    this.range(planes ? planes[facts.plane] : frames || 1, facts.slice ?? 0);
    this.chooseWindow(false);
    this.keep(this.name(this.chosen), await bitmapOf(facts.png));
    await this.show();
  }

  range(count, slice) {
    $("slice").max = count - 1;
    $("slice").value = slice;
  }

  choosePlane() {
    const count = this.facts.planes[$("plane").value];
    this.range(count, Math.floor(count / 2));
    this.show();
  }

  chooseWindow(show = true) {
    for (const label of document.querySelectorAll(".own")) label.hidden = $("window").value !== "own";
    if (show) this.show();
  }

  go({ plane, slice }) {
    if (plane) {
      $("plane").value = plane;
      this.range(this.facts.planes[plane], slice);
    } else $("slice").value = slice ?? 0;
    this.show();
  }

  // What the controls say, as the server calls it, without names that do not apply. `seen` is that of the picture that is there.
  get chosen() {
    const window = $("window").value === "own" ? `${Number($("centre").value)},${Number($("width").value)}` : $("window").value;
    return {
      ...(this.facts?.planes && { plane: $("plane").value }),
      ...((this.facts?.planes || this.facts?.frames) && { slice: Number($("slice").value) }),
      ...(window && { window }),
    };
  }

  same({ plane, slice }) {
    return this.seen.plane === plane && this.seen.slice === slice;
  }

  name(view) {
    return JSON.stringify([view.plane, view.slice, view.window]);
  }

  keep(key, bitmap) {
    this.pictures.set(key, bitmap);
    let pixels = 0;
    for (const one of this.pictures.values()) pixels += one.width * one.height;
    for (const [old, one] of this.pictures) {
      if (pixels <= MOST_PIXELS || old === key) break;
      this.pictures.delete(old);
      pixels -= one.width * one.height;
    }
  }

  // One request at a time: while it is under way the slider moves on, and what it points at then comes next.
  show() {
    this.describe();
    const image = this.image;
    this.loading ??= this.load(image).catch((error) => {
      if (!(error instanceof server.Refused)) throw error;
      if (image === this.image) this.failed(error);
    }).finally(() => { if (image === this.image) this.loading = null; });
    return this.loading;
  }

  async load(image) {
    for (;;) {
      const view = this.chosen, key = this.name(view);
      if (!this.pictures.has(key)) {
        const picture = await bitmapOf((await server.show(image, view)).png);
        if (image !== this.image) return;
        this.keep(key, picture);
      }
      const picture = this.pictures.get(key);
      this.pictures.delete(key);
      this.pictures.set(key, picture);  // used last
      this.seen = view;
      this.shown(picture);
      if (this.name(this.chosen) === key) return;
    }
  }

  describe() {
    const { plane, slice } = this.chosen;
    $("slice-number").value = `${slice ?? 0} / ${$("slice").max}`;
    $("slice").setAttribute("aria-valuetext", `${plane ? `${plane} slice` : "frame"} ${slice ?? 0}, the last is ${$("slice").max}`);
  }
}
