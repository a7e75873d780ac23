package awstest

import "testing"

// Lambda logs a line of its own where the function cannot, and only there.
func TestOwnWords(t *testing.T) {
	for answer, want := range map[string]string{
		`{"errorMessage":"8f1b Task timed out after 2.00 seconds","errorType":"Sandbox.Timedout"}` + "\n":                           "8f1b Task timed out after 2.00 seconds\n",
		`{"errorMessage":"RequestId: 8f1b Error: Runtime exited with error: exit status 2","errorType":"Runtime.ExitError"}` + "\n": "RequestId: 8f1b Error: Runtime exited with error: exit status 2\n",
		`{"errorMessage":"1 of 1 rotations failed","errorType":"RotationError"}` + "\n":                                             "",
		"null\n": "",
	} {
		if got := ownWords([]byte(answer)); got != want {
			t.Errorf("%s: got %q, want %q", answer, got, want)
		}
	}
}
