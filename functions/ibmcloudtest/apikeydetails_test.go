package ibmcloudtest_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestAKeysDetailsAreForItsOwnerAndTheAdmin(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	key := cloud.Rotations()[0].APIKey
	for name, test := range map[string]struct {
		asker, key string
		want       int
	}{
		"its owner":          {key, key, 200},
		"the admin":          {cloud.AdminAPIKey(), key, 200},
		"somebody else":      {cloud.ReaderAPIKey(), key, 403},
		"no key":             {cloud.ReaderAPIKey(), "", 403},
		"no key, as admin":   {cloud.AdminAPIKey(), "", 404},
		"unknown, as admin":  {cloud.AdminAPIKey(), "unknown", 404},
		"unknown, as reader": {cloud.ReaderAPIKey(), "unknown", 403},
	} {
		request, err := http.NewRequest(http.MethodGet, "https://iam.test/v1/apikeys/details", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+cloud.MustMintToken(test.asker, time.Hour))
		request.Header.Set("IAM-ApiKey", test.key)
		response, err := cloud.Transport().RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		body := new(strings.Builder)
		if err := response.Write(body); err != nil || response.StatusCode != test.want {
			t.Errorf("%s: got %d (%v), want %d", name, response.StatusCode, err, test.want)
		}
		if strings.Contains(body.String(), key) || test.want == 200 && !strings.Contains(body.String(), cloud.Rotations()[0].IAMID) {
			t.Errorf("%s: the answer is not the key's details without its value", name)
		}
	}
}
