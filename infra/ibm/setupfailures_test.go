package ibm_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// TestFailureAtEachCall: whatever fails, the run says so, and the next one finishes the work and
// leaves one key for each identity.
func TestFailureAtEachCall(t *testing.T) {
	kinds := []struct {
		name       string
		fault      ibmcloudtest.Fault
		words      string
		everywhere bool // at each call, and not at the first alone
	}{
		{"401", ibmcloudtest.Fault{Status: 401}, "fetch a new one", false},
		{"403", ibmcloudtest.Fault{Status: 403, Body: `{"errors":[{"code":"forbidden","message":"You may not."}]}`}, "You may not.", true},
		{"404", ibmcloudtest.Fault{Status: 404}, "Check the ids", false},
		{"429", ibmcloudtest.Fault{Status: 429}, "Try again later", false},
		{"500", ibmcloudtest.Fault{Status: 500, Body: "<html>", ContentType: "text/html"}, "Try again later", false},
		{"not JSON", ibmcloudtest.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}, "check the URL", false},
		{"dropped", ibmcloudtest.Fault{Drop: ibmcloudtest.DropBefore}, "no answer", false},
		{"done, answer lost", ibmcloudtest.Fault{Drop: ibmcloudtest.DropAfter}, "no answer", true},
	}
	calls := []struct {
		op     string
		skip   int
		rotate bool // the call happens with --rotate-keys alone
		reads  bool // before anything is made
	}{
		{op: "secrets.list", reads: true}, {op: "secrets.list", skip: 1, reads: true},
		{op: "apikeys.list", reads: true}, {op: "apikeys.list", skip: 1, reads: true},
		{op: "secrets.create"}, {op: "secrets.create", skip: 1},
		{op: "apikeys.create"}, {op: "apikeys.create", skip: 1},
		{op: "iam.token"}, {op: "apikeys.update"}, {op: "apikeys.update", skip: 1},
		{op: "versions.create", rotate: true}, {op: "apikeys.delete", rotate: true},
	}
	for i, call := range calls {
		for j, kind := range kinds {
			if i > 0 && !kind.everywhere {
				continue
			}
			t.Run(fmt.Sprintf("%s %d %s", call.op, call.skip, kind.name), func(t *testing.T) {
				t.Parallel()
				s := newSetUp(t, []string{"dash", "bash"}[(i+j)%2], ibmcloudtest.Options{KeyPropagation: -1})
				var arguments []string
				if call.rotate {
					s.succeed()
					arguments = []string{"--rotate-keys"}
				}
				fault := kind.fault
				fault.Op, fault.Skip = call.op, call.skip
				s.fault(fault)
				s.fail(1, kind.words, arguments...)
				if call.reads {
					if got := s.writes(); len(got) > 0 {
						t.Errorf("got %q, want nothing made", got)
					}
					return
				}
				s.cloud.ClearFaults()
				s.goesOn(arguments...)
			})
		}
	}
}

// goesOn runs the script after a failure: what it makes then rotates, and each identity has one key.
func (s *setUp) goesOn(arguments ...string) {
	s.t.Helper()
	r := s.succeed(arguments...)
	s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
	for role, iamID := range map[string]string{"bootstrap": s.cloud.BootstrapIAMID(), "workload": s.outputs["workload_iam_id"]} {
		if got := s.keys(iamID)["iam-token-rotator-"+role]; len(got) != 1 {
			s.t.Errorf("keys of the %s: got %d, want 1", role, len(got))
		}
	}
}

func TestPassingFaultsAreWaitedOut(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		s.env["CURL_RETRIES"] = "3"
		s.fault(ibmcloudtest.Fault{Op: "secrets.list", Times: 1, Status: 500})
		s.fault(ibmcloudtest.Fault{Op: "apikeys.create", Times: 2, Status: 429, Headers: map[string]string{"Retry-After": "1"}})
		s.fault(ibmcloudtest.Fault{Op: "iam.token", Times: 1, Status: 503})
		s.succeed()
	})
}

// TestKeyThatNeverWorksIsNotStored: one that IAM does not know after ten seconds is worth nothing.
func TestKeyThatNeverWorksIsNotStored(t *testing.T) {
	t.Parallel()
	s := newSetUp(t, "dash", ibmcloudtest.Options{KeyPropagation: -1})
	first := s.succeed()
	before := s.cloud.MustCurrent(first.values["API_KEY_SECRET"]).Payload
	s.fault(ibmcloudtest.Fault{Op: "iam.token", Status: 400, Body: `{"errorCode":"BXNIM0415E","errorMessage":"Provided API key could not be found."}`})
	s.fail(1, "Provided API key could not be found", "--rotate-keys")
	s.cloud.ClearFaults()
	if after := s.cloud.MustCurrent(first.values["API_KEY_SECRET"]).Payload; after != before {
		t.Error("the key secret was given the key that does not work")
	}
	s.token(before)
}

