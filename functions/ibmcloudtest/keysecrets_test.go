package ibmcloudtest_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

const day = 24 * time.Hour

// A managed secret makes the keys of the workload: for 45 days each, with a new one every 15.
type managed struct {
	client
	cloud *ibmcloudtest.Cloud
	clock *clock
	id    string
	owner string // iam id
}

func newManaged(t *testing.T, u ibmcloudtest.Undocumented) *managed {
	clock := newClock()
	cloud, c := newCloud(t, ibmcloudtest.Options{Now: clock.Now, KeyPropagation: -1, Undocumented: u})
	m := &managed{client: c, cloud: cloud, clock: clock, owner: cloud.Rotations()[0].IAMID}
	m.id = m.admin(201, "POST", "/api/v2/secrets", `{"secret_type":"iam_credentials","name":"workload","ttl":"1080h","reuse_api_key":true,
		"service_id":"`+m.owner[len("iam-"):]+`","rotation":{"auto_rotate":true,"interval":15,"unit":"day"}}`).at("id").(string)
	return m
}

// admin asks as the admin, with a token of now.
func (m *managed) admin(status int, method, path, body string) answer {
	m.t.Helper()
	return m.want(status, m.token(m.cloud.AdminAPIKey()), method, path, body)
}

// secret reads the secret with its key, or asks for what is below it.
func (m *managed) secret(status int) answer {
	m.t.Helper()
	return m.admin(status, "GET", "/api/v2/secrets/"+m.id, "")
}

func (m *managed) rotate(status int) answer {
	m.t.Helper()
	return m.admin(status, "POST", "/api/v2/secrets/"+m.id+"/versions", "{}")
}

// after is a time so many days after the start.
func after(start time.Time, days int) string {
	return start.Add(time.Duration(days) * day).UTC().Format("2006-01-02T15:04:05.000Z")
}

func TestAYearOfRotationsByRule(t *testing.T) {
	m := newManaged(t, ibmcloudtest.Undocumented{})
	start := m.clock.Now()
	keys := []any{m.secret(200).at("api_key")}
	for n := 1; n <= 24; n++ {
		m.cloud.Advance(15 * day)
		got := m.secret(200)
		for field, want := range map[string]any{
			"next_rotation_date": after(start, 15*n+15), "expiration_date": after(start, 15*n+45), "ttl": "1080h",
			"service_id": m.owner[len("iam-"):], "service_id_is_static": true, "reuse_api_key": true, "versions_total": float64(n + 1),
		} {
			if got.at(field) != want {
				t.Errorf("rotation %d: %s: got %v, want %v", n, field, got.at(field), want)
			}
		}
		if fmt.Sprint(got.at("rotation")) != "map[auto_rotate:true interval:15 unit:day]" {
			t.Errorf("rotation: got %v", got.at("rotation"))
		}
		keys = append(keys, got.at("api_key"))
		for i, key := range keys {
			works := map[bool]int{true: 200, false: 400}[i > n-3]
			m.wantExchange(works, key, fmt.Sprintf("key %d after %d rotations", i, n))
		}
	}
	if now := m.admin(200, "GET", "/api/v2/secrets/"+m.id+"/versions/current/metadata", ""); now.at("auto_rotated") != true || now.at("api_key_id") == nil {
		t.Errorf("the current version: got %s, want it auto_rotated, with api_key_id", now)
	}
}

// A year that nobody looks at is played at once.
func TestAYearIsPlayedAtTheNextRequest(t *testing.T) {
	m := newManaged(t, ibmcloudtest.Undocumented{})
	first := m.secret(200)
	m.cloud.Advance(365 * day)
	m.wantExchange(400, first.at("api_key"), "the first key, after a year")
	got := m.secret(200)
	if got.at("versions_total") != float64(25) || got.at("next_rotation_date") != after(m.clock.Now(), 375) {
		t.Errorf("got %v versions, next %v, want 25 and day 375", got.at("versions_total"), got.at("next_rotation_date"))
	}
	m.wantExchange(200, got.at("api_key"), "the current key")
	keys := m.admin(200, "GET", "/v1/apikeys?iam_id="+m.owner, "").at("apikeys").([]any)
	if len(keys) != 4 { // the fixed one, and those of days 330, 345, 360
		t.Errorf("got %d keys, want 4", len(keys))
	}
}

