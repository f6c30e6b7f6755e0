"use strict";
// What is chosen on the page, as the file of overrides that `musedeep select` replays.
const before = JSON.parse(document.getElementById("overrides").textContent);
const joins = [], apart = [];
const all = (what) => Array.from(document.querySelectorAll(what));

function overrides() {
  const said = JSON.parse(JSON.stringify(before));
  for (const choice of all("select[data-exposure]")) {
    const key = choice.dataset.exposure, other = choice.dataset.arcfile;
    if (choice.value === choice.dataset.before) continue;
    delete said.exposures[key];
    delete said.exposures[other];
    delete said.exposures[other + ".fits"];
    if (choice.value) said.exposures[key] = choice.value;
  }
  for (const box of all("input[data-confirm]")) {
    const name = box.dataset.confirm, field = said.fields[name] || {};
    if (box.checked) field.accepted = box.dataset.fingerprint; else delete field.accepted;
    if (Object.keys(field).length) said.fields[name] = field; else delete said.fields[name];
  }
  said.join = said.join.concat(joins);
  said.separate = said.separate.concat(apart);
  return said;
}

function yaml(said) {
  const word = (value) => JSON.stringify(value);
  const lines = ["# What a human decided about the fields; replayed by every `musedeep select`."];
  for (const part of ["exposures", "blocks", "runs"]) {
    const keys = Object.keys(said[part]).sort();
    if (keys.length) lines.push(part + ":");
    for (const key of keys) {
      const note = said.notes[key];
      const value = note ? `{decision: ${word(said[part][key])}, note: ${word(note)}}` : word(said[part][key]);
      lines.push(`  ${word(key)}: ${value}`);
    }
  }
  for (const part of ["join", "separate"]) {
    if (said[part].length) lines.push(part + ":");
    for (const group of said[part]) lines.push("  - " + word(group));
  }
  const names = Object.keys(said.fields).sort();
  if (names.length) lines.push("fields:");
  for (const name of names) lines.push(`  ${word(name)}: ${word(said.fields[name])}`);
  return lines.join("\n") + "\n";
}

function changed() {
  for (const choice of all("select[data-exposure]"))
    choice.closest("tr").classList.toggle("changed", choice.value !== choice.dataset.before);
  const text = yaml(overrides());
  document.getElementById("yaml").value = text;
  const count = all("tr.changed").length + joins.length + apart.length
    + all("input[data-confirm]").filter((box) => box.checked !== box.defaultChecked).length;
  document.getElementById("count").textContent = count === 1 ? "1 change" : count + " changes";
}

function shown() {
  const words = document.getElementById("find").value.toLowerCase();
  const which = document.getElementById("which").value;
  for (const field of all(".field")) {
    const good = field.textContent.toLowerCase().includes(words);
    const fits = which === "all" || field.dataset.case === which
      || (which === "look" && field.dataset.looks !== "0" && field.dataset.confirmed === "no");
    field.hidden = !(good && fits);
  }
}

function ticked(list) {
  const boxes = all("input[data-tick]:checked");
  if (boxes.length > 1) list.push(boxes.map((box) => box.dataset.tick));
  for (const box of boxes) box.checked = false;
  changed();
}

document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-exposure], input[data-confirm]")) changed();
});
document.getElementById("find").addEventListener("input", shown);
document.getElementById("which").addEventListener("change", shown);
document.getElementById("join").addEventListener("click", () => ticked(joins));
document.getElementById("separate").addEventListener("click", () => ticked(apart));
document.getElementById("show").addEventListener("click", () =>
  document.getElementById("order").classList.toggle("open"));
document.getElementById("confirm").addEventListener("click", () => {
  for (const field of all(".field")) {
    const box = field.querySelector("input[data-confirm]");
    if (box && !field.hidden) box.checked = true;
  }
  changed();
});
document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([document.getElementById("yaml").value], {type: "text/yaml"}));
  link.download = "targets.yaml";
  link.click();
});
changed();
