// The page of a server: two answers to one prompt, side by side, and the list of adapters.
//
// Names and answers are a stranger's: they are only ever put in as text (`textContent`), never as markup. Keys are read
// from their fields when they are needed and kept nowhere else.

const EVERY = 5000; // milliseconds between two looks at the list
const LONG_LIST = 12; // adapters above which there is a filter

const at = (id) => document.getElementById(id);
const sides = [...document.querySelectorAll(".side")].map((root) => ({
  root,
  choice: root.querySelector("select"),
  answer: root.querySelector(".answer"),
  speed: root.querySelector(".speed"),
}));
let served = null; // what /v1/adapters said last
let asking = null; // the AbortController of what is being asked

// -- asking the server ---------------------------------------------------------------------------------------------

const bearer = (id) => (at(id).value ? { Authorization: `Bearer ${at(id).value}` } : {});

async function ask(path, body, key = "api-key", signal = undefined) {
  const sent = body && { method: "POST", body: JSON.stringify(body) };
  const headers = { ...(body && { "Content-Type": "application/json" }), ...bearer(key) };
  let answer;
  try {
    answer = await fetch(path, { ...sent, headers, signal, cache: "no-store", credentials: "omit" });
  } catch (problem) {
    throw problem.name === "AbortError" ? problem : new Error("the server cannot be reached");
  }
  if (!answer.ok) throw new Error(await said(answer, key));
  return answer;
}

async function said(answer, key) {
  const content = await answer.json().catch(() => null);
  if (answer.status === 401) {
    at("keys").open = true;
    const wanted = key === "admin-token" ? "admin token" : "API key";
    return at(key).value ? `this ${wanted} is not the server's (Keys, above)` : `the server asks for its ${wanted} (Keys, above)`;
  }
  return content?.error?.message ?? `the server answered with status ${answer.status}`;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const pieces = (held + part.value).split("\n\n");
    held = pieces.pop();
    for (const piece of pieces) {
      if (piece === "data: [DONE]") return;
      if (piece.startsWith("data: ")) yield JSON.parse(piece.slice(6));
    }
  }
}

// -- two answers ---------------------------------------------------------------------------------------------------

async function compare(event) {
  event.preventDefault();
  asking?.abort();
  const own = (asking = new AbortController());
  busy(true);
  await Promise.allSettled(sides.map((side) => show(side, own.signal)));
  if (asking !== own) return;
  asking = null;
  busy(false);
  list();
}

function busy(is) {
  at("stop").disabled = !is;
  at("go").textContent = is ? "Ask again" : "Ask both";
}

async function show(side, signal) {
  side.answer.replaceChildren();
  side.answer.classList.toggle("classes", classifies());
  side.speed.classList.remove("problem");
  side.speed.textContent = "waiting …";
  side.root.classList.add("busy");
  side.root.ariaBusy = "true";
  try {
    await (classifies() ? classify(side, signal) : write(side, signal));
  } catch (problem) {
    const stopped = problem.name === "AbortError";
    if (stopped && asking !== null && asking.signal !== signal) return; // asked again meanwhile
    side.speed.textContent = stopped ? "stopped" : problem.message;
    side.speed.classList.toggle("problem", !stopped);
  }
  side.root.classList.remove("busy");
  side.root.ariaBusy = "false";
}

const classifies = () => served?.kind === "classification";

async function write(side, signal) {
  const chat = at("chat").checked;
  const prompt = at("prompt").value;
  const start = performance.now();
  const answer = await ask(`v1/${chat ? "chat/" : ""}completions`, {
    model: side.choice.value,
    ...(chat ? { messages: [{ role: "user", content: prompt }] } : { prompt }),
    max_tokens: Number(at("most").value),
    temperature: Number(at("temperature").value),
    stream: true,
    stream_options: { include_usage: true },
  }, "api-key", signal);
  if (!chat) {
    const asked = document.createElement("span");
    asked.className = "asked";
    asked.textContent = prompt;
    side.answer.append(asked);
  }
  const text = side.answer.appendChild(document.createTextNode(""));
  await fill(side, text, events(answer), start);
}

async function fill(side, text, found, start) {
  let first = null, last = start, pieces = 0, tokens = null, ended = null;
  for await (const event of found) {
    if (event.error) throw new Error(event.error.message);
    tokens = event.usage?.completion_tokens ?? tokens;
    const choice = event.choices?.[0];
    ended = choice?.finish_reason ?? ended;
    const piece = choice?.text ?? choice?.delta?.content ?? "";
    if (piece === "") continue;
    last = performance.now();
    first ??= last;
    pieces += 1;
    text.appendData(piece);
    side.answer.scrollTop = side.answer.scrollHeight;
    if (pieces > 1) side.root.dataset.speed = (1000 * (pieces - 1) / (last - first)).toFixed(1);
  }
  side.speed.textContent = summary(first, last, start, tokens ?? pieces, ended);
}

function summary(first, last, start, tokens, ended) {
  if (first === null) return "the answer is empty";
  const parts = [`${tokens} token${tokens === 1 ? "" : "s"}`];
  if (tokens > 1 && last > first) parts.push(`${((1000 * (tokens - 1)) / (last - first)).toFixed(1)} tokens/s`);
  parts.push(`first after ${((first - start) / 1000).toFixed(2)} s`);
  if (ended === "length") parts.push("cut at its largest length");
  return parts.join(" · ");
}

