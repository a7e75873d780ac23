// A job in Node.js 18 or later, without a package: lists the targets of Logs Routing CALLS times.
const { env } = process;
let cached, readAgain = 0;

process.on('uncaughtException', ({ message }) => {
  console.error(`Node job: ${/^(HTTP \d+|\w+ is not set)$/.test(message) ? message : 'no answer, or no token in it'}`); // other messages repeat what was received
  process.exit(1);
});
const unset = ['READER_APIKEY', 'IAM_URL', 'SECRETS_MANAGER_URL', 'TOKEN_SECRET', 'LOGS_ROUTING_URL'].find((name) => !env[name]);
if (unset) throw new Error(`${unset} is not set`);

async function json(url, options) {
  const answer = await fetch(url, { ...options, redirect: 'error', signal: AbortSignal.timeout(10_000) });
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return answer.json();
}

// The stored token (format raw): kept until a minute before it expires, for 5 minutes at most.
async function token(fresh) {
  if (fresh || Date.now() >= readAgain) {
    const own = await json(`${env.IAM_URL}/identity/token`, { method: 'POST', body: new URLSearchParams({ grant_type: 'urn:ibm:params:oauth:grant-type:apikey', apikey: env.READER_APIKEY }) });
    cached = (await json(`${env.SECRETS_MANAGER_URL}/api/v2/secrets/${env.TOKEN_SECRET}/versions/current`, { headers: { Authorization: `Bearer ${own.access_token}` } })).payload;
    const expires = JSON.parse(Buffer.from(cached.split('.')[1], 'base64url')).exp * 1000;
    if (expires <= Date.now()) {
      console.error('Node job: the stored token has expired: find out why the rotator does not run');
      process.exit(3);
    }
    readAgain = Math.min(expires - 60_000, Date.now() + 300_000);
  }
  return cached;
}

const list = async (fresh) => fetch(`${env.LOGS_ROUTING_URL}/v3/targets`, { headers: { Authorization: `Bearer ${await token(fresh)}` }, redirect: 'error', signal: AbortSignal.timeout(10_000) });
for (let call = 0; call < Number(env.CALLS ?? 10); call++) {
  let answer = await list(false);
  if (answer.status === 401) answer = await list(true); // the token may have been replaced: read it again, once
  console.log(`Node job: Logs Routing answered ${answer.status}`);
  if (!answer.ok) process.exit(1);
  await new Promise((resolve) => setTimeout(resolve, 2000));
}
