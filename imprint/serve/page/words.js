// What the page says, in both languages, and how its elements change when another one is chosen.

const WORDS = {
  guestTry: ["Try it as a guest", "以访客身份试用"],
  guestNote: ["No account is needed. The chats of a guest end with the session.", "无需账号；访客的对话随会话结束而删除。"],
  guestOff: ["Guests are not let in here.", "此处不接待访客。"],
  tagline: ["Chat with the base and with what was tuned on it.", "与底座模型及其微调结果对话。"],
  signIn: ["Sign in", "登录"],
  signOut: ["Sign out", "退出登录"],
  askAccount: ["Ask for an account", "申请账号"],
  askIntro: ["An admin decides and tells you by the contact that you give.", "管理员审核后，会通过你留下的联系方式告知。"],
  askSend: ["Send the request", "提交申请"],
  asked: ["Your request has been sent. An admin will get in touch with you.", "申请已提交，管理员会与你联系。"],
  contact: ["Contact", "联系方式"],
  contactHint: ["E-mail, phone or other", "邮箱、电话等"],
  reason: ["Reason", "申请理由"],
  reasonHint: ["What would you like to use it for?", "打算用来做什么？"],
  name: ["Name", "用户名"],
  password: ["Password", "密码"],
  back: ["Back", "返回"],
  close: ["Close", "关闭"],
  cancel: ["Cancel", "取消"],
  save: ["Save", "保存"],
  copy: ["Copy", "复制"],
  copied: ["Copied.", "已复制。"],
  language: ["中文", "English"],
  languageLabel: ["Language / 语言: 中文", "语言 / Language：English"],
  themeLabel: ["Light or dark", "浅色或深色"],
  changeTitle: ["Choose your own password", "请设置自己的密码"],
  changeForced: [
    "You signed in with a one-time password. Choose your own before you go on.",
    "你使用的是一次性密码，请先设置自己的密码再继续。",
  ],
  changePassword: ["Change password", "修改密码"],
  oneTimePassword: ["One-time password", "一次性密码"],
  oldPassword: ["Old password", "原密码"],
  newPassword: ["New password", "新密码"],
  newPasswordHint: ["At least 10 characters", "至少 10 个字符"],
  repeatPassword: ["New password again", "再次输入新密码"],
  notSame: ["The two new passwords are not the same.", "两次输入的新密码不一致。"],
  changed: ["The password is changed; all other sessions have ended.", "密码已修改；其他会话均已退出。"],
  unreachable: ["The service cannot be reached. Is it running, and are you online?", "无法连接服务；请检查服务是否在运行、网络是否正常。"],
  noAnswer: ["The service gave no answer that can be read.", "服务的答复无法识别。"],
  sessionEnded: [
    "Your session has ended: after a long time, or because an admin has changed or disabled the account. Sign in again to go on.",
    "会话已结束：可能是时间过长，也可能是管理员修改或停用了账号。请重新登录后继续。",
  ],
  guestEnded: [
    "The session has ended, and its chats with it. Come again as a guest, or sign in.",
    "访客会话已结束，其中的对话也已删除。可以重新以访客身份进入，或登录。",
  ],
  noCookie: [
    "This browser does not keep the cookie of the service, without which nobody stays signed in. Allow cookies for this address.",
    "浏览器没有保存本服务的 Cookie，因此无法保持登录。请允许此地址使用 Cookie。",
  ],
  retryIn: ["Try again in {time}.", "请在{time}后重试。"],
  newChat: ["New chat", "新对话"],
  chats: ["Chats", "对话"],
  searchChats: ["Search chats", "搜索对话"],
  noChats: ["No chats yet", "还没有对话"],
  noneFound: ["No chat has these words", "没有包含这些词的对话"],
  moreChats: ["Show more", "显示更多"],
  untitled: ["New chat", "新对话"],
  deleteChat: ["Delete this chat", "删除此对话"],
  deleteChatSure: ["Delete “{title}” with all its messages? It cannot be undone.", "删除“{title}”及其全部消息？此操作无法撤销。"],
  deleteIt: ["Delete", "删除"],
  title: ["Title", "标题"],
  exportMarkdown: ["Markdown (what you see)", "Markdown（当前分支）"],
  exportJson: ["JSON (all versions)", "JSON（全部版本）"],
  exportAll: ["Export all chats", "导出全部对话"],
  importChats: ["Import chats", "导入对话"],
  imported: ["Imported: {count}", "已导入 {count} 个对话"],
  importedBefore: ["Before that, these were imported: {count}", "在此之前已导入 {count} 个对话"],
  importNone: [
    "“{name}” holds no exported chats: choose a .json or .jsonl file that this page has exported.",
    "“{name}”中没有导出的对话：请选择由本页面导出的 .json 或 .jsonl 文件。",
  ],
  importUnreadable: [
    "“{name}” cannot be read: it was moved or has changed since it was chosen. Choose it again.", "无法读取“{name}”：选择之后，文件被移动或改动了；请重新选择。",
  ],
  importLarge: ["“{name}” is larger than 64 MiB.", "“{name}”超过 64 MiB。"],
  importLongChat: ["The chat “{title}” is longer than 1 MiB.", "对话“{title}”超过 1 MiB。"],
  chatActions: ["What to do with this chat", "对话操作"],
  menu: ["Menu", "菜单"],
  skip: ["Skip to the content", "跳到正文"],
  model: ["Model", "模型"],
  base: ["base", "底座"],
  baseOf: ["{root}", "底座 {root}"],
  tuned: ["tuned", "微调"],
  compare: ["With the base", "与底座并排"],
  compareTip: ["The base answers, too, side by side", "底座同时作答，并排显示"],
  mode: ["Single or multi-turn", "单轮或多轮"],
  single: ["Single-turn", "单轮"],
  multi: ["Multi-turn", "多轮"],
  singleNote: ["Single-turn: each question stands alone, and nothing is kept.", "单轮：每个问题互不相关，不保存记录。"],
  settings: ["Sampling", "采样设置"],
  temperature: ["Temperature", "温度"],
  temperatureNote: ["0 always takes the most probable token", "0 表示总取概率最大的词元"],
  topP: ["top_p", "top_p"],
  topPNote: ["Sample from the tokens that together have this probability", "只在累计概率达到此值的词元中采样"],
  length: ["Longest answer (tokens)", "最大回答长度（词元）"],
  lengthHint: ["as fits", "不限"],
  resetSampling: ["Back to the defaults", "恢复默认"],
  ask: ["Ask something", "输入问题"],
  askHint: ["Ask {model} something…", "向 {model} 提问…"],
  send: ["Send", "发送"],
  stop: ["Stop", "停止"],
  greeting: ["What would you like to know?", "想问点什么？"],
  you: ["You", "你"],
  copyAnswer: ["Copy the answer", "复制回答"],
  regenerate: ["Answer again", "重新回答"],
  regenerateShort: ["Again", "重新回答"],
  earlier: ["Earlier version", "上一个版本"],
  later: ["Later version", "下一个版本"],
  version: ["{number} of {count}", "{number} / {count}"],
  continueHere: ["Go on from this answer", "从这个回答继续"],
  continuesHere: ["The chat goes on from here", "对话从此处继续"],
  tokens: ["{count} tokens", "{count} 个词元"],
  thinking: ["Thinking", "思考中"],
  queued: ["In the queue: {ahead} before you", "排队中：前面还有 {ahead} 个"],
  queuedNext: ["In the queue: yours is next", "排队中：下一个就是你"],
  reconnecting: ["The connection was lost; trying again…", "连接中断，正在重连…"],
  endLength: ["The answer reached its greatest length.", "回答已达最大长度。"],
  endCancelled: ["Stopped here.", "已停止。"],
  endElsewhere: [
    "Ended elsewhere: in another window, or because the right to this model was taken away.",
    "已在别处结束：可能在另一个窗口停止，也可能是使用该模型的权限已被收回。",
  ],
  endInterrupted: ["The service was stopped while this was written.", "写到此处时服务停止了。"],
  endError: ["The answer failed.", "回答失败。"],
  endGone: ["This answer is no longer there.", "这个回答已不可用。"],
  dropped: ["The oldest {count} messages no longer fit into the context and were left out.", "最早的 {count} 条消息超出上下文，未参与本次回答。"],
  noModels: ["There is no model that you may use. Ask an admin for the right to one.", "没有可用的模型，请联系管理员授权。"],
  licence: ["Licence: {licence}", "许可证：{licence}"],
  licenceUnknown: ["Licence: not named in its folder", "许可证：模型目录中未注明"],
  aboutModel: ["Base: {base}", "底座：{base}"],
  quota: ["{left} of {limit} tokens left today", "今日剩余 {left} / {limit} 词元"],
  quotaUsedUp: ["No tokens are left for today; new ones come {when}.", "今日词元已用完，{when}恢复。"],
  roleGuest: ["Guest", "访客"],
  roleUser: ["User", "用户"],
  roleAdmin: ["Admin", "管理员"],
  keys: ["API keys", "API 密钥"],
  keysIntro: [
    "A key lets a program ask in your name. It is shown once, when it is made.",
    "程序可凭密钥以你的名义调用接口。密钥只在创建时显示一次。",
  ],
  newKey: ["Make a key", "创建密钥"],
  keyName: ["What it is for", "用途"],
  keyMade: ["Your new key", "新密钥"],
  keyOnce: ["Copy it now: it is shown this once only.", "请立即复制：只显示这一次。"],
  keyUse: ["Try it on the command line:", "在命令行中试用："],
  expires: ["Ends", "有效期"],
  never: ["never", "永久"],
  inDays: ["in {days} days", "{days} 天"],
  revoke: ["Revoke", "吊销"],
  revokeSure: ["Revoke the key “{name}”? Programs that use it are refused at once.", "吊销密钥“{name}”？使用它的程序会立即被拒绝。"],
  noKeys: ["No keys yet", "还没有密钥"],
  keyBegins: ["Key", "密钥"],
  lastUsed: ["Last used", "上次使用"],
  state: ["State", "状态"],
  valid: ["valid", "有效"],
  revoked: ["revoked", "已吊销"],
  expired: ["ended", "已过期"],
  unused: ["not yet", "尚未使用"],
  admin: ["Administration", "管理"],
  requests: ["Requests", "申请"],
  users: ["Accounts", "账号"],
  service: ["Service", "服务"],
  audit: ["Audit log", "审计日志"],
  noRequests: ["Nobody waits for an account.", "没有待处理的申请。"],
  approve: ["Approve", "批准"],
  decline: ["Decline", "拒绝"],
  declineSure: ["Decline the request of “{name}”?", "拒绝“{name}”的申请？"],
  declined: ["The request is declined.", "已拒绝该申请。"],
  approveTitle: ["Approve the request of “{name}”", "批准“{name}”的申请"],
  newUser: ["New account", "新建账号"],
  editUser: ["Change “{name}”", "修改“{name}”"],
  create: ["Create", "创建"],
  role: ["Role", "角色"],
  rights: ["Models", "可用模型"],
  allModels: ["all", "全部"],
  onlyThese: ["Only these", "仅限以下"],
  none: ["none", "无"],
  tokensADay: ["Tokens a day", "每日词元"],
  tokensDefault: ["the default", "默认"],
  concurrency: ["Answers at a time", "同时回答数"],
  usedToday: ["Used today", "今日已用"],
  active: ["active", "正常"],
  disabled: ["disabled", "已停用"],
  mustChange: ["one-time password", "一次性密码"],
  disable: ["Disable", "停用"],
  enable: ["Enable", "启用"],
  edit: ["Change", "修改"],
  reset: ["Reset password", "重置密码"],
  resetSure: [
    "Give “{name}” a new one-time password? All sessions of the account end.",
    "为“{name}”生成新的一次性密码？该账号的所有会话都会退出。",
  ],
  passwordMade: ["One-time password of “{name}”", "“{name}”的一次性密码"],
  passwordOnce: [
    "Pass it on now: it is shown this once only, and must be changed at the first login.",
    "请立即转交：只显示这一次，首次登录时须修改。",
  ],
  disableSure: ["Disable “{name}”? All its sessions, keys and answers end at once.", "停用“{name}”？其会话、密钥和回答会立即终止。"],
  saved: ["Saved.", "已保存。"],
  yourself: ["you", "本人"],
  guestsSetting: ["Guests", "访客"],
  guestsLoopback: ["where the service is for this machine alone", "仅当服务只对本机开放时"],
  guestsEverywhere: ["from everywhere", "来自任何地方"],
  guestsOff: ["nobody", "不接待"],
  engine: ["Engine", "推理引擎"],
  ready: ["ready", "就绪"],
  notReady: ["not ready", "未就绪"],
  waiting: ["Waiting", "排队"],
  running: ["Being written", "正在回答"],
  slots: ["Most at a time", "并发上限"],
  kvTokens: ["Cache (tokens)", "缓存（词元）"],
  servers: ["Servers that answer", "在线的服务器"],
  newTokens: ["Tokens written", "已生成词元"],
  failed: ["Failed", "失败"],
  restarts: ["Restarts", "重启次数"],
  backup: ["Back up now", "立即备份"],
  backupDone: ["Written beside the database: {file}", "已写入数据目录：{file}"],
  time: ["When", "时间"],
  actor: ["Who", "操作者"],
  event: ["What", "操作"],
  subject: ["About", "对象"],
  detail: ["Detail", "详情"],
  fromAddress: ["from {address}", "来自 {address}"],
  tryAgain: ["Try again", "重试"],
  loading: ["Loading…", "加载中…"],
};

