// Markdown to DOM nodes. No HTML is ever parsed: what looks like a tag stays text, so there is nothing to sanitise.
//
// Every text node knows its place in the source ("run"), so that tokens can be coloured inside the rendered text.
// What models write is covered: headings, lists, quotes, tables, fences, rules, emphasis, code, links. Line ends are kept.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;
const DIVIDER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const ADDRESS = /^https?:\/\/[^\s<>"')\]]*[^\s<>"')\].,;:!?]/;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const MAX_DEPTH = 24;

/** The top-level blocks of a source: [{start, end, draw}], where `draw(runs)` makes the node and lists its text runs. */
export function blocks(source) {
  let at = 0;
  const lines = source.split("\n").map((text) => {
    const line = { text, start: at };
    at += text.length + 1;
    return line;
  });
  return read(lines, 0);
}

/** Draw blocks into a parent; returns the runs [{node, start}] of their text, in order. */
export function draw(parent, source) {
  const runs = [];
  for (const block of blocks(source)) parent.append(block.draw(runs));
  return runs;
}

// A line is {text, start}: what is left of it inside its container, and where that begins in the source.
function read(lines, depth) {
  const found = [];
  for (let i = 0; i < lines.length;) {
    const first = i;
    if (!lines[i].text.trim()) { i += 1; continue; }
    const [next, make] = depth < MAX_DEPTH ? one(lines, i, depth) : paragraph(lines, i);
    i = next;
    const last = lines[i - 1];
    found.push({ start: lines[first].start, end: last.start + last.text.length, draw: make });
  }
  return found;
}

function one(lines, i, depth) {
  const { text } = lines[i];
  if (FENCE.test(text)) return fence(lines, i);
  if (HEADING.test(text)) return heading(lines, i);
  if (RULE.test(text)) return [i + 1, () => element("hr")];
  if (QUOTE.test(text)) return quote(lines, i, depth);
  if (ITEM.test(text)) return list(lines, i, depth);
  if (text.includes("|") && i + 1 < lines.length && lines[i + 1].text.includes("-") && DIVIDER.test(lines[i + 1].text))
    return table(lines, i);
  return paragraph(lines, i);
}

function fence(lines, i) {
  const [, mark, language] = FENCE.exec(lines[i].text);
  const inside = [];
  let j = i + 1;
  for (; j < lines.length; j += 1) {
    const closing = lines[j].text.trim();
    if (closing.length >= mark.length && closing === mark[0].repeat(closing.length)) { j += 1; break; }
    inside.push(lines[j]);
  }
  return [j, (runs) => {
    const box = element("div"), code = element("code"), head = element("div"), pre = element("pre");
    box.className = "fence";
    head.className = "fence-head";
    head.textContent = language || "text";
    pre.tabIndex = 0;
    pre.setAttribute("aria-label", `code, ${language || "text"}`);
    put(code, joined(inside), runs);
    pre.append(code);
    box.append(head, pre);
    return box;
  }];
}

function heading(lines, i) {
  const { text, start } = lines[i];
  const [all, marks] = HEADING.exec(text);
  const rest = text.slice(all.length).replace(/[ \t]+#*[ \t]*$/, "");
  return [i + 1, (runs) => {
    const node = element(`h${Math.min(6, marks.length + 2)}`);
    inline(node, joined([{ text: rest, start: start + all.length }]), runs);
    return node;
  }];
}

function quote(lines, i, depth) {
  const inside = [];
  let j = i;
  for (; j < lines.length && QUOTE.test(lines[j].text); j += 1) inside.push(cut(lines[j], QUOTE.exec(lines[j].text)[0].length));
  return [j, (runs) => filled("blockquote", inside, depth, runs)];
}

function list(lines, i, depth) {
  const kind = (text) => { const m = ITEM.exec(text); return m && (/\d/.test(m[2]) ? m[2].at(-1) : m[2]); };
  const sort = kind(lines[i].text), items = [];
  let j = i;
  while (j < lines.length && kind(lines[j].text) === sort && !RULE.test(lines[j].text)) {
    const mark = ITEM.exec(lines[j].text)[0], own = mark.search(/\S/), width = mark.trimEnd().length + 1;
    const item = [cut(lines[j], Math.min(mark.length, lines[j].text.length))];
    for (j += 1; j < lines.length; j += 1) {
      const { text } = lines[j], indent = text.length - text.trimStart().length;
      if (!text.trim()) {
        const after = lines[j + 1]?.text;
        if (after === undefined || after.length - after.trimStart().length < width) break;
        item.push(lines[j]);
      } else if (indent > own + 1) item.push(cut(lines[j], Math.min(indent, width)));
      else break;
    }
    items.push(item);
    let k = j;
    while (k < lines.length && !lines[k].text.trim()) k += 1;
    if (k < lines.length && kind(lines[k].text) === sort) j = k;
  }
  const number = parseInt(ITEM.exec(lines[i].text)[2], 10);
  return [j, (runs) => {
    const node = element(Number.isNaN(number) ? "ul" : "ol");
    if (number !== 1 && !Number.isNaN(number)) node.start = number;
    for (const item of items) node.append(filled("li", item, depth, runs, true));
    return node;
  }];
}

function table(lines, i) {
  let j = i + 2;
  while (j < lines.length && lines[j].text.includes("|") && lines[j].text.trim()) j += 1;
  const rows = [lines[i], ...lines.slice(i + 2, j)];
  return [j, (runs) => {
    const box = element("div"), node = element("table"), body = element("tbody");
    box.className = "table";
    rows.forEach((line, index) => {
      const row = element("tr");
      for (const cell of cells(line)) {
        const made = element(index ? "td" : "th");
        inline(made, joined([cell]), runs);
        row.append(made);
      }
      if (index) body.append(row);
      else { const head = element("thead"); head.append(row); node.append(head); }
    });
    node.append(body);
    box.append(node);
    return box;
  }];
}

function cells({ text, start }) {
  const found = [];
  let from = text.length - text.trimStart().length;
  if (text[from] === "|") from += 1;
  for (let k = from; k <= text.length; k += 1) {
    if (k < text.length && (text[k] !== "|" || text[k - 1] === "\\")) continue;
    if (k === text.length && !text.slice(from).trim()) break;
    const raw = text.slice(from, k), lead = raw.length - raw.trimStart().length;
    found.push({ text: raw.trim(), start: start + from + lead });
    from = k + 1;
  }
  return found;
}

function paragraph(lines, i) {
  let j = i + 1;
  while (j < lines.length && lines[j].text.trim() && !begins(lines[j].text)) j += 1;
  const inside = lines.slice(i, j).map((line) => cut(line, line.text.length - line.text.trimStart().length));
  return [j, (runs) => {
    const node = element("p");
    inline(node, joined(inside), runs);
    return node;
  }];
}

const begins = (text) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((form) => form.test(text));
const cut = ({ text, start }, num) => ({ text: text.slice(num), start: start + num });
const element = (name) => document.createElement(name);

// The blocks of some lines in one element; in a list item, a single paragraph needs no <p>.
function filled(name, lines, depth, runs, bare = false) {
  const node = element(name);
  read(lines, depth + 1).forEach((block, index) => {
    const made = block.draw(runs);
    if (bare && index === 0 && made.tagName === "P") node.append(...made.childNodes);
    else node.append(made);
  });
  return node;
}

// --------------------------------------------------------------------------- inside a paragraph

// Lines as one text: {chars, places}, where places[i] is the source offset of chars[i].
function joined(lines) {
  const places = [];
  const chars = lines.map(({ text, start }, index) => {
    for (let i = 0; i < text.length; i += 1) places.push(start + i);
    if (index < lines.length - 1) places.push(start + text.length);
    return text;
  }).join("\n");
  return { chars, places };
}

// Append plain text; one node per stretch that lies together in the source.
function put(parent, { chars, places }, runs, from = 0, to = chars.length) {
  for (let i = from; i < to;) {
    let j = i + 1;
    while (j < to && places[j] === places[j - 1] + 1) j += 1;
    const node = document.createTextNode(chars.slice(i, j));
    parent.append(node);
    runs.push({ node, start: places[i] });
    i = j;
  }
}

function inline(parent, line, runs, from = 0, to = line.chars.length, depth = 0) {
  const { chars } = line;
  const hopeless = new Set(); // markers that close nowhere before `to`
  let plain = from;
  const flush = (upto) => put(parent, line, runs, plain, upto);
  const wrap = (name, end, inner, after) => {
    flush(inner[0]);
    const node = element(name);
    inline(node, line, runs, inner[1], end, depth + 1);
    parent.append(node);
    plain = after;
    return after;
  };
  for (let i = from; i < to;) {
    const c = chars[i];
    if (c === "\\" && i + 1 < to && PUNCTUATION.test(chars[i + 1])) {
      flush(i);
      plain = i + 1;
      i += 2;
    } else if (c === "\n") {
      flush(i);
      parent.append(element("br"));
      plain = i += 1;
    } else if (c === "`") {
      const num = lengthOf(chars, i, to), end = closingCode(chars, i + num, to, num, hopeless);
      if (end < 0) { i += num; continue; }
      flush(i);
      const node = element("code");
      put(node, line, runs, i + num, end);
      parent.append(node);
      plain = i = end + num;
    } else if ((c === "*" || c === "_" || c === "~") && depth < MAX_DEPTH) {
      const run = lengthOf(chars, i, to), num = c === "~" ? 2 : Math.min(run, 2);
      const end = run < num || run > 3 ? -1 : closingMark(chars, i, to, num, hopeless);
      if (end < 0) { i += run; continue; }
      i = wrap(c === "~" ? "s" : num === 2 ? "strong" : "em", end, [i, i + num], end + num);
    } else if (c === "[" && depth < MAX_DEPTH) {
      const link = linkAt(chars, i, to);
      if (link === null) { i += 1; continue; }
      i = wrap("a", link.textEnd, [chars[i - 1] === "!" && i > plain ? i - 1 : i, i + 1], link.end);
      point(parent.lastChild, link.address);
    } else if (c === "h" && !/\w/.test(chars[i - 1] ?? " ") && ADDRESS.test(chars.slice(i, Math.min(to, i + 2048)))) {
      const [address] = ADDRESS.exec(chars.slice(i, Math.min(to, i + 2048)));
      flush(i);
      const node = element("a");
      put(node, line, runs, i, i + address.length);
      point(node, address);
      parent.append(node);
      plain = i += address.length;
    } else i += 1;
  }
  flush(to);
}

function lengthOf(chars, i, to) {
  let j = i;
  while (j < to && chars[j] === chars[i]) j += 1;
  return j - i;
}

function closingCode(chars, from, to, num, hopeless) {
  const key = `\`${num}`;
  if (hopeless.has(key)) return -1;
  for (let i = from; i < to;) {
    if (chars[i] !== "`") { i += 1; continue; }
    const found = lengthOf(chars, i, to);
    if (found === num) return i;
    i += found;
  }
  hopeless.add(key);
  return -1;
}

// Where the marker at `i` is closed; a marker opens before a character and closes behind one, "_" never inside a word.
function closingMark(chars, i, to, num, hopeless) {
  const c = chars[i], key = c + num, inner = i + num;
  if (hopeless.has(key) || inner >= to || /\s/.test(chars[inner])) return -1;
  if (c === "_" && /\w/.test(chars[i - 1] ?? " ")) return -1;
  for (let j = inner; j < to;) {
    if (chars[j] === "\\") { j += 2; continue; }
    if (chars[j] === "`") {
      const ticks = lengthOf(chars, j, to), end = closingCode(chars, j + ticks, to, ticks, hopeless);
      j = end < 0 ? j + ticks : end + ticks;
      continue;
    }
    if (chars[j] !== c) { j += 1; continue; }
    const found = lengthOf(chars, j, to);
    const closes = j > inner && !/\s/.test(chars[j - 1]) && !(c === "_" && /\w/.test(chars[j + found] ?? " "));
    if (closes && (found === num || found === 3)) return j + found - num;
    j += found;
  }
  hopeless.add(key);
  return -1;
}

function linkAt(chars, i, to) {
  let open = 0;
  for (let j = i; j < to && j < i + 1000; j += 1) {
    if (chars[j] === "\\") j += 1;
    else if (chars[j] === "[") open += 1;
    else if (chars[j] === "]") {
      open -= 1;
      if (open) continue;
      const target = /^\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+"[^"]*")?\s*\)/.exec(chars.slice(j + 1, Math.min(to, j + 2050)));
      return target && { textEnd: j, address: target[1], end: j + 1 + target[0].length };
    }
  }
  return null;
}

// Only addresses that a page or a mail program opens become links; everything else stays words.
function point(node, address) {
  if (!/^(https?:|mailto:)/i.test(address)) return;
  node.href = address;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
}
