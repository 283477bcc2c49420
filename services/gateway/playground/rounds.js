// Rounds, read from the origins of tokens: a block's accepted tokens, then the token of the target that ends the round.

/** The origins that a drafted token can have. */
export const DRAFTED = new Set(["exact", "relaxed"]);
export const KINDS = ["exact", "relaxed", "correction", "bonus", "target"];

/** Rounds of these tokens: [{kinds, drafted}]. `drafted` is null until the server has told the length of the block. */
export function rounds(tokens, draftedPerRound = null) {
  const found = [];
  let open = null;
  for (const { kind } of tokens) {
    if (open === null) found.push(open = { kinds: [], drafted: kind === "target" ? 0 : null });
    open.kinds.push(kind);
    if (!DRAFTED.has(kind)) open = null;
  }
  if (draftedPerRound) {
    const lengths = draftedPerRound[Symbol.iterator]();
    for (const round of found) if (round.drafted === null) round.drafted = lengths.next().value ?? null;
  }
  return found;
}

/** What a round brought, in words. */
export function words({ kinds, drafted }, index) {
  if (drafted === 0) return `Round ${index}: nothing drafted, 1 token by the target`;
  const accepted = kinds.filter((kind) => DRAFTED.has(kind)).length;
  const relaxed = kinds.filter((kind) => kind === "relaxed").length;
  const of = drafted === null ? "" : ` of ${drafted}`;
  const last = kinds.at(-1), end = DRAFTED.has(last) ? "" : `, then the target’s ${last}`;
  return `Round ${index}: accepted ${accepted}${of} drafted${relaxed ? ` (${relaxed} relaxed)` : ""}${end}`;
}

/** Fill a strip: one column per round, at the bottom its accepted tokens, then who ended it; hollow: rejected ones. */
export function drawStrip(strip, all) {
  strip.replaceChildren(...all.map((round, index) => {
    const column = document.createElement("span");
    column.className = "round";
    column.dataset.round = index;
    column.title = words(round, index);
    const accepted = round.kinds.filter((kind) => DRAFTED.has(kind)).length;
    const rejected = round.drafted === null ? 0 : Math.max(0, round.drafted - accepted);
    for (const kind of round.kinds) column.append(cell(kind));
    for (let i = 0; i < rejected; i += 1) column.append(cell("rejected"));
    return column;
  }));
}

/** The whole strip in one sentence, for those who do not see it. */
export function summary(all) {
  const withBlock = all.filter((round) => round.drafted !== 0);
  const accepted = withBlock.reduce((sum, { kinds }) => sum + kinds.filter((kind) => DRAFTED.has(kind)).length, 0);
  const drafted = withBlock.reduce((sum, round) => sum + (round.drafted ?? 0), 0);
  const plain = all.length - withBlock.length;
  return `${withBlock.length} rounds with a block: accepted ${accepted} of ${drafted || "?"} drafted tokens; ${plain} without`;
}

function cell(kind) {
  const made = document.createElement("i");
  made.className = kind;
  return made;
}
