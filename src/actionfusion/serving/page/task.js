// One request about one file, as a person sees it: its turn, upload, stages, cancel, and the answer or what went wrong.

import { bytes, counted, make, say, trouble } from "./elements.js";
import { post } from "./requests.js";

/** The server's work in words, with how much of it is done where that is known. */
function stageWords(line) {
  if (line.stage === "waiting") {
    return { text: line.ahead ? `Waiting: ${counted(line.ahead, "video")} ahead` : "Waiting for its turn" };
  }
  if (line.stage !== "decoding") return { text: line.stage === "network" ? "The network is at work" : line.stage };
  if (line.of) return { text: `Decoding: frame ${line.done} of ${line.of}`, done: line.done, of: line.of };
  return { text: line.done ? `Decoding: frame ${line.done}` : "Decoding" };
}

/** A request and its view: `element` says how far it is, `button` cancels it or tries again. */
export class Task {
  state = "new";

  /**
   * @param {object} what  path: where the file is posted; file; name: of the task, for screen readers; queue;
   *   first: whether somebody waits for it right now; outcome: the element that gets what went wrong;
   *   done(result): shows the result; changed(state): told of "running", "done", "failed" and "cancelled".
   */
  constructor(what) {
    Object.assign(this, what);
    this.line = make("p", { className: "state", textContent: "\u00a0" });
    this.bar = make("progress", { "aria-label": `Progress of ${this.name}` });
    this.element = make("div", { className: "task" }, this.line, this.bar);
    this.button = make("button", { type: "button", className: "act" });
    this.button.addEventListener("click", () => (this.state === "running" ? this.cancel() : this.start()));
  }

  start() {
    this.abort = new AbortController();
    this.outcome.querySelector(":scope > .trouble")?.remove();
    this.#turn("running", "In the queue", "Cancel");
    this.#run(this.abort.signal);
  }

  cancel() {
    this.abort?.abort();
  }

  /** End with an error, with or without having asked the server. */
  fail(error) {
    if (error.kind === "token") dispatchEvent(new Event("token-wanted"));
    this.outcome.append(trouble(error));
    this.#turn("failed", "No answer", "Try again");
    say(`${this.name}: ${error.message}. ${error.remedy ?? ""}`);
  }

  async #run(signal) {
    const began = performance.now();
    try {
      const result = await this.queue.add(() => post(this.path, this.file, this.#told(signal)), signal, this.first);
      this.done(result);
      this.#turn("done", `Ready after ${((performance.now() - began) / 1000).toFixed(1)} s`, "");
    } catch (error) {
      if (error.name !== "AbortError") {
        this.fail(error);
        return;
      }
      this.#turn("cancelled", "Cancelled", "Try again");
      say(`${this.name}: cancelled.`);
    }
  }

  #told(signal) {
    const size = this.file.size;
    const sent = (count) => {
      const part = Math.min(count, size); // a browser may count more than the file
      if (part < size) this.#show({ text: `Uploading: ${bytes(part)} of ${bytes(size)}`, done: part, of: size });
      else this.#show({ text: `Uploaded ${bytes(size)}` });
    };
    const busy = (seconds) => this.#show({ text: `The server is busy: next try in ${counted(seconds, "second")}` });
    return { signal, sent, busy, stage: (line) => this.#show(stageWords(line)) };
  }

  #show({ text, done, of }) {
    this.line.textContent = text;
    this.bar.setAttribute("aria-valuetext", text);
    if (of) Object.assign(this.bar, { max: of, value: done });
    else this.bar.removeAttribute("value");
  }

  #turn(state, text, action) {
    this.state = state;
    this.element.dataset.state = state;
    this.#show({ text });
    this.bar.hidden = state !== "running";
    this.button.hidden = !action;
    this.button.textContent = action;
    this.button.setAttribute("aria-label", `${action}: ${this.name}`);
    this.changed(state);
  }
}
