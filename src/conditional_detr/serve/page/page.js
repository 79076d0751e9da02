// The page: pictures are sent once, with a low threshold; what is shown of the answer is decided here.

const LEAST = 0.05; // least score that is asked for
const LARGEST = 4096; // side of a downloaded picture in pixels, as phones' canvases bear
const AT_ONCE = 4; // pictures that wait for the server
const KINDS = "image/jpeg"; // of a picture taken here
const part = (id) => document.getElementById(id);

const pictures = []; // {name, file, url, image, width, height, detections, error, button}
const hidden = new Set(); // classes that are switched off, by name
let chosen = null; // the detection whose attention is shown
let current = null, lit = null, token = sessionStorage.getItem("token") || "";

// ---------------------------------------------------------------- asking the server

async function ask(address, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(address, { ...options, headers });
  if (answer.status === 401) {
    await askForToken();
    return ask(address, options);
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 503) { // full for now
    await new Promise((later) => setTimeout(later, 1000 * (Number(answer.headers.get("Retry-After")) || 2)));
    return ask(address, options);
  }
  if (!answer.ok) throw new Error(content.detail || `the server answered ${answer.status}`);
  return content;
}

let asking = null; // one dialog for all requests that wait for it
function askForToken() {
  asking ??= new Promise((given) => {
    part("ask").showModal();
    part("ask").addEventListener("close", () => {
      token = part("token").value;
      sessionStorage.setItem("token", token);
      asking = null;
      given();
    }, { once: true });
  });
  return asking;
}

async function about() {
  const model = await ask("v1/model");
  part("model").textContent = document.title = model.name;
  const classes = model.classes.length === 1 ? `one class: ${model.classes[0]}` : `${model.classes.length} classes`;
  part("about").textContent = `${model.family}, ${model.backbone}, ${classes}`;
}

async function detect(picture) {
  try {
    const form = new FormData();
    form.append("files", picture.file, "picture");
    const { results: [found] } = await ask(`v1/detect?threshold=${LEAST}`, { method: "POST", body: form });
    Object.assign(picture, found);
  } catch (error) {
    picture.error = error instanceof TypeError ? "the server does not answer" : error.message;
  }
  picture.waiting = false;
}

// Show where the model looked for a detection; once more hides it. The server is asked once a detection.
async function choose(detection) {
  chosen = chosen === detection ? null : detection;
  draw();
  if (!chosen || detection.attention) return;
  const form = new FormData(), picture = current;
  form.append("files", picture.file, "picture");
  const number = picture.detections.indexOf(detection);
  part("status").textContent = "asking where the model looked …";
  try {
    const found = await ask(`v1/explain?threshold=${LEAST}&detection=${number}`, { method: "POST", body: form });
    Object.defineProperty(detection, "attention", { value: found.attention }); // not enumerable: no part of downloads
    if (picture !== current) return;
    draw(); // the list stays as it is, and with it the keyboard's place
    say();
  } catch (error) {
    part("status").textContent = error.message;
  }
}

// ---------------------------------------------------------------- pictures come in

const queue = [];
let running = 0;

function add(files) {
  const first = pictures.length;
  for (const file of files) {
    const picture = { name: file.name || "picture", file, url: URL.createObjectURL(file), waiting: true, image: null };
    pictures.push(picture);
    queue.push(picture);
  }
  if (pictures.length === first) return;
  part("drop").classList.add("small");
  show(pictures[first]);
  work();
}

async function work() {
  while (running < AT_ONCE && queue.length) {
    const picture = queue.shift();
    running += 1;
    Promise.all([detect(picture), load(picture)]).then(() => {
      running -= 1;
      if (picture === current) show(picture);
      else refresh();
      work();
    });
  }
}

// The browser's own picture, turned upright; null for formats that it cannot show.
async function load(picture) {
  const image = new Image();
  image.src = picture.url;
  await image.decode().then(() => (picture.image = image), () => {});
}

// ---------------------------------------------------------------- what is shown

const least = () => Number(part("threshold").value);
const visible = (picture) => (picture.detections || []).filter((d) => d.score >= least() && !hidden.has(d.label));
const drawing = () => ({ boxes: part("boxes").checked, masks: part("masks").checked, labels: part("labels").checked });