async function classify(side, signal) {
  const text = at("prompt").value, pair = at("pair").value;
  const start = performance.now();
  const input = pair ? { text, text_pair: pair } : text;
  const answer = await (await ask("v1/classify", { model: side.choice.value, input }, "api-key", signal)).json();
  const [found] = answer.data;
  if (found.label === null) side.answer.append(`value: ${found.value}`);
  const ranked = Object.entries(found.scores ?? {}).sort((one, other) => other[1] - one[1]);
  side.answer.append(...ranked.map(bar));
  side.speed.textContent = `${answer.usage.prompt_tokens} tokens read in ${((performance.now() - start) / 1000).toFixed(2)} s`;
}

function bar([label, probability], place) {
  const row = document.createElement("div");
  row.className = place === 0 ? "class first" : "class";
  const name = row.appendChild(document.createElement("b"));
  name.textContent = label;
  const track = row.appendChild(document.createElement("span"));
  track.className = "bar";
  track.appendChild(document.createElement("i")).style.width = `${100 * probability}%`;
  row.appendChild(document.createElement("span")).textContent = `${(100 * probability).toFixed(1)} %`;
  return row;
}

// -- the list ------------------------------------------------------------------------------------------------------

async function list() {
  try {
    served = await (await ask("v1/adapters")).json();
    trouble("");
  } catch (problem) {
    trouble(problem.message);
    return;
  }
  const count = served.data.length;
  at("base").textContent = served.base.id;
  at("count").textContent = ` with ${count} adapter${count === 1 ? "" : "s"}`;
  at("chat-choice").hidden = !served.chat;
  at("filter-choice").hidden = count <= LONG_LIST;
  at("load").hidden = !served.changes;
  at("none").hidden = count > 0;
  fitKind();
  const names = [served.base.id, ...served.data.map((each) => each.id)];
  sides.forEach((side, number) => offer(side.choice, names, number));
  rows();
}

function fitKind() {
  const is = classifies();
  document.querySelector(".writing").hidden = is;
  at("second-text").hidden = !is;
  at("effect-note").hidden = is;
  at("prompt-label").textContent = is ? "Text" : "Prompt";
  at("unit").textContent = is ? "tokens read" : "tokens written";
}

function offer(choice, names, number) {
  const before = choice.value;
  if ([...choice.options].map((each) => each.value).join("\n") === names.join("\n")) return;
  choice.replaceChildren(...names.map((name) => new Option(name === served.base.id ? `${name} (base)` : name, name)));
  choice.value = names.includes(before) ? before : names[Math.min(number, names.length - 1)];
}

const COLUMNS = [
  ["adapter", "", (each) => each.id],
  ["rank", "number", (each) => each.rank ?? "–"],
  ["size", "number", (each) => size(each.bytes)],
  ["effect", "number", (each) => effect(each)],
  ["requests", "number", (each) => each.requests.toLocaleString("en")],
  ["tokens", "number", (each) => (classifies() ? each.prompt_tokens : each.generated_tokens).toLocaleString("en")],
  ["memory", "", (each) => each.problem ?? (each.in_memory ? "in memory" : "on disk")],
  ["", "", (each) => (served.changes ? press("Unload", `Unload ${each.id}`, () => unload(each.id)) : "")],
];

function rows() {
  const wanted = at("filter").value.toLowerCase();
  const shown = served.data.filter((each) => each.id.toLowerCase().includes(wanted));
  const focused = document.activeElement?.ariaLabel;
  at("adapters").replaceChildren(...shown.map(row));
  if (focused) [...at("adapters").querySelectorAll("button")].find((each) => each.ariaLabel === focused)?.focus();
}

function row(each) {
  const line = document.createElement("tr");
  for (const [title, kind, content] of COLUMNS) {
    const cell = line.appendChild(document.createElement("td"));
    cell.className = kind;
    cell.dataset.column = title;
    cell.append(content(each));
  }
  return line;
}

function press(text, label, action) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain small";
  button.textContent = text;
  button.ariaLabel = label;
  button.addEventListener("click", action);
  return button;
}

function size(bytes) {
  if (bytes === null) return "–";
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function effect(each) {
  if (classifies()) return "–";
  if (each.effect !== null) return `${(100 * each.effect).toFixed(1)} %`;
  return press("Measure", `Measure the effect of ${each.id}`, () => change(async () => {
    await ask(`v1/adapters/${encodeURIComponent(each.id)}/effect`);
    return "";
  }));
}

// -- coming and going ----------------------------------------------------------------------------------------------

async function change(action) {
  at("changed").textContent = "working …";
  at("changed").classList.remove("problem");
  try {
    at("changed").textContent = await action();
  } catch (problem) {
    at("changed").textContent = problem.message;
    at("changed").classList.add("problem");
  }
  await list();
}

const unload = (name) => change(async () => {
  await ask("v1/unload_lora_adapter", { lora_name: name }, "admin-token");
  return `${name} is unloaded`;
});

function load(event) {
  event.preventDefault();
  const name = at("load-name").value.trim();
  return change(async () => {
    await ask("v1/load_lora_adapter", { lora_name: name, lora_path: at("load-path").value.trim() }, "admin-token");
    event.target.reset();
    return `${name} is loaded`;
  });
}

function trouble(message) {
  at("trouble").hidden = message === "";
  if (at("trouble").textContent !== message) at("trouble").textContent = message;
}

at("ask").addEventListener("submit", compare);
at("stop").addEventListener("click", () => asking?.abort());
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
at("load").addEventListener("submit", load);
at("filter").addEventListener("input", () => served && rows());
at("api-key").addEventListener("change", list);
setInterval(() => document.hidden || asking || list(), EVERY);
list();
