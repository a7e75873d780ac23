package iamtoken

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The proxy comes from the environment, which net/http reads once: so each case is a
// process of its own.
func TestAProxyIsNamed(t *testing.T) {
	if os.Getenv("READ_THROUGH_PROXY") != "" {
		_, err := (&SecretsManager{URL: "https://instance.test", IAMURL: "https://iam.test", SecretID: "00000000-0000-4000-8000-000000000000",
			APIKey: NewSecret(readersKey)}).Read(t.Context())
		fmt.Println(err, errors.Is(err, ErrUnavailable))
		return
	}
	refusing := func(status string) string {
		return rawServer(t, "", func(string) string { return "HTTP/1.1 " + status + " SECRET\r\nContent-Length: 0\r\n\r\n" })
	}
	for says, proxy := range map[string]string{
		"the proxy on the way to IAM answered 407: check the user and password in HTTPS_PROXY": refusing("407"),
		"the proxy on the way to IAM answered 403: allow the host at the proxy":                refusing("403"),
		"the proxy on the way to IAM answered 503: it may be unable to reach the host":         refusing("503"),
		"the proxy on the way to IAM cannot be reached: check HTTPS_PROXY":                     "http://127.0.0.1:1",
	} {
		job := exec.Command(os.Args[0], "-test.run=^TestAProxyIsNamed$")
		job.Env = append(os.Environ(), "READ_THROUGH_PROXY=yes", "HTTPS_PROXY="+proxy, "https_proxy="+proxy, "NO_PROXY=", "no_proxy=")
		out, err := job.CombinedOutput()
		if err != nil || !strings.Contains(string(out), says) || !strings.Contains(string(out), " true\n") {
			t.Errorf("got %v, %.300s; want it to say %q", err, out, says)
		}
		wantNothingSent(t, "the error", string(out))
	}
}
