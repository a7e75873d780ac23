package programs

import (
	"os"
	"slices"
	"strings"
)

// ours begin the variables that mean something to the programs of this repository and to what they
// call, or to a make that a make started.
var ours = []string{"AWS_", "SECRETS_MANAGER_", "MAKE", "MFLAGS", "IAM_", "API_KEY_SECRET", "TOKEN_SECRET", "ROTATION", "READER_", "ADMIN_",
	"STACK", "BUCKET", "BOOTSTRAP_", "PARAMS", "MODE", "FORCE", "ARCH", "DENIED_", "BUILD_DIR", "DEPLOY_DIR", "VERSION", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}

// CleanEnviron is this process's environment without those, and with add.
func CleanEnviron(add ...string) []string {
	means := func(variable string) bool {
		return slices.ContainsFunc(ours, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	}
	return append(slices.DeleteFunc(os.Environ(), means), add...)
}

// Environ writes sets of variables as a process takes them; of two values of a name the later counts.
func Environ(sets ...map[string]string) []string {
	env := []string{}
	for _, set := range sets {
		for name, value := range set {
			env = append(env, name+"="+value)
		}
	}
	return env
}
