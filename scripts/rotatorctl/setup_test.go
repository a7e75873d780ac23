package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"iam-token-rotator/functions/ibmcloudtest"
)

// A scenario is one run of setup. With exit 0 everything must exist after it. With another exit it must print no result. After
// exit 1 the next run, without the fault, must complete the work.
type scenario struct {
	managed bool
	arrange func(fx *fixture) // what exists before, and the fault
	args    string
	exit    int
	words   string                      // on stderr, with | between them
	then    func(fx *fixture, made run) // the checks in place of those above
}

func (test scenario) play(t *testing.T) {
	fx := newFixture(t, test.managed)
	if test.arrange != nil {
		test.arrange(fx)
	}
	fx.forget()
	r := fx.run(strings.Fields(strings.ReplaceAll(test.args, "FOLDER", fx.folder))...)
	for words := range strings.SplitSeq(test.words, "|") {
		if r.exit != test.exit || !strings.Contains(r.stderr, words) {
			t.Fatalf("got exit %d, %q; want %d and the words %q", r.exit, r.stderr, test.exit, words)
		}
	}
	if requests := len(fx.cloud.Requests()); test.exit > 0 && r.stdout != "" || test.exit == 2 && requests > 0 {
		t.Errorf("got %q and %d requests, want no result, and no request with wrong usage", r.stdout, requests)
	}
	switch {
	case test.then != nil:
		test.then(fx, r)
	case test.exit == 0:
		fx.complete(r, 0)
	case test.exit == 1:
		fx.repair()
		fx.complete(fx.succeed(), 0)
	}
}

// fault is a scenario in which an operation fails.
func fault(f ibmcloudtest.Fault, words string) scenario {
	return scenario{arrange: func(fx *fixture) { fx.fault(f) }, exit: 1, words: words}
}

// trial is a scenario in which the exchange of a new key fails. The error must be about that key, not about the person's login.
func trial(f ibmcloudtest.Fault, words string) scenario {
	f.Op = ibmcloudtest.OpIAMToken
	test := fault(f, "trying the new key ApiKey-| of the workload service id: |Run setup again: it makes another key|"+words)
	test.then = func(fx *fixture, r run) {
		for _, words := range []string{"IAM_TOKEN", "fetch a new one", "Needed: ", "private-only", "Check the ids"} {
			if strings.Contains(r.stderr, words) {
				fx.t.Errorf("got %q, which is not about the key: %q", r.stderr, words)
			}
		}
		fx.repair()
		fx.complete(fx.succeed(), 0)
	}
	return test
}

// noNextRun is for faults that the next run cannot repair.
func noNextRun(*fixture, run) {}

// nothingAtAWS checks that nothing was stored in AWS.
func nothingAtAWS(fx *fixture, _ run) {
	if len(fx.aws.writes) > 0 {
		fx.t.Errorf("AWS: got %q, want nothing stored", fx.aws.writes)
	}
}

// lacks checks that these variables are not printed, and that AWS has no key.
func lacks(names ...string) func(*fixture, run) {
	return func(fx *fixture, r run) {
		nothingAtAWS(fx, r)
		fx.owner(fx.cloud.MustCurrent(r.values["API_KEY_SECRET"]).Payload, fx.outputs["workload_iam_id"])
		for _, name := range names {
			want(fx.t, name, r.values[name], "")
		}
	}
}

// open is a scenario with managed keys, and one choice of what IBM does not document. The simulated year tests the function so.
func open(u ibmcloudtest.Undocumented, arrange func(*fixture), words string) scenario {
	test := scenario{managed: true, words: words, arrange: func(fx *fixture) {
		fx.cloud.Set(u)
		if arrange != nil {
			arrange(fx)
		}
	}}
	if strings.Contains(words, "use another --name") || strings.Contains(words, "may not make") {
		test.exit, test.then = 1, nothingAtAWS
	}
	return test
}

func outputIs(name, value string) func(*fixture) {
	return func(fx *fixture) { fx.outputs[name] = value }
}
func envIs(name, value string) func(*fixture) { return func(fx *fixture) { fx.env[name] = value } }

func made(fx *fixture) { fx.succeed() }

// oneFixedKey checks that setup has made no other fixed key for the bootstrap than the one that AWS has, or had.
func oneFixedKey(fx *fixture, _ run) {
	want(fx.t, "fixed keys of the bootstrap", len(fx.keyIDs("bootstrap")), 1)
}

// madeAndAWSAway has a complete set-up, and AWS that does not answer any more.
func madeAndAWSAway(fx *fixture) {
	fx.succeed()
	fx.aws.url = "http://127.0.0.1:1"
}

// ended has managed keys that IBM did not rotate until the last one had expired.
func ended(fx *fixture) {
	fx.succeed()
	fx.cloud.Set(ibmcloudtest.Undocumented{AutomaticRotation: "fails"})
	fx.later(46 * day)
}

// taken has a secret with the name in another group.
func taken(fx *fixture) {
	fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Name: "iam-token-rotator-api-key", Group: "default", ReuseAPIKey: true})
}

