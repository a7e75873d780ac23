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

// TestRules has rows of bodies, or their ends, with the status of the answer, for one request to one cloud.
func TestRules(t *testing.T) {
	for request, rows := range map[string]string{
		`admin POST /api/v2/secrets {"secret_type":"arbitrary","payload":"x",`: `
			"name":"ab"} => 201
			"name":"<a*256>"} => 201
			"name":"a-.b_c.d"} => 201
			"name":"a"} => 400
			"name":"<a*257>"} => 400
			"name":"-ab"} => 400
			"name":"ab-"} => 400
			"name":"a b"} => 400
			"name":"ab"} => 409
			"description":"x"} => 400
			"name":"abd","description":"<d*1024>"} => 201
			"name":"abe","description":"<d*1025>"} => 400
			"name":"abe","labels":["a"]} => 400
			"name":"abe","labels":["<a*65>"]} => 400
			"name":"abe","labels":[<"ab",*30>"ab"]} => 400
			"name":"abf","labels":[<"ab",*29>"ab"]} => 201
			"name":"abe","custom_metadata":[1]} => 400
			"name":"abe","version_custom_metadata":{"a":"<x*10240>"}} => 400
			"name":"abe","colour":"red"} => 400
			"name":"abe","secret_group_id":"none"} => 404
			"name":"abe","expiration_date":"2001-01-01T00:00:00Z"} => 400`,
		"admin POST /api/v2/secrets": `
			{"name":"abc","payload":"x"} => 400
			{"secret_type":"poem","name":"abc"} => 400
			{"secret_type":"username_password","name":"abc","username":"u"} => 501
			{"secret_type":"arbitrary","name":"abc"} => 400
			{"secret_type":"arbitrary","name":"abc","payload":null} => 400
			{"secret_type":"arbitrary","name":"abc","payload":""} => 400
			{"secret_type":"arbitrary","name":"abc","payload":1} => 400
			{"secret_type":"arbitrary","name":"abc","payload":"<é*1000000>"} => 201
			{"secret_type":"arbitrary","name":"abe","payload":"<x*1000001>"} => 400
			{"secret_type":"kv","name":"abc","data":{"k":"v"}} => 201
			{"secret_type":"kv","name":"abe","data":{}} => 400
			{"secret_type":"kv","name":"abe","data":"x"} => 400
			{"secret_type":"kv","name":"abe","data":{"k":"<x*524288>"}} => 400
			{"secret_type":"kv","name":"abe","data":{"k":"v"},"payload":"x"} => 400
			[] => 400
			{ => 400
			Content-Type:text/plain {} => 415
			{"secret_type":"iam_credentials","name":"m1","reuse_api_key":true} => 400
			{"secret_type":"iam_credentials","name":"m2","ttl":"59s"} => 400
			{"secret_type":"iam_credentials","name":"m3","ttl":"2161h"} => 400
			{"secret_type":"iam_credentials","name":"m4","ttl":3600} => 201
			{"secret_type":"iam_credentials","name":"m5","ttl":"60"} => 201
			{"secret_type":"iam_credentials","name":"m6","ttl":"1h","service_id":"ServiceId-none"} => 400
			{"secret_type":"iam_credentials","name":"m7","ttl":"1h","access_groups":["g"],"service_id":"$ID"} => 400
			{"secret_type":"iam_credentials","name":"m8","ttl":"1h","access_groups":[<"g",*10>"g"]} => 400
			{"secret_type":"iam_credentials","name":"m9","ttl":"1080h","service_id":"$ID","rotation":{"auto_rotate":true,"interval":1,"unit":"day"}} => 400
			{"secret_type":"service_credentials","name":"s1"} => 400
			{"secret_type":"service_credentials","name":"s2","source_service":{}} => 400
			{"secret_type":"service_credentials","name":"s3","ttl":"1h","source_service":{"instance":{"crn":"crn:v1"}}} => 400`,
		`admin POST /api/v2/secrets {"secret_type":"iam_credentials","reuse_api_key":true,"ttl":"1080h","service_id":"$ID","rotation":`: `
			{"auto_rotate":true,"interval":15,"unit":"day"},"name":"m1"} => 201
			{"auto_rotate":true,"interval":46,"unit":"day"},"name":"m2"} => 400
			{"auto_rotate":true,"interval":2,"unit":"month"},"name":"m2"} => 400
			{"auto_rotate":true,"interval":1,"unit":"hour"},"name":"m2"} => 400
			{"auto_rotate":true,"interval":0,"unit":"day"},"name":"m2"} => 400
			{"auto_rotate":true,"interval":9223372036854775807,"unit":"month"},"name":"m2"} => 400
			{"auto_rotate":true},"name":"m2"} => 400
			{"interval":1,"unit":"day"},"name":"m2"} => 400
			"daily","name":"m2"} => 400
			{"auto_rotate":false},"name":"m2"} => 201`,
		"admin POST /api/v2/secrets/$TOKEN/versions": `
			{"payload":"x"} => 201
			{"payload":""} => 400
			{} => 400
			{"data":{"k":"v"}} => 400
			{"payload":"x","expiration_date":"2030-01-01T00:00:00Z"} => 400
			{"payload":"x","version_custom_metadata":7} => 400`,
		"admin POST /api/v2/secrets/$kv/versions": `
			{"data":{"k":"w"},"custom_metadata":{"a":1}} => 201 {"data":{"k":"w"}}
			{"data":{}} => 400
			{"payload":"x"} => 400`,
	} {
		t.Run(request, func(t *testing.T) {
			s := newStory(newClient(t, ibmcloudtest.Options{}))
			s.values["kv"] = s.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"k": "v"}})
			for row := range strings.Lines(strings.TrimSpace(rows)) {
				s.play(request + " " + strings.TrimSpace(row))
			}
		})
	}
}