func TestPutBootstrapKeyFails(t *testing.T) {
	for name, test := range map[string]struct{ body, words string }{
		"refused":          {"cat >/dev/null; echo AccessDenied >&2; exit 1", "Mend that and run set-up-secrets again"},
		"prints no ARN":    {"cat >/dev/null; echo done", "something other than the ARN"},
		"prints the key":   {"cat", "something other than the ARN"},
		"prints two lines": {"cat >/dev/null; echo arn:aws:secretsmanager:x:1:secret:a; echo b", "something other than the ARN"},
	} {
		t.Run(name, func(t *testing.T) {
			inDash(t, func(t *testing.T, s *setUp) {
				s.script("put", test.body)
				s.env["PUT_BOOTSTRAP_KEY"] = s.path("put")
				s.fail(1, test.words)
				if name == "refused" {
					delete(s.env, "PUT_BOOTSTRAP_KEY")
					s.goesOn()
				}
			})
		})
	}
}

// TestErrorTextIsScrubbed: a server that repeats what it was sent must not make us print it.
func TestErrorTextIsScrubbed(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		key := strings.Repeat("Ab3_", 11)
		s.fault(ibmcloudtest.Fault{Op: "secrets.create", Status: 400, Body: `{"errors":[{"message":"payload ` + key + ` is wrong"}]}`})
		s.fail(1, "payload … is wrong")
	})
}

func TestNameIsTakenInAnotherGroup(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.asAdmin("POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"iam-token-rotator-token","payload":"x"}`)
		s.fail(1, "use another --name")
		s.succeed("--name", "other")
	})
}

// TestLongListsAreReadToTheEnd: our keys and secrets may lie on a later page.
func TestLongListsAreReadToTheEnd(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		for i := range 101 { // 101 keys at 100 a page, 202 secrets at 200
			s.asAdmin("POST", "/v1/apikeys", `{"name":"another","iam_id":"`+s.outputs["workload_iam_id"]+`"}`)
			for _, half := range []string{"a", "b"} {
				s.asAdmin("POST", "/api/v2/secrets", fmt.Sprintf(`{"secret_type":"arbitrary","name":"iam-token-rotator-token-%d%s","payload":"x","secret_group_id":%q}`,
					i, half, s.outputs["token_group_id"]))
			}
		}
		first := s.succeed()
		if second := s.succeed(); second.stdout != first.stdout {
			t.Errorf("got\n%s, want\n%s", second.stdout, first.stdout)
		}
	})
}

func TestKeyThatSoonExpiresIsTold(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		if r := s.succeed("--expires-in", "13"); strings.Contains(r.stderr, "note:") {
			t.Errorf("a new key: got %s, want no note", r.stderr)
		}
		if r := s.succeed(); strings.Count(r.stderr, "--rotate-keys") != 2 {
			t.Errorf("got %s, want a note for each of the two keys", r.stderr)
		}
		s.succeed("--rotate-keys", "--expires-in", "15")
		if r := s.succeed(); strings.Contains(r.stderr, "note:") {
			t.Errorf("15 days: got %s, want no note", r.stderr)
		}
	})
}

// TestUnreachableInstance: a private-only host does not answer from outside.
func TestUnreachableInstance(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.outputs["secrets_manager_url"] = "http://127.0.0.1:1"
		s.fail(1, "allow public-and-private")
	})
}

func TestRefusedToken(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.env["IAM_TOKEN"] = "nonsense"
		s.fail(1, "fetch a new one")
		s.env["IAM_TOKEN"] = s.token(s.cloud.ReaderAPIKey())
		s.fail(1, "Needed: Operator on the service id")
	})
}