func scenarios() map[string]scenario {
	const html = "<html>pwned"
	type faulty = ibmcloudtest.Fault
	type undocumented = ibmcloudtest.Undocumented
	list := func(f faulty, words string) scenario { f.Op = ibmcloudtest.OpSecretsList; return fault(f, words) }
	code := func(code string) string { return `{"errorCode":"` + code + `","errorMessage":"pwned"}` }
	// redirected answers with the address of a host that must get no request, and so no token or key.
	redirected := func(fx *fixture, op string) {
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fx.t.Error("a redirect is followed") }))
		fx.t.Cleanup(other.Close)
		fx.fault(faulty{Op: op, Status: 302, Headers: map[string]string{"Location": other.URL}})
	}
	// deleted deletes the bootstrap's managed secret, as a person would.
	deleted := func(fx *fixture) {
		for _, secret := range fx.asAdmin("GET", "/api/v2/secrets?limit=200", "")["secrets"].([]any) {
			if secret := secret.(map[string]any); secret["name"] == "iam-token-rotator-bootstrap-key" {
				fx.cloud.MustDeleteSecret(secret["id"].(string))
			}
		}
	}
	unknown := func(times int) func(*fixture) {
		return func(fx *fixture) {
			fx.fault(faulty{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityBootstrap, Status: 400, Times: times, Body: code("BXNIM0415E")})
		}
	}
	iamCredentials := func(role string, spec ibmcloudtest.SecretSpec) func(*fixture) {
		return func(fx *fixture) {
			spec.Type, spec.Name = "iam_credentials", "iam-token-rotator-"+role
			spec.IAMID = fx.outputs["bootstrap_iam_id"]
			fx.cloud.MustCreateSecret(spec)
		}
	}
	// changed has a complete managed set-up, and then another version at AWS.
	changed := func(change func(*fakeAWS)) func(*fixture) {
		return func(fx *fixture) {
			fx.succeed()
			fx.aws.version = [2]string{"fixed", ""}
			change(fx.aws)
		}
	}
	byKey := func(key func(*fixture) string, faults ...faulty) func(*fixture) {
		return func(fx *fixture) {
			fx.env["IAM_TOKEN"], fx.env["IBMCLOUD_API_KEY"] = "", key(fx)
			for _, f := range faults {
				fx.fault(f)
			}
		}
	}
	admins := func(fx *fixture) string { return fx.cloud.AdminAPIKey() }
	usage := func(args, words string, arrange func(*fixture)) scenario {
		return scenario{args: args, exit: 2, words: words, arrange: arrange}
	}
	key := strings.Repeat("k", 44)
	return map[string]scenario{
		"all is made": {words: "created the token secret|made the key|of the bootstrap service id, tried it and stored it"},
		"a kv secret": {args: "--kv", then: func(fx *fixture, r run) { // a later run finds it, and without the mark the function writes none
			id := r.values["TOKEN_SECRET"]
			if current := fx.cloud.MustCurrent(id); current.Data["iam_token"] != "no token yet" || current.Metadata["rotator_version"] != "rotatorctl" {
				fx.t.Errorf("got %v with the metadata %v, want the entry iam_token and rotator_version", current.Data, current.Metadata)
			}
			want(fx.t, "the token secret again", fx.succeed().values["TOKEN_SECRET"], id)
		}},
		"a further workload": {arrange: made, args: "--name billing --no-bootstrap-key", then: func(fx *fixture, r run) {
			first := fx.succeed()
			if r.values["BOOTSTRAP_APIKEY_ID"] != "" || r.values["API_KEY_SECRET"] == first.values["API_KEY_SECRET"] {
				fx.t.Errorf("got %q, want its own secrets and no bootstrap key", r.values)
			}
			fx.complete(first, 0)
		}},
		"a further managed workload": {managed: true, args: "--name jobs --no-bootstrap-key",
			then: lacks("BOOTSTRAP_KEY_SECRET", "BOOTSTRAP_SECRET_ARN", "BOOTSTRAP_APIKEY_ID")},
		"a managed key and a file": {managed: true, args: "--bootstrap-key-file FOLDER/bootstrap.key", then: func(fx *fixture, r run) {
			lacks("BOOTSTRAP_KEY_SECRET", "BOOTSTRAP_SECRET_ARN")(fx, r)
			fx.owner(fx.read("bootstrap.key"), fx.outputs["bootstrap_iam_id"])
		}},
		"a trusted profile": {arrange: func(fx *fixture) {
			fx.outputs["bootstrap_iam_id"], fx.outputs["iam_profile_id"] = "", fx.cloud.ProfileID()
		}, then: func(fx *fixture, r run) {
			lacks("BOOTSTRAP_APIKEY_ID", "BOOTSTRAP_SECRET_ARN")(fx, r)
			want(fx.t, "the profile", r.values["IAM_PROFILE_ID"], fx.cloud.ProfileID())
		}},
		"passing faults": {arrange: func(fx *fixture) {
			fx.fault(faulty{Op: "secrets.list", Times: 3, Drop: ibmcloudtest.DropBefore}) // net/http repeats one by itself
			fx.fault(faulty{Op: "secrets.list", Times: 1, Status: 500})
			fx.fault(faulty{Op: "apikeys.create", Times: 2, Status: 429, Headers: map[string]string{"Retry-After": "1"}})
			fx.fault(faulty{Op: "iam.token", Times: 3, Status: 400, Body: code("BXNIM0415E")}) // IAM does not know the key yet
		}},
		"keys that end": {arrange: func(fx *fixture) { fx.succeed("--expires-in", "13") }, words: "Run setup again with --rotate-keys"},
		"keys for ever": {args: "--expires-in 0", then: func(fx *fixture, r run) { want(fx.t, "end", r.values["BOOTSTRAP_EXPIRES_AT"], "") }},
		"one account's id": {arrange: outputIs("account_id", strings.Repeat("0", 32)), exit: 1,
			words: "listing the API keys of the workload service id: HTTP 400. Check the ids", then: noNextRun},
		"a private instance": {arrange: outputIs("secrets_manager_url", "http://127.0.0.1:1"), exit: 1, words: "allow public-and-private"},
		"a locked key":       {arrange: func(fx *fixture) { made(fx); fx.fault(faulty{Op: "apikeys.update", Times: 1, Status: 409}) }, args: "--rotate-keys", exit: 1, words: "noting at IAM that|Is the key locked", then: noNextRun},
		"401":                list(faulty{Status: 401}, "fetch a new one"),
		"403": list(faulty{Status: 403, Body: `{"errors":[{"code":"\u001b[31m","message":"pwned"}]}`},
			"Needed: Manager on the Secrets Manager instance. A new policy takes minutes to reach everywhere; or a context-based restriction"),
		"404": list(faulty{Status: 404}, "Check the ids"),
		"400": list(faulty{Status: 400, Body: `{"errors":[{"code":"secrets-manager.Error07012","message":"pwned"}]}`},
			"HTTP 400 secrets-manager.Error07012. Check the ids"),
		"409":                  list(faulty{Status: 409}, "use another --name"),
		"429":                  list(faulty{Status: 429, Headers: map[string]string{"Retry-After": "99999"}}, "Try again later"),
		"500":                  list(faulty{Status: 500, Body: html, ContentType: "text/html"}, "Try again later"),
		"redirect":             {arrange: func(fx *fixture) { redirected(fx, ibmcloudtest.OpSecretsList) }, exit: 1, words: "check the URL"},
		"not JSON":             list(faulty{Status: 200, Body: html, ContentType: "text/html"}, "check the URL"),
		"null":                 list(faulty{Status: 200, Body: "null"}, "check SECRETS_MANAGER_URL"),
		"too long":             list(faulty{Status: 200, Body: `{"secrets":[` + strings.Repeat(" ", answerLimit)}, "no answer"),
		"trial: no answer":     trial(faulty{Drop: ibmcloudtest.DropBefore}, "no answer. Check IAM_URL"),
		"trial: redirect":      {arrange: func(fx *fixture) { redirected(fx, ibmcloudtest.OpIAMToken) }, exit: 1, words: "HTTP 302. The answer is not IAM's"},
		"trial: a page":        trial(faulty{Status: 200, Body: html, ContentType: "text/html"}, "HTTP 200. The answer is not IAM's"),
		"trial: no token":      trial(faulty{Status: 200, Body: "{}"}, "HTTP 200. The answer is not IAM's"),
		"trial: 400":           trial(faulty{Status: 400, Body: code("BXNIM0109E")}, "HTTP 400 BXNIM0109E. A property is missing from the request. Run"),
		"trial: 401":           trial(faulty{Status: 401}, "HTTP 401. IAM rejects the key"),
		"trial: unknown":       trial(faulty{Status: 400, Body: code("BXNIM0415E")}, "The key is not known to IAM"),
		"trial: restriction":   trial(faulty{Status: 403, Body: html, ContentType: "text/html"}, "HTTP 403. The key may not be used from this address"),
		"AWS refuses":          {arrange: func(fx *fixture) { fx.aws.fail = "AccessDeniedException" }, exit: 1, words: "you need secretsmanager:DescribeSecret"},
		"AWS's answer is lost": {arrange: func(fx *fixture) { fx.aws.lose = true }, exit: 1, words: "no answer: check AWS_REGION"},
		"AWS deletes it":       {arrange: func(fx *fixture) { made(fx); fx.aws.deleted = true }, args: "--rotate-keys", exit: 1, words: "restore-secret"},
		"AWS deletes it soon":  {arrange: func(fx *fixture) { made(fx); fx.aws.deleted = true }, exit: 1, words: "restore-secret --secret-id arn:aws:"},
		"AWS has deleted it": {arrange: func(fx *fixture) { made(fx); delete(fx.aws.secrets, defaultAWSSecret) }, exit: 1, words: "is gone: run setup again with --rotate-keys",
			then: func(fx *fixture, _ run) { fx.complete(fx.succeed("--rotate-keys"), 1) }},
		"AWS is not needed":   {arrange: madeAndAWSAway, words: "was not checked: reading the metadata of the AWS secret arn:aws:|no answer"},
		"AWS away":            {arrange: madeAndAWSAway, args: "--rotate-keys", exit: 1, words: "no answer: check AWS_REGION", then: nothingAtAWS},
		"AWS away, elsewhere": {arrange: madeAndAWSAway, args: "--aws-secret another", exit: 1, words: "no answer: check AWS_REGION"},

		"managed: AWS refuses":          {managed: true, arrange: changed(func(f *fakeAWS) { f.fail = "InternalServiceError" }), exit: 1, words: "the AWS secret"},
		"managed: AWS's answer is lost": {managed: true, arrange: changed(func(f *fakeAWS) { f.lose = true }), exit: 1, words: "the AWS secret"},
		"managed: a slow key":           {managed: true, arrange: unknown(29)}, // not a minute
		"managed: a bad key": {managed: true, arrange: unknown(0), exit: 1,
			words: "The key is not known to IAM. It was deleted, has expired or was made seconds ago. The keys in use are unchanged",
			then: func(fx *fixture, r run) {
				nothingAtAWS(fx, r)
				fx.fail("The keys in use are unchanged") // nor by the next run
				fx.repair()
				fx.complete(fx.succeed(), 0)
			}},
		"the key before":         open(undocumented{}, nil, "and the one before still does"),
		"the key before at once": open(undocumented{KeyAfterManualRotation: "at_once"}, nil, "IBM has ended the one before at once"),
		"a taken name, 409":      open(undocumented{Duplicate: 409}, taken, "use another --name"),
		"a taken name, 400":      open(undocumented{Duplicate: 400}, taken, "use another --name"),
		"by account":             open(undocumented{KeyAuthorization: "account"}, nil, ""),
		"by service ids":         open(undocumented{KeyAuthorization: "service_ids"}, nil, ""),
		"no authorization":       open(undocumented{KeyAuthorization: "none"}, nil, "creating the secret iam-token-rotator-api-key: HTTP 400. Secrets Manager may not make keys"),
		"ended, 400 and 200":     open(undocumented{Destroyed: 400, EndedKeySecret: 200}, ended, "has ended, so it makes no more keys"),
		"ended, 404":             open(undocumented{Destroyed: 404, EndedKeySecret: 404}, ended, "has ended, so it makes no more keys"),
		"ended, 410":             open(undocumented{Destroyed: 410, EndedKeySecret: 410}, ended, "has ended, so it makes no more keys"),
		"ended, 412":             open(undocumented{Destroyed: 412}, ended, "has ended, so it makes no more keys"),
		"a change of the rule":   open(undocumented{RuleChange: "rotates"}, made, "has the current key"),
		"policies on own keys":   open(undocumented{OwnKeys: "policy"}, made, "has the current key"),
		"another service id":     {managed: true, arrange: iamCredentials("api-key", ibmcloudtest.SecretSpec{ReuseAPIKey: true}), exit: 1, words: "another service id", then: nothingAtAWS},
		"a key for each reading": {managed: true, arrange: iamCredentials("bootstrap-key", ibmcloudtest.SecretSpec{}), exit: 1, words: "reuse_api_key false", then: nothingAtAWS},
		"twenty keys": {managed: true, exit: 1, words: "20 already", then: nothingAtAWS, arrange: func(fx *fixture) {
			for range 20 {
				fx.cloud.MustCreateAPIKey(fx.outputs["bootstrap_iam_id"])
			}
		}},
		"a lock": {managed: true, exit: 1, words: "remove its locks", then: nothingAtAWS, arrange: func(fx *fixture) {
			fx.cloud.MustLock(fx.succeed().values["API_KEY_SECRET"], "previous", "job")
			fx.cloud.Set(undocumented{EndedKeySecret: 404})
			fx.later(46 * day)
		}},
		"a rotation by IBM": {managed: true, arrange: func(fx *fixture) { made(fx); fx.later(20 * day) },
			words: "stored the key", then: (*fixture).followed}, // the function has not stored it
		"a replaced service id": {managed: true, exit: 1, words: "another service id", arrange: func(fx *fixture) {
			made(fx)
			fx.outputs["bootstrap_iam_id"] = fx.cloud.MustCreateServiceID("successor", "")
		}, then: func(fx *fixture, _ run) {
			deleted(fx)
			fx.complete(fx.succeed(), 0)
		}},
		"a deleted secret": {managed: true, arrange: func(fx *fixture) { made(fx); deleted(fx) }}, // AWS gets another fixed key before
		"a rotation without effect": {managed: true, exit: 1, words: "has the same key after a rotation", arrange: func(fx *fixture) {
			fx.lie("/api/v2/secrets/", "api_key_id", "ApiKey-00000000-0000-0000-0000-000000000000")
		}},
		"from fixed to managed": {arrange: func(fx *fixture) { made(fx); fx.outputs["managed_keys"] = "true" }, args: "--rotate-keys",
			words: "holds the workload's fixed key|--rotate-keys does not change the keys that IBM manages"},
		"to managed": {arrange: func(fx *fixture) { made(fx); fx.outputs["managed_keys"] = "true" }, words: "stored the key",
			then: oneFixedKey},
		"to managed, AWS refuses": {arrange: func(fx *fixture) {
			made(fx)
			fx.outputs["managed_keys"], fx.aws.fail = "true", "AccessDeniedException"
		}, exit: 1, words: "storing the bootstrap key in the AWS secret", then: oneFixedKey},

		"not IAM_TOKEN": {arrange: envIs("IAM_TOKEN", "nonsense"), exit: 1, words: "fetch a new one"},
		"a reader's": {arrange: func(fx *fixture) { _, fx.env["IAM_TOKEN"] = fx.exchange(fx.cloud.ReaderAPIKey()) },
			exit: 1, words: "Needed: Operator on the service id"},
		"by key":      {arrange: byKey(admins)},
		"by key, 401": {arrange: byKey(admins, faulty{Op: ibmcloudtest.OpSecretsList, Times: 1, Status: 401}), exit: 1, words: "HTTP 401. The token that IAM gave for IBMCLOUD_API_KEY is rejected"},
		"by an unknown key": {arrange: byKey(func(*fixture) string { return key }), exit: 1,
			words: "logging in with IBMCLOUD_API_KEY: HTTP 400 BXNIM0415E. The key is not known to IAM. It was deleted, has expired or was made seconds ago: replace it with a valid key."},
		"by JSON":  usage("", "IBMCLOUD_API_KEY is JSON", byKey(func(*fixture) string { return "{}" })),
		"no login": usage("", "set IAM_TOKEN or IBMCLOUD_API_KEY", envIs("IAM_TOKEN", "")),

		"a key that is another's": {arrange: func(fx *fixture) { fx.lie("/v1/apikeys", "apikey", fx.cloud.ReaderAPIKey()) },
			exit: 1, words: "its token is another identity's or account's"},
		"a key that is none": {arrange: func(fx *fixture) { fx.lie("/v1/apikeys", "apikey", key) },
			exit: 1, words: "HTTP 400 BXNIM0415E. The key is not known to IAM"},

		"name of a path":         usage("--name ../x", "--name takes", nil),
		"days past all dates":    usage("--expires-in 10000", "9999 at most", nil),
		"days ago":               usage("--expires-in=-1", "9999 at most", nil),
		"a file and no key":      usage("--bootstrap-key-file b.key --no-bootstrap-key", "leaves nothing to write", nil),
		"no outputs":             usage("--terraform /nowhere", "the outputs cannot be read: there is no such file or folder", nil),
		"no folder for the file": usage("--reader-key-file /nowhere/\x1breader.key", `/nowhere/\x1breader.key cannot be written`, nil),
		"a folder for the file":  usage("--bootstrap-key-file FOLDER", "cannot be written", nil),
		"one file for two keys":  usage("--reader-key-file FOLDER/both.key --bootstrap-key-file FOLDER/./both.key", "give each its own", nil),
		"one for a key and ids":  usage("--reader-key-file FOLDER/both.key --env FOLDER/./both.key", "give each its own", nil),
		"an unset variable":      usage("--env=", "--env takes a file", nil),
		"a device for the file":  usage("--reader-key-file /dev/null", "cannot be written", nil),
		"plain http":             usage("", "IAM_URL must be an https URL", envIs("IAM_URL", "http://iam.cloud.ibm.com")),
		"URL without an id":      usage("", "its host complete", outputIs("secrets_manager_url", "https://null.us-south.secrets-manager.appdomain.cloud")),
		"URL with a placeholder": usage("", "its host complete", outputIs("secrets_manager_url", "https://<id>.us-south.secrets-manager.appdomain.cloud")),
		"URL with a user":        usage("", "without a path", outputIs("secrets_manager_url", "https://u:p@example.com")),
		"Terraform not applied":  usage("", "after terraform apply", func(fx *fixture) { fx.outputs = nil }),
		"an output is missing":   usage("", "KEY_GROUP_ID is not set", outputIs("key_group_id", "")),
		"a newline after the id": usage("", "WORKLOAD_IAM_ID does not have the form", func(fx *fixture) { fx.outputs["workload_iam_id"] += "\n" }),
		"another profile":        usage("", "IAM_PROFILE_ID does not have the form", outputIs("iam_profile_id", "$(id)")),
		"not true or false":      usage("", "MANAGED_KEYS does not have the form", outputIs("managed_keys", "yes")),
		"a file for no key":      usage("--bootstrap-key-file b.key", "BOOTSTRAP_IAM_ID is empty", outputIs("bootstrap_iam_id", "")),
	}
}

