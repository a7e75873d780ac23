package main

import "strings"

// The shapes are texts with a secret, %s, in places where people and programs put one by mistake.

// eventShapes are events.
var eventShapes = map[string]string{
	"a key for an event":  `%s`,
	"a quoted key":        `"%s"`,
	"a key as a field":    `{"%s":true}`,
	"a key as the mode":   `{"mode":"%s"}`,
	"a key as a rotation": `{"rotations":["%s"]}`,
	"a key for the list":  `{"rotations":"%s"}`,
	"a key for force":     `{"force":"%s"}`,
	"an odd run id":       `{"run_id":"%s !"}`,
	"a list":              `["%s"]`,
	"cut off":             `{"mode":"%s`,
	"a secret's name":     `{"api_key_secret":"%s"}`,
}

// inputShapes are what put-bootstrap-key reads.
var inputShapes = map[string]string{
	"JSON":        `{"apikey":"%s"}`,
	"two lines":   "%[1]s\n%[1]s",
	"two words":   "my key %s",
	"a long text": "%s" + strings.Repeat("x", 600),
	"white space": " \n %s\n\n",
	"nothing":     "%.0s",
}

// keyShapes are bootstrap keys and tokens in forms that they must not have.
var keyShapes = map[string]string{
	"JSON":           `{"apikey":"%s"}`,
	"quotes":         `"%s"`,
	"two lines":      "%[1]s\n%[1]s",
	"braces":         "{%s}",
	"two words":      "Bearer Bearer %s",
	"a control code": "\x7f%s",
}

// storedShapes are the same in Secrets Manager, in JSON; $KEY is the key.
var storedShapes = map[string]string{
	"JSON":           `{\"apikey\":\"$KEY\"}`,
	"two lines":      `$KEY\n$KEY`,
	"white space":    ` \n$KEY \n`,
	"quotes":         `\"$KEY\"`,
	"a brace":        `{$KEY`,
	"nothing":        ``,
	"a control code": `$KEY\u0007`,
}

// awsFileShapes are files of the AWS tools.
var awsFileShapes = map[string]string{
	"a profile":              "[default]\naws_access_key_id=AKIAEXAMPLE\naws_secret_access_key=%s\n",
	"a broken profile":       "[default\naws_secret_access_key=%s\n",
	"a key without a name":   "[default]\n%s\n",
	"a key as a region":      "[default]\nregion=%s\n",
	"a key as a source":      "[default]\nrole_arn=arn:aws:iam::123456789012:role/r\nsource_profile=%s\n",
	"a key as a retry count": "[default]\nmax_attempts=%s\n",
}

// urlShapes hold a key, %s, where a URL may hold one.
var urlShapes = map[string]string{
	"a URL with a password":     "https://user:%s@127.0.0.1",
	"a URL with a path":         "https://127.0.0.1/%s",
	"a URL with a query":        "https://127.0.0.1?apikey=%s",
	"a URL with a fragment":     "https://127.0.0.1#%s",
	"a URL with a bad port":     "https://127.0.0.1:%s",
	"a URL of another scheme":   "%s://127.0.0.1",
	"a URL with a bad escape":   "https://127.0.0.1/%%zz%s",
	"a URL without encryption":  "http://10.0.0.1/%s",
	"a URL with a control code": "https://127.0.0.1/\x01%s",
}

// rotationShapes hold a key, %[1]s, the key secret %[2]s and the token secret %[3]s.
var rotationShapes = map[string]string{
	"ROTATIONS: a key alone":           `%[1]s`,
	"ROTATIONS: a key in quotes":       `"%[1]s"`,
	"ROTATIONS: a list of keys":        `["%[1]s"]`,
	"ROTATIONS: cut off":               `[{"name":"a","api_key_secret":"%[1]s`,
	"ROTATIONS: not closed":            `[{"name":"a","api_key_secret":"%[1]s"`,
	"ROTATIONS: a key as a field":      `[{"%[1]s":"a"}]`,
	"ROTATIONS: a field of a key":      `[{"apikey":"%[1]s"}]`,
	"ROTATIONS: a key for the secret":  `[{"name":"a","api_key_secret":"%[1]s","token_secret":"%[3]s"}]`,
	"ROTATIONS: a key for the token":   `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[1]s"}]`,
	"ROTATIONS: a key in its path":     `[{"name":"a","api_key_secret":"group/%[1]s/name/more","token_secret":"%[3]s"}]`,
	"ROTATIONS: a key as the format":   `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","format":"%[1]s"}]`,
	"ROTATIONS: a key as key field":    `[{"name":"a","api_key_secret":"%[2]s","api_key_field":"%[1]s","token_secret":"%[3]s"}]`,
	"ROTATIONS: a key as token field":  `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","token_field":"%[1]s"}]`,
	"ROTATIONS: a key as the account":  `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","expect":{"account":"%[1]s"}}]`,
	"ROTATIONS: a key as the identity": `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","expect":{"iam_id":"%[1]s"}}]`,
	"ROTATIONS: a key as expectation":  `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","expect":"%[1]s"}]`,
	"ROTATIONS: a key as a mirror":     `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","mirror":["%[1]s"]}]`,
	"ROTATIONS: a key in an odd name":  `[{"name":"%[1]s %[1]s","api_key_secret":"%[2]s","token_secret":"%[3]s"}]`,
	"ROTATIONS: a key for a number":    `[{"name":1,"api_key_secret":"%[1]s"}]`,
	"ROTATIONS: a key after the list":  `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s"}] %[1]s`,
	"ROTATIONS: a key in an escape":    `[{"name":"a\q%[1]s"}]`,
}

// proxyShapes hold a password, %s, where a proxy's URL may hold one.
var proxyShapes = map[string]string{
	"a proxy that is not there": "http://user:%s@127.0.0.1:9",
	"a URL that is no proxy":    "ftp://user:%s@127.0.0.1:9",
	"a proxy that is no proxy":  "https://user:%s@SERVER",
	"a misshapen proxy":         "http://user:%s@[::1",
	"a proxy's bad port":        "http://127.0.0.1:%s",
}