function show(picture) {
  current = picture;
  lit = chosen = null;
  const size = picture.width ? picture : picture.image && { width: picture.image.naturalWidth, height: picture.image.naturalHeight };
  part("view").hidden = !size || Boolean(picture.error);
  part("panel").hidden = !pictures.some((p) => p.detections);
  if (size) {
    const screen = Math.min(2048, Math.max(innerWidth, 640) * (devicePixelRatio || 1));
    const scale = Math.min(screen / Math.max(size.width, size.height), 8);
    part("canvas").width = Math.max(1, Math.round(size.width * scale));
    part("canvas").height = Math.max(1, Math.round(size.height * scale));
  }
  refresh();
}

function refresh() {
  part("least").textContent = least().toFixed(2);
  showStrip();
  if (!current) return;
  showClasses();
  showFound();
  draw();
  say();
}

// What is said below the picture.
function say() {
  const count = visible(current).length;
  const words = current.waiting ? "looking …" : current.error || `${count} detection${count === 1 ? "" : "s"} above ${least().toFixed(2)}`;
  part("status").textContent = pictures.length > 1 ? `${current.name}: ${words}` : words;
  part("stage").setAttribute("aria-busy", pictures.some((p) => p.waiting));
  part("status").classList.toggle("bad", Boolean(current.error));
}

function draw() {
  const shown = visible(current);
  part("canvas").dataset.shown = shown.length;
  part("canvas").setAttribute("aria-label", `${current.name}: ${shown.map((d) => `${d.label} ${d.score.toFixed(2)}`).join(", ") || "nothing found"}`);
  const size = current.width ? current : { width: part("canvas").width };
  if (!shown.includes(chosen)) chosen = null;
  drawPicture(part("canvas"), current.image, size, shown, chosen?.attention ? chosen : lit, drawing(), chosen?.attention);
  for (const button of part("found").querySelectorAll("button")) {
    button.classList.toggle("lit", button.detection === lit);
    button.setAttribute("aria-pressed", button.detection === chosen);
  }
}

function element(kind, values = {}, ...children) {
  const made = Object.assign(document.createElement(kind), values);
  made.append(...children);
  return made;
}

function swatch(classId) {
  const made = element("span", { className: "swatch" });
  made.style.background = colour(classId);
  return made;
}

function showStrip() {
  part("strip").hidden = pictures.length < 2;
  for (const picture of pictures) {
    if (!picture.button) {
      picture.button = element("button", { type: "button", onclick: () => show(picture) }, element("img", { src: picture.url, alt: "" }), element("span"));
      part("strip").append(picture.button);
    }
    const words = picture.waiting ? "…" : picture.error ? "!" : visible(picture).length;
    picture.button.lastChild.textContent = words;
    picture.button.setAttribute("aria-label", `${picture.name}: ${picture.error || words}`);
    picture.button.setAttribute("aria-current", picture === current);
  }
}

// A switch for each class of all pictures, those that are found most often first; made anew only where classes were added.
function showClasses() {
  const counts = new Map(), ids = new Map();
  for (const picture of pictures) {
    for (const detection of picture.detections || []) {
      ids.set(detection.label, detection.class_id);
      counts.set(detection.label, (counts.get(detection.label) || 0) + (picture === current && detection.score >= least()));
      if (detection.mask) part("masks-line").hidden = false;
    }
  }
  const lines = new Map([...part("classes").children].map((line) => [line.label, line]));
  for (const label of [...ids.keys()].sort()) {
    if (lines.has(label)) continue;
    const box = element("input", { type: "checkbox", checked: !hidden.has(label) });
    box.onchange = () => {
      box.checked ? hidden.delete(label) : hidden.add(label);
      lit = null;
      refresh();
    };
    const line = element("label", { label }, box, swatch(ids.get(label)), element("span", { className: "name", textContent: label }), element("span", { className: "count" }));
    lines.set(label, line);
    const next = [...part("classes").children].find((other) => other.label > label);
    part("classes").insertBefore(line, next || null);
  }
  for (const [label, line] of lines) {
    line.firstChild.checked = !hidden.has(label);
    line.lastChild.textContent = counts.get(label) || 0;
  }
}

function showFound() {
  part("found").replaceChildren(...visible(current).map((detection) => {
    const button = element("button", { type: "button", detection }, swatch(detection.class_id),
      element("span", { className: "name", textContent: detection.label }),
      element("span", { className: "score", textContent: detection.score.toFixed(2) }));
    button.onfocus = button.onpointerenter = () => light(detection);
    button.onblur = button.onpointerleave = () => light(null);
    button.onclick = () => choose(detection);
    return element("li", {}, button);
  }));
}

