// Elements, and numbers in the words of the page.

/** Make an element of properties (attributes where it has no such property) and children.  Text stays text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Tell a screen reader: the last few sentences are kept, so that none is overwritten before it is read. */
export function say(sentence) {
  const said = byId("said");
  said.append(make("p", { textContent: sentence }));
  while (said.children.length > 6) said.firstChild.remove();
}

export const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

export function bytes(count) {
  if (count < 1000) return `${count}\u00a0bytes`;
  const power = Math.min(Math.floor(Math.log10(count) / 3), 4);
  const value = count / 1000 ** power;
  return `${value.toFixed(value < 9.95 ? 1 : 0)}\u00a0${["", "kB", "MB", "GB", "TB"][power]}`;
}

/** Minutes and seconds with a tenth, or hours, minutes and seconds: 0:04.2, 1:02:03. */
export function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60, (tenths % 600) / 10];
  return hours ? `${hours}:${two(minutes)}:${two(Math.floor(rest))}` : `${minutes}:${rest.toFixed(1).padStart(4, "0")}`;
}

export function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)}\u00a0seconds`;
  return seconds < 7200 ? `${Math.round(seconds / 60)}\u00a0minutes` : `${Math.round(seconds / 3600)}\u00a0hours`;
}

export const counted = (count, one, many = `${one}s`) => `${count}\u00a0${count === 1 ? one : many}`;

/** What went wrong and what to do about it, for a person to read. */
export function trouble(error) {
  return make("div", { className: "trouble" }, make("p", { textContent: sentence(error.message) }),
    make("p", { className: "quiet", textContent: sentence(error.remedy) }));
}

const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}` : "");

/** Answers, best first, with bars.  Without answers it is an empty list, which keeps their place. */
export class Answers {
  constructor(count, name) {
    this.rows = Array.from({ length: count }, () => {
      const row = { name: make("span", { className: "name" }), share: make("span", { className: "share" }), fill: make("i") };
      row.item = make("li", {}, row.name, make("span", { className: "track", "aria-hidden": "true" }, row.fill), row.share);
      return row;
    });
    // A list without bullets is none to some screen readers: the role says it again.
    this.element = make("ol", { className: "answers", role: "list", "aria-label": name, "aria-hidden": "true" },
      ...this.rows.map((row) => row.item));
  }

  /** Show [{label, score}, ...]. */
  show(answers) {
    this.element.removeAttribute("aria-hidden");
    this.rows.forEach((row, index) => {
      const answer = answers[index];
      row.item.hidden = !answer;
      if (!answer) return;
      row.name.textContent = answer.label;
      row.share.textContent = percent(answer.score);
      row.fill.style.setProperty("--v", `${100 * answer.score}%`);
    });
  }
}
