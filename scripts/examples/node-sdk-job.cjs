// A job in Node.js with IBM's SDK: a BearerTokenAuthenticator gets the stored token before each call.
const { execFileSync } = require('node:child_process');
const { BaseService, BearerTokenAuthenticator } = require('ibm-cloud-sdk-core');

const { env } = process;
const authenticator = new BearerTokenAuthenticator({ bearerToken: 'not read yet' });
const service = new BaseService({ authenticator, serviceUrl: env.LOGS_ROUTING_URL, timeout: 10_000, maxRedirects: 0 });
let readAgain = 0;

// The stored token, by scripts/iam-token on the PATH: kept until a minute before it expires, for 5 minutes at most.
function renew(fresh) {
  if (!fresh && Date.now() < readAgain) return;
  const printed = execFileSync('iam-token', ['--format', 'token.json'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const stored = JSON.parse(printed);
  authenticator.setBearerToken(stored.access_token);
  readAgain = Math.min(stored.expiration * 1000 - 60_000, Date.now() + 300_000);
}

async function list(fresh) {
  renew(fresh);
  const defaultOptions = { serviceUrl: env.LOGS_ROUTING_URL, headers: { Accept: 'application/json' } };
  return service.createRequest({ options: { url: '/v3/targets', method: 'GET' }, defaultOptions });
}

async function main() {
  for (let call = 0; call < Number(env.CALLS ?? 10); call++) {
    const again = (error) => (error.code === 401 || error.status === 401 ? list(true) : Promise.reject(error));
    const answer = await list(false).catch(again); // after a 401 the token may have been replaced: read it again, once
    console.log(`Node.js job with IBM's SDK: Logs Routing answered ${answer.status}`);
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

main().catch((error) => {
  const ofScript = error.spawnargs !== undefined || error.pid !== undefined;
  console.error(`Node.js job with IBM's SDK: ${ofScript ? 'no token' : `HTTP ${error.status ?? 0}`}`);
  process.exit(ofScript ? (error.status ?? 1) : 1); // the script's: 3 if the stored token has expired
});
