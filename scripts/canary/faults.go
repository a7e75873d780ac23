package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// mixed is a body that repeats all that the request bore, in a form that many a parser looks into.
const mixed = `{"errorCode":"BXNIM0415E $KEY","errorMessage":"$BODY $BASE64","errorDetails":"$AUTHORIZATION",` +
	`"context":{"requestId":"$KEY"},"errors":[{"code":"secrets-manager.Error07012 $TOKEN","message":"$BODY","more_info":"https://h/$KEY",` +
	`"target":{"name":"$AUTHORIZATION"}}],"trace":"$TOKEN","status_code":"$KEY","message":"$KEY","__type":"$KEY"}`

// bodies repeat the secrets of the request where programs look for other things.
var bodies = map[string]string{
	"empty":          "",
	"text":           "no such key: $KEY ($AUTHORIZATION, $BODY, $BASE64)",
	"web page":       "<html><title>502 $TOKEN</title><body>$AUTHORIZATION $KEY</body></html>",
	"error":          mixed,
	"error code":     `{"errorCode":"$KEY","errors":[{"code":"$KEY","message":"$TOKEN"}],"__type":"$KEY","Message":"$TOKEN"}`,
	"broken JSON":    `{"access_token":"$JWT`,
	"wrong types":    `{"access_token":["$KEY"],"expires_in":"$KEY","expiration":"$TOKEN","errors":"$KEY","created_at":["$KEY"],"secret_type":["$KEY"],"apikeys":"$KEY","total_count":"$KEY","secrets":"$KEY"}`,
	"opaque token":   `{"access_token":"$KEY","token_type":"Bearer","expires_in":3600,"expiration":4102444800,"scope":"$KEY"}`,
	"no Bearer":      `{"access_token":"$JWT","token_type":"$KEY","expires_in":3600,"expiration":4102444800}`,
	"two words":      `{"access_token":"$KEY $KEY","token_type":"Bearer","expires_in":3600}`,
	"token of a key": `{"access_token":"$JWT","refresh_token":"$KEY","token_type":"Bearer","expires_in":3600,"expiration":4102444800,"scope":"$KEY"}`,
	"secret": `{"id":"$TOKEN","secret_type":"arbitrary","name":"$KEY","payload":"two words: $KEY","created_at":"2026-01-01T00:00:00Z",` +
		`"version_custom_metadata":{"fingerprint":"$TOKEN","run_id":"$TOKEN","iam_id":"$KEY","account":"$KEY","expiration":4102444800},` +
		`"apikey":"$KEY","entity_tag":"$KEY","apikeys":[{"name":"$KEY","id":"$KEY","description":"$TOKEN"}],"total_count":1,"secrets":[{"id":"$KEY","name":"$KEY"}]}`,
	"odd secret": `{"id":"$KEY","secret_type":"$TOKEN","created_at":"$TOKEN","payload":["$KEY"],"data":{"$KEY":"$TOKEN"}}`,
	"AWS secret": `{"ARN":"$KEY","Name":"$KEY","SecretString":"{\"apikey\":\"$KEY\"}","SecretBinary":"$KEY","CreatedDate":"$KEY"}`,
}

// headers repeat the secrets of the request.
var headers = map[string]string{
	"Location": "https://elsewhere.example.com/$KEY?token=$TOKEN", "Www-Authenticate": `Bearer error="$AUTHORIZATION"`,
	"Transaction-Id": "$KEY", "X-Request-Id": "$TOKEN", "X-Amzn-Requestid": "$KEY", "X-Amzn-Errortype": "$KEY",
	"X-Correlation-Id": "$TOKEN", "Retry-After": "$KEY", "Date": "$KEY", "Set-Cookie": "key=$KEY; token=$TOKEN", "Warning": `199 - "$KEY"`,
}

// raw are answers that are no HTTP, or not quite.
var raw = map[string]string{
	"status line":   `HTTP/1.1 $KEY $TOKEN\r\n\r\n`,
	"no HTTP":       `$AUTHORIZATION $KEY\r\n\r\n`,
	"header":        `HTTP/1.1 200 OK\r\n$KEY $TOKEN\r\n\r\n`,
	"length":        `HTTP/1.1 200 OK\r\nContent-Length: $KEY\r\n\r\n$TOKEN`,
	"transfer":      `HTTP/1.1 200 OK\r\nTransfer-Encoding: $KEY\r\n\r\n$TOKEN`,
	"chunk":         `HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n$KEY\r\n`,
	"cut":           `HTTP/1.1 400 Bad Request\r\nContent-Length: 4000\r\n\r\n{"errorMessage":"$KEY $TOKEN`,
	"informational": `HTTP/1.1 103 $KEY\r\nLink: $TOKEN\r\n\r\nHTTP/1.1 500 $KEY\r\n\r\n$TOKEN`,
}

// namedFault is a way in which an operation fails.
type namedFault struct {
	name  string
	fault ibmcloudtest.Fault
	http1 bool // it needs a connection of HTTP/1.1
}

// faultMatrix is every way in which an operation is made to fail, always in the same order.
func faultMatrix() []namedFault {
	var all []namedFault
	add := func(http1 bool, f ibmcloudtest.Fault, format string, args ...any) {
		all = append(all, namedFault{fmt.Sprintf(format, args...), f, http1 || len(all)%2 == 1})
	}
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		for _, status := range []int{200, 400, 401, 403, 500} {
			add(false, ibmcloudtest.Fault{Status: status, Body: bodies[name]}, "%d with the body %q", status, name)
		}
	}
	for _, status := range []int{201, 202, 204, 301, 302, 307, 308, 402, 404, 405, 408, 409, 410, 412, 413, 415, 422, 425, 429, 451, 501, 502, 503, 504, 599} {
		add(false, ibmcloudtest.Fault{Status: status, Body: mixed, Headers: headers}, "%d", status)
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		one := map[string]string{name: headers[name]}
		add(false, ibmcloudtest.Fault{Headers: one}, "the header %s on a success", name)
		add(false, ibmcloudtest.Fault{Status: 302, Headers: one}, "302 with the header %s", name)
	}
	for _, contentType := range []string{"text/html", "text/plain; charset=$KEY", "application/x-www-form-urlencoded", "$TOKEN", "application/octet-stream"} {
		for _, status := range []int{200, 401} {
			add(false, ibmcloudtest.Fault{Status: status, Body: mixed, ContentType: contentType}, "%d of type %s", status, contentType)
		}
	}
	add(false, ibmcloudtest.Fault{Status: 200, Body: mixed, Headers: map[string]string{"Content-Encoding": "gzip"}}, "a body that is no gzip")
	add(true, ibmcloudtest.Fault{Status: 200, Body: mixed, Headers: map[string]string{"Content-Encoding": "$KEY"}}, "an unknown encoding")
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		add(true, ibmcloudtest.Fault{Status: http.StatusOK, Headers: map[string]string{rawHeader: raw[name]}}, "no proper HTTP: %s", name)
	}
	for _, drop := range []string{ibmcloudtest.DropBefore, ibmcloudtest.DropAfter} {
		add(false, ibmcloudtest.Fault{Drop: drop}, "a connection dropped %s the work", drop)
		add(true, ibmcloudtest.Fault{Drop: drop, Times: 1}, "a connection dropped once %s the work", drop)
	}
	add(false, ibmcloudtest.Fault{Delay: time.Hour}, "no answer at all")
	return all
}
