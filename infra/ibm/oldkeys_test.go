package ibm_test

import (
	"slices"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

// inUse tells the script which keys are, as a person does who loads what the last run printed.
func (s *setUp) inUse(values map[string]string) {
	for _, name := range []string{"WORKLOAD_APIKEY_ID", "BOOTSTRAP_APIKEY_ID", "READER_APIKEY_ID"} {
		s.env[name] = values[name]
	}
}

// keyIDs are the ids of the script's keys of one identity.
func (s *setUp) keyIDs(role, iamID string) []string {
	s.t.Helper()
	var ids []string
	for _, key := range s.keys(iamID)["iam-token-rotator-"+role] {
		ids = append(ids, key["id"].(string))
	}
	return ids
}

// interrupted runs the script with its second key stored, but not noted.
func (s *setUp) interrupted(arguments ...string) {
	s.t.Helper()
	s.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysUpdate, Skip: 1, Status: 503})
	s.fail(1, "Try again later", arguments...)
	s.cloud.ClearFaults()
}

// TestDeleteOldKeys: whatever runs have left, one key of each identity remains, the one in use. What is
// stored elsewhere, or is not the script's, stays.
func TestDeleteOldKeys(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		workload := s.outputs["workload_iam_id"]
		s.succeed()
		other := s.succeed("--aws-secret", "team/other")
		s.asAdmin("POST", "/v1/apikeys", `{"name":"somebody's","iam_id":"`+workload+`"}`)
		change := []string{"--aws-secret", "iam-token-rotator/bootstrap", "--rotate-keys", "--keep-old-keys"}
		s.interrupted(change...)
		old := append(s.keyIDs("workload", workload), s.keyIDs("bootstrap", s.cloud.BootstrapIAMID())...)
		changed := s.succeed(change...)
		before := len(s.asAdmin("GET", "/v1/apikeys?pagesize=100&iam_id="+workload, "")["apikeys"].([]any))

		s.inUse(changed.values)
		s.cloud.ClearRequests()
		r := s.succeed("--aws-secret", "iam-token-rotator/bootstrap", "--delete-old-keys")
		if r.stdout != changed.stdout {
			t.Errorf("got\n%s, want what the last run printed,\n%s", r.stdout, changed.stdout)
		}
		if got := s.writes(); len(got) == 0 || slices.ContainsFunc(got, func(op string) bool { return op != ibmcloudtest.OpAPIKeysDelete }) {
			t.Errorf("requests that change something: got %q, want keys deleted and nothing else", got)
		}
		if got, want := s.keyIDs("workload", workload), []string{changed.values["WORKLOAD_APIKEY_ID"]}; !slices.Equal(got, want) {
			t.Errorf("keys of the workload: got %q, want the one in use, %q", got, want)
		}
		if got, want := s.keyIDs("bootstrap", s.cloud.BootstrapIAMID()), []string{other.values["BOOTSTRAP_APIKEY_ID"], changed.values["BOOTSTRAP_APIKEY_ID"]}; !slices.Equal(got, want) {
			t.Errorf("keys of the bootstrap: got %q, want the other place's and the one in use, %q", got, want)
		}
		for _, id := range s.deleted() {
			if !slices.Contains(old, id) || !strings.Contains(r.stderr, "deleted the old key "+id) {
				t.Errorf("%s was deleted, want only old keys deleted, and told:\n%s", id, r.stderr)
			}
		}
		after := len(s.asAdmin("GET", "/v1/apikeys?pagesize=100&iam_id="+workload, "")["apikeys"].([]any))
		if before < 4 || after != 3 { // somebody's, that of the sandbox, and the one in use
			t.Errorf("all keys of the workload: got %d and then %d, want more than 3 and then 3", before, after)
		}
		s.rotates(changed.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
	})
}

// TestDeleteOldKeysOfThePlaceInUse: without --aws-secret it is the ids that tell which AWS secret is meant,
// not which of them has the newest key.
func TestDeleteOldKeysOfThePlaceInUse(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		change := []string{"--aws-secret", "team/one", "--rotate-keys", "--keep-old-keys"}
		s.succeed(change...)
		one := s.succeed(change...).values
		s.succeed("--aws-secret", "team/two")
		s.inUse(one)
		before := s.keyIDs("bootstrap", s.cloud.BootstrapIAMID())
		got := s.succeed("--delete-old-keys").values
		if got["BOOTSTRAP_SECRET_ARN"] != one["BOOTSTRAP_SECRET_ARN"] || got["BOOTSTRAP_APIKEY_ID"] != one["BOOTSTRAP_APIKEY_ID"] {
			t.Errorf("got %q, want the place of %q", got, one)
		}
		if after := s.keyIDs("bootstrap", s.cloud.BootstrapIAMID()); len(before) != 3 || !slices.Equal(after, before[1:]) {
			t.Errorf("got keys %q of %q, want the oldest gone", after, before)
		}
	})
}