// TestPermissions lists the name under which an operation is logged, the request, and the status that each
// identity gets. A request that is allowed but is incomplete, or names nothing that exists, gets 400 or 404.
func TestPermissions(t *testing.T) {
	s := newStory(newClient(t, ibmcloudtest.Options{}))
	for row := range strings.Lines(`secrets.get GET /api/v2/secrets/$KEY                                   200 403 403 200
		secrets.get       GET /api/v2/secrets/$TOKEN                                           403 403 200 200
		secrets.get       GET /api/v2/secrets/none                                             404 403 404 404
		secrets.get       GET /api/v2/secret_groups/iam-api-keys/secret_types/arbitrary/secrets/api-key-default  200 403 403 200
		secrets.get       GET /api/v2/secret_groups/iam-tokens/secret_types/arbitrary/secrets/iam-token-default  403 403 200 200
		secrets.get       GET /api/v2/secret_groups/iam-api-keys/secret_types/arbitrary/secrets/iam-token-default 404 403 403 404
		secrets.get       GET /api/v2/secret_groups/none/secret_types/arbitrary/secrets/iam-token-default        404 403 404 404
		secrets.metadata  GET /api/v2/secrets/$KEY/metadata                                    403 403 403 200
		secrets.metadata  GET /api/v2/secrets/$TOKEN/metadata                                  200 403 200 200
		secrets.list      GET /api/v2/secrets                                                  403 403 200 200
		secrets.create    POST /api/v2/secrets {}                                              403 403 403 400
		secrets.patch     PATCH /api/v2/secrets/$TOKEN/metadata {}                             403 403 403 200
		versions.create   POST /api/v2/secrets/$KEY/versions {"payload":"x"}                   403 403 403 201
		versions.create   POST /api/v2/secrets/$TOKEN/versions {"payload":"x"}                 201 403 403 201
		versions.list     GET /api/v2/secrets/$TOKEN/versions                                  403 403 200 200
		versions.get      GET /api/v2/secrets/$KEY/versions/current                            403 403 403 200
		versions.get      GET /api/v2/secrets/$TOKEN/versions/current                          403 403 200 200
		versions.metadata GET /api/v2/secrets/$KEY/versions/current/metadata                   403 403 403 200
		versions.metadata GET /api/v2/secrets/$TOKEN/versions/current/metadata                 200 403 200 200
		versions.patch    PATCH /api/v2/secrets/$TOKEN/versions/current/metadata {}            403 403 403 200
		locks             GET /api/v2/secrets/$TOKEN/locks                                     403 403 200 200
		locks             GET /api/v2/secrets/$TOKEN/versions/current/locks                    200 403 200 200
		locks             GET /api/v2/secrets_locks                                            403 403 200 200
		locks             POST /api/v2/secrets/$TOKEN/locks_bulk {"locks":[{"name":"a"}]}      403 403 403 201
		locks             POST /api/v2/secrets/$TOKEN/versions/current/locks_bulk {"locks":[{"name":"a"}]} 403 403 403 201
		locks             DELETE /api/v2/secrets/$TOKEN/versions/current/locks_bulk            403 403 403 200
		locks             DELETE /api/v2/secrets/$TOKEN/locks_bulk                             403 403 403 200
		groups            GET /api/v2/secret_groups                                            403 403 403 200
		groups            POST /api/v2/secret_groups {}                                        403 403 403 400
		groups            GET /api/v2/secret_groups/default                                    403 403 403 200
		groups            PATCH /api/v2/secret_groups/none {}                                  403 403 403 404
		groups            DELETE /api/v2/secret_groups/none                                    403 403 403 404
		apikeys.list      GET /v1/apikeys                                                      403 403 403 200
		apikeys.create    POST /v1/apikeys                                                     403 403 403 415
		apikeys.get       GET /v1/apikeys/x                                                    403 403 403 404
		apikeys.update    PUT /v1/apikeys/x {}                                                 403 403 403 404
		apikeys.delete    DELETE /v1/apikeys/x                                                 403 403 403 404
		targets.list      GET /v3/targets                                                      403 200 403 403
		targets.get       GET /v3/targets/x                                                    403 404 403 403
		routes.list       GET /v3/routes                                                       403 200 403 403
		routes.get        GET /v3/routes/x                                                     403 404 403 403
		settings.get      GET /v3/settings                                                     403 200 403 403
		tenants.list      GET /v1/tenants IBM-API-Version:2026-01-01                           403 200 403 403
		tenants.get       GET /v1/tenants/x IBM-API-Version:2026-01-01                         403 404 403 403
		tenants.targets   GET /v1/tenants/x/targets IBM-API-Version:2026-01-01                 403 404 403 403
		tenants.targets   GET /v1/tenants/x/targets/y IBM-API-Version:2026-01-01               403 404 403 403
		accessgroups.list GET /v2/groups/                                                      403 403 403 200
		accessgroups.get  GET /v2/groups/x                                                     403 403 403 404
		secrets.delete    DELETE /api/v2/secrets/$TOKEN                                        403 403 403 204`) {
		words := strings.Fields(row)
		request, statuses := strings.Join(words[1:len(words)-4], " "), words[len(words)-4:]
		for i, who := range []string{"bootstrap", "workload", "reader", "admin"} {
			s.play(who + " " + request + " => " + statuses[i])
			if got := s.lastOp(); got != words[0] {
				t.Errorf("%s: got the operation %q, want %q", request, got, words[0])
			}
		}
		s.play("nobody " + request + " => 401")
	}
}