func TestWhatBecomesOfEarlierKeys(t *testing.T) {
	for name, test := range map[string]struct {
		settings   ibmcloudtest.Undocumented
		byHand     bool
		one, older int // the key one and two rotations ago
	}{
		"by rule":             {one: 200, older: 200},
		"by rule, at once":    {ibmcloudtest.Undocumented{KeyAfterAutomaticRotation: "at_once"}, false, 400, 400},
		"by rule, n-2":        {ibmcloudtest.Undocumented{OlderKey: "deleted"}, false, 200, 400},
		"by request":          {byHand: true, one: 200, older: 200},
		"by request, at once": {ibmcloudtest.Undocumented{KeyAfterManualRotation: "at_once"}, true, 400, 400},
		"by request, n-2":     {ibmcloudtest.Undocumented{OlderKey: "deleted"}, true, 200, 400},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManaged(t, test.settings)
			var keys []any
			for range 3 {
				keys = append(keys, m.secret(200).at("api_key"))
				if test.byHand {
					m.rotate(201)
				} else {
					m.cloud.Advance(15 * day)
				}
				m.secret(200) // plays the rotation
				m.wantExchange(test.one, keys[len(keys)-1], "one rotation ago")
				if len(keys) > 1 {
					m.wantExchange(test.older, keys[len(keys)-2], "two rotations ago")
				}
			}
		})
	}
}

func TestTheEndOfALease(t *testing.T) {
	for status, want := range map[int]int{0: 200, 404: 404, 410: 410} {
		m := newManaged(t, ibmcloudtest.Undocumented{EndedKeySecret: status})
		key := m.secret(200).at("api_key")
		m.admin(200, "POST", "/_sandbox/clock", `{"advance":"1h"}`) // any request to it; the rule is off from here
		m.patch(`{"rotation":{"auto_rotate":false}}`)
		m.cloud.Advance(45*day - time.Hour - time.Second)
		m.wantExchange(200, key, "a second before its end")
		m.cloud.Advance(time.Second)
		m.wantExchange(400, key, "at its end")
		if got := m.secret(want); got.at("api_key") != nil || got.at("api_key_id") != nil {
			t.Error("past its lease the secret has a key")
		}
		m.rotate(400)
		m.admin(400, "POST", "/api/v2/secrets/"+m.id+"/versions", `{"restore_from_version":"current"}`)
		m.admin(204, "DELETE", "/api/v2/secrets/"+m.id, "")
	}
}

func (m *managed) patch(body string) answer {
	m.t.Helper()
	return m.do(m.token(m.cloud.AdminAPIKey()), "PATCH", "/api/v2/secrets/"+m.id+"/metadata", body)
}

func TestAChangeOfTheRule(t *testing.T) {
	for setting, rotated := range map[string]bool{"": false, "rotates": true} {
		m := newManaged(t, ibmcloudtest.Undocumented{RuleChange: setting})
		before := m.secret(200)
		m.cloud.Advance(day)
		m.check(m.patch(`{"rotation":{"auto_rotate":true,"interval":46,"unit":"day"}}`), 400, "above the ttl")
		m.check(m.patch(`{"ttl":"14h"}`), 400, "a ttl below the interval")
		got := m.patch(`{"rotation":{"auto_rotate":true,"interval":20,"unit":"day"}}`)
		m.check(got, 200, "a rule")
		if want := after(m.clock.Now(), 21); got.at("next_rotation_date") != want {
			t.Errorf("%q: next_rotation_date: got %v, want %v", setting, got.at("next_rotation_date"), want)
		}
		if got := m.secret(200).at("api_key") != before.at("api_key"); got != rotated {
			t.Errorf("rule_change %q: rotated %v, want %v", setting, got, rotated)
		}
	}
}

