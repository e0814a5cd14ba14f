// The page: asks which model answers, takes files and the webcam, and keeps the list of videos.

import { byId, bytes, counted, duration, make, say, trouble } from "./elements.js";
import { Card } from "./card.js";
import { Queue, getJson, setToken } from "./requests.js";
import { Webcam } from "./webcam.js";

const AT_ONCE = 2; // while the network works on one video, the next one is uploaded

const queue = new Queue(AT_ONCE);
const cards = new Set();
let model = null;
let webcam = null;

/** Ask which model answers; first for the token, if the server wants one. */
async function connect() {
  byId("trouble").replaceChildren();
  try {
    model = await getJson("/api/model");
  } catch (error) {
    if (error.status === 401) askForToken();
    else cannotConnect(error);
    return;
  }
  byId("token-form").hidden = true;
  byId("choose").hidden = false;
  introduce();
}

function cannotConnect(error) {
  byId("lead").textContent = "The model cannot be reached.";
  const again = make("button", { type: "button", textContent: "Try again" });
  again.addEventListener("click", connect);
  byId("trouble").replaceChildren(trouble(error), again);
}

let asked = false;

function askForToken() {
  const field = byId("token");
  byId("lead").textContent = "This server answers those who have its token.";
  byId("choose").hidden = true;
  byId("token-form").hidden = false;
  byId("token-wrong").textContent = asked ? "The server does not take this token." : "";
  field.setAttribute("aria-invalid", String(asked));
  asked = true;
  field.focus();
}

/** Say what the model is, and let people choose. */
function introduce() {
  const { labels, limits = {}, streams, streaming } = model;
  byId("lead").textContent = `${model.name} tells ${counted(labels.length, "action")} apart: ${first(labels, 44)}.`;
  const most = [limits.bytes && bytes(limits.bytes), limits.seconds && duration(limits.seconds)].filter(Boolean);
  byId("limits").textContent = `Or drop them anywhere on this page.${most.length ? ` At most ${most.join(" and ")} each.` : ""} ` +
    "The server keeps no video.";
  byId("pick").disabled = false;
  byId("use-webcam").disabled = false;
  byId("use-webcam").hidden = !streaming; // an export answers whole clips alone
  const facts = { Model: model.model, Version: model.version, Reads: listed(streams.map((name) =>
    ({ rgb: "pictures", flow: "optical flow" }[name] ?? name))), Frames: model.frames,
  Runtime: [model.runtime, model.precision].filter(Boolean).join(", "), Live: streaming ?? "no",
  Actions: labels.join(", ") };
  byId("model-facts").replaceChildren(...Object.entries(facts).map(([name, value]) =>
    make("div", { className: name === "Actions" ? "wide" : "" }, make("dt", { textContent: name }),
      make("dd", { textContent: value ?? "–" }))));
  byId("about").hidden = false;
}

/** The first labels that have room in a line of so many letters, and how many more there are. */
function first(labels, letters) {
  let taken = 1;
  while (taken < labels.length && labels.slice(0, taken + 1).join(", ").length <= letters) taken += 1;
  const rest = labels.length - taken;
  return listed(rest ? [...labels.slice(0, taken), `${rest} more`] : labels);
}

const listed = (words) => words.join(", ").replace(/, ([^,]*)$/, " and $1");

function addFiles(files) {
  if (!model || !files.length) return;
  byId("videos").hidden = false;
  const added = files.map((file) => new Card(file, { model, queue, changed: count, remove }));
  for (const card of added) {
    cards.add(card);
    byId("cards").append(card.element);
    card.start();
  }
  say(`${counted(added.length, "video")} added`);
  count();
  added[0].element.scrollIntoView({ block: "nearest" });
}

function remove(card) {
  const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
  card.dispose();
  cards.delete(card);
  byId("videos").hidden = !cards.size;
  (next?.querySelector("h3") ?? byId("pick")).focus();
  count();
}

/** Count what is answered, and offer to cancel or to remove all. */
function count() {
  const done = [...cards].filter((card) => card.task.state === "done").length;
  const running = [...cards].some((card) => card.running);
  byId("count").textContent = `${done} of ${cards.size} done`;
  byId("all").textContent = running ? "Cancel all" : "Remove all";
}

function cancelOrRemoveAll() {
  if ([...cards].some((card) => card.running)) {
    for (const card of cards) card.cancel();
    return;
  }
  for (const card of cards) card.dispose();
  cards.clear();
  byId("videos").hidden = true;
  byId("pick").focus();
}

/** The files of a drop; a folder cannot be sent. */
function takeDrop(event) {
  event.preventDefault();
  document.body.classList.remove("over");
  const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const folders = items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory);
  const files = items.filter((item) => !folders.includes(item)).map((item) => item.getAsFile()).filter(Boolean);
  byId("trouble").replaceChildren();
  if (folders.length) {
    byId("trouble").append(trouble({ message: "A folder cannot be sent", remedy: "Open it and drop the videos in it" }));
  }
  addFiles(files);
}

function startWebcam() {
  byId("webcam").hidden = false;
  byId("webcam-trouble").replaceChildren();
  webcam = new Webcam(model, () => {
    byId("use-webcam").disabled = false;
    byId("stop-webcam").textContent = "Start again";
    webcam = null;
  });
  byId("use-webcam").disabled = true;
  byId("stop-webcam").textContent = "Stop";
  byId("stop-webcam").focus();
  webcam.start();
}

function listen() {
  byId("pick").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", (event) => {
    addFiles([...event.target.files]);
    event.target.value = ""; // the same file can be chosen again
  });
  byId("use-webcam").addEventListener("click", startWebcam);
  byId("stop-webcam").addEventListener("click", () => (webcam ? webcam.stop() : startWebcam()));
  byId("all").addEventListener("click", cancelOrRemoveAll);
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(byId("token").value.trim());
    byId("token").value = "";
    connect();
  });
  addEventListener("token-wanted", askForToken);
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  addEventListener("drop", takeDrop);
}

listen();
connect();
