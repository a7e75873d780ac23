"""A job as an AWS Lambda function in Python: reads the mirror (TOKEN_SECRET_ARN) with its own role. boto3 is in the runtime.

Lambda's environment would hold the token of the deployment, so the job reads it at run time and keeps it between invocations.
"""
import base64, json, os, time, urllib.request

import boto3

secrets = boto3.client("secretsmanager")
opener = urllib.request.build_opener(type("Stay", (urllib.request.HTTPRedirectHandler,), {"redirect_request": lambda *_: None}))  # the token stays
cached, read_again = "", 0.0


def token(fresh=False):
    """The stored token (format raw): kept until a minute before it expires, for 5 minutes at most."""
    global cached, read_again
    if fresh or time.time() >= read_again:
        value = secrets.get_secret_value(SecretId=os.environ["TOKEN_SECRET_ARN"])["SecretString"]
        if value.count(".") != 2:
            raise RuntimeError("the secret holds no token")
        claims = value.split(".")[1]
        expires = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
        if expires <= time.time():
            raise RuntimeError("the stored token has expired: find out why the rotator does not run")
        cached, read_again = value, min(expires - 60, time.time() + 300)
    return cached


def handler(event, context):
    for fresh in (False, True):  # a 401 can mean that the token was replaced: read it again, once
        request = urllib.request.Request(os.environ["LOGS_ROUTING_URL"] + "/v3/targets", headers={"Authorization": "Bearer " + token(fresh)})
        try:
            with opener.open(request, timeout=10) as answer:
                return {"status": answer.status, "targets": len(json.load(answer)["targets"])}
        except Exception as error:  # its text may repeat what was sent or received
            status = getattr(error, "code", 0)
            if fresh or status != 401:
                raise RuntimeError(f"Logs Routing answered {status}" if status else "Logs Routing gave no usable answer") from None