func TestRotationsThatAreRefused(t *testing.T) {
	authorization := func(u ibmcloudtest.Undocumented) func(*managed) { return func(m *managed) { m.cloud.Set(u) } }
	for name, test := range map[string]struct {
		spoil, mend func(*managed)
		status      int // of a rotation by request
	}{
		"a lock on the previous version": {
			func(m *managed) { m.rotate(201); m.cloud.MustLock(m.id, "previous", "job") }, func(m *managed) { m.cloud.MustUnlock(m.id) }, 412},
		"no authorization": {authorization(ibmcloudtest.Undocumented{KeyAuthorization: "none"}),
			authorization(ibmcloudtest.Undocumented{KeyAuthorization: "service_ids"}), 400},
		"no authorization on groups": {authorization(ibmcloudtest.Undocumented{GroupsAuthorization: "required"}),
			authorization(ibmcloudtest.Undocumented{GroupsAuthorization: "not_required"}), 400},
		"as many keys as there can be": {
			func(m *managed) {
				for range 18 { // with the fixed one and the secret's own 20
					m.cloud.MustCreateAPIKey(m.owner)
				}
				m.admin(409, "POST", "/v1/apikeys", `{"name":"one more","iam_id":"`+m.owner+`"}`)
			},
			func(m *managed) { m.cloud.MustDeleteAPIKey(m.cloud.Rotations()[0].APIKey) }, 400},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManaged(t, ibmcloudtest.Undocumented{})
			test.spoil(m)
			m.rotate(test.status)
			key := m.secret(200).at("api_key")
			m.cloud.Advance(20 * day)
			if m.secret(200).at("api_key") != key {
				t.Error("the rule rotated it, which should have been refused")
			}
			test.mend(m)
			m.cloud.Advance(day) // it is tried again each day
			if m.secret(200).at("api_key") == key {
				t.Error("the rule did not rotate it once it could")
			}
		})
	}
	m := newManaged(t, ibmcloudtest.Undocumented{AutomaticRotation: "fails"})
	key := m.secret(200).at("api_key")
	m.cloud.Advance(40 * day)
	if m.secret(200).at("api_key") != key {
		t.Error("automatic_rotation fails: the rule rotated it")
	}
	m.rotate(201)
	c, cloud := m.client, m.cloud
	id := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: m.owner})
	c.want(400, c.token(cloud.AdminAPIKey()), "POST", "/api/v2/secrets/"+id+"/versions", "{}") // reuse_api_key is false
}

func TestRestoredKey(t *testing.T) {
	m := newManaged(t, ibmcloudtest.Undocumented{OlderKey: "deleted"})
	first := m.secret(200)
	m.cloud.Advance(day)
	m.rotate(201)
	restored := m.admin(201, "POST", "/api/v2/secrets/"+m.id+"/versions", `{"restore_from_version":"previous"}`)
	if restored.at("api_key") != first.at("api_key") || restored.at("expiration_date") != first.at("expiration_date") {
		t.Error("the restored version has another key or end than the one before")
	}
	m.wantExchange(200, first.at("api_key"), "the restored key")
	m.admin(400, "POST", "/api/v2/secrets/"+m.id+"/versions", `{"restore_from_version":"none"}`)
	m.cloud.Advance(15 * day)
	if m.secret(200).at("api_key") == first.at("api_key") {
		t.Error("after a restore the rule rotates no more")
	}
}

func TestKeysOfASecretAreLocked(t *testing.T) {
	m := newManaged(t, ibmcloudtest.Undocumented{})
	secret := m.secret(200)
	path := "/v1/apikeys/" + secret.at("api_key_id").(string)
	got := m.admin(200, "GET", path, "")
	if got.at("locked") != true || got.at("name") != "Secrets-Manager-IAM-Secret-workload" || got.at("iam_id") != m.owner {
		t.Errorf("got %s, want it locked, with its name and owner", got)
	}
	update := func(want int) {
		t.Helper()
		r := m.request("PUT", path, `{"description":"d"}`, "Authorization", "Bearer "+m.token(m.cloud.AdminAPIKey()), "If-Match", "*")
		m.check(m.send(r), want, "PUT")
	}
	update(409)
	m.admin(409, "DELETE", path, "")
	m.admin(409, "POST", path+"/disable", "")
	m.admin(204, "DELETE", path+"/lock", "")
	update(200)
	m.admin(204, "POST", path+"/disable", "")
	m.wantExchange(400, secret.at("api_key"), "a disabled key")
	if got := m.admin(200, "GET", path, ""); got.at("disabled") != true || got.at("locked") != false {
		t.Errorf("got %s, want it disabled and not locked", got)
	}
	m.admin(204, "DELETE", path+"/disable", "")
	m.wantExchange(200, secret.at("api_key"), "an enabled key")
	m.admin(204, "POST", path+"/lock", "")
	m.admin(409, "DELETE", path, "")
	m.admin(204, "DELETE", "/api/v2/secrets/"+m.id, "")
	m.wantExchange(400, secret.at("api_key"), "the key of a deleted secret")
}

