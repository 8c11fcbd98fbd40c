"use strict";
for (const viewer of document.querySelectorAll(".viewer")) {
  const geometry = JSON.parse(viewer.dataset.geometry);
  const [width, height, depth] = geometry.sides;
  const voxel = geometry.first.map((index, axis) => Math.floor(index / geometry.steps[axis]));
  const mask = viewer.querySelector(".mask"), lines = viewer.querySelector(".lines");
  const status = viewer.querySelector(".status");

  const read = async (name) => {
    const image = viewer.querySelector(name);
    await image.decode();
    const sheet = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const pen = sheet.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, sheet.width, sheet.height).data;
    const values = new Uint8Array(width * height * depth);
    for (let k = 0; k < depth; k++) {
      const left = (k % geometry.columns) * width, top = Math.floor(k / geometry.columns) * height;
      for (let j = 0; j < height; j++)
        for (let i = 0; i < width; i++)
          values[i + width * (j + height * k)] = pixels[4 * ((top + j) * sheet.width + left + i)];
    }
    return values;
  };

  const start = (grey, labels) => {
    const strides = [1, width, width * height];
    const views = [...viewer.querySelectorAll("[data-plane]")].map((panel) => {
      const { axis, rows, columns, flipRows, flipColumns } = geometry.planes[panel.dataset.plane];
      const high = geometry.sides[rows], wide = geometry.sides[columns];
      const tall = high * geometry.spacing[rows], broad = wide * geometry.spacing[columns];
      const canvas = panel.querySelector("canvas"), slider = panel.querySelector("input");
      const scale = 512 / Math.max(tall, broad);
      canvas.width = Math.max(1, Math.round(broad * scale));
      canvas.height = Math.max(1, Math.round(tall * scale));
      const sheet = new OffscreenCanvas(wide, high), pen = sheet.getContext("2d");
      const picture = pen.createImageData(wide, high);
      const along = (index, side, flip) => (flip ? side - 1 - index : index);
      const draw = () => {
        const base = voxel[axis] * strides[axis];
        const at = (row, column) =>
          base + along(row, high, flipRows) * strides[rows] + along(column, wide, flipColumns) * strides[columns];
        for (let row = 0, out = 0; row < high; row++)
          for (let column = 0; column < wide; column++, out += 4) {
            const here = at(row, column), label = labels[here];
            let share = 0;
            if (label && mask.checked) {
              const edge = !row || !column || row === high - 1 || column === wide - 1
                || labels[at(row - 1, column)] !== label || labels[at(row + 1, column)] !== label
                || labels[at(row, column - 1)] !== label || labels[at(row, column + 1)] !== label;
              share = edge ? 0.95 : 0.35;
            }
            const colour = geometry.colours[(label - 1) % geometry.colours.length];
            for (let channel = 0; channel < 3; channel++)
              picture.data[out + channel] = share ? grey[here] * (1 - share) + colour[channel] * share : grey[here];
            picture.data[out + 3] = 255;
          }
        pen.putImageData(picture, 0, 0);
        const shown = canvas.getContext("2d");
        shown.imageSmoothingQuality = "high";
        shown.drawImage(sheet, 0, 0, canvas.width, canvas.height);
        if (lines.checked) {
          shown.strokeStyle = "rgba(255, 221, 64, .55)";
          const x = (along(voxel[columns], wide, flipColumns) + 0.5) * canvas.width / wide;
          const y = (along(voxel[rows], high, flipRows) + 0.5) * canvas.height / high;
          shown.beginPath();
          shown.moveTo(x, 0); shown.lineTo(x, canvas.height);
          shown.moveTo(0, y); shown.lineTo(canvas.width, y);
          shown.stroke();
        }
        slider.value = Math.min(Number(slider.max), voxel[axis] * geometry.steps[axis]);
        panel.querySelector("output").textContent = slider.value;
        slider.setAttribute("aria-valuetext", `${panel.dataset.plane} slice ${slider.value}`);
      };
      return { axis, rows, columns, high, wide, flipRows, flipColumns, along, canvas, slider, draw };
    });
    const redraw = () => {
      for (const view of views) view.draw();
      status.textContent = `voxel ${voxel.map((index, axis) => index * geometry.steps[axis]).join(", ")}`;
    };
    const move = (axis, index) => {
      voxel[axis] = Math.max(0, Math.min(geometry.sides[axis] - 1, index));
      redraw();
    };
    for (const view of views) {
      const { axis, canvas, slider } = view;
      slider.addEventListener("input", () => move(axis, Math.round(Number(slider.value) / geometry.steps[axis])));
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        move(axis, voxel[axis] + Math.sign(event.deltaY));
      }, { passive: false });
      canvas.addEventListener("click", (event) => {
        const box = canvas.getBoundingClientRect();
        const column = Math.floor((event.clientX - box.left) / box.width * view.wide);
        const row = Math.floor((event.clientY - box.top) / box.height * view.high);
        voxel[view.columns] = view.along(Math.max(0, Math.min(view.wide - 1, column)), view.wide, view.flipColumns);
        move(view.rows, view.along(Math.max(0, Math.min(view.high - 1, row)), view.high, view.flipRows));
      });
      canvas.addEventListener("keydown", (event) => {
        const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
        const ends = { Home: 0, End: geometry.sides[axis] - 1 };
        if (event.key in steps) move(axis, voxel[axis] + steps[event.key]);
        else if (event.key in ends) move(axis, ends[event.key]);
        else return;
        event.preventDefault();
      });
    }
    for (const box of [mask, lines]) box.addEventListener("change", redraw);
    document.addEventListener("keydown", (event) => {
      if (event.key !== "m" || event.ctrlKey || event.metaKey || event.altKey) return;
      mask.checked = !mask.checked;
      redraw();
    });
    redraw();
  };

  Promise.all([read("img.grey"), read("img.labels")]).then(([grey, labels]) => start(grey, labels), () => {
    status.textContent = "This browser cannot show the volume.";
  });
}