func TestSetup(t *testing.T) {
	for name, test := range scenarios() {
		t.Run(name, test.play)
	}
}

// TestFirstRun checks what setup makes, each form of its output, and that another run changes nothing.
func TestFirstRun(t *testing.T) {
	fx := newFixture(t, false)
	file := []string{"--reader-key-file", fx.path("reader.key")}
	r := fx.succeed(append(file, "--aws-kms-key-id", "alias/own")...)
	fx.complete(r, 0)
	fx.owner(fx.read("reader.key"), fx.cloud.ReaderIAMID())
	day, token := time.Now().UTC().AddDate(0, 0, 90).Format(time.DateOnly), fx.cloud.MustCurrent(r.values["TOKEN_SECRET"])
	for _, found := range [][2]any{
		{slices.Sorted(maps.Keys(r.values)), "[API_KEY_SECRET BOOTSTRAP_APIKEY_ID BOOTSTRAP_EXPIRES_AT BOOTSTRAP_SECRET_ARN EXPECT_ACCOUNT EXPECT_IAM_ID READER_APIKEY_ID SECRETS_MANAGER_URL TOKEN_SECRET WORKLOAD_APIKEY_ID]"},
		{r.values["EXPECT_ACCOUNT"], fx.cloud.AccountID()}, {r.values["EXPECT_IAM_ID"], fx.outputs["workload_iam_id"]}, {r.values["BOOTSTRAP_EXPIRES_AT"], day},
		{r.values["BOOTSTRAP_SECRET_ARN"], "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-rotator/bootstrap-a1b2c3"},
		{token.Payload, "no token yet"}, {len(token.Metadata), 0}, {fx.asAdmin("GET", "/api/v2/secrets/"+r.values["TOKEN_SECRET"], "")["expiration_date"], nil},
		{fx.cloud.MustCurrent(r.values["API_KEY_SECRET"]).Metadata["apikey_id"], r.values["WORKLOAD_APIKEY_ID"]}, {fx.aws.kms, "alias/own"},
	} {
		want(t, "made", found[0], found[1])
	}
	earlier := regexp.MustCompile(`^stored in \S+ by set-up-secrets$`)
	for _, role := range []string{"bootstrap", "workload"} {
		key := fx.asAdmin("GET", "/v1/apikeys/"+fx.keyIDs(role)[0], "")
		if key["action_when_leaked"] != "disable" || !strings.HasPrefix(fmt.Sprint(key["expires_at"]), day) || key["apikey"] != "" ||
			!earlier.MatchString(fmt.Sprint(key["description"])) {
			t.Errorf("%s: got %v, want disable, %s, no stored value, and a description that the earlier program reads", role, key, day)
		}
	}
	noError(t, os.Remove(fx.path("reader.key")))
	again := fx.unchanged(r, file...)
	if _, err := os.Stat(fx.path("reader.key")); err == nil || !strings.Contains(again.stderr, "reader.key is not there") ||
		strings.Contains(again.stderr, "--rotate-keys.") {
		t.Errorf("got %v, %s; want no file written again, and new keys not warned of", err, again.stderr)
	}
	printed := fx.succeed(append(file, "-o", "json", "--env", fx.path("ibm.env"))...).stdout
	want(t, "--env", fx.read("ibm.env")+"\n", r.stdout)
	var document map[string]any
	_ = json.Unmarshal([]byte(printed), &document)
	want(t, "json", document["rotation"], map[string]any{"name": "iam-token-rotator", "api_key_secret": r.values["API_KEY_SECRET"],
		"token_secret": r.values["TOKEN_SECRET"],
		"expect":       map[string]any{"account": fx.cloud.AccountID(), "iam_id": fx.outputs["workload_iam_id"]}})
	want(t, "json", document["EXPECT_ACCOUNT"], fx.cloud.AccountID())
}

