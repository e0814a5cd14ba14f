// What the page shows of one file: its name, how far it is, its answers, and on demand the film strip and the timeline.

import { Answers, bytes, make, percent, say, trouble } from "./elements.js";
import { Refused } from "./requests.js";
import { Task } from "./task.js";
import { Timeline } from "./timeline.js";

let cards = 0;

export class Card {
  /**
   * @param {File} file
   * @param {object} page  model: what /api/model says; queue; changed(): called after each change of state;
   *   remove(card): called by the button.
   */
  constructor(file, page) {
    Object.assign(this, { file, page, id: `card-${cards += 1}` });
    this.answers = new Answers(Math.min(5, page.model.labels.length), `Answers for ${file.name}`);
    const outcome = make("div", { className: "outcome" }, this.answers.element);
    this.task = this.#task("/api/predict", file.name, false, outcome, (answers) => this.#answer(answers));
    this.extras = []; // an export has neither
    if (page.model.explains) this.extras.push(this.#extra("Film strip", "explain", (result) => this.#strip(result)));
    if (page.model.streaming) this.extras.push(this.#extra("Timeline", "timeline", (result) => this.#timeline(result)));
    this.remove = make("button", { type: "button", textContent: "Remove", "aria-label": `Remove ${file.name}` });
    this.remove.addEventListener("click", () => page.remove(this));
    this.title = make("h3", { id: this.id, textContent: file.name, tabIndex: -1 });
    const about = make("div", { className: "about" }, this.title,
      make("p", { className: "quiet small", textContent: bytes(file.size) }), this.task.element,
      make("div", { className: "line" }, this.task.button, ...this.extras.map((extra) => extra.button), this.remove));
    this.element = make("li", { className: "card", "aria-labelledby": this.id },
      make("div", { className: "head" }, about, outcome), ...this.extras.map((extra) => extra.panel));
  }

  start() {
    const most = this.page.model.limits?.bytes;
    if (!most || this.file.size <= most) this.task.start();
    else {
      this.task.fail(new Refused({ kind: "too_large", message: `The file has ${bytes(this.file.size)}, and this server ` +
        `takes ${bytes(most)}`, remedy: "Send a shorter or a smaller video" }));
    }
  }

  get #tasks() {
    return [this.task, ...this.extras.map((extra) => extra.task)];
  }

  get running() {
    return this.#tasks.some((task) => task.state === "running");
  }

  cancel() {
    for (const task of this.#tasks) task.cancel();
  }

  /** Stop whatever runs, and give up the memory that the browser holds for it. */
  dispose() {
    this.cancel();
    this.player?.dispose();
    this.element.remove();
  }

  #task(path, name, first, outcome, done) {
    const changed = (state) => {
      this.element.dataset.state = this.task.state;
      if (path === "/api/predict") this.answers.element.classList.toggle("gone", state === "failed");
      this.page.changed();
    };
    return new Task({ path, file: this.file, name, queue: this.page.queue, first, outcome, done, changed });
  }

  #answer(answers) {
    this.answers.show(answers);
    for (const { button } of this.extras) button.hidden = false;
    // Somebody at the keyboard stood on the button that cancels, which goes.
    if (document.activeElement === this.task.button) (this.extras[0]?.button ?? this.remove).focus();
    const [best] = answers;
    if (best) say(`${this.file.name}: ${best.label}, ${percent(best.score)}`);
  }

  /** A button and the panel that it opens; the first time, the server is asked for what is in it. */
  #extra(title, route, draw) {
    const name = `${title} of ${this.file.name}`;
    const panel = make("section", { className: `panel ${route}`, id: `${this.id}-${route}`, hidden: true,
      "aria-label": name });
    const button = make("button", { type: "button", textContent: title, hidden: true, "aria-label": name,
      "aria-expanded": "false", "aria-controls": panel.id });
    const outcome = make("div", { className: "outcome" });
    const task = this.#task(`/api/${route}`, name, true, outcome, (result) => {
      // Somebody at the keyboard stood on the button that cancels, which goes.
      if (document.activeElement === task.button) button.focus();
      outcome.append(draw(result));
      say(`${name} is ready`);
    });
    panel.append(task.element, make("div", { className: "line" }, task.button), outcome);
    button.addEventListener("click", () => {
      panel.hidden = !panel.hidden;
      button.setAttribute("aria-expanded", String(!panel.hidden));
      if (!panel.hidden && task.state === "new") task.start();
    });
    return { button, panel, task };
  }

  #strip({ image }) {
    const [best] = this.answers.rows;
    const picture = make("img", { src: image, alt: `Sampled frames of ${this.file.name}, below them the motion and ` +
      `what speaks for ${best.name.textContent}` });
    return make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": picture.alt }, picture);
  }

  #timeline(result) {
    this.player = new Timeline(this.file, result);
    if (result.error) this.player.element.append(trouble(result.error)); // the segments go up to the fault
    return this.player.element;
  }
}
