"use strict";
(() => {
  const languages = { en: document.getElementById("ui-en"), zh: document.getElementById("ui-zh") };
  const setLanguage = () => {
    document.documentElement.lang = languages.zh.checked ? "zh-Hans" : "en";
  };
  if ((navigator.language || "").toLowerCase().startsWith("zh")) languages.zh.checked = true;
  for (const button of Object.values(languages)) button.addEventListener("change", setLanguage);
  setLanguage();

  const tools = document.getElementById("tools");
  if (!tools) return;
  const list = document.getElementById("rows");
  const rows = [...list.children];
  const [filter, order, find, count] = ["filter", "order", "find", "count"].map((id) => document.getElementById(id));
  const texts = new Map(rows.map((row) => [row, [...row.querySelectorAll("p, .chips")].map((part) => part.textContent).join("\n").toLowerCase()]));
  const keys = {
    file: (row) => Number(row.dataset.index),
    gain: (row) => -Number(row.dataset.gain),
    loss: (row) => Number(row.dataset.gain),
  };
  const show = () => {
    const wanted = find.value.trim().toLowerCase();
    const key = keys[order ? order.value : "file"];
    let shown = 0;
    for (const row of rows) {
      const fits = !filter || filter.value === "all" || row.dataset.kind === filter.value;
      row.hidden = !(fits && texts.get(row).includes(wanted));
      shown += !row.hidden;
    }
    list.append(...rows.sort((a, b) => key(a) - key(b) || keys.file(a) - keys.file(b)));
    count.textContent = `${shown} / ${rows.length}`;
    document.getElementById("none").hidden = shown > 0;
  };
  for (const control of [filter, order, find]) control?.addEventListener("input", show);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.hidden = false;
  show();
})();
