package ibmcloudtest_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestCreateSecretRules(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	arbitrary := func(name, rest string) string {
		return `{"secret_type":"arbitrary","name":"` + name + `","payload":"x"` + rest + `}`
	}
	long := strings.Repeat("a", 257)
	tests := []struct {
		name, body string
		status     int
	}{
		{"shortest name", arbitrary("ab", ""), 201},
		{"longest name", arbitrary(long[:256], ""), 201},
		{"dots and dashes", arbitrary("a-.b_c.d", ""), 201},
		{"one letter", arbitrary("a", ""), 400},
		{"name too long", arbitrary(long, ""), 400},
		{"leading dash", arbitrary("-ab", ""), 400},
		{"trailing dash", arbitrary("ab-", ""), 400},
		{"space", arbitrary("a b", ""), 400},
		{"name taken", arbitrary("ab", ""), 409},
		{"name taken in another type", `{"secret_type":"kv","name":"ab","data":{"k":"v"}}`, 201},
		{"no name", `{"secret_type":"arbitrary","payload":"x"}`, 400},
		{"no type", `{"name":"abc","payload":"x"}`, 400},
		{"unknown type", `{"secret_type":"poem","name":"abc"}`, 400},
		{"no payload", `{"secret_type":"arbitrary","name":"abc"}`, 400},
		{"null payload", `{"secret_type":"arbitrary","name":"abc","payload":null}`, 400},
		{"empty payload", `{"secret_type":"arbitrary","name":"abc","payload":""}`, 400},
		{"payload a number", `{"secret_type":"arbitrary","name":"abc","payload":1}`, 400},
		{"largest payload", `{"secret_type":"arbitrary","name":"abc","payload":"` + strings.Repeat("é", 1_000_000) + `"}`, 201},
		{"payload too large", `{"secret_type":"arbitrary","name":"abcd","payload":"` + strings.Repeat("x", 1_000_001) + `"}`, 400},
		{"body too large", `{"secret_type":"arbitrary","name":"abcd","payload":"` + strings.Repeat("x", 9<<20) + `"}`, 400},
		{"longest description", arbitrary("abd", `,"description":"`+strings.Repeat("d", 1024)+`"`), 201},
		{"description too long", arbitrary("abe", `,"description":"`+strings.Repeat("d", 1025)+`"`), 400},
		{"label too short", arbitrary("abe", `,"labels":["a"]`), 400},
		{"label too long", arbitrary("abe", `,"labels":["`+long[:65]+`"]`), 400},
		{"31 labels", arbitrary("abe", `,"labels":[`+strings.Repeat(`"ab",`, 30)+`"ab"]`), 400},
		{"30 labels", arbitrary("abf", `,"labels":[`+strings.Repeat(`"ab",`, 29)+`"ab"]`), 201},
		{"metadata not an object", arbitrary("abe", `,"custom_metadata":[1]`), 400},
		{"metadata too large", arbitrary("abe", `,"version_custom_metadata":{"a":"`+strings.Repeat("x", 10<<10)+`"}`), 400},
		{"unknown property", arbitrary("abe", `,"colour":"red"`), 400},
		{"unknown group", arbitrary("abe", `,"secret_group_id":"none"`), 404},
		{"expired already", arbitrary("abe", `,"expiration_date":"2001-01-01T00:00:00Z"`), 400},
		{"kv without items", `{"secret_type":"kv","name":"abe","data":{}}`, 400},
		{"kv not an object", `{"secret_type":"kv","name":"abe","data":"x"}`, 400},
		{"kv too large", `{"secret_type":"kv","name":"abe","data":{"k":"` + strings.Repeat("x", 512<<10) + `"}}`, 400},
		{"kv with payload", `{"secret_type":"kv","name":"abe","data":{"k":"v"},"payload":"x"}`, 400},
		{"no object", `[]`, 400},
		{"no JSON", `{`, 400},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := c.do(admin, "POST", "/api/v2/secrets", test.body); got.status != test.status {
				t.Errorf("got %d %s, want %d", got.status, got.raw, test.status)
			}
		})
	}
	form := c.request("POST", "/api/v2/secrets", arbitrary("abg", ""), "Authorization", "Bearer "+admin, "Content-Type", "text/plain")
	if got := c.send(form); got.status != http.StatusUnsupportedMediaType {
		t.Errorf("text/plain: got %d, want 415", got.status)
	}
}

func TestUndocumentedStatusesCanBeSwitched(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{Undocumented: ibmcloudtest.Undocumented{Duplicate: 400, TooLarge: 413, UnknownKey: 401, Destroyed: 410}})
	id := c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"aa","payload":"x"}`).at("id").(string)
	c.want(400, admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"aa","payload":"x"}`)
	c.want(413, admin, "POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"`+strings.Repeat("x", 1_000_001)+`"}`)
	if got := c.grant(map[string][]string{"grant_type": {apiKeyGrant}, "apikey": {"x"}}); got.status != 401 {
		t.Errorf("unknown key: got %d, want 401", got.status)
	}
	gone := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "x", Expires: time.Now().Add(-time.Second)})
	c.want(410, admin, "POST", "/api/v2/secrets/"+gone+"/versions", `{"payload":"x"}`)
}
