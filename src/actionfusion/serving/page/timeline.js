// A player of the local file with the segments under it: a picture of when what happens, and the same as a list.

import { clock, make, percent } from "./elements.js";

const NO_LABEL = "no clear action";
const named = (segment) => segment.label || NO_LABEL;

/** Distance of the marks of an axis: 1, 2 or 5 times a power of ten, or parts of an hour; about `most` of them. */
export function tickStep(seconds, most) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
  return steps.find((step) => seconds / step <= most) ?? 3600 * Math.ceil(seconds / most / 3600);
}

/** The segments as a WebVTT file, the same as the server writes.  A cue must end after it starts. */
export function webVtt(segments) {
  const stamp = (thousandths) => {
    const parts = [thousandths / 3600000, (thousandths / 60000) % 60, (thousandths / 1000) % 60];
    const [hours, minutes, rest] = parts.map((part) => String(Math.floor(part)).padStart(2, "0"));
    return `${hours}:${minutes}:${rest}.${String(thousandths % 1000).padStart(3, "0")}`;
  };
  const escaped = (text) => text.replace(/\s+/g, " ").replaceAll("&", "&amp;").replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;");
  const cues = segments.filter((segment) => segment.label).map(({ start, end, label, score }) => {
    const from = Math.round(1000 * start);
    const to = Math.max(Math.round(1000 * end), from + 1);
    return `${stamp(from)} --> ${stamp(to)}\n${escaped(`${label} (${Math.round(100 * score)}%)`)}`;
  });
  return `${["WEBVTT", ...cues].join("\n\n")}\n`;
}

export class Timeline {
  /**
   * @param {File} file  played from the person's own disk
   * @param {object} result  seconds, and segments of start, end, label and score in order of time
   */
  constructor(file, { seconds, segments }) {
    this.segments = segments;
    this.seconds = Math.max(seconds, ...segments.map((segment) => segment.end), 0.001);
    const captions = new Blob([webVtt(segments)], { type: "text/vtt" });
    this.addresses = [URL.createObjectURL(file), URL.createObjectURL(captions)];
    const note = make("p", { className: "note small" });
    this.video = this.#player(file.name, note);
    const save = make("a", { href: this.addresses[1], download: `${file.name.replace(/\.[^.]*$/, "")}.vtt`,
      textContent: "Save as captions (WebVTT)", className: "small" });
    this.element = make("div", { className: "played" },
      make("div", { className: "screen" }, this.video, note), this.#list(file.name), this.#lanes(), save);
    this.#follow();
  }

  dispose() {
    cancelAnimationFrame(this.next);
    this.video.removeAttribute("src");
    this.video.load();
    for (const address of this.addresses) URL.revokeObjectURL(address);
  }

  /** Go to a time, in seconds. */
  seek(time) {
    if (this.video.error) return;
    this.video.currentTime = time + 0.001; // on the border of two frames a player may take the one before
    this.#mark(time);
  }

  #player(name, note) {
    const track = make("track", { kind: "subtitles", label: "Actions", srclang: "en", src: this.addresses[1],
      default: true });
    const video = make("video", { src: this.addresses[0], controls: true, playsInline: true, preload: "auto",
      "aria-label": name }, track);
    video.addEventListener("error", () => {
      note.textContent = "This browser cannot play this kind of file. Its segments are shown all the same.";
      this.element.classList.add("still");
      this.#mark(-1);
    });
    return video;
  }

  /** Buttons of the segments, one stop of the Tab key, with arrows from one to the next. */
  #list(name) {
    this.buttons = this.segments.map((segment, index) => {
      const times = `${clock(segment.start)} – ${clock(segment.end)}`;
      const button = make("button", { type: "button", tabIndex: index ? -1 : 0 },
        make("span", { className: "times", textContent: times }), make("span", { textContent: named(segment) }),
        make("span", { className: "number", textContent: segment.label ? percent(segment.score) : "" }));
      button.addEventListener("click", () => this.seek(segment.start));
      return button;
    });
    this.list = make("div", { className: "segments", role: "toolbar", "aria-orientation": "vertical",
      "aria-label": `Segments of ${name}` }, ...this.buttons);
    this.list.addEventListener("keydown", (event) => {
      const at = this.buttons.indexOf(event.target);
      const last = this.buttons.length - 1;
      const to = { ArrowDown: Math.min(at + 1, last), ArrowRight: Math.min(at + 1, last), ArrowUp: Math.max(at - 1, 0),
        ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
      if (to === undefined || at < 0) return;
      event.preventDefault();
      this.buttons[to].focus();
    });
    this.list.addEventListener("focusin", (event) => {
      for (const button of this.buttons) button.tabIndex = button === event.target ? 0 : -1;
    });
    return this.list;
  }

  /** A lane for each label in order of appearance.  A click goes to the segment under it, or to that time. */
  #lanes() {
    const labels = [...new Set(this.segments.map(named))];
    const share = (time) => `${(100 * time) / this.seconds}%`;
    const lanes = labels.map((label) => {
      const lane = make("div", { className: "lane" });
      this.segments.forEach((segment, index) => {
        if (named(segment) !== label) return;
        const block = make("i", { className: segment.label ? "block" : "block none", title: `${label}, ` +
          `${clock(segment.start)} to ${clock(segment.end)}` });
        block.dataset.index = index;
        block.style.left = share(segment.start);
        block.style.width = share(segment.end - segment.start);
        block.style.setProperty("--s", `${Math.round(40 + 60 * (segment.score ?? 0))}%`);
        lane.append(block);
      });
      return [make("span", { className: "label", textContent: label }), lane];
    });
    const axis = make("div", { className: "axis" });
    const step = tickStep(this.seconds, 8);
    for (let tick = 0; tick <= this.seconds * 1.0001; tick += step) {
      const mark = make("span", { textContent: clock(tick).replace(/^(\d+:\d\d)\.0$/, "$1") });
      mark.style.left = share(tick);
      axis.append(mark);
    }
    const picture = make("div", { className: "lanes", "aria-hidden": "true" }, ...lanes.flat(), axis);
    picture.addEventListener("click", (event) => {
      const index = event.target.dataset.index;
      const box = axis.getBoundingClientRect();
      const part = (event.clientX - box.left) / box.width;
      if (index !== undefined) this.seek(this.segments[index].start);
      else if (part >= 0 && part <= 1) this.seek(part * this.seconds);
    });
    this.blocks = picture.getElementsByClassName("block");
    this.lanes = picture;
    return picture;
  }

  /** Keep the mark of the current segment and the playhead with the player. */
  #follow() {
    const step = () => {
      this.#mark(this.video.currentTime);
      if (!this.video.paused) this.next = requestAnimationFrame(step);
    };
    for (const name of ["play", "timeupdate", "seeking", "seeked"]) {
      this.video.addEventListener(name, () => {
        cancelAnimationFrame(this.next);
        step();
      });
    }
    this.#mark(0);
  }

  #mark(time) {
    this.lanes.style.setProperty("--at", `${Math.min((100 * time) / this.seconds, 100)}%`);
    // A player stops a little off the time that it was sent to.
    const found = this.segments.findLastIndex((segment) => time >= segment.start - 0.001);
    if (found === this.current) return;
    this.current = found;
    this.buttons.forEach((button, index) => {
      if (index === found) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    for (const block of this.blocks) block.classList.toggle("now", Number(block.dataset.index) === found);
    const button = this.buttons[found];
    if (!button) return;
    const top = button.offsetTop - this.list.offsetTop;
    const bottom = top + button.offsetHeight;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (bottom > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = bottom - this.list.clientHeight;
  }
}
