// A request as a command for a shell.

/** `curl` for this body; the key is named, not shown. */
export function asCurl(body, needsKey) {
  const plain = { ...body };
  delete plain.return_token_provenance;
  const key = needsKey ? ` -H "Authorization: Bearer $ADASD_API_KEY"` : "";
  const address = new URL("v1/chat/completions", document.baseURI).href;
  return `curl -N ${address} -H 'Content-Type: application/json'${key} -d ${quoted(JSON.stringify(plain))}`;
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