func TestFirstRunWithManagedKeys(t *testing.T) {
	fx := newFixture(t, true)
	file := []string{"--reader-key-file", fx.path("reader.key")}
	r := fx.succeed(file...)
	fx.complete(r, 0)
	want(t, "names", slices.Sorted(maps.Keys(r.values)),
		"[API_KEY_SECRET BOOTSTRAP_KEY_SECRET BOOTSTRAP_SECRET_ARN EXPECT_ACCOUNT EXPECT_IAM_ID READER_APIKEY_ID SECRETS_MANAGER_URL TOKEN_SECRET]")
	end := fmt.Sprint(fx.asAdmin("GET", "/v1/apikeys/"+fx.keyIDs("bootstrap")[0], "")["expires_at"])
	want(t, "the fixed key of the bootstrap expires", end[:len(time.DateOnly)], time.Now().UTC().AddDate(0, 0, 30).Format(time.DateOnly))
	want(t, "fixed keys of the workload", len(fx.keyIDs("workload")), 0)
	fx.unchanged(r, file...)
	changed := fx.succeed(append(file, "--rotate-keys")...) // the reader's key is one of setup's
	want(t, "--rotate-keys", fx.writes(), "[apikeys.create apikeys.update]")
	want(t, "--rotate-keys: the key secret", changed.values["API_KEY_SECRET"], r.values["API_KEY_SECRET"])
}