let language = chosenLanguage();

function chosenLanguage() {
  const kept = stored("imprint.language");
  if (kept === "en" || kept === "zh") return kept;
  return (navigator.language || "").toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** A value of the browser's storage; null where it keeps none. */
export function stored(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

/** Keep a value in the browser's storage, if it has one. */
export function store(name, value) {
  try { localStorage.setItem(name, value); } catch { /* a browser that keeps nothing */ }
}

/** "en" or "zh". */
export function languageNow() { return language; }

/**
 * What can be said in either language: a key of the table, a [key, values], both sentences, or a function that says it.
 * @typedef {string | [string, Object<string, unknown>] | { en: string, zh: string } | (() => string)} Saying
 */

/** The sentence of a key, with values in place of {names}. */
export function t(key, values = {}) {
  const pair = Object.hasOwn(WORDS, key) ? WORDS[key] : null;
  const text = pair ? pair[language === "zh" ? 1 : 0] : key;
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "function" ? value() : typeof value === "number" ? count(value) : String(value ?? "");
  });
}

/**
 * What is said in the chosen language.
 * @param {Saying} what
 * @returns {string}
 */
export function saying(what) {
  if (typeof what === "function") return what();
  if (Array.isArray(what)) return t(what[0], what[1]);
  if (what !== null && typeof what === "object") return what[language];
  return t(what);
}