func TestWrongUsage(t *testing.T) {
	tests := []struct {
		name      string
		arguments []string
		change    func(s *setUp)
		words     string
	}{
		{"unknown option", []string{"--rotate"}, nil, "is not an option"},
		{"option without a value", []string{"--name"}, nil, "--name needs a value"},
		{"name with a blank", []string{"--name", "a b"}, nil, "--name is not an id"},
		{"days in words", []string{"--expires-in", "ninety"}, nil, "a number of days"},
		{"days past all dates", []string{"--expires-in", "10000"}, nil, "9999 at most"},
		{"--keep-old-keys alone", []string{"--keep-old-keys"}, nil, "goes with --rotate-keys"},
		{"no folder for the file", []string{"--reader-key-file", "/nowhere/reader.key"}, nil, "/nowhere/reader.key cannot be written"},
		{"a folder for the file", []string{"--bootstrap-key-file", os.TempDir()}, nil, "cannot be written"},
		{"no token", nil, func(s *setUp) { s.env["IAM_TOKEN"] = "" }, "IAM_TOKEN is not set"},
		{"token of two lines", nil, func(s *setUp) { s.env["IAM_TOKEN"] = "a\nurl = evil" }, "IAM_TOKEN is not a token"},
		{"null for a token", nil, func(s *setUp) { s.env["IAM_TOKEN"] = "null" }, "IAM_TOKEN is not a token"}, // jq's, for a field that is not there
		{"quote in the token", nil, func(s *setUp) { s.env["IAM_TOKEN"] = `a"` }, "IAM_TOKEN is not a token"},
		{"no such program", nil, func(s *setUp) { s.env["PUT_BOOTSTRAP_KEY"] = "/nowhere/put" }, "there is no program"},
		{"plain http", nil, func(s *setUp) { s.env["IAM_URL"] = "http://iam.cloud.ibm.com" }, "IAM_URL must be an https URL"},
		{"URL with a path", nil, func(s *setUp) { s.outputs["secrets_manager_url"] = "https://example.com/api/v2" }, "without a path"},
		{"retries in words", nil, func(s *setUp) { s.env["CURL_RETRIES"] = "many" }, "CURL_RETRIES must be a number"},
		{"Terraform not applied", nil, func(s *setUp) { s.outputs = nil }, "after terraform apply"},
		{"an output is missing", nil, func(s *setUp) { s.outputs["key_group_id"] = "" }, "KEY_GROUP_ID is not set"},
		{"an id with a slash", nil, func(s *setUp) { s.outputs["account_id"] = "../x" }, "ACCOUNT_ID is not an id"},
		{"no reader", []string{"--reader-key-file", "reader.key"}, func(s *setUp) { s.outputs["reader_iam_id"] = "" }, "READER_IAM_ID is not set"},
		{"a file for no key", []string{"--bootstrap-key-file", "b.key"}, func(s *setUp) { s.outputs["bootstrap_iam_id"] = "" }, "no bootstrap key to store"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachShell(t, func(t *testing.T, s *setUp) {
				if test.change != nil {
					test.change(s)
				}
				s.fail(2, test.words, test.arguments...)
				for _, request := range s.cloud.Requests() {
					if request.Op != ibmcloudtest.OpIAMToken { // the test's own
						t.Errorf("got a request, %s, want none", request.Op)
					}
				}
			})
		})
	}
}

// TestTerraformPrintsNothing: it has failed itself, and said why, or lists something else.
func TestTerraformPrintsNothing(t *testing.T) {
	for _, printed := range []string{"", "\n", "{}", "[]", "null"} {
		t.Run(printed, func(t *testing.T) {
			inDash(t, func(t *testing.T, s *setUp) {
				command := s.command()
				command.Stdin = strings.NewReader(printed)
				if r := s.finish(command); r.status != 2 || !strings.Contains(r.stderr, "after terraform apply") {
					t.Errorf("got exit %d and %q, want 2 and what to do", r.status, r.stderr)
				}
			})
		})
	}
}

// TestEnvironmentInsteadOfTerraform: the same values, by the outputs' names in capitals.
func TestEnvironmentInsteadOfTerraform(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		for name, value := range s.outputs {
			s.env[strings.ToUpper(name)] = value
		}
		command := s.command()
		command.Args = command.Args[:2]
		if r := s.finish(command); r.status != 0 || r.values["TOKEN_SECRET"] == "" {
			t.Errorf("got exit %d: %s, want 0", r.status, r.stderr)
		}
	})
}

func TestHelp(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		if r := s.run("--help"); r.status != 0 || !strings.HasPrefix(r.stdout, "Usage: set-up-secrets") {
			t.Errorf("got exit %d and %q, want 0 and the usage", r.status, r.stdout)
		}
	})
}

// TestNoAWSCLI: whether it is needed shows when it is known which keys are there.
func TestNoAWSCLI(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		first := s.run()
		s.cloud.ClearRequests()
		s.withoutAWS()
		if again := s.succeed(); first.status != 0 || again.stdout != first.stdout {
			t.Errorf("got\n%s, want what is there printed,\n%s", again.stdout, first.stdout)
		}
		s.fail(2, "the aws CLI is not installed", "--rotate-keys")
		s.fail(2, "the aws CLI is not installed", "--aws-secret", "another")
		if got := s.writes(); len(got) > 0 {
			t.Errorf("requests that change something: got %q, want none", got)
		}
	})
}

// withoutAWS leaves the script what it needs, and the program that stores the bootstrap key in AWS
// without the CLI.
func (s *setUp) withoutAWS() {
	s.t.Helper()
	for _, name := range []string{"basename", "cat", "cksum", "dirname", "cut", "mktemp", "rm", "sed", "tail", "tr"} {
		if err := os.Symlink(programs.Path(s.t, name), s.path("bin/"+name)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.env["PATH"], s.env["PUT_BOOTSTRAP_KEY"] = s.path("bin"), ""
}