// TestCutOffAtEachRequest: from one request on, no request is answered, as if the machine had been switched off. The next run must
// complete the work. setup must leave no lost key. Until the end of a replacement the old service ids must work.
func TestCutOffAtEachRequest(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		managed, replaces bool
		old, least, step  int // keys before this run; requests of a whole run; requests between two tries
	}{
		"fixed": {least: 16, step: 1}, "rotated": {old: 1, least: 16, step: 1}, "managed": {managed: true, least: 20, step: 1},
		"replaced fixed": {replaces: true, least: 20, step: 4}, "replaced managed": {managed: true, replaces: true, least: 20, step: 1},
	} {
		for _, drop := range []string{ibmcloudtest.DropBefore, ibmcloudtest.DropAfter} {
			for n, done := 0, false; !done && n < 200; n += test.step { // -run may leave some out
				t.Run(fmt.Sprintf("%s/%s/%d", name, drop, n), func(t *testing.T) {
					th := &theft{fixture: newFixture(t, test.managed)}
					args := []string{"setup", "--terraform", "-", "--reader-key-file", th.path("reader.key")}
					switch {
					case test.replaces:
						th.steal(th.atAWS)
						args = slices.Concat(th.replaceArgs(), both)
					case test.old > 0:
						th.succeed(args[3:]...)
						args = append(args, "--rotate-keys")
					}
					th.fault(ibmcloudtest.Fault{Op: "*", Skip: n, Drop: drop})
					r := th.command(th.outputsJSON(), args...)
					th.cloud.ClearFaults()
					if done = r.exit == 0; done {
						want(t, "enough requests", n >= test.least, true)
						return
					}
					if r.exit != 1 || r.stdout != "" {
						t.Errorf("got exit %d, %q, %q; want 1 and no result", r.exit, r.stdout, r.stderr)
					}
					if test.replaces {
						th.goesOn()
						return
					}
					th.complete(th.succeed("--reader-key-file", th.path("reader.key")), test.old)
					th.owner(th.read("reader.key"), th.cloud.ReaderIAMID())
					want(t, "no lost key of the reader's", len(th.keyIDs("reader")) <= 1+test.old, true)
				})
			}
		}
	}
}

