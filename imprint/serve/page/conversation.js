// The conversation that is shown: its rounds, the answers that are being written, and what can be done with them.
import { Answer, textLanguage } from "./answer.js";
import { call, Failure } from "./api.js";
import { h, icon, iconButton, notice, seal, tell } from "./dom.js";
import { answering, choices, refreshUsage, sampling, session } from "./state.js";
import { Tree } from "./tree.js";
import { onShare, share, tellReading, untilTurn } from "./windows.js";

const NEAR_END = 120;  // pixels from the end within which the page goes along with the text
const LIVE = "imprint.single";

export class Conversation {
  /** `onchange(conversation)`: an answer began or ended, or another chat is shown; `onrights()`: rights may have changed. */
  constructor(onchange, onrights) {
    this.onchange = onchange;
    this.onrights = onrights;
    this.opened = 0;
    this.isLeft = false;
    /** @type {Map<string, AbortController>} */
    this.watching = new Map();
    this.list = h("div", { class: "rounds", role: "log", "aria-live": "off" });
    this.element = h("div", { class: "conversation", tabindex: "-1" }, this.list);
    onShare(() => this.watchLive());
    this.clear();
  }

  /** Begin anew. Answers that are being written go on, but are no longer shown. */
  clear() {
    this.opened += 1;
    this.chat = null;
    this.tree = new Tree();
    /** @type {Map<string, Answer>} */
    this.answers = new Map();
    this.render();
  }

  /** What the window is called: the beginning of the chat. */
  get title() { return this.chat === null ? "" : (this.tree.rounds()[0]?.question.text ?? "").slice(0, 40); }

  get live() { return [...this.answers.values()].filter((answer) => answer.live); }

  /** Show a chat, and go on with the answers that are being written in it. Throws `Failure`. */
  async open(id) {
    this.opened += 1;
    const number = this.opened;
    const [chat, { messages }] = await Promise.all([
      call("GET", `/api/chats/${encodeURIComponent(id)}`), call("GET", `/api/chats/${encodeURIComponent(id)}/messages`)]);
    if (number !== this.opened) return;
    this.clear();
    this.chat = chat;
    this.tree = new Tree(messages);
    this.render();
    this.watchLive();
    this.toEnd(true);
  }

  /** Ask a question, with what stands before it or alone. Throws `Failure`, and nothing has changed then. */
  async ask(text) {
    if (choices.mode === "single") await this.askOnce(text, null);
    else await this.askInChat(text, this.tree.rounds().at(-1)?.chosen?.id ?? null);
  }

  /** Answer the last question again. */
  async again() {
    const { question } = this.tree.rounds().at(-1);
    try {
      if (this.chat === null) await this.askOnce(question.text, question);
      else await this.askInChat(null, question.id);
    } catch (failure) {
      tell(failure);
    }
  }

  async askInChat(text, parent) {
    const { tree, chat: old } = this;
    const chat = old ?? await call("POST", "/api/chats", {});
    const fields = { ...sampling(), ...(text === null ? {} : { text }), ...(parent === null ? {} : { parent }) };
    let begun;
    try {
      begun = await call("POST", `/api/chats/${encodeURIComponent(chat.id)}/messages`, fields);
    } catch (failure) {
      if (old === null) await call("DELETE", `/api/chats/${encodeURIComponent(chat.id)}`).catch(() => {});
      throw failure;
    }
    if (this.tree !== tree) return;
    this.chat = chat;
    if (begun.dropped_messages > 0) notice(["dropped", { count: begun.dropped_messages }]);
    const question = text === null ? [] : [message(begun.question, parent, "user", { text })];
    this.began(question, begun.answers.map((one) => message(one.message, begun.question, "assistant", one)));
  }

  async askOnce(text, question) {
    const { tree } = this;
    const { answers } = await call("POST", "/api/generations", { ...sampling(), text });
    if (this.tree !== tree) return;
    const asked = question ?? message(local(), this.tree.rounds().at(-1)?.chosen?.id ?? null, "user", { text });
    const made = answers.map((one) => message(one.generation, asked.id, "assistant", one));
    keepSingle({ asked: { ...asked, parent_id: null }, made });
    this.began(question ? [] : [asked], made);
  }

