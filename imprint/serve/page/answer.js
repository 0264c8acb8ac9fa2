// One answer: its text as it is written, and how it is shown.
import { call, Failure, follow } from "./api.js";
import { announce, copyText, h, iconButton, paced } from "./dom.js";
import { halves, say } from "./words.js";

const RETRIES = 8;  // of a service that answers; one that is away may come back after any time, and has the whole answer then
const SENTENCE_ENDS = [..."。！？.!?\n"];
const UNSPOKEN = 300;  // characters after which a text is read out though no sentence of it has ended
const ENDS = { length: "endLength", cancelled: "endCancelled" };

export class Answer {
  /**
   * @param {import("./tree.js").Message} message
   * @param {boolean} isTuned whether it is no base
   */
  constructor(message, isTuned) {
    this.id = message.id;
    this.model = message.model;
    this.text = "";
    this.drawn = 0;  // how much of the text is shown
    this.drawing = paced(() => this.drawWithin(() => this.draw()));
    this.drawWithin = (draw) => draw();
    this.tokens = 0;
    this.live = false;
    this.isWatched = false;
    this.isStopped = false;
    this.isEndedElsewhere = false;
    this.unspoken = "";
    this.element = this.built(isTuned);
    this.take(message);
  }

  built(isTuned) {
    this.body = h("div", { class: "text", dir: "auto" });
    this.words = document.createTextNode("");
    this.body.append(this.words, h("span", { class: "caret", "aria-hidden": "true" }));
    this.status = h("p", { class: "status", hidden: true });
    this.count = h("span", { class: "count" });
    this.choice = h("button", { type: "button", class: "choice", said: "continueHere", hidden: true });
    const copy = iconButton("copy", "copyAnswer", () => copyText(this.text));
    return h("article", { class: "answer" },
      h("h2", { class: isTuned ? "who tuned" : "who" }, this.model ?? ""),
      this.body, this.status,
      h("footer", {}, copy, this.count, this.choice));
  }

  /**
   * Take what the service has of it.
   * @param {import("./tree.js").Message} message
   */
  take(message) {
    this.text = message.text;
    this.words.data = message.text;
    this.drawn = message.text.length;
    this.end(message.state, message.finish, message.error && halves(message.error), message.new_tokens);
    if (message.generation) this.begin(message.generation);
    else if (message.state === "writing") this.end("interrupted");
  }

  begin(generation) {
    this.generation = generation;
    this.live = true;
    this.element.dataset.state = "writing";
    this.show(this.text ? null : "thinking");
  }

  /** Show how it ended, if that is worth a sentence. */
  end(state, finish = null, /** @type {?import("./words.js").Saying} */ error = null, tokens = 0) {
    this.live = false;
    this.generation = null;
    this.element.dataset.state = state;
    this.tokens = tokens ?? 0;
    this.body.lang = textLanguage(this.text) ?? "";
    this.count.hidden = this.tokens === 0;
    say(this.count, "text", ["tokens", { count: this.tokens }]);
    if (error !== null) this.show(error, "problem");
    else if (state === "error") this.show("endError", "problem");
    else if (state === "interrupted") this.show("endInterrupted", "problem");
    else this.show(Object.hasOwn(ENDS, finish) ? ENDS[finish] : null);
  }

  show(what, kind = "plain") {
    this.status.hidden = what === null;
    this.status.dataset.kind = kind;
    if (what !== null) say(this.status, "text", what);
  }

  /** Show what has come of the text. */
  draw() {
    this.words.appendData(this.text.slice(this.drawn));
    this.drawn = this.text.length;
  }

  /**
   * Read its events until it has ended.
   * @param {(draw: () => void) => void} drawWithin what to do around each change of what is shown
   * @param {(id: string) => Promise<?import("./tree.js").Message>} reload asks the service for the message again, once its events are gone
   * @param {AbortSignal} signal
   */
  async watch(drawWithin, reload, signal) {
    this.drawWithin = drawWithin;
    let tries = 0;
    while (this.live && tries <= RETRIES) {
      let isAway = false;
      try {
        for await (const event of follow(this.generation, [...this.text].length, signal)) {
          tries = 0;
          this.on(event);
        }
      } catch (failure) {
        if (signal.aborted) return;
        if (!(failure instanceof Failure)) throw failure;
        if (failure.status === 404) { await this.fetched(reload); return; }
        if (failure.status >= 400 && failure.status < 500 && failure.status !== 429) { this.end("error", null, failure.said); return; }
        isAway = failure.status === 0 || failure.status >= 502;  // a proxy says the latter of a service that is away
      }
      if (this.live) {
        this.show("reconnecting");
        tries = isAway ? Math.min(tries + 1, RETRIES) : tries + 1;
        await new Promise((resolve) => setTimeout(resolve, Math.min(4000, 300 * 2 ** tries)));
      }
    }
    if (this.live) this.end("error", null, "unreachable");
  }

  async fetched(reload) {
    try {
      const message = await reload(this.id);
      if (message) this.take({ ...message, generation: null });
      else this.end("error", null, "endGone");
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      this.end("error", null, failure.said);
    }
  }

  on({ name, data }) {
    if (name === "queue") {
      this.show(data.position > 1 ? ["queued", { ahead: data.position - 1 }] : "queuedNext");
      announce(this.status.textContent);
    }
    if (name === "text") {
      this.text += data.text;
      this.drawing.soon();
      this.show(null);
      this.speak(data.text);
    }
    if (name === "end") {
      this.drawing.now();
      this.end(data.error ? "error" : "done", data.finish, data.error && halves(data.error.message), data.new_tokens);
      this.isEndedElsewhere = data.error?.code === "invalid_session" || (data.finish === "cancelled" && !this.isStopped);
      if (this.isEndedElsewhere) this.show("endElsewhere", "problem");
      announce(this.status.hidden ? this.unspoken : `${this.unspoken} ${this.status.textContent}`);
    }
  }

  /** Read whole sentences to a screen reader, not each token. Only the new text is looked at: the rest may be long. */
  speak(text) {
    const ended = Math.max(...SENTENCE_ENDS.map((one) => text.lastIndexOf(one))) + 1;
    const spoken = ended === 0 && this.unspoken.length + text.length > UNSPOKEN ? text.length : ended;
    if (spoken > 0) announce(this.unspoken + text.slice(0, spoken));
    this.unspoken = spoken > 0 ? text.slice(spoken) : this.unspoken + text;
  }

  /** Offer to go on from this answer, or say that the chat does. */
  offer(isChosen, onchoose) {
    this.choice.hidden = false;
    this.choice.setAttribute("aria-pressed", String(isChosen));
    say(this.choice, "text", isChosen ? "continuesHere" : "continueHere");
    this.choice.onclick = onchoose;
  }

  /** End it where it is. */
  async cancel() {
    this.isStopped = true;
    if (this.live) await call("POST", `/api/generations/${encodeURIComponent(this.generation)}/cancel`);
  }
}

/** The language of a text, for the shapes of its characters; null where they tell nothing. */
export function textLanguage(text) {
  if (/[\u3040-\u30ff\uac00-\ud7af]/u.test(text)) return null;
  return /[\u3400-\u9fff]/u.test(text) ? "zh-CN" : null;
}
