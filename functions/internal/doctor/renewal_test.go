package doctor_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

func TestTheRenewalOfTheBootstrapKey(t *testing.T) {
	good := ibmcloudtest.SecretSpec{Type: "iam_credentials", ReuseAPIKey: true, TTL: "1080h", RotateDays: 15}
	with := func(change func(*ibmcloudtest.SecretSpec)) ibmcloudtest.SecretSpec {
		spec := good
		change(&spec)
		return spec
	}
	for name, test := range map[string]struct {
		spec    ibmcloudtest.SecretSpec
		arrange func(fx *fixture, id string)
		check   string
		status  report.Status
		words   []string
	}{
		"all is well":    {good, nil, "managed-key", report.CheckOK, []string{"every 15 days", "expires on"}},
		"stored":         {good, nil, "managed-key-copy", report.CheckOK, []string{"holds IBM's current key, ApiKey-"}},
		"another key":    {good, func(fx *fixture, id string) { fx.cloud.MustRotateSecret(id) }, "managed-key-copy", report.CheckWarning, []string{"does not hold", "the next run stores it"}},
		"no locks":       {good, nil, "managed-key-locks", report.CheckOK, nil},
		"a lock":         {good, func(fx *fixture, id string) { fx.cloud.MustLock(id, "current", "mine") }, "managed-key-locks", report.CheckWarning, []string{"locks (1)", "remove"}},
		"no rule":        {with(func(s *ibmcloudtest.SecretSpec) { s.RotateDays = 0 }), nil, "managed-key", report.CheckWarning, []string{"not rotated automatically", "give it a rotation rule"}},
		"too little ttl": {with(func(s *ibmcloudtest.SecretSpec) { s.TTL = "408h" }), nil, "managed-key", report.CheckWarning, []string{"last 17 days", "every 15 days"}},
		"IBM is late": {good, func(fx *fixture, _ string) {
			fx.doctor.Now = func() time.Time { return time.Now().Add(19 * 24 * time.Hour) }
		},
			"managed-key", report.CheckWarning, []string{"should have rotated it"}},
		"reuse is off": {with(func(s *ibmcloudtest.SecretSpec) { s.ReuseAPIKey, s.RotateDays = false, 0 }), nil, "managed-key", report.CheckFailed, []string{"reuse_api_key"}},
		"another type": {ibmcloudtest.SecretSpec{Payload: "a-key-that-nobody-renews"}, nil, "managed-key", report.CheckFailed, []string{"BOOTSTRAP_KEY_SECRET", "iam_credentials"}},
		"it is gone":   {good, func(fx *fixture, id string) { fx.cloud.MustDeleteSecret(id) }, "managed-key", report.CheckFailed, []string{"not_found", "BOOTSTRAP_KEY_SECRET"}},
		"forbidden":    {good, func(fx *fixture, _ string) { forbidden(ibmcloudtest.OpSecretsGet)(fx) }, "managed-key", report.CheckFailed, []string{"denied", "secret.read"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fx := newFixture(t, ibmcloudtest.Options{})
			if test.spec.Type != "" {
				test.spec.IAMID = fx.cloud.BootstrapIAMID()
			}
			id := fx.cloud.MustCreateSecret(test.spec)
			stored := iamtoken.NewSecret(fx.cloud.MustCurrent(id).Payload)
			fx.doctor.Bootstrap.ReadKey = func(context.Context) (iamtoken.Secret, error) { return stored, nil }
			fx.doctor.ManagedKey = rotation.KeyRef{ID: id}
			if test.arrange != nil {
				test.arrange(fx, id)
			}
			diagnosis := fx.run()
			fx.want(diagnosis, test.check, test.status, test.words...)
			if slices.Contains(names(diagnosis.Checks), "bootstrap-key-expiry") {
				t.Error("the expiry of the bootstrap key is shown twice")
			}
		})
	}
}