// Each service's errors have JSON of their own. A path of no service is answered with Secrets Manager's.
func TestErrorBodies(t *testing.T) {
	s := newStory(newClient(t, ibmcloudtest.Options{}))
	shapes := map[string]string{
		"token":  `{"errorCode":"*","errorMessage":"*","context":{"requestId":"*"}}`,
		"keys":   `{"errors":[{"code":"*","message":"*","message_code":"*"}],"trace":"*","context":{"transaction_id":"*","operation":"*","url":"*"},"status_code":"%s"}`,
		"common": `{"errors":[{"code":"*","message":"*"}],"trace":"*","status_code":%s}`,
	}
	s.play(`admin POST /v3/targets/$WORKLOAD_KEY => 501 {"errors":[{"message":"The sandbox does not serve POST /v3/targets/REDACTED."}]}`)
	for row := range strings.Lines(`common 404 GET /api/v2/secrets/none
		common 404 GET /nowhere
		common 404 GET /api/v2/secrets//metadata
		common 404 GET /v9/targets
		common 404 GET /api/v1/secrets
		token  404 GET /identity/nowhere
		keys   404 GET /v1/apikeys/x/nowhere
		common 405 POST / Allow: GET, HEAD
		common 405 PUT /api/v2/secrets Allow: GET, POST
		common 405 PUT /api/v2/secrets/x/metadata Allow: GET, PATCH
		common 405 DELETE /_sandbox/settings Allow: GET, PATCH
		keys   405 PUT /v1/apikeys/ Allow: GET, POST
		token  405 GET /identity/token Allow: POST
		common 501 POST /v3/targets
		common 501 GET /v2/groups/settings
		common 501 DELETE /v1/tenants
		keys   501 GET /v1/profiles/
		keys   501 PUT /v1/serviceids/x
		token  501 POST /identity/introspect`) {
		request, allow, _ := strings.Cut(strings.TrimSpace(row), " Allow: ")
		words := strings.Fields(request)
		status := words[1]
		want := strings.ReplaceAll(shapes[words[0]], "%s", status)
		s.play("admin " + words[2] + " " + words[3] + " => " + status + " " + want)
		got := s.ask("admin", words[2]+" "+words[3])
		if got.header.Get("Allow") != allow || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: got Allow %q, of type %q", request, got.header.Get("Allow"), got.header.Get("Content-Type"))
		}
		if op := s.lastOp(); !strings.Contains(request, "_sandbox") && (op == ibmcloudtest.OpNotServed) != (status == "501") {
			t.Errorf("%s: got the operation %q", request, op)
		}
	}
}

