package awstest

import (
	"errors"
	"os"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// Start starts moto, which ends with the test. Where it is not installed the test is skipped, and
// fails where CI=true.
func Start(t testing.TB) *Moto {
	t.Helper()
	moto, err := StartMoto()
	if errors.Is(err, ErrNotInstalled) {
		programs.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(moto.Stop)
	return moto
}

// Setenv leads the SDK in this process to endpoint until the test ends, whatever AWS variables the
// process was started with.
func Setenv(t testing.TB, endpoint string) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	for name, value := range Environment(endpoint) {
		t.Setenv(name, value)
	}
}

// MustCall is Call, whose error ends the test.
func (m *Moto) MustCall(t testing.TB, service, operation string, in map[string]any) map[string]any {
	t.Helper()
	out, err := m.Call(t.Context(), service, operation, in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// MustDo is Do, whose error ends the test.
func (m *Moto) MustDo(t testing.TB, r Request) (status int, answer []byte) {
	t.Helper()
	status, answer, err := m.Do(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}
