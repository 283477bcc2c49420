// What a reload keeps, in this tab alone and until it is closed: the chat, the settings, and the API key if its box is ticked.

const NAME = "playground", VERSION = 1;

/** Keep the page's state. False if the browser has no room for it or forbids it; then nothing is kept. */
export function keep(state) {
  try {
    sessionStorage.setItem(NAME, JSON.stringify({ version: VERSION, ...state }));
    return true;
  } catch {
    forget();
    return false;
  }
}

/** The state that was kept by this version of the page; null without one. */
export function kept() {
  try {
    const state = JSON.parse(sessionStorage.getItem(NAME));
    return state?.version === VERSION ? state : null;
  } catch {
    return null;
  }
}

/** Keep nothing any more. */
export function forget() {
  try { sessionStorage.removeItem(NAME); } catch { /* a browser that forbids storage has kept nothing */ }
}

/** The colours of the page; they outlive the tab. */
export const theme = {
  get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
  set: (name) => { try { localStorage.setItem("theme", name); } catch { /* it holds until the page is left */ } },
};