// Lists of secrets, and the pages of each kind of list, which link to each other.
func TestLists(t *testing.T) {
	s := newStory(newClient(t, ibmcloudtest.Options{}))
	s.play(`admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"beta","payload":"x","labels":["dev","us"],"description":"second"} => 201
		admin POST /api/v2/secrets {"secret_type":"kv","name":"alpha","data":{"k":"v"},"labels":["dev"]} => 201
		admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"gamma","payload":"x"} => 201
		admin GET /api/v2/secrets => 200 {"limit":200,"offset":0,"total_count":5}
		reader GET /api/v2/secrets => 200 {"total_count":1,"secrets":[{"name":"iam-token-default"}]}`)
	for query, want := range map[string]string{
		"":                                "api-key-default iam-token-default beta alpha gamma",
		"groups=default":                  "beta alpha gamma",
		"groups=default&sort=name":        "alpha beta gamma",
		"groups=default&sort=-name":       "gamma beta alpha",
		"groups=none":                     "",
		"search=SECOND":                   "beta",
		"search=us":                       "beta",
		"secret_types=kv":                 "alpha",
		"match_all_labels=dev":            "beta alpha",
		"match_all_labels=dev,us":         "beta",
		"groups=default&limit=1&offset=1": "alpha",
		"groups=default&offset=7":         "",
		"limit=0":                         "400", "limit=1001": "400", "limit=x": "400", "offset=-1": "400", "sort=colour": "400", "sort=-": "400",
	} {
		got := s.ask("admin", "GET /api/v2/secrets?"+query)
		var names []string
		for i := 0; got.at("secrets", i) != nil; i++ {
			names = append(names, fmt.Sprint(got.at("secrets", i, "name")))
		}
		if want != strings.Join(names, " ") && want != fmt.Sprint(got.status) {
			t.Errorf("%s: got %d %v, want %s", query, got.status, names, want)
		}
	}
	for range 4 {
		s.cloud.MustCreateAPIKey(s.values["IAM_ID"])
	}
	for first, sizes := range map[string]string{
		"/api/v2/secrets?limit=2&sort=name&search=a":                "2 2 1",
		"/api/v2/secrets?limit=5":                                   "5",
		"/v1/apikeys?pagesize=2&iam_id=$IAM_ID&account_id=$ACCOUNT": "2 2 1",
		"/v1/serviceids?pagesize=3":                                 "3 1",
		"/v2/groups?limit=1":                                        "1 1",
		"/api/v2/secrets?limit=3&offset=1&groups=default":           "2",
	} {
		var pages []string
		for items, page := 0, first; page != ""; items = 0 {
			got := s.ask("admin", "GET "+page)
			for _, list := range []string{"secrets", "apikeys", "serviceids", "groups"} {
				for ; got.at(list, items) != nil; items++ {
					if value := got.at(list, items, "apikey"); value != nil && value != "" {
						t.Error("a listing holds a key's value")
					}
				}
			}
			pages = append(pages, fmt.Sprint(items))
			if isFirst := len(pages) == 1 && !strings.Contains(first, "offset=1"); got.at("first") != nil && (got.at("previous") == nil) != isFirst {
				t.Errorf("%s, page %d: got the previous %v", first, len(pages), got.at("previous"))
			}
			link, _ := got.at("next").(string) // of IAM Identity Services
			if href, ok := got.at("next", "href").(string); ok {
				link = href
			}
			page = strings.TrimPrefix(link, "https://cloud.test")
		}
		if got := strings.Join(pages, " "); got != sizes {
			t.Errorf("%s: got pages of %s, want %s", first, got, sizes)
		}
	}
}

