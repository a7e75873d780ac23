package ibmcloudtest_test

import (
	"fmt"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestMustHelpers(t *testing.T) {
	now := newClock()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Now: now.Now})
	id := cloud.Rotations()[0].TokenSecret
	put := cloud.MustPutVersion(id, "token", map[string]any{"a": "b"})
	if !put.CreatedAt.Equal(now.now) || !put.PayloadAvailable || put.Payload != "token" || put.Metadata["a"] != "b" || put.CreatedBy == "" {
		t.Errorf("MustPutVersion: got %+v", put)
	}
	cloud.MustSetVersionMetadata(id, "current", map[string]any{"a": "c"})
	if got := cloud.MustCurrent(id); got.ID != put.ID || got.Metadata["a"] != "c" {
		t.Errorf("MustCurrent: got %+v, want version %s with a:c", got, put.ID)
	}
	cloud.MustSetVersionMetadata(id, put.ID, nil)
	if got := cloud.MustCurrent(id).Metadata; got != nil {
		t.Errorf("metadata: got %v, want none", got)
	}
	cloud.MustDeleteSecret(id)
	defer func() {
		if recover() == nil {
			t.Error("MustCurrent of a deleted secret: got no panic, want one")
		}
	}()
	cloud.MustCurrent(id)
}

func TestManyRotations(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: 10_000})
	seen := map[string]bool{}
	for i, r := range cloud.Rotations() {
		if want := fmt.Sprintf("rotation-%05d", i+1); r.Name != want {
			t.Fatalf("name: got %s, want %s", r.Name, want)
		}
		for _, unique := range []string{r.APIKeySecret, r.TokenSecret, r.APIKey, r.IAMID, r.APIKeySecretName} {
			if seen[unique] {
				t.Fatalf("%s: something is shared with another rotation", r.Name)
			}
			seen[unique] = true
		}
	}
	last := cloud.Rotations()[9_999]
	if got := cloud.MustCurrent(last.APIKeySecret).Payload; got != last.APIKey {
		t.Error("the last key secret does not hold the last key")
	}
}

func BenchmarkSeed10000Rotations(b *testing.B) {
	for b.Loop() {
		ibmcloudtest.New(ibmcloudtest.Options{Rotations: 10_000})
	}
}