// deleted are the ids of the keys that were.
func (s *setUp) deleted() []string {
	var ids []string
	for _, request := range s.cloud.Requests() {
		if request.Op == ibmcloudtest.OpAPIKeysDelete {
			ids = append(ids, strings.TrimPrefix(request.Path, "/v1/apikeys/"))
		}
	}
	return ids
}

// TestNoKeyIsDeletedInDoubt: where it is not certain which key is in use, none goes.
func TestNoKeyIsDeletedInDoubt(t *testing.T) {
	tests := map[string]struct {
		change    func(s *setUp, first, second map[string]string)
		arguments []string
		status    int
		words     string
	}{
		"the ids are of before": {func(s *setUp, first, _ map[string]string) { s.inUse(first) }, nil, 1, "a newer key of the workload"},
		"one id is of before": {func(s *setUp, first, _ map[string]string) {
			s.env["BOOTSTRAP_APIKEY_ID"] = first["BOOTSTRAP_APIKEY_ID"]
		}, nil, 1, "a newer key of the bootstrap"},
		"the ids are swapped": {func(s *setUp, _, second map[string]string) {
			s.env["WORKLOAD_APIKEY_ID"] = second["BOOTSTRAP_APIKEY_ID"]
		}, nil, 1, "WORKLOAD_APIKEY_ID names no key of the workload"},
		"a run was interrupted":   {func(s *setUp, _, _ map[string]string) { s.interrupted("--rotate-keys", "--keep-old-keys") }, nil, 1, "a newer key of the workload"},
		"its second key was not":  {func(s *setUp, _, second map[string]string) { s.halfDone(second) }, nil, 1, "a run was interrupted"},
		"an old key is put back":  {func(s *setUp, _, second map[string]string) { s.putBack(second["API_KEY_SECRET"]) }, nil, 1, "by hand"},
		"another set-up":          {nil, []string{"--name", "other"}, 1, "is --name that of the set-up?"},
		"another place":           {nil, []string{"--aws-secret", "team/other"}, 1, "BOOTSTRAP_APIKEY_ID names no key of the bootstrap"},
		"no ids":                  {func(s *setUp, _, _ map[string]string) { s.inUse(nil) }, nil, 2, "WORKLOAD_APIKEY_ID is not set"},
		"one id is missing":       {func(s *setUp, _, _ map[string]string) { s.env["BOOTSTRAP_APIKEY_ID"] = "" }, nil, 2, "BOOTSTRAP_APIKEY_ID is not set"},
		"the reader's is missing": {nil, []string{"--reader-key-file", "reader.key"}, 2, "READER_APIKEY_ID is not set"},
		"new keys, too":           {nil, []string{"--rotate-keys"}, 2, "does not go with --rotate-keys"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inDash(t, func(t *testing.T, s *setUp) {
				first := s.succeed().values
				second := s.succeed("--rotate-keys", "--keep-old-keys").values
				s.inUse(second)
				if test.change != nil {
					test.change(s, first, second)
				}
				s.cloud.ClearRequests()
				s.fail(test.status, test.words, append(test.arguments, "--delete-old-keys")...)
				if got := s.writes(); len(got) > 0 {
					t.Errorf("requests that change something: got %q, want none", got)
				}
			})
		})
	}
}

// TestNoReaderKeyIsDeletedInDoubt is the same of a reader's.
func TestNoReaderKeyIsDeletedInDoubt(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		file := []string{"--reader-key-file", s.path("reader.key")}
		first := s.succeed(file...).values
		s.inUse(s.succeed(append(file, "--rotate-keys", "--keep-old-keys")...).values)
		s.env["READER_APIKEY_ID"] = first["READER_APIKEY_ID"]
		s.fail(1, "a newer key of the reader", append(file, "--delete-old-keys")...)
	})
}

// halfDone makes a key of the bootstrap that is not noted as stored, and the workload's the newest.
func (s *setUp) halfDone(values map[string]string) {
	s.asAdmin("POST", "/v1/apikeys", `{"name":"iam-token-rotator-bootstrap","description":"not stored yet by set-up-secrets","iam_id":"`+s.cloud.BootstrapIAMID()+`"}`)
	s.inUse(values)
}

// putBack stores a key of the workload by hand.
func (s *setUp) putBack(secret string) {
	s.asAdmin("POST", "/api/v2/secrets/"+secret+"/versions", `{"payload":"`+s.cloud.Rotations()[0].APIKey+`"}`)
}