func TestFiftyVersionsAreKept(t *testing.T) {
	c := newClient(t, ibmcloudtest.Options{})
	id := c.cloud.Rotations()[0].TokenSecret
	for i := range 60 {
		c.cloud.MustPutVersion(id, fmt.Sprint(i), map[string]any{"n": i})
	}
	versions := c.cloud.MustVersions(id)
	if len(versions) != 50 || versions[49].Payload != "59" || versions[48].Payload != "58" || versions[47].PayloadAvailable || versions[0].Metadata["n"] != 10.0 {
		t.Errorf("got %d versions, the newest %+v; want 50, two with payload", len(versions), versions[len(versions)-1])
	}
}

const day = 24 * time.Hour

func TestAYearOfRotationsByRule(t *testing.T) {
	s := newStory(newClient(t, ibmcloudtest.Options{KeyPropagation: -1}))
	s.play(strings.ReplaceAll(managed, "advance 2s", ""))
	for n := 1; n <= 24; n++ {
		after := func(days int) string {
			return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(days) * day).Format("2006-01-02T15:04:05.000Z")
		}
		s.play("advance 360h\n" + fmt.Sprintf(`admin GET /api/v2/secrets/$id => 200 {"api_key":"$key%d","next_rotation_date":%q,"expiration_date":%q,"ttl":"1080h",\
			"service_id":"$ID","service_id_is_static":true,"reuse_api_key":true,"versions_total":%d,"rotation":{"auto_rotate":true,"interval":15,"unit":"day"}}`,
			n, after(15*n+15), after(15*n+45), n+1))
		for i := max(1, n-3); i <= n; i++ {
			s.play(fmt.Sprintf("exchange $key%d => %d", i, map[bool]int{true: 200, false: 400}[i > n-3]))
		}
	}
	s.play(`admin GET /api/v2/secrets/$id/versions/current/metadata => 200 {"auto_rotated":true,"api_key_id":"*"}
		# After a year without requests the next one makes up for all rotations. The fixed key and those of the last three rotations are left.
		advance 8760h
		exchange $key24 => 400
		admin GET /api/v2/secrets/$id => 200 {"versions_total":49,"next_rotation_date":"2028-03-05T12:00:00.000Z","api_key":"$last"}
		exchange $last => 200
		admin GET /v1/apikeys?iam_id=$IAM_ID => 200 {"apikeys":[{},{},{},{}]}`)
}

func TestWhatBecomesOfEarlierKeys(t *testing.T) {
	for settings, statuses := range map[string][4]int{ // of the key one and two rotations ago, rotated by rule and by request
		`{}`: {200, 200, 200, 200},
		`{"key_after_automatic_rotation":"at_once"}`: {400, 400, 200, 200},
		`{"key_after_manual_rotation":"at_once"}`:    {200, 200, 400, 400},
		`{"older_key":"deleted"}`:                    {200, 400, 200, 400},
	} {
		for i, rotation := range []string{"advance 360h", "admin POST /api/v2/secrets/$id/versions {} => 201\nadvance 2s"} {
			s := newStory(newClient(t, ibmcloudtest.Options{}))
			s.play("nobody PATCH /_sandbox/settings " + settings + " => 200" + managed + rotation)
			s.play(fmt.Sprintf("admin GET /api/v2/secrets/$id => 200 {\"api_key\":\"$second\"}\nexchange $first => %d", statuses[2*i]))
			s.play(rotation + fmt.Sprintf("\nexchange $first => %d\nexchange $second => %d", statuses[2*i+1], statuses[2*i]))
		}
	}
}

