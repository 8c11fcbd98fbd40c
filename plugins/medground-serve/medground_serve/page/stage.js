// The picture with what is drawn on it. Coordinates are pixels of the image, as everywhere in medground.
export const COLOURS = [[0, 158, 115], [230, 159, 0], [86, 180, 233], [204, 121, 167]];  // told apart by colour-blind people too

export class Stage {
  // correct({box} or {point, label}) is called with what is drawn; layers may be another stage's.
  constructor(canvas, { correct = () => {}, layers } = {}) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.correct = correct;
    this.image = null;
    this.regions = [];
    this.chosen = 0;
    this.layers = layers || { mask: true, box: true, points: true, opacity: 0.45 };
    this.tool = "none";
    this.drag = null;      // [x, y] of the first corner
    this.cross = null;     // [x, y] of the pointer or of the keyboard's cross
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", () => this.stop());
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  setImage(image) {
    this.image = image;
    this.cross = this.drag = null;
    this.canvas.hidden = !image;
    if (image) [this.canvas.width, this.canvas.height] = [image.width, image.height];
    this.draw();
  }

  setTool(tool) {
    this.tool = tool;
    this.canvas.classList.toggle("active", tool !== "none");
    this.stop();
  }

  stop() {
    this.drag = this.cross = null;
    this.draw();
  }

  // The canvas keeps its proportions inside its box (object-fit: contain).
  scale() {
    const { clientWidth, clientHeight } = this.canvas;
    return Math.min(clientWidth / this.image.width, clientHeight / this.image.height) || 1;
  }

  at(event) {
    const { clientWidth, clientHeight } = this.canvas, { width, height } = this.image, scale = this.scale();
    const x = (event.offsetX - (clientWidth - width * scale) / 2) / scale;
    const y = (event.offsetY - (clientHeight - height * scale) / 2) / scale;
    return [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
  }

  press(event) {
    if (this.tool === "none" || event.button !== 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = this.cross = this.at(event);
  }

  move(event) {
    if (!this.drag) return;
    this.cross = this.at(event);
    this.draw();
  }

  release(event) {
    if (!this.drag) return;
    this.cross = this.at(event);
    this.finish();
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (this.tool === "none" || !this.image) return;
    if (steps[event.key]) {
      const [dx, dy] = steps[event.key].map((step) => step * (event.shiftKey ? 10 : 1));
      const [x, y] = this.cross || [this.image.width / 2, this.image.height / 2];
      this.cross = [Math.min(Math.max(x + dx, 0), this.image.width), Math.min(Math.max(y + dy, 0), this.image.height)];
      this.canvas.setAttribute("aria-label", `Cross at ${this.cross.map(Math.floor).join(", ")}`);
    } else if (event.key === "Enter" && this.cross) {
      if (this.tool === "box" && !this.drag) this.drag = this.cross;
      else this.finish();
    } else if (event.key === "Escape") {
      this.stop();
    } else return;
    event.preventDefault();
    this.draw();
  }

  finish() {
    const [a, b, tool] = [this.drag || this.cross, this.cross, this.tool];
    this.drag = null;
    if (tool === "box") {
      const box = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.correct({ box });
    } else {
      this.correct({ point: b, label: tool === "inside" ? 1 : 0 });
    }
    this.draw();
  }

  draw() {
    if (!this.image) return;
    const { pen, canvas, image } = this;
    const fine = Math.min(8, Math.max(1, Math.ceil(this.scale() * devicePixelRatio)));  // so that lines are fine on small images
    if (canvas.width !== image.width * fine) [canvas.width, canvas.height] = [image.width * fine, image.height * fine];
    pen.setTransform(fine, 0, 0, fine, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(image, 0, 0);
    const thin = 1.5 / this.scale();  // screen pixels at any zoom
    this.regions.forEach((region, index) => this.drawRegion(region, COLOURS[index % COLOURS.length], thin * (index === this.chosen ? 1.3 : 1)));
    if (this.cross && this.tool !== "none") this.drawCross(thin);
    if (document.activeElement !== canvas || !this.cross) canvas.setAttribute("aria-label", this.describe());
  }

  drawRegion(region, colour, thin) {
    const { pen, layers } = this;
    if (layers.mask && region.layer) {
      pen.globalAlpha = layers.opacity;
      pen.drawImage(region.layer, 0, 0);
      pen.globalAlpha = 1;
    }
    pen.lineWidth = thin;
    if (layers.box && region.box) {
      const [x1, y1, x2, y2] = region.box;
      pen.strokeStyle = `rgb(${colour})`;
      pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    if (layers.points) (region.points || []).forEach(([x, y], index) => {
      pen.fillStyle = (region.labels || [])[index] === 0 ? "#d00" : `rgb(${colour})`;
      pen.strokeStyle = "#fff";
      pen.beginPath();
      pen.arc(x, y, 2.5 * thin, 0, 7);
      pen.fill();
      pen.stroke();
    });
  }

  drawCross(thin) {
    const { pen } = this, [x, y] = this.cross;
    pen.strokeStyle = "#fff";
    pen.lineWidth = thin;
    if (this.tool === "box" && this.drag) pen.strokeRect(this.drag[0], this.drag[1], x - this.drag[0], y - this.drag[1]);
    pen.beginPath();
    pen.moveTo(x - 6 * thin, y); pen.lineTo(x + 6 * thin, y);
    pen.moveTo(x, y - 6 * thin); pen.lineTo(x, y + 6 * thin);
    pen.stroke();
  }

  describe() {
    const boxes = this.regions.filter((region) => region.box).map((region) => `box ${region.box.map(Math.round).join(", ")}`);
    return this.regions.length ? `Picture with ${this.regions.length} region${this.regions.length > 1 ? "s" : ""}: ${boxes.join("; ")}` : "Picture";
  }
}

export async function bitmapOf(png) {
  return createImageBitmap(new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], { type: "image/png" }));
}

// A mask as a layer of one colour, transparent elsewhere.
export async function layerOf(png, index) {
  const bitmap = await bitmapOf(png), [r, g, b] = COLOURS[index % COLOURS.length];
  const layer = new OffscreenCanvas(bitmap.width, bitmap.height), pen = layer.getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  const pixels = pen.getImageData(0, 0, bitmap.width, bitmap.height), data = pixels.data;
  for (let k = 0; k < data.length; k += 4) [data[k], data[k + 1], data[k + 2], data[k + 3]] = [r, g, b, data[k] ? 255 : 0];
  pen.putImageData(pixels, 0, 0);
  return layer;
}
