package readmetest

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// TestChangeOfKeysGoesOnInAnotherShell: the first step is cut off with one key stored and one not, each
// step has a shell of its own, and in the end there is one key of each identity.
func TestChangeOfKeysGoesOnInAnotherShell(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	w.env["CURL_RETRIES"] = "0"
	makeKeys, doctor, remove, makeByHand, removeByHand := keyChange(t)
	before := w.read("build/ibm.env")
	if err := w.cloud.AddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysUpdate, Skip: 1, Status: 503}); err != nil {
		t.Fatal(err)
	}
	if got := w.do(makeKeys); got.Exit == 0 || w.read("build/ibm.env") != before {
		t.Errorf("the first step, cut off: got exit %d; want it to fail, and build/ibm.env as it was", got.Exit)
	}
	w.cloud.ClearFaults()
	if got := w.do(remove); got.Exit == 0 || !strings.Contains(got.Stderr, "nothing is deleted") {
		t.Errorf("the last step, too early: got exit %d, %s; want nothing deleted", got.Exit, scrub(got.Stderr))
	}
	for _, step := range []*block{makeKeys, doctor, remove, doctor} {
		w.mustDo(step)
	}
	bootstrap, workload := w.cloud.BootstrapIAMID(), w.cloud.Rotations()[0].IAMID
	for variable, iamID := range map[string]string{"BOOTSTRAP_APIKEY_ID": bootstrap, "WORKLOAD_APIKEY_ID": workload} {
		if got := w.keyIDs(iamID); len(got) != 1 || got[0] != w.named(variable) || strings.Contains(before, got[0]) {
			t.Errorf("keys of %s: got %q, want the new one alone, %s", iamID, got, w.named(variable))
		}
	}

	old := w.keyIDs(bootstrap)
	for _, step := range []*block{makeByHand, doctor, removeByHand, doctor} {
		w.mustDo(step)
	}
	if got := w.keyIDs(bootstrap); len(got) != 1 || got[0] == old[0] {
		t.Errorf("keys of the bootstrap, changed by hand: got %q, want one that is not %q", got, old)
	}
}

// TestDoctorTriesTheBootstrapKey and never the person, whose token may be in the shell.
func TestDoctorTriesTheBootstrapKey(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	_, doctor, _, _, _ := keyChange(t)
	w.env["IAM_TOKEN"] = w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour)
	w.cloud.ClearRequests()
	if got := w.mustDo(doctor); !strings.Contains(got.Stdout, "the bootstrap identity by SECRETS_MANAGER_APIKEY_ARN") {
		t.Errorf("got %s, want the bootstrap identity tried", scrub(got.Stdout))
	}
	without := regexp.MustCompile(`(?m)^BOOTSTRAP_SECRET_ARN=.*\n`).ReplaceAllString(w.read("build/ibm.env"), "")
	w.write(filepath.Join(w.dir, "build", "ibm.env"), without)
	if got := w.do(doctor); got.Exit == 0 || !strings.Contains(got.Stderr, "BOOTSTRAP_SECRET_ARN") {
		t.Errorf("without an ARN: got exit %d, %s; want it to fail for want of one", got.Exit, scrub(got.All()))
	}
	for _, request := range w.cloud.Requests() {
		if request.Identity == ibmcloudtest.IdentityAdmin {
			t.Errorf("%s was asked as the person", request.Op)
		}
	}
}