func TestADeletedServiceIDEndsItsKeysAndTokens(t *testing.T) {
	m := newManaged(t, ibmcloudtest.Undocumented{})
	key := m.secret(200).at("api_key").(string)
	token := m.token(key)
	m.want(200, token, "GET", "/v3/targets", "")
	id := m.owner[len("iam-"):]
	if got := m.admin(200, "GET", "/v1/serviceids/"+id, ""); got.at("iam_id") != m.owner {
		t.Errorf("got %s", got)
	}
	m.want(403, token, "DELETE", "/v1/serviceids/"+id, "")
	m.admin(204, "DELETE", "/v1/serviceids/"+id, "")
	m.want(401, token, "GET", "/v3/targets", "")
	m.wantExchange(400, key, "the secret's key")
	m.wantExchange(400, m.cloud.Rotations()[0].APIKey, "the fixed key")
	m.rotate(400)
	m.admin(404, "DELETE", "/v1/serviceids/"+id, "")

	made := m.admin(201, "POST", "/v1/serviceids/", `{"name":"successor","account_id":"`+m.cloud.AccountID()+`"}`)
	list := m.admin(200, "GET", "/v1/serviceids/?name=successor", "")
	if list.at("serviceids", 0, "iam_id") != made.at("iam_id") || list.at("serviceids", 1) != nil {
		t.Errorf("got %s, want the successor alone", list)
	}
	m.admin(400, "POST", "/v1/serviceids/", `{"name":"x","account_id":"other"}`)
}

func TestAccessGroupSecretsChangeTheirIdentity(t *testing.T) {
	m := newManaged(t, ibmcloudtest.Undocumented{})
	path := "/api/v2/secrets/" + m.admin(201, "POST", "/api/v2/secrets", `{"secret_type":"iam_credentials","name":"grouped","ttl":"48h",
		"reuse_api_key":true,"access_groups":["AccessGroupId-1"]}`).at("id").(string)
	seen := map[any]bool{}
	read := func(when string) answer {
		t.Helper()
		got := m.admin(200, "GET", path, "")
		if seen[got.at("service_id")] || got.at("service_id_is_static") != false || got.at("access_groups", 0) != "AccessGroupId-1" {
			t.Errorf("%s: got %s, want a service id of its own", when, got)
		}
		seen[got.at("service_id")] = true
		return got
	}
	first := read("at first")
	m.admin(201, "POST", path+"/versions", "{}")
	read("after a rotation")
	m.wantExchange(200, first.at("api_key"), "the key before")
	m.cloud.Advance(48 * time.Hour)
	m.wantExchange(400, first.at("api_key"), "the key past its lease")
	read("after the end of the lease")
	m.cloud.Set(ibmcloudtest.Undocumented{KeyAuthorization: "none"})
	m.cloud.Advance(49 * time.Hour)
	if got := m.admin(200, "GET", path, ""); got.at("api_key") != nil {
		t.Error("without the authorization a key was made at the end of the lease")
	}
	m.cloud.Set(ibmcloudtest.Undocumented{KeyAuthorization: "account"})
	read("with the authorization again")
	m.cloud.Advance(9 * 365 * day) // many leases at once
	read("years later")
}

func TestOwnKeys(t *testing.T) {
	for setting, want := range map[string][2]int{"": {200, 403}, "none": {403, 403}, "policy": {200, 200}} {
		cloud, c := newCloud(t, ibmcloudtest.Options{Undocumented: ibmcloudtest.Undocumented{OwnKeys: setting}})
		key, token := cloud.BootstrapAPIKey(), c.token(cloud.BootstrapAPIKey())
		c.check(c.send(c.request("GET", "/v1/apikeys/details", "", "Authorization", "Bearer "+token, "IAM-ApiKey", key)), want[0], setting+": details")
		c.want(want[1], token, "GET", "/v1/apikeys", "")
		c.want(403, token, "GET", "/v1/apikeys?iam_id="+cloud.Rotations()[0].IAMID, "")
	}
}

