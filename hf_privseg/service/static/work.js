// One thing at a time: runs an action, says in numbered steps with seconds what it does, and can cancel it. Meanwhile
// every other control of the page is disabled, and a further press is ignored.

/** The visitor ended an action; nothing went wrong. */
export class Cancelled extends Error {
  constructor() {
    super("Cancelled. Nothing was kept of it.");
  }
}

/**
 * What a running action may use.
 * @typedef {object} Progress
 * @property {AbortSignal} signal fires when the visitor cancels
 * @property {(title: string) => void} step begins a step, and ends the one before
 * @property {(detail: string) => void} detail says more about the step that runs
 */

const CONTROLS = "button[data-privseg], input[data-privseg], select[data-privseg]";
const TICK_MS = 100;

let running = null;

/** Whether an action runs. */
export const isBusy = () => running !== null;

/** Ends what runs. */
export function cancel() {
  running?.abort();
}

/**
 * Runs an action. Its result, or what went wrong, is said in the status line beside its control.
 * @param {HTMLElement} control what the visitor pressed or changed, inside of an element [data-work]
 * @param {(progress: Progress) => Promise<string>} action returns what is said at its end
 */
export async function run(control, action) {
  if (isBusy()) return;
  running = new AbortController();
  const root = control.closest("#privseg");
  const place = control.closest("[data-work]");
  const status = place.querySelector(".status");
  const say = (text, kind) => {
    status.textContent = text;
    status.dataset.kind = kind;
  };
  for (const other of root.querySelectorAll(".status")) [other.textContent, other.dataset.kind] = ["", ""];
  const steps = new Steps(place.querySelector(".progress"), (title) => say(`${title} ...`, "busy"));
  const release = occupied(root, control);
  place.classList.add("is-busy");
  say("Working ...", "busy");
  try {
    const text = await action({ signal: running.signal, step: steps.begin, detail: steps.detail });
    steps.end("done");
    say(text, "done");
  } catch (error) {
    steps.end("failed");
    say(error.message, error instanceof Cancelled ? "cancelled" : "error");
  } finally {
    running = null;
    place.classList.remove("is-busy");
    release();
  }
}

/**
 * A message of a program as a sentence: a capital first, a full stop at its end.
 * @param {string} text
 */
export function sentence(text) {
  const whole = text.trim() || "Something went wrong; reload the page and try again";
  return whole[0].toUpperCase() + whole.slice(1) + (/[.!?]$/.test(whole) ? "" : ".");
}

// Disables the controls -> a function that undoes it. The pressed button keeps the focus, and says what runs.
function occupied(root, control) {
  const others = [...root.querySelectorAll(CONTROLS)].filter((each) => each !== control && !each.disabled);
  for (const other of others) other.disabled = true;
  const isButton = control.tagName === "BUTTON";
  const label = control.querySelector(".label") ?? control;
  const text = label.textContent;
  if (isButton) {
    control.setAttribute("aria-disabled", "true");
    label.textContent = control.dataset.busy ?? text;
  } else {
    control.disabled = true;
  }
  return () => {
    for (const other of others) other.disabled = false;
    if (isButton) {
      control.removeAttribute("aria-disabled");
      label.textContent = text;
    } else {
      control.disabled = false;
      if (document.activeElement === document.body) control.focus({ preventScroll: true });
    }
  };
}

// The steps of an action in a list, the one that runs with a clock. Without a list it does nothing but announce.
class Steps {
  #list;
  #announce;
  #current = null;

  constructor(list, announce) {
    [this.#list, this.#announce] = [list, announce];
    list?.replaceChildren();
  }

  begin = (title) => {
    this.end("done");
    this.#announce(title);
    if (!this.#list) return;
    const [item, text, clock] = ["li", "span", "span"].map((tag) => document.createElement(tag));
    item.append(text, " ", clock);
    text.textContent = title;
    item.dataset.kind = "busy";
    this.#list.append(item);
    const start = performance.now();
    const show = () => { clock.textContent = `${((performance.now() - start) / 1000).toFixed(1)}\u00a0s`; };
    show();
    this.#current = { item, text, title, show, timer: setInterval(show, TICK_MS) };
  };

  detail = (detail) => {
    if (this.#current) this.#current.text.textContent = `${this.#current.title}, ${detail}`;
  };

  end = (kind) => {
    if (!this.#current) return;
    clearInterval(this.#current.timer);
    this.#current.show();
    this.#current.item.dataset.kind = kind;
    this.#current = null;
  };
}