func TestRotateKeys(t *testing.T) {
	fx := newFixture(t, false)
	files := []string{"--reader-key-file", fx.path("reader.key")}
	first := fx.succeed(files...)
	elsewhere := fx.succeed("--aws-secret", "team/other")
	post := func(body string) string {
		return fx.asAdmin("POST", "/v1/apikeys", body+`,"iam_id":"`+fx.outputs["workload_iam_id"]+`"}`)["id"].(string)
	}
	post(`{"name":"somebody's"`)
	foreign := post(`{"name":"iam-token-rotator-workload","description":"$(touch /tmp/pwned)\u001b[2J"`)
	old := map[string]string{"bootstrap": fx.aws.secrets[defaultAWSSecret], "reader": fx.read("reader.key"), "workload": fx.cloud.MustCurrent(first.values["API_KEY_SECRET"]).Payload}
	fx.forget()
	second := fx.succeed(append(files, "--rotate-keys")...)
	for name, changed := range map[string]bool{"API_KEY_SECRET": false, "TOKEN_SECRET": false, "BOOTSTRAP_SECRET_ARN": false,
		"WORKLOAD_APIKEY_ID": true, "BOOTSTRAP_APIKEY_ID": true, "READER_APIKEY_ID": true} {
		want(t, name+" has changed", second.values[name] != first.values[name], changed)
	}
	want(t, "each key is made, stored and noted, and none is deleted", fx.writes(),
		"[apikeys.create versions.create apikeys.update apikeys.create apikeys.update apikeys.create apikeys.update UpdateSecret]")
	for role, key := range old {
		fx.owner(key, fx.outputs[role+"_iam_id"]) // which still works
	}
	if !strings.Contains(second.stderr, "setup did not make the key "+foreign) {
		t.Errorf("want a note of the foreign key:\n%s", second.stderr)
	}
	other := elsewhere.values["BOOTSTRAP_APIKEY_ID"]
	noted := regexp.MustCompile(`ibmcloud iam service-api-key-delete (\S+) (\S+)`).FindAllStringSubmatch(second.stderr, -1)
	for _, found := range noted {
		want(t, "the service id of the command", fx.asAdmin("GET", "/v1/apikeys/"+found[1], "")["iam_id"], "iam-"+found[2])
		if found[1] != other { // which is in use elsewhere
			fx.asAdmin("DELETE", "/v1/apikeys/"+found[1], "")
		}
	}
	for role, key := range old {
		status, _ := fx.exchange(key)
		want(t, "the old key of the "+role, status, 400)
	}
	third := fx.unchanged(second, files...)
	want(t, "commands, and again", fmt.Sprint(len(noted), strings.Count(third.stderr, "service-api-key-delete")), "4 1")
	fx.owner(fx.aws.secrets[defaultAWSSecret], fx.outputs["bootstrap_iam_id"])
	fx.owner(fx.aws.secrets["team/other"], fx.outputs["bootstrap_iam_id"])
	fx.owner(fx.read("reader.key"), fx.outputs["reader_iam_id"])
	want(t, "keys of the bootstrap", fx.keyIDs("bootstrap"), []string{other, second.values["BOOTSTRAP_APIKEY_ID"]})
	want(t, "keys of the workload", fx.keyIDs("workload"), []string{foreign, second.values["WORKLOAD_APIKEY_ID"]})
}

func TestKeyFiles(t *testing.T) {
	fx := newFixture(t, false)
	t.Chdir(fx.folder)
	first := fx.succeed("--bootstrap-key-file", "bootstrap.key", "--reader-key-file", fx.path("one.key"))
	fx.owner(fx.read("bootstrap.key"), fx.cloud.BootstrapIAMID())
	fx.owner(fx.read("one.key"), fx.cloud.ReaderIAMID())
	if nothingAtAWS(fx, first); first.values["BOOTSTRAP_SECRET_ARN"] != "" {
		t.Errorf("got %q, want nothing stored in AWS", first.values)
	}
	// A file is the same place by any path. Another file gets its own key.
	noError(t, os.Symlink(fx.folder, "link"))
	for _, path := range []string{"one.key", fx.folder + "/./one.key", fx.path("link/one.key")} {
		fx.unchanged(first, "--bootstrap-key-file", "bootstrap.key", "--reader-key-file", path)
	}
	one := fx.read("one.key")
	fx.succeed("--bootstrap-key-file", "bootstrap.key", "--reader-key-file", "two.key", "--rotate-keys")
	two := fx.read("two.key")
	if two == one || fx.read("one.key") != one {
		t.Error("got the same key in two files, or the other file written")
	}
	fx.owner(one, fx.cloud.ReaderIAMID())
	// A new key replaces the file, whatever its mode, and a link is not followed.
	noError(t, os.Symlink(fx.path("two.key"), "three.key"))
	fx.succeed("--bootstrap-key-file", "bootstrap.key", "--reader-key-file", "three.key")
	if fx.read("two.key") != two || fx.read("three.key") == two {
		t.Error("a link was followed")
	}
	if left, _ := filepath.Glob(".*"); len(left) > 0 {
		t.Errorf("temporary files: got %q, want none", left)
	}
	if moved := fx.succeed(); moved.values["BOOTSTRAP_APIKEY_ID"] == first.values["BOOTSTRAP_APIKEY_ID"] {
		t.Error("to AWS: got the key of the file, want another")
	}
	fx.owner(fx.read("bootstrap.key"), fx.cloud.BootstrapIAMID())
	// If the file cannot be replaced after the key was made, the next run deletes that key.
	fx.env["IAM_URL"] = fx.lying(func(request *http.Request, body []byte) []byte {
		if request.URL.Path == "/identity/token" {
			_ = os.MkdirAll("four.key/occupied", 0o700)
		}
		return body
	})
	keys := len(fx.keyIDs("reader"))
	fx.fail("four.key failed", "--reader-key-file", "four.key")
	_, fx.env["IAM_URL"] = os.RemoveAll("four.key"), fx.origin
	fx.succeed("--reader-key-file", "four.key")
	fx.owner(fx.read("four.key"), fx.cloud.ReaderIAMID())
	want(t, "keys of the reader", len(fx.keyIDs("reader")), keys+1)
}