func TestTheClockGoesForward(t *testing.T) {
	clock := newClock()
	cloud, c := newCloud(t, ibmcloudtest.Options{Now: clock.Now})
	token := c.token(cloud.AdminAPIKey())
	for _, body := range []string{`{}`, `{"advance":""}`, `{"advance":"0s"}`, `{"advance":"-1h"}`, `{"advance":"1 day"}`, `{"advance":86400}`, `{"advance":"87601h"}`, `{"back":"1h"}`} {
		if got := c.do("", "POST", "/_sandbox/clock", body); got.status != 400 || !strings.Contains(got.raw, "advance") {
			t.Errorf("%s: got %d %s, want 400 with what it must be", body, got.status, got)
		}
	}
	c.want(200, token, "GET", "/v1/apikeys", "")
	if got := c.want(200, "", "POST", "/_sandbox/clock", `{"advance":"2h"}`); got.at("now") != "2026-03-01T14:00:00.000Z" || got.at("ahead_seconds") != 7200.0 {
		t.Errorf("got %s", got)
	}
	c.want(401, token, "GET", "/v1/apikeys", "") // an hour past its expiry
	if got := c.want(200, "", "GET", "/_sandbox/clock", ""); got.at("ahead_seconds") != 7200.0 || got.header.Get("Date") != "Sun, 01 Mar 2026 14:00:00 GMT" {
		t.Errorf("got %s, Date %s", got, got.header.Get("Date"))
	}
}

// The page's table of settings is that of the code: names, allowed values, the default first.
func TestThePageHasEachSetting(t *testing.T) {
	page, err := os.ReadFile("../../scripts/sandbox/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, c := newCloud(t, ibmcloudtest.Options{})
	settings := c.want(200, "", "GET", "/_sandbox/settings", "").body
	delete(settings, "token_ttl_seconds")
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ((?:`[a-z_0-9]+`(?:, )?)+) \\|")
	documented := map[string]string{}
	for _, cells := range row.FindAllStringSubmatch(string(page), -1) {
		documented[cells[1]] = strings.ReplaceAll(strings.ReplaceAll(cells[2], "`", ""), ",", "")
	}
	for name, value := range settings {
		wrong := `"nonsense"`
		if _, isNumber := value.(float64); isNumber {
			wrong = "999"
		}
		got := c.do("", "PATCH", "/_sandbox/settings", `{"`+name+`":`+wrong+`}`)
		message, _ := got.at("errors", 0, "message").(string)
		allowed, ok := strings.CutPrefix(message, name+" must be one of [")
		allowed = strings.TrimSuffix(allowed, "]")
		if got.status != 400 || !ok || documented[name] != allowed || !strings.HasPrefix(allowed, fmt.Sprint(value)) {
			t.Errorf("%s: the page has %q, the code %q with the default %v", name, documented[name], allowed, value)
		}
		delete(documented, name)
	}
	if len(documented) > 0 {
		t.Errorf("the page has settings that the code has not: %v", documented)
	}
}

func TestIAMCredentialsWithoutReuse(t *testing.T) {
	now := newClock()
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{Now: now.Now, KeyPropagation: -1})
	owner := cloud.Rotations()[0].IAMID
	id := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: owner})
	path := "/api/v2/secrets/" + id
	first := c.want(200, admin, "GET", path, "")
	if first.at("reuse_api_key") != false || first.at("service_id") != owner[len("iam-"):] {
		t.Errorf("got %s, want reuse_api_key false and the owner's service id", first)
	}
	c.wantExchange(200, first.at("api_key"), "first key")
	c.want(200, admin, "GET", path+"/metadata", "")
	c.wantExchange(200, first.at("api_key"), "after reading metadata")
	second := c.want(200, admin, "GET", path+"/versions/current", "")
	c.wantExchange(400, first.at("api_key"), "after the next read: it killed the key before")
	c.wantExchange(200, second.at("api_key"), "second key")
	now.advance(24 * time.Hour)
	c.wantExchange(400, second.at("api_key"), "the second key past its lease")
	admin = c.token(cloud.AdminAPIKey())
	c.wantExchange(200, c.want(200, admin, "GET", path, "").at("api_key"), "the key of a reading past the lease")
	cloud.MustLock(id, "current", "job")
	c.want(412, admin, "GET", path, "")
}

