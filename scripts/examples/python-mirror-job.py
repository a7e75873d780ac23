"""A job in Python on AWS, with boto3: reads the mirror in AWS Secrets Manager (TOKEN_SECRET_ARN) with its own role."""
import base64, json, os, sys, time, urllib.request

import boto3

env, cached, read_again = os.environ, "", 0
opener = urllib.request.build_opener(type("Stay", (urllib.request.HTTPRedirectHandler,), {"redirect_request": lambda *_: None}))  # the token stays


def token(fresh=False):
    """The stored token (format raw): kept until a minute before it expires, for 5 minutes at most."""
    global cached, read_again
    if fresh or time.time() >= read_again:
        cached = boto3.client("secretsmanager").get_secret_value(SecretId=env["TOKEN_SECRET_ARN"])["SecretString"]
        claims = cached.split(".")[1] if cached.count(".") == 2 else sys.exit("Python job with boto3: the secret holds no token")
        expires = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
        if expires <= time.time():
            print("Python job with boto3: the stored token has expired: find out why the rotator does not run", file=sys.stderr)
            sys.exit(3)
        read_again = min(expires - 60, time.time() + 300)
    return cached


for name in ("TOKEN_SECRET_ARN", "LOGS_ROUTING_URL"):
    env.get(name) or sys.exit(f"Python job with boto3: {name} is not set")
for call in range(int(env.get("CALLS", 10))):
    for fresh in (False, True):  # a 401 can mean that the token was replaced: read it again, once
        try:
            headers = {"Authorization": "Bearer " + token(fresh)}
            opener.open(urllib.request.Request(env["LOGS_ROUTING_URL"] + "/v3/targets", headers=headers), timeout=10).close()
            break
        except Exception as error:  # its text may repeat what was received
            if fresh or getattr(error, "code", 0) != 401:
                sys.exit(f"Python job with boto3: {getattr(error, 'code', type(error).__name__)}")
    print("Python job with boto3: Logs Routing answered 200", flush=True)
    time.sleep(2)