// TestForeignValues: services answer with values that a shell, a terminal or a URL would interpret. setup must not use them; that
// it does not print them, command checks.
func TestForeignValues(t *testing.T) {
	hostile := []string{`'; touch /tmp/pwned; '`, "$(touch /tmp/pwned)", "x\ny='pwned'", "\x1b]0;pwned\x07", "\u202epwned", "../pwned", "pwned?x=y#", ""}
	for _, place := range []struct {
		path, field              string
		again, managed, harmless bool // in a second run; with managed keys; the run may succeed without the value
	}{
		{path: "/v1/apikeys", field: "id", again: true}, {path: "/v1/apikeys", field: "iam_id", again: true}, {path: "/v1/apikeys", field: "account_id", again: true},
		{path: "/v1/apikeys", field: "description", again: true, harmless: true}, {path: "/v1/apikeys", field: "expires_at", again: true, harmless: true},
		{path: "/api/v2/secrets", field: "id", again: true}, {path: "/api/v2/secrets", field: "id"}, {path: "/identity/token", field: "access_token"},
		{path: "/v1/apikeys", field: "apikey"}, {path: "/api/v2/secrets/", field: "api_key_id", managed: true}, {path: "/api/v2/secrets/", field: "api_key", managed: true},
	} {
		t.Run(fmt.Sprint(place), func(t *testing.T) {
			for _, value := range hostile {
				if place.field == "description" {
					value = "stored in " + strings.ReplaceAll(value, " ", "") + ";at=2026-01-01T00:00:00.000Z by set-up-secrets"
				}
				fx := newFixture(t, place.managed)
				if place.again {
					fx.succeed()
				}
				fx.lie(place.path, place.field, value)
				fx.forget()
				if r := fx.run(); r.exit != 1 && !(place.harmless && r.exit == 0) || len(fx.aws.writes) > 0 && !place.harmless {
					t.Errorf("%q: got exit %d, want 1 and nothing at AWS\n%s", value, r.exit, r.stderr)
				}
			}
		})
	}
	for _, arn := range append(hostile[:7:7], "arn:aws:secretsmanager:eu-central-1:123456789012:secret:another-a1b2c3",
		"arn:aws:secretsmanager:x:1:secret:iam-token-rotator/bootstrap-a1b2c3") {
		fx := newFixture(t, false)
		fx.aws.arn = arn
		fx.fail("AWS's answer lacks the ARN of the secret")
	}
}

func TestLists(t *testing.T) {
	fx := newFixture(t, false)
	for i := range 202 { // at 200 a page
		fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Name: fmt.Sprintf("iam-token-rotator-token-%d", i), Group: fx.cloud.TokenGroupName(), Payload: "x"})
	}
	for range 15 { // an identity has 20 at most
		fx.asAdmin("POST", "/v1/apikeys", `{"name":"another","iam_id":"`+fx.outputs["workload_iam_id"]+`"}`)
	}
	fx.env["IAM_URL"] = fx.lying(func(r *http.Request, body []byte) []byte { // 5 keys a page, the newest first
		var listing map[string]any
		if r.Method == http.MethodGet && r.URL.Path == "/v1/apikeys" {
			body = fx.asked(r, func(query url.Values) { query.Set("pagesize", "5") })
			body = []byte(strings.ReplaceAll(string(body), fx.origin, fx.env["IAM_URL"])) // of the next page
		}
		if _ = json.Unmarshal(body, &listing); listing["apikeys"] != nil {
			slices.Reverse(listing["apikeys"].([]any))
			body, _ = json.Marshal(listing)
		}
		return body
	})
	fx.succeed()
	fx.unchanged(fx.succeed("--rotate-keys"))                                                             // the newest key of a minute
	for path, field := range map[string]string{"/v1/apikeys": "next", "/api/v2/secrets": "total_count"} { // without an end
		liar := fx.lying(func(r *http.Request, body []byte) []byte {
			if r.URL.Path == path {
				var listing map[string]any
				_ = json.Unmarshal(fx.asked(r, func(query url.Values) { query.Del("pagetoken"); query.Del("offset") }), &listing)
				listing[field] = map[string]any{"next": fx.origin + path + "?pagetoken=0", "total_count": 1 << 40}[field]
				body, _ = json.Marshal(listing)
			}
			return body
		})
		fx.env["IAM_URL"], fx.outputs["secrets_manager_url"] = liar, liar
		fx.fail("list does not end")
	}
}

