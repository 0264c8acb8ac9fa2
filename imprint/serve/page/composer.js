// Where questions are written. Enter sends, but never while an input method is composing.
import { h, icon } from "./dom.js";
import { say } from "./words.js";

const PROCESSED = 229;  // the key code of a key that an input method has taken

/** Whether Enter belongs to an input method. Safari ends the composition before the Enter that ended it: only its key code tells. */
export function isComposing(event, isOpen) { return event.isComposing || event.keyCode === PROCESSED || isOpen; }

export class Composer {
  /** `onsend(text)` throws a failure if the text is not taken; `onstop()` ends the answers; `onproblem()`: a sentence takes up room. */
  constructor({ onsend, onstop, onproblem }) {
    this.onsend = onsend;
    this.onstop = onstop;
    this.onproblem = onproblem;
    this.isOpen = false;
    this.isBusy = false;
    this.isSending = false;
    this.area = h("textarea", { id: "question", rows: "1", label: "ask", hint: "ask", autocomplete: "off", enterkeyhint: "send", maxlength: "200000" });
    this.button = h("button", { type: "submit", class: "send" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.element = h("form", { class: "composer" }, this.problem, h("div", { class: "box" }, this.area, this.button));
    this.listen();
    this.busy(false);
  }

  listen() {
    this.area.addEventListener("compositionstart", () => { this.isOpen = true; });
    this.area.addEventListener("compositionend", () => { this.isOpen = false; });
    this.area.addEventListener("blur", () => { this.isOpen = false; });
    this.area.addEventListener("input", () => this.fit());
    this.area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.altKey || isComposing(event, this.isOpen)) return;
      event.preventDefault();
      if (!this.isBusy) this.send();
    });
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.isBusy) this.onstop();
      else this.send();
    });
  }

  async send() {
    const text = this.area.value;
    if (!text.trim() || this.isSending) return;
    this.isSending = true;
    this.problem.hidden = true;
    this.area.value = "";
    this.fit();
    try {
      await this.onsend(text);
    } catch (failure) {
      if (!failure.said) throw failure;
      this.giveBack(text);
      this.problem.hidden = false;
      say(this.problem, "text", failure.said);
      this.onproblem();
    } finally {
      this.isSending = false;
      this.fit();
    }
  }

  /** Put a question that was not taken before what was written since, but never in the midst of a composition. */
  giveBack(text) {
    if (this.isOpen) this.area.addEventListener("compositionend", () => this.giveBack(text), { once: true });
    else if (this.area.value) this.area.setRangeText(`${text}\n`, 0, 0, "preserve");
    else this.area.value = text;
    this.fit();
  }

  /** Say no longer why the last question was not taken. */
  forgive() { this.problem.hidden = true; }

  /** Whether answers are being written: the button then stops them. */
  busy(isBusy) {
    this.isBusy = isBusy;
    this.button.replaceChildren(icon(isBusy ? "stop" : "send"));
    this.button.classList.toggle("stopping", isBusy);
    say(this.button, "aria-label", isBusy ? "stop" : "send");
    say(this.button, "title", isBusy ? "stop" : "send");
    this.fit();
  }

  fit() {
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
    const isIdle = !this.isBusy && !this.area.value.trim();
    this.button.setAttribute("aria-disabled", String(isIdle));  // a disabled button would lose the focus
  }
}