  /** Show the single question that was being answered when the page was loaded again, if there is one. */
  resume() {
    const kept = keptSingle();
    if (kept === null) return;
    this.began([kept.asked], kept.made);
  }

  began(question, answers) {
    const batch = local();
    this.tree.add([...question, ...answers.map((one) => ({ ...one, batch }))]);
    for (const one of [...question, answers.at(-1)]) this.tree.pick(one.id);
    this.render();
    this.watchLive();
    this.toEnd(true);
  }

  /** Read as many answers as there are connections for; the others wait for their turn. Those of chats that were left make room first. */
  watchLive() {
    if (this.isLeft) return;
    const shown = new Set(this.live.map((one) => one.generation));
    const waiting = this.live.filter((one) => !one.isWatched);
    for (const answer of waiting) this.letGo(answer.generation);
    const over = (count) => Math.max(0, count - share());
    const left = [...this.watching.keys()].filter((one) => !shown.has(one));
    for (const one of left.slice(0, over(this.watching.size + waiting.length))) this.letGo(one);
    for (const one of [...this.watching.keys()].slice(0, over(this.watching.size))) this.letGo(one);
    for (const answer of waiting.slice(0, Math.max(0, share() - this.watching.size))) {
      answer.isWatched = true;
      this.watch(answer, this.watcher(answer.generation));
    }
    const isReading = this.live.length > 0 || this.watching.size > 0;
    tellReading(isReading);
    clearTimeout(this.turn);
    if (isReading) this.turn = setTimeout(() => this.takeTurns(), untilTurn());
    this.onchange(this);
  }

  /** Let the answer that was read for the longest time wait, in place of one that waits. */
  takeTurns() {
    const [oldest] = this.watching.keys();
    if (oldest !== undefined && this.live.some((one) => !one.isWatched)) this.letGo(oldest);
    this.watchLive();
  }

  letGo(generation) {
    this.watching.get(generation)?.abort();
    this.watching.delete(generation);
  }

  /** What ends the reading of a generation. */
  watcher(generation) {
    const controller = new AbortController();
    this.watching.set(generation, controller);
    return controller;
  }

  async watch(answer, controller) {
    const { chat } = this;
    const { generation } = answer;
    await answer.watch((draw) => this.withEnd(draw), async (id) => {
      if (chat === null) return null;
      const { messages } = await call("GET", `/api/chats/${encodeURIComponent(chat.id)}/messages`);
      return messages.find((one) => one.id === id) ?? null;
    }, controller.signal);
    if (this.watching.get(generation) === controller) this.watching.delete(generation);
    answer.isWatched = false;
    if (this.answers.get(answer.id) === answer || !controller.signal.aborted) this.watchLive();
    if (controller.signal.aborted && answer.live) return;
    if (chat === null && this.live.length === 0) keepSingle(null);
    if (this.answers.get(answer.id) === answer) {
      this.withEnd(() => this.render());
    }
    this.onchange(this);
    if (answer.isEndedElsewhere) this.onrights();
    refreshUsage().catch((failure) => { if (!(failure instanceof Failure)) throw failure; });
  }

  /** End all answers where they are. */
  async stop() {
    for (const answer of this.live) await answer.cancel().catch((failure) => tell(failure));
  }

  /** Read no answer any longer. */
  leave() {
    this.isLeft = true;
    clearTimeout(this.turn);
    tellReading(false);
    for (const controller of this.watching.values()) controller.abort();
  }

  /** Change what is shown, and keep the end in sight, unless the reader has scrolled away from it. */
  withEnd(change) {
    const { isAtEnd } = this;
    change();
    this.toEnd(isAtEnd);
  }

  /** Scroll to the end, if it is near or must be seen. */
  toEnd(isForced = false) {
    if (isForced || this.isAtEnd) this.scrolled.scrollTop = this.scrolled.scrollHeight;
  }