/** @type {WeakMap<Element, Map<string, Saying>>} */
const sayings = new WeakMap();  // element -> its attributes, or "text" -> what each of them says

/**
 * Let an attribute (or the text) of an element say something, also after the language changes.
 * @param {HTMLElement} element
 * @param {string} place
 * @param {Saying} what
 */
export function say(element, place, what) {
  if (!sayings.has(element)) sayings.set(element, new Map());
  sayings.get(element).set(place, what);
  element.dataset.said = "";
  put(element, place, saying(what));
}

function put(element, place, text) {
  if (place === "text") element.textContent = text;
  else element.setAttribute(place, text);
}

/** Change the language of everything that is shown. */
export function setLanguage(next) {
  language = next;
  store("imprint.language", next);
  document.documentElement.lang = next === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-said]")) {
    for (const [place, what] of sayings.get(element) ?? []) put(element, place, saying(what));
  }
}

/**
 * The two halves of a message that has both languages on one line; what both quote may have a slash, too.
 * @param {string} message
 * @returns {{ en: string, zh: string }}
 */
export function halves(message) {
  const parts = String(message).replace(/^[a-z]+(?= )/, (word) => word[0].toUpperCase() + word.slice(1)).split(" / ");
  if (parts.length % 2) return { en: parts.join(" / "), zh: parts.join(" / ") };
  const middle = parts.length / 2;
  return { en: parts.slice(0, middle).join(" / "), zh: parts.slice(middle).join(" / ") };
}

const locale = () => (language === "zh" ? "zh-CN" : "en");

/** A whole number. */
export function count(number) { return new Intl.NumberFormat(locale()).format(number); }

/** A day and time, of seconds since 1970. */
export function moment(seconds) {
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(seconds * 1000));
}

/** Two sentences in a row. */
export function joined(first, second) { return language === "zh" ? first + second : `${first} ${second}`; }

/** A length of time in words. */
export function duration(seconds) {
  const [value, unit] = seconds < 90 ? [seconds, "second"] : seconds < 5400 ? [seconds / 60, "minute"] : [seconds / 3600, "hour"];
  return new Intl.NumberFormat(locale(), { style: "unit", unit, unitDisplay: "long" }).format(Math.max(1, Math.round(value)));
}

/** A time from now in words, of seconds since 1970. */
export function fromNow(seconds) {
  const left = seconds - Date.now() / 1000;
  /** @type {[number, Intl.RelativeTimeFormatUnit]} */
  const [value, unit] = Math.abs(left) < 5400 ? [left / 60, "minute"] : Math.abs(left) < 129600 ? [left / 3600, "hour"] : [left / 86400, "day"];
  return new Intl.RelativeTimeFormat(locale(), { numeric: "auto" }).format(Math.round(value), unit);
}
