package readmetest

import (
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// A function is the built one, with an IBM Cloud of its own.
type function struct {
	t     *testing.T
	cloud *ibmcloudtest.Cloud
	env   map[string]string
}

func newFunction(t *testing.T) *function {
	t.Helper()
	f := &function{t: t, cloud: ibmcloudtest.New(ibmcloudtest.Options{})}
	server := httptest.NewServer(f.cloud)
	t.Cleanup(server.Close)
	rotation := f.cloud.Rotations()[0]
	_ = f.cloud.MustMintToken(rotation.APIKey, time.Hour) // the cloud makes its signing key now, not within a run's time
	f.env = map[string]string{
		"PATH": os.Getenv("PATH"), "IAM_URL": server.URL, "SECRETS_MANAGER_URL": server.URL, "SECRETS_MANAGER_APIKEY": f.cloud.BootstrapAPIKey(),
		"API_KEY_SECRET": rotation.APIKeySecret, "TOKEN_SECRET": rotation.TokenSecret,
	}
	return f
}

// run runs it as a command.
func (f *function) run(args ...string) programs.Result {
	f.t.Helper()
	return programs.Run(f.t, programs.Command{Env: programs.Environ(f.env), Name: filepath.Join(programsFolder(f.t), "bootstrap"), Args: args})
}

// with is run with more variables; an empty one is as good as unset.
func (f *function) with(more map[string]string, args ...string) programs.Result {
	f.t.Helper()
	changed := *f
	changed.env = maps.Clone(f.env)
	maps.Copy(changed.env, more)
	return changed.run(args...)
}

// invoke delivers an event to it, as AWS Lambda would.
func (f *function) invoke(event string) programs.Result {
	f.t.Helper()
	bin := programsFolder(f.t)
	return programs.Run(f.t, programs.Command{Env: programs.Environ(f.env), Stdin: event,
		Name: filepath.Join(bin, "invoke"), Args: []string{"-event", "-", "--", filepath.Join(bin, "bootstrap")}})
}

// fault makes the cloud misbehave until the test ends.
func (f *function) fault(fault ibmcloudtest.Fault) {
	f.t.Helper()
	if err := f.cloud.AddFault(fault); err != nil {
		f.t.Fatal(err)
	}
}
