// The webcam: frames go to the server as JPEG over a WebSocket, and answers come back while things happen.

import { Answers, byId, counted, make, percent, say, trouble } from "./elements.js";
import { Refused, heldToken } from "./requests.js";

const WIDEST = 480; // pixels; networks read fewer
const QUALITY = 0.8;
const MOST_UNSENT = 400_000; // bytes that may wait in the browser; frames beyond that are dropped here
const QUIET = 4000; // milliseconds between two sentences to a screen reader

const CAMERA_ERRORS = {
  NotAllowedError: ["The browser does not let this page use the camera",
    "Allow it by the sign beside the page's address, then start again"],
  NotFoundError: ["There is no camera", "Connect one, then start again"],
  NotReadableError: ["The camera gives no picture", "Close other programs that use it, then start again"],
};

const problem = (message, remedy) => new Refused({ kind: "camera", message, remedy });

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw problem("Browsers lend the camera only to pages of the same machine, or over https",
      "Open the page as http://localhost, or put the server behind https");
  }
  const video = { width: { ideal: 640 }, frameRate: { ideal: 25, max: 30 }, facingMode: "user" };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: false, video });
  } catch (error) {
    throw problem(...(CAMERA_ERRORS[error.name] ?? [`The camera did not start (${error.name})`,
      "Connect it again, or try another browser"]));
  }
}

export class Webcam {
  /**
   * @param {object} model  what /api/model says
   * @param {function} ended  called when it has stopped, with the error if there was one
   */
  constructor(model, ended) {
    this.ended = ended;
    this.video = byId("camera");
    this.canvas = document.createElement("canvas");
    this.frames = 0;
    this.unsent = 0;
    this.announced = { label: null, at: -Infinity };
    this.answers = new Answers(Math.min(5, model.labels.length), "What the webcam shows");
    byId("webcam-answer").replaceChildren(this.answers.element);
    byId("webcam-state").textContent = "Starting the camera…";
    this.#facts({ Delay: "–", Dropped: "–", Method: "–" });
  }

  async start() {
    try {
      const stream = await openCamera();
      if (this.stopped) stopTracks(stream);
      else await this.#connect(stream);
    } catch (error) {
      this.stop(error instanceof Refused ? error : problem("The camera did not start", "Try another browser"));
    }
  }

  stop(error = null) {
    if (this.stopped) return;
    this.stopped = true;
    if (this.stream) stopTracks(this.stream);
    this.socket?.close(1000);
    this.video.srcObject = null;
    byId("webcam-state").textContent = error ? "" : "Stopped";
    if (error?.kind === "token") dispatchEvent(new Event("token-wanted"));
    if (error) byId("webcam-trouble").replaceChildren(trouble(error));
    this.ended();
  }

  async #connect(stream) {
    this.stream = stream;
    const [camera] = stream.getVideoTracks();
    camera.addEventListener("ended", () => this.stop(problem("The camera is gone", "Connect it, then start again")));
    this.video.srcObject = stream;
    await this.video.play();
    if (this.stopped) return;
    byId("webcam-state").textContent = "Connecting…";
    const address = new URL("/api/stream", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address, "actionfusion.v1");
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.socket.send(JSON.stringify({ token: heldToken(), every: null,
      rate: camera.getSettings().frameRate ?? null }));
    this.socket.onmessage = ({ data }) => this.#hear(JSON.parse(data));
    this.socket.onclose = () => this.stop(problem("The connection to the server ended",
      "See whether the server still runs, then start again"));
  }

  #hear(message) {
    if (this.stopped) return;
    if (message.error) this.stop(new Refused(message.error));
    else if (message.ready) {
      byId("webcam-state").textContent = "Waiting for the first answer…";
      this.began = performance.now();
      this.#next();
    } else this.#answer(message);
  }

  #answer({ time, predictions, dropped, method }) {
    const delay = Math.max(performance.now() - this.began - 1000 * time, 0);
    const [best] = predictions;
    this.answers.show(predictions);
    byId("webcam-state").textContent = "Live";
    this.#facts({ Delay: `${Math.round(delay)}\u00a0ms`,
      Dropped: `${dropped + this.unsent} of ${counted(this.frames, "frame")}`, Method: method });
    const now = performance.now();
    if (best.label === this.announced.label || now - this.announced.at < QUIET) return;
    this.announced = { label: best.label, at: now };
    say(`Webcam: ${best.label}, ${percent(best.score)}`);
  }

  #facts(facts) {
    byId("webcam-facts").replaceChildren(...Object.entries(facts).map(([name, value]) =>
      make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
  }

  #next() {
    if (this.stopped) return;
    const step = () => {
      this.#send();
      this.#next();
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(step);
    else setTimeout(step, 40);
  }

  /** Send the picture that the camera shows now; while one is being made, or too much waits, it is dropped. */
  #send() {
    const { video, canvas, socket } = this;
    if (this.stopped || !video.videoWidth) return;
    this.frames += 1;
    if (this.encoding || socket.bufferedAmount > MOST_UNSENT) {
      this.unsent += 1;
      return;
    }
    const seconds = (performance.now() - this.began) / 1000;
    const scale = Math.min(1, WIDEST / video.videoWidth);
    canvas.width = Math.round(scale * video.videoWidth);
    canvas.height = Math.round(scale * video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    this.encoding = true;
    canvas.toBlob(async (picture) => {
      const time = new DataView(new ArrayBuffer(8));
      time.setFloat64(0, seconds, true);
      const message = await new Blob([time, picture]).arrayBuffer();
      this.encoding = false;
      if (!this.stopped && socket.readyState === WebSocket.OPEN) socket.send(message);
    }, "image/jpeg", QUALITY);
  }
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}
