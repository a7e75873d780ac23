"""A job in Python, with the standard library alone: lists the targets of Logs Routing CALLS times."""
import base64, json, os, sys, time, urllib.parse, urllib.request

env, cached, read_again = os.environ, "", 0
opener = urllib.request.build_opener(type("Stay", (urllib.request.HTTPRedirectHandler,), {"redirect_request": lambda *_: None}))  # the token stays


def fetch(url, token="", form=None):
    request = urllib.request.Request(url, urllib.parse.urlencode(form).encode() if form else None, {"Authorization": "Bearer " + token} if token else {})
    with opener.open(request, timeout=10) as answer:
        return json.load(answer)


def token(fresh=False):
    """The stored token (format raw): kept until a minute before it expires, for 5 minutes at most."""
    global cached, read_again
    if fresh or time.time() >= read_again:
        own = fetch(env["IAM_URL"] + "/identity/token", form={"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": env["READER_APIKEY"]})["access_token"]
        cached = fetch(f"{env['SECRETS_MANAGER_URL']}/api/v2/secrets/{env['TOKEN_SECRET']}/versions/current", own)["payload"]
        claims = cached.split(".")[1] if cached.count(".") == 2 else sys.exit("Python job: the secret holds no token")
        expires = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
        if expires <= time.time():
            print("Python job: the stored token has expired: find out why the rotator does not run", file=sys.stderr)
            sys.exit(3)
        read_again = min(expires - 60, time.time() + 300)
    return cached


for name in ("READER_APIKEY", "IAM_URL", "SECRETS_MANAGER_URL", "TOKEN_SECRET", "LOGS_ROUTING_URL"):
    env.get(name) or sys.exit(f"Python job: {name} is not set")
for call in range(int(env.get("CALLS", 10))):
    for fresh in (False, True):  # a 401 can mean that the token was replaced: read it again, once
        try:
            fetch(env["LOGS_ROUTING_URL"] + "/v3/targets", token(fresh))
            break
        except Exception as error:  # its text may repeat what was received
            if fresh or getattr(error, "code", 0) != 401:
                sys.exit(f"Python job: HTTP {error.code}" if hasattr(error, "code") else "Python job: no usable answer")
    print("Python job: Logs Routing answered 200", flush=True)
    time.sleep(2)