func TestFormsOfAToken(t *testing.T) {
	const bare = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"
	for _, form := range []string{bare, "Bearer " + bare, "bearer " + bare, "IAM token:  Bearer " + bare + "\n",
		"iam TOKEN:\tBEARER  " + bare + "\r\n", " \n" + bare + "\n\n",
		"IAM token:  Bearer " + bare + "\nUAA token:  Bearer x\n", `"Bearer ` + bare + `"`, `{"iam_token":"Bearer ` + bare + `","uaa_token":""}`} {
		if token, err := parseToken(form); err != nil || token.Reveal() != bare {
			t.Errorf("%q: got %v, want the bare token", form, err)
		}
	}
	for _, form := range []string{"a\nurl = evil", "null", "Bearer", "Bearer ", `a"b`, `{"iam_token":null}`, "{}", bare + " " + bare, bare + "\n" + bare} {
		if _, err := parseToken(form); err == nil || !strings.Contains(err.Error(), "IAM_TOKEN is not a token") {
			t.Errorf("%q: got %v, want an error", form, err)
		}
	}
}

// TestSourcesOfOutputs: Terraform's outputs come from a file, a folder in which terraform runs, or the environment.
func TestSourcesOfOutputs(t *testing.T) {
	fx := newFixture(t, false)
	fx.write("outputs.json", fx.outputsJSON())
	fx.write("terraform", "#!/bin/sh\nprintf '\\033[31m token: %s\\n' \"$IAM_TOKEN\" >&2\n[ \"$*\" = '-chdir="+fx.folder+" output -json -no-color' ] && cat '"+fx.path("outputs.json")+"'\n")
	noError(t, os.Chmod(fx.path("terraform"), 0o700))
	t.Setenv("PATH", fx.folder+":"+os.Getenv("PATH"))
	t.Setenv("IAM_TOKEN", "Bearer of-a-person")
	first := fx.succeed()
	environment := maps.Clone(fx.env)
	for name, value := range fx.outputs {
		environment[strings.ToUpper(name)] = value
	}
	for source, env := range map[string]map[string]string{fx.path("outputs.json"): fx.env, fx.folder: fx.env, "": environment} {
		if r := runWith(t, env, configFor(fx.aws.url), "", "setup", "--terraform", source); r.stdout != first.stdout {
			t.Errorf("%s: got exit %d: %s%s, want what was printed before", source, r.exit, r.stdout, r.stderr)
		} else if source == fx.folder && !strings.Contains(r.stderr, `\x1b[31m token: `+"\n") {
			t.Errorf("got %q, want what terraform said, escaped, without the person's token, which it does not need", r.stderr)
		}
	}
	for _, printed := range []string{"", "\n", "{}", "[]", "null", `{"workload_iam_id":{"value":null}}`} {
		if r := fx.command(printed, "setup", "--terraform", "-"); r.exit != 2 || !strings.Contains(r.stderr, "after terraform apply") {
			t.Errorf("%q: got exit %d and %q, want 2 and what to do", printed, r.exit, r.stderr)
		}
	}
}

func TestPutKey(t *testing.T) {
	fx := newFixture(t, false)
	put := func(key string, args ...string) outcome {
		return runWith(t, fx.env, configFor(fx.aws.url), key, append([]string{"put-key", "--name", "team/key"}, args...)...)
	}
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:team/key-a1b2c3\n"
	for _, key := range []string{strings.Repeat("aZ0_-", 8) + "abcd", strings.Repeat("k", 8), strings.Repeat("k", 512)} {
		if got := put("\n\n "+key+"\t\r\n", "--kms-key-id", "alias/own"); got.exit != 0 || got.stdout != arn || fx.aws.secrets["team/key"] != key ||
			fx.aws.kms != "alias/own" {
			t.Errorf("%d characters: got exit %d, %q, %q; want them stored", len(key), got.exit, got.stdout, got.stderr)
		}
	}
	want(t, "requests", fx.aws.writes, "[CreateSecret UpdateSecret UpdateSecret]")
	fx.forget()
	refused := func(exit int, words, key string, args ...string) {
		t.Helper()
		if got := put(key, args...); got.exit != exit || got.stdout != "" || !strings.Contains(got.stderr, words) || strings.Contains(got.stderr,
			"secret-k") || strings.ContainsRune(got.stderr, '\x1b') {
			t.Errorf("got exit %d, %q, %q, want %d and %q", got.exit, got.stdout, got.stderr, exit, words)
		}
	}
	for input, words := range map[string]string{
		"": "is empty", " \n": "is empty", "secret-key\nsecret-key\n": "not an API key on one line", "secret-key secret-key": "not an API key on one line",
		"null\n": "a field that is not there", "short\n": "too short", strings.Repeat("secret-k", 65): "too long",
		"secret-kéy": "a character that no API key has", "\ufeffsecret-key": "begins with a byte-order mark", `"secret-key"`: "is in quotes", `{"apikey":"secret-key"}`: "jq -er .apikey", "secret-k\x00": "an invisible character",
	} {
		refused(2, words, input)
	}
	refused(2, "takes no arguments", "a good key", strings.Repeat("secret-k", 6))
	codes := maps.Clone(advice)
	maps.Copy(codes, map[string]string{"ExpiredTokenException": "sign in again", "InvalidSignatureException": "clock", "ThrottlingException": "in a minute", "secret-key\x1b[31m": "an unknown code"})
	for code, words := range codes {
		fx.aws.fail = code
		refused(1, words, "secret-key")
	}
	want(t, "requests", fx.aws.writes, "[]")
	broken := configFor(fx.aws.url)
	broken.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, errors.New("secret-key") })
	want(t, "no credentials", runWith(t, fx.env, broken, "secret-key", "put-key").stderr, "rotatorctl: no usable AWS credentials: check AWS_PROFILE, or log in (aws sso login)\n")
	fx.aws.url = strings.Replace(fx.aws.url, "127.0.0.1", "aws.example", 1)
	refused(1, "must be https", "secret-key")
}

func TestPausesAreBounded(t *testing.T) {
	var slept []time.Duration
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "99999")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(server.Close)
	c := newIBMCloud(server.URL, server.URL, func(_ context.Context, d time.Duration) error { slept = append(slept, d); return nil })
	err := c.send(t.Context(), &failure{}, http.MethodPost, "secrets", nil, nil)
	if statusOf(err) != http.StatusTooManyRequests || len(slept) != tries-1 || slices.Max(slept) != 30*time.Second {
		t.Errorf("got %v, %v; want %d pauses of 30 s at most", slept, err, tries-1)
	}
}