func TestServiceCredentials(t *testing.T) {
	now := newClock()
	_, c, admin := newAdmin(t, ibmcloudtest.Options{Now: now.Now})
	created := c.want(201, admin, "POST", "/api/v2/secrets",
		`{"secret_type":"service_credentials","name":"creds","source_service":{"instance":{"crn":"crn:v1:x"}}}`)
	path := "/api/v2/secrets/" + created.at("id").(string)
	got := c.want(200, admin, "GET", path, "")
	c.wantExchange(400, got.at("credentials", "apikey"), "at once: IAM takes 2 s to know a new key")
	now.advance(2 * time.Second)
	c.wantExchange(200, got.at("credentials", "apikey"), "after 2 s")
	if got.at("source_service", "instance", "crn") != "crn:v1:x" {
		t.Errorf("got %s, want the source", got)
	}
	c.want(204, admin, "DELETE", path, "")
	c.wantExchange(400, got.at("credentials", "apikey"), "after deletion: the key goes with its secret")
}

func TestMintingRules(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	owner := cloud.Rotations()[0].IAMID[len("iam-"):]
	rule := func(name, rotation string) string {
		return `{"secret_type":"iam_credentials","name":"` + name + `","reuse_api_key":true,"ttl":"1080h","service_id":"` + owner + `","rotation":` + rotation + `}`
	}
	for body, want := range map[string]int{
		`{"secret_type":"iam_credentials","name":"m1","reuse_api_key":true}`:                                                        400,
		`{"secret_type":"iam_credentials","name":"m2","reuse_api_key":true,"ttl":"59s"}`:                                            400,
		`{"secret_type":"iam_credentials","name":"m3","reuse_api_key":true,"ttl":"2161h"}`:                                          400,
		`{"secret_type":"iam_credentials","name":"m4","reuse_api_key":true,"ttl":3600}`:                                             201,
		`{"secret_type":"iam_credentials","name":"m5","ttl":"60"}`:                                                                  201,
		`{"secret_type":"iam_credentials","name":"m6","ttl":"1h","service_id":"ServiceId-none"}`:                                    400,
		`{"secret_type":"iam_credentials","name":"m10","ttl":"1h","access_groups":["g"],"service_id":"` + owner + `"}`:              400,
		`{"secret_type":"iam_credentials","name":"m11","ttl":"1h","access_groups":["1","2","3","4","5","6","7","8","9","10","11"]}`: 400,
		rule("m12", `{"auto_rotate":true,"interval":15,"unit":"day"}`):                                                              201,
		rule("m13", `{"auto_rotate":true,"interval":46,"unit":"day"}`):                                                              400, // above the ttl
		rule("m14", `{"auto_rotate":true,"interval":2,"unit":"month"}`):                                                             400,
		rule("m15", `{"auto_rotate":true,"interval":1,"unit":"hour"}`):                                                              400,
		rule("m16", `{"auto_rotate":true,"interval":0,"unit":"day"}`):                                                               400,
		rule("m17", `{"auto_rotate":true,"interval":9223372036854775807,"unit":"month"}`):                                           400,
		rule("m18", `{"auto_rotate":true}`):                                                                                         400,
		rule("m19", `{"interval":1,"unit":"day"}`):                                                                                  400,
		rule("m20", `"daily"`):               400,
		rule("m21", `{"auto_rotate":false}`): 201,
		strings.Replace(rule("m22", `{"auto_rotate":true,"interval":1,"unit":"day"}`), "true", "false", 1):            400, // without reuse
		`{"secret_type":"service_credentials","name":"m7"}`:                                                           400,
		`{"secret_type":"service_credentials","name":"m8","source_service":{}}`:                                       400,
		`{"secret_type":"service_credentials","name":"m9","ttl":"1h","source_service":{"instance":{"crn":"crn:v1"}}}`: 400,
	} {
		c.check(c.do(admin, "POST", "/api/v2/secrets", body), want, body)
	}
}
