package doctor_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/doctor"
)

// misbehaviours are the ways in which a service may fail a request. Each answer
// repeats what must not show.
var misbehaviours = func() map[string]ibmcloudtest.Fault {
	faults := map[string]ibmcloudtest.Fault{
		"dropped":         {Drop: ibmcloudtest.DropBefore},
		"dropped after":   {Drop: ibmcloudtest.DropAfter},
		"hangs":           {Delay: time.Minute},
		"a page with 200": {Status: 200, ContentType: "text/html", Body: "<html>" + canary},
		"nothing, 200":    {Status: 200},
		"null, 200":       {Status: 200, Body: "null"},
		"{}, 200":         {Status: 200, Body: "{}"},
		"a redirect":      {Status: 302, Headers: map[string]string{"Location": "https://" + canary + ".invalid/"}},
	}
	for _, status := range []int{400, 401, 403, 404, 409, 412, 429, 500, 502, 503} {
		faults[fmt.Sprint(status)] = ibmcloudtest.Fault{Status: status, Body: fmt.Sprintf(
			`{"errorCode":%[1]q,"errorMessage":%[1]q,"errors":[{"code":%[1]q,"message":%[1]q}]}`, canary)}
	}
	return faults
}()

// Of each operation that doctor asks for: the check that shows its failure.
var shownBy = map[[2]string]string{
	{ibmcloudtest.OpIAMToken, ibmcloudtest.IdentityBootstrap}: "bootstrap-identity",
	{ibmcloudtest.OpIAMToken, ibmcloudtest.IdentityWorkload}:  "key-identity",
	{ibmcloudtest.OpSecretsGet, ""}:                           "key-secret",
	{ibmcloudtest.OpSecretsMetadata, ""}:                      "token-secret",
	{ibmcloudtest.OpLocks, ""}:                                "token-locks",
	{ibmcloudtest.OpVersionsMetadata, ""}:                     "stored-token",
}

func TestEachFaultOfEachOperationIsShownWhereItBelongs(t *testing.T) {
	for operation, check := range shownBy {
		for name, fault := range misbehaviours {
			t.Run(check+" "+name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, ibmcloudtest.Options{})
				w.timeout = 4 * time.Second
				fault.Op, fault.Identity = operation[0], operation[1]
				w.fault(fault)
				diagnosis := w.run()
				status := doctor.Failed
				if fault.Status == 403 && (check == "token-secret" || check == "token-locks") {
					status = doctor.Warning // a rotation needs neither permission
				}
				w.want(diagnosis, check, status)
				for _, other := range names(diagnosis.Checks, doctor.Failed, doctor.Warning) {
					if other != check {
						t.Errorf("%s is said to be wrong too: %+v", other, diagnosis.Checks)
					}
				}
			})
		}
	}
}

func TestWhatIAMDoesNotTellIsNoFailure(t *testing.T) {
	for _, op := range []string{ibmcloudtest.OpAPIKeysDetails, ibmcloudtest.OpIAMKeys} {
		for name, fault := range misbehaviours {
			t.Run(op+" "+name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, ibmcloudtest.Options{})
				w.timeout = 4 * time.Second
				fault.Op = op
				w.fault(fault)
				if diagnosis := w.run(); !diagnosis.OK || diagnosis.Count(doctor.Warning) > 0 {
					t.Errorf("got %+v", diagnosis.Checks)
				}
			})
		}
	}
}

func TestWhenEverythingFailsAtOnce(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(misbehaviours)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ibmcloudtest.Options{})
			w.timeout = 2 * time.Second
			fault := misbehaviours[name]
			fault.Op = ibmcloudtest.OpAny
			w.fault(fault)
			diagnosis := w.run()
			w.want(diagnosis, "bootstrap-identity", doctor.Failed)
			w.want(diagnosis, "key-secret", doctor.Skipped, "not tried: bootstrap-identity failed")
		})
	}
}

func TestAMissingPermissionIsNamed(t *testing.T) {
	for op, permission := range map[string][2]string{
		ibmcloudtest.OpSecretsGet:       {"key-secret", "secret.read"},
		ibmcloudtest.OpSecretsMetadata:  {"token-secret", "secret-metadata.read"},
		ibmcloudtest.OpLocks:            {"token-locks", "secret-version-locks.list"},
		ibmcloudtest.OpVersionsMetadata: {"stored-token", "secret-version-metadata.read"},
	} {
		w := newWorld(t, ibmcloudtest.Options{})
		diagnosis := w.run()
		w.want(diagnosis, permission[0], doctor.OK, "("+permission[1]+")")
		w.fault(ibmcloudtest.Fault{Op: op, Status: 403})
		diagnosis = w.run()
		status := doctor.Failed
		if permission[0] == "token-secret" || permission[0] == "token-locks" {
			status = doctor.Warning
		}
		w.want(diagnosis, permission[0], status, "answered 403 → give the bootstrap identity a role with "+permission[1])
	}
}