// ---------------------------------------------------------------- pointing

function light(detection) {
  if (detection === lit) return;
  lit = detection;
  draw();
}

// The smallest box under the pointer: others around it can be reached beside it.
function pointAt(event) {
  if (!current || !current.width) return;
  const frame = part("canvas").getBoundingClientRect(), outer = part("view").getBoundingClientRect();
  const x = ((event.clientX - frame.left) / frame.width) * current.width;
  const y = ((event.clientY - frame.top) / frame.height) * current.height;
  const area = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
  const [under] = visible(current)
    .filter(({ box: [x0, y0, x1, y1] }) => x0 <= x && x <= x1 && y0 <= y && y <= y1)
    .sort((a, b) => area(a) - area(b));
  light(under || null);
  part("tip").hidden = !under;
  if (!under) return;
  part("tip").textContent = `${under.label} ${(100 * under.score).toFixed(1)} %`;
  part("tip").style.left = `${Math.max(0, Math.min(event.clientX - outer.left + 14, outer.width - part("tip").offsetWidth))}px`;
  part("tip").style.top = `${Math.max(0, Math.min(event.clientY - outer.top + 18, outer.height - part("tip").offsetHeight))}px`;
}

function chooseUnder(event) {
  pointAt(event);
  if (lit) choose(lit);
}

function pointAway() {
  part("tip").hidden = true;
  light(null);
}

// ---------------------------------------------------------------- camera

let stream = null;

async function openCamera() {
  if (!navigator.mediaDevices) { // browsers give the camera to pages of https and localhost alone; phones' own app does
    part("snap").click();
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    part("status").textContent = error.name === "NotAllowedError" ? "the camera is not allowed for this page" : "there is no camera";
    return;
  }
  part("video").srcObject = stream;
  await part("video").play();
  part("live").hidden = false;
  part("take").focus();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  part("live").hidden = true;
}

function takePicture() {
  const video = part("video"), canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => add([new File([blob], `camera ${pictures.length + 1}.jpg`, { type: KINDS })]), KINDS, 0.92);
}

// ---------------------------------------------------------------- downloads

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function saveJson() {
  const results = pictures.filter((p) => p.detections).map((p) => ({ file: p.name, width: p.width, height: p.height, detections: visible(p) }));
  save(new Blob([JSON.stringify({ threshold: least(), results }, null, 1)], { type: "application/json" }), "detections.json");
}

function savePicture() {
  if (!current?.width) return;
  const scale = Math.min(1, LARGEST / Math.max(current.width, current.height));
  const canvas = element("canvas", { width: Math.round(current.width * scale), height: Math.round(current.height * scale) });
  drawPicture(canvas, current.image, current, visible(current), null, drawing());
  canvas.toBlob((blob) => save(blob, `${current.name.replace(/\.[^.]*$/, "")}-detections.png`));
}

// ---------------------------------------------------------------- events

const images = (list) => [...(list || [])].filter((file) => file.type.startsWith("image/"));

part("choose").onclick = () => part("files").click();
for (const id of ["files", "snap"]) {
  part(id).onchange = (event) => {
    add([...event.target.files]);
    event.target.value = ""; // so that the same file can be chosen again
  };
}
part("camera").onclick = openCamera;
part("take").onclick = takePicture;
part("leave").onclick = closeCamera;
part("threshold").oninput = () => { lit = null; refresh(); };
for (const id of ["boxes", "masks", "labels"]) part(id).onchange = draw;
part("all").onclick = () => { hidden.clear(); refresh(); };
part("none").onclick = () => { for (const line of part("classes").children) hidden.add(line.label); refresh(); };
part("save-json").onclick = saveJson;
part("save-picture").onclick = savePicture;
part("canvas").onpointermove = part("canvas").onpointerdown = pointAt;
part("canvas").onpointerleave = pointAway;
part("canvas").onclick = chooseUnder;
addEventListener("paste", (event) => add(images(event.clipboardData.files)));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const files = images(event.dataTransfer.files);
  if (files.length) add(files);
  else part("status").textContent = "what was dropped is no picture";
});
about().catch((error) => { part("about").textContent = error.message; });