// What prevents a rotation by request prevents rotations by rule, too. Those are tried again each day.
func TestRotationsThatAreRefused(t *testing.T) {
	const rotate = "\nadmin POST /api/v2/secrets/$id/versions {} => "
	for name, test := range map[string]struct {
		prevent, allow string
		status         string
	}{
		"a lock on the previous version": {rotate + `201
			admin POST /api/v2/secrets/$id/versions/previous/locks_bulk {"locks":[{"name":"job"}]} => 201`,
			"admin DELETE /api/v2/secrets/$id/versions/previous/locks_bulk => 200", "412"},
		"no authorization": {`nobody PATCH /_sandbox/settings {"key_authorization":"none"} => 200`,
			`nobody PATCH /_sandbox/settings {"key_authorization":"service_ids"} => 200`, "400"},
		"no authorization on groups": {`nobody PATCH /_sandbox/settings {"groups_authorization":"required"} => 200`,
			`nobody PATCH /_sandbox/settings {"groups_authorization":"not_required"} => 200`, "400"},
		"as many keys as there can be": {strings.Repeat(`admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID"} => 201 {"id":"*"}`+"\n", 17) +
			`admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID"} => 201 {"id":"$one"}
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID"} => 409`, "admin DELETE /v1/apikeys/$one => 204", "400"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(newClient(t, ibmcloudtest.Options{}))
			s.play(managed + test.prevent + rotate + test.status + `
				admin GET /api/v2/secrets/$id => 200 {"api_key":"$now"}
				advance 480h
				admin GET /api/v2/secrets/$id => 200 {"api_key":"$now"}`)
			s.play(test.allow + `
				advance 24h
				admin GET /api/v2/secrets/$id => 200 {"api_key":"!$now"}`)
		})
	}
}

// Requests see what the Must… methods create.
func TestWhatIsMade(t *testing.T) {
	s := newStory(newClient(t, ibmcloudtest.Options{}))
	cloud, group := s.cloud, s.cloud.TokenGroupName()
	kv := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: group, Data: map[string]any{"iam_token": "x"}, Metadata: map[string]any{"m": "n"}})
	if got := cloud.MustCurrent(kv); got.Data["iam_token"] != "x" || got.Metadata["m"] != "n" {
		t.Errorf("kv: got %+v", got)
	}
	s.values["iam"] = cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", ReuseAPIKey: true, RotateDays: 1})
	s.values["service"] = cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "service_credentials"})
	s.values["locked"] = cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "x", Expires: time.Now().Add(1000 * day)})
	s.values["copy"] = cloud.MustCreateAPIKey(cloud.MustCopyServiceID(cloud.ReaderIAMID()))
	s.values["stranger"] = cloud.MustCreateAPIKey(cloud.MustCreateServiceID("stranger", strings.Repeat("0", 32)))
	s.values["kv"] = kv
	cloud.MustLock(s.values["locked"], "current", "job")
	cloud.MustSetVersionMetadata(kv, "current", nil)
	s.play(`reader GET /api/v2/secrets/$kv => 200 {"data":{"iam_token":"x"}}
		reader GET /api/v2/secrets/$kv/versions/current/metadata => 200 {"version_custom_metadata":null}
		bootstrap GET /api/v2/secrets/$iam => 200 {"api_key":"$one"}
		exchange $one => 200 {"access_token":"$workload"}
		$workload GET /v3/settings => 200
		bootstrap GET /api/v2/secrets/$service => 200 {"credentials":{"apikey":"$two"}}
		exchange $two => 200
		exchange $stranger => 200 {"access_token":"$strange"}
		$strange GET /v3/targets => 403
		exchange $copy => 200 {"access_token":"$second"}
		$second GET /api/v2/secrets/$kv => 200
		admin DELETE /api/v2/secrets/$locked => 412`)
	if got := cloud.MustCurrent(s.values["iam"]).Payload; got != s.values["one"] {
		t.Error("iam_credentials: got another key than MustCurrent")
	}
	if got := cloud.MustRotateSecret(s.values["iam"]).Payload; got == s.values["one"] || got == "" {
		t.Error("the rotated secret has no other key")
	}
	cloud.MustUnlock(s.values["locked"])
	s.play("admin GET /api/v2/secrets/$locked/locks => 200 {\"total_count\":0}")
	cloud.MustDeleteSecret(s.values["locked"])
	cloud.MustDeleteAPIKey(s.values["copy"])
	s.play("admin GET /api/v2/secrets/$locked => 404\nexchange $copy => 400")
}

// The page's table of settings has the names and allowed values of the code, the default first.
func TestThePageHasEachSetting(t *testing.T) {
	page, err := os.ReadFile("../../scripts/sandbox/README.md")
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, ibmcloudtest.Options{})
	settings := c.want(200, "", "GET", "/_sandbox/settings", "").body.(map[string]any)
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
