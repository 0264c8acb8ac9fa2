// The messages of a chat as a tree, and the branch of it that is shown.

/**
 * A message as the service describes it; `generation` is there while it is being written, `batch` while its answers are new.
 * @typedef {{ id: string, parent_id: ?string, role: "system" | "user" | "assistant", text: string, model: ?string, generation: ?string,
 *   state: "writing" | "done" | "interrupted" | "error", finish: ?string, error: ?string, new_tokens: ?number, created_at: number, batch?: string }} Message
 * @typedef {{ question: Message, questions: Message[], batches: Message[][], batch: number, chosen: ?Message }} Round
 */

const TOGETHER = 1.5;  // seconds between the first and the last answer of models that were asked together

/** The rounds of the shown branch: a question, those that another window asked in its place, and the answers to it in batches, one batch for each time that it was asked. */
export class Tree {
  /** @param {Message[]} messages */
  constructor(messages = []) {
    this.messages = [...messages];
    /** @type {Map<?string, string>} */
    this.picked = new Map();
  }

  /**
   * Add a question and the answers that have just begun.
   * @param {Message[]} messages
   */
  add(messages) { this.messages.push(...messages); }

  /** Show this message in place of those beside it. */
  pick(id) {
    const message = this.messages.find((one) => one.id === id);
    this.picked.set(message.parent_id, id);
  }

  /**
   * All rounds of the branch, from the beginning.
   * @returns {Round[]}
   */
  rounds() {
    const children = grouped(this.messages);
    const newest = this.newest();
    const shown = (siblings, parent) => siblings.find((one) => one.id === this.picked.get(parent))
      ?? siblings.reduce((best, one) => (newest.get(one.id) >= newest.get(best.id) ? one : best));
    const found = [];
    let parent = null;
    for (;;) {
      const questions = (children.get(parent) ?? []).filter((one) => one.role === "user");
      if (questions.length === 0) return found;
      const question = shown(questions, parent);
      const answers = (children.get(question.id) ?? []).filter((one) => one.role === "assistant");
      const batches = batched(answers);
      const chosen = answers.length ? this.chosen(batches, shown(answers, question.id), question.id, newest) : null;
      found.push({ question, questions, batches, chosen, batch: batches.findIndex((batch) => batch.includes(chosen)) });
      if (chosen === null) return found;
      parent = chosen.id;
    }
  }

  /** In a batch that nobody has picked from and that nothing follows, the last model: the tuned one. */
  chosen(batches, answer, question, newest) {
    const batch = batches.find((one) => one.includes(answer));
    const hasFollowed = batch.some((one) => newest.get(one.id) > this.messages.indexOf(one));
    return this.picked.get(question) || hasFollowed ? answer : batch.at(-1);
  }

  /** Id -> the place of the newest message below it. */
  newest() {
    const places = new Map(this.messages.map((one, place) => [one.id, place]));
    for (const [place, message] of [...this.messages.entries()].reverse()) {
      if (message.parent_id !== null && places.has(message.parent_id)) {
        places.set(message.parent_id, Math.max(places.get(message.parent_id), places.get(message.id), place));
      }
    }
    return places;
  }
}

/** @param {Message[]} messages */
function grouped(messages) {
  /** @type {Map<?string, Message[]>} */
  const groups = new Map();
  for (const one of messages) groups.set(one.parent_id, [...(groups.get(one.parent_id) ?? []), one]);
  return groups;
}

/** @param {Message[]} answers */
function batched(answers) {
  /** @type {Message[][]} */
  const batches = [];
  for (const answer of answers) {
    const last = batches.at(-1);
    const isTogether = last
      && last.every((one) => one.model !== answer.model)
      && (last[0].batch ?? null) === (answer.batch ?? null)
      && Math.abs(answer.created_at - last[0].created_at) < TOGETHER;
    if (isTogether) last.push(answer);
    else batches.push([answer]);
  }
  return batches;
}