  get isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scrolled;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }

  /** What scrolls: the conversation, or in a low window the whole page. */
  get scrolled() { return getComputedStyle(this.element).overflowY === "visible" ? document.scrollingElement : this.element; }

  render() {
    const rounds = this.tree.rounds();
    this.element.classList.toggle("empty", rounds.length === 0);
    if (rounds.length === 0) {
      this.list.replaceChildren(h("div", { class: "greeting" }, seal(), h("h1", { said: "greeting" })));
      return;
    }
    const focused = document.activeElement;
    const isInside = this.list.contains(focused);
    const { title } = this;
    this.list.replaceChildren(h("h1", { class: "hidden", said: title ? () => title : "single" }),
      ...rounds.map((round, place) => this.round(round, place === rounds.length - 1)));
    if (isInside) this.refocus(focused);
  }

  /** Give the focus back to what had it, to what has come in its place, or else to the conversation. */
  refocus(focused) {
    const { place = "" } = focused.dataset;
    const [way, question] = place.split(" ");
    const places = [place, `${way === "earlier" ? "later" : "earlier"} ${question}`];
    const found = focused.isConnected ? [focused] : places.map((one) => this.list.querySelector(`[data-place="${one}"]:enabled`));
    (found.find(Boolean) ?? this.element).focus({ preventScroll: true });
  }

  round({ question, questions, batches, batch, chosen }, isLast) {
    const shown = (batches[batch] ?? []).map((one) => this.answer(one));
    const canChoose = shown.length > 1 && choices.mode === "multi" && this.chat !== null;
    for (const answer of shown) {
      if (canChoose) answer.offer(answer.id === chosen.id, () => { this.tree.pick(answer.id); this.render(); });
      else answer.choice.hidden = true;
    }
    const isWritten = shown.length > 0 && shown.every((answer) => !answer.live);
    return h("section", { class: "round" },
      h("div", { class: "question" }, h("h2", { class: "hidden", said: "you" }), h("div", { class: "text", dir: "auto", lang: textLanguage(question.text) }, question.text)),
      questions.length > 1 && h("div", { class: "below asked" }, this.versions(questions, questions.indexOf(question), questions[0].id)),
      h("div", { class: shown.length > 1 ? "answers beside" : "answers" }, ...shown.map((answer) => answer.element)),
      h("div", { class: "below" },
        batches.length > 1 && this.versions(batches.map((one) => one.at(-1)), batch, question.id),
        isLast && isWritten && h("button", { type: "button", class: "quiet worded", tip: "regenerate", "data-place": "again", onclick: () => this.again() },
          icon("again"), h("span", { said: "regenerateShort" }))));
  }

  /** Steps from one of these messages, of which the branch has one, to the others; `owner` tells its buttons from those of others. */
  versions(messages, shown, owner) {
    const to = (place) => () => { this.tree.pick(messages[place].id); this.render(); };
    return h("span", { class: "versions" },
      iconButton("left", "earlier", to(shown - 1), { disabled: shown === 0, "data-place": `earlier ${owner}` }),
      h("span", { said: ["version", { number: shown + 1, count: messages.length }] }),
      iconButton("right", "later", to(shown + 1), { disabled: shown === messages.length - 1, "data-place": `later ${owner}` }));
  }

  answer(one) {
    if (!this.answers.has(one.id)) {
      const isTuned = session.models.find((model) => model.id === one.model)?.parent !== null;
      this.answers.set(one.id, new Answer(one, isTuned));
    }
    return this.answers.get(one.id);
  }
}

let made = 0;
function local() { made += 1; return `local-${Date.now()}-${made}`; }

/** @returns {import("./tree.js").Message} */
function message(id, parent, role, { text = "", model = null, generation = null }) {
  const state = generation ? "writing" : "done";
  return { id, parent_id: parent, role, text, model, generation, state, finish: null, error: null, new_tokens: 0, created_at: Date.now() / 1000 };
}

function keepSingle(value) {
  try {
    if (value === null) sessionStorage.removeItem(LIVE);
    else sessionStorage.setItem(LIVE, JSON.stringify(value));
  } catch { /* a browser that keeps nothing: then nothing goes on after a reload */ }
}

function keptSingle() {
  try { return JSON.parse(sessionStorage.getItem(LIVE)); } catch { return null; }
}

/** Forget what a reload would go on with. */
export function forgetSingle() { keepSingle(null); }

/** Whether there is somebody to answer. */
export function canAsk() { return answering().length > 0; }
