"use strict";
// What is found, drawn on a canvas: boxes, masks, labels. Detections are as POST /v1/detect gives them.

const FINEST = 1024; // pixels of a mask's longer side that are drawn

// Classes that follow one another get hues far apart.
const colour = (classId, lightness = 50) => `hsl(${(classId * 137.508 + 210) % 360} 80% ${lightness}%)`;

// COCO's compressed run lengths: counts of pixels, column by column, zeros first; each a number of 5 bits a sign with the
// lowest first, from the third on as the difference to the one before the last.
function runLengths(text) {
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const bits = text.charCodeAt(at++) - 48;
      value |= (bits & 31) << shift;
      shift += 5;
      more = (bits & 32) !== 0;
      if (!more && bits & 16) value |= -1 << shift;
    }
    counts.push(counts.length > 2 ? value + counts[counts.length - 2] : value);
  }
  return counts;
}

// A mask as a canvas of one colour, of as many pixels as are worth drawing.
function maskCanvas(detection) {
  const [height, width] = detection.mask.size;
  const step = Math.max(1, Math.ceil(Math.max(height, width) / FINEST));
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(width / step);
  canvas.height = Math.ceil(height / step);
  const context = canvas.getContext("2d");
  context.fillStyle = colour(detection.class_id);
  let at = 0;
  runLengths(detection.mask.counts).forEach((count, i) => {
    if (i % 2) {
      for (let pixel = at; pixel < at + count; ) {
        const x = Math.floor(pixel / height), y = pixel % height;
        const rows = Math.min(height - y, at + count - pixel);
        const top = Math.ceil(y / step), bottom = Math.ceil((y + rows) / step);
        if (x % step === 0 && bottom > top) context.fillRect(x / step, top, 1, bottom - top);
        pixel += rows;
      }
    }
    at += count;
  });
  return canvas;
}

// Attention as a veil: dark where the model did not look, warm where it did.
function drawAttention(canvas, attention) {
  const cells = document.createElement("canvas");
  cells.height = attention.length;
  cells.width = attention[0].length;
  const most = Math.max(...attention.flat()), context = cells.getContext("2d");
  attention.forEach((row, y) => row.forEach((value, x) => {
    const share = Math.sqrt(value / most); // weak attention is seen, too
    context.fillStyle = `rgb(${Math.round(255 * share)} ${Math.round(190 * share ** 2)} 40 / ${0.6 - 0.15 * share})`;
    context.fillRect(x, y, 1, 1);
  }));
  canvas.getContext("2d").drawImage(cells, 0, 0, canvas.width, canvas.height);
}

const masksDrawn = new WeakMap(); // detection -> its canvas; forgotten with the detection

// Draw a picture and what is found in it.
//   image: what drawImage takes, or null where the browser cannot decode it
//   shown: detections, best first; lit: the one that is pointed at, or null
//   options: {boxes, masks, labels}; attention: rows of cells over the whole picture, or null
function drawPicture(canvas, image, size, shown, lit, options, attention = null) {
  const context = canvas.getContext("2d"), scale = canvas.width / size.width;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const worst = [...shown].reverse(); // the best on top
  if (attention) drawAttention(canvas, attention);
  if (options.masks && !attention) {
    for (const detection of worst.filter((d) => d.mask)) {
      if (!masksDrawn.has(detection)) masksDrawn.set(detection, maskCanvas(detection));
      context.globalAlpha = lit === null ? 0.45 : detection === lit ? 0.65 : 0.15;
      context.drawImage(masksDrawn.get(detection), 0, 0, canvas.width, canvas.height);
    }
    context.globalAlpha = 1;
  }
  const unit = Math.max(1, Math.min(canvas.width, canvas.height) / 320);
  const line = Math.max(2, unit * 1.5);
  const font = Math.round(Math.max(11, Math.min(30, unit * 8)));
  context.font = `600 ${font}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const detection of worst) {
    const [x0, y0, x1, y1] = detection.box.map((v) => v * scale), dim = lit !== null && detection !== lit;
    context.globalAlpha = dim ? 0.35 : 1;
    if (options.boxes || detection === lit) {
      context.lineWidth = detection === lit ? line * 2.6 : line * 1.8;
      context.strokeStyle = "rgb(0 0 0 / .45)"; // a rim, so that boxes are seen on their own colour
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      context.lineWidth = detection === lit ? line * 2 : line;
      context.strokeStyle = colour(detection.class_id);
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    if (options.labels || detection === lit) {
      const text = `${detection.label} ${detection.score.toFixed(2)}`;
      const width = context.measureText(text).width + font * 0.6, height = font * 1.35;
      const left = Math.max(0, Math.min(x0 - line / 2, canvas.width - width));
      const top = y0 - height >= 0 ? y0 - height : Math.max(0, Math.min(y0, canvas.height - height));
      context.fillStyle = colour(detection.class_id, 26); // dark enough for white letters, whatever the hue
      context.fillRect(left, top, width, height);
      context.fillStyle = "#fff";
      context.fillText(text, left + font * 0.3, top + height / 2);
    }
  }
  context.globalAlpha = 1;
}
