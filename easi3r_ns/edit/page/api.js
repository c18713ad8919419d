// Requests to the server that the page came from. Addresses are relative, so that each carries the token of the page.

export class Refused extends Error {}

async function json(answer) {
  let value = null;
  try { value = await answer.json(); } catch { /* the server is gone, or it is no JSON */ }
  if (!answer.ok) throw new Refused(value?.error ?? `the server answers ${answer.status}`);
  return value;
}

async function ask(name, options) {
  let answer;
  try {
    answer = await fetch(name, options);
  } catch {
    throw new Refused("easi3r edit does not answer: start it again and open the address that it prints");
  }
  return json(answer);
}

export const get = name => ask(name, { cache: "no-store" });

const LASTING = 60000; // bytes that a browser still sends when the page is closed at this moment

export const post = (name, value = {}) => {
  const body = JSON.stringify(value);
  return ask(name, {
    method: "POST", headers: { "Content-Type": "application/json" }, body, keepalive: body.length < LASTING,
  });
};
