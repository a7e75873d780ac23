package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// called are the programs that the scripts call.
var called = []string{"curl", "jq", "sed", "date", "grep", "cut", "tail", "head", "cat", "mktemp", "rm", "mv", "tr", "dirname", "stty", "awk", "sort", "wc", "base64", "env", "sh", "printf", "test", "touch", "chmod"}

// note is a program that writes down its arguments and then does what the real one does. What another process could
// read of it while it runs is so seen without a race.
const note = `#!/bin/sh
{ echo %[1]s; printf '%%s\n' "$@"; } >>"$CANARY_LOG/arguments"
exec %[2]s "$@"
`

// noteAll notes the environment too, of a program that talks to the network and has no business with our variables.
const noteAll = `#!/bin/sh
{ echo %[1]s; printf '%%s\n' "$@"; } >>"$CANARY_LOG/arguments"
/bin/cat /proc/$$/environ >>"$CANARY_LOG/environment"
exec %[2]s "$@"
`

// aws stands in for the aws program. With CANARY_AWS=repeat it fails, and repeats what it was to store.
const aws = `#!/bin/sh
{ echo aws; printf '%s\n' "$@"; } >>"$CANARY_LOG/arguments"
/bin/cat /proc/$$/environ >>"$CANARY_LOG/environment"
value= operation=$2
for argument; do case $argument in file://*) value=$(/bin/cat "${argument#file://}") ;; esac done
case $operation in
describe-secret)
	[ "${CANARY_AWS:-}" != found ] || { echo 'arn:aws:secretsmanager:us-east-1:123456789012:secret:bootstrap-AbCdEf	None'; exit 0; }
	[ "${CANARY_AWS:-}" != denied ] || { echo 'An error occurred (AccessDeniedException)' >&2; exit 254; }
	echo 'An error occurred (ResourceNotFoundException) when calling the DescribeSecret operation' >&2
	exit 254
	;;
get-secret-value) printf '{"SecretString":"%s","CreatedDate":"%s"}\n' "$CANARY_TOKEN" "$(/bin/date -u +%Y-%m-%dT%H:%M:%SZ)" ;;
*)
	case ${CANARY_AWS:-} in repeat*) echo "An error occurred (InvalidParameterException) when calling the $operation operation: $value" >&2; exit 254 ;; esac
	echo 'arn:aws:secretsmanager:us-east-1:123456789012:secret:bootstrap-AbCdEf'
	;;
esac
`

// writeNoting fills the folder with such programs.
func writeNoting(folder string) error {
	for _, name := range called {
		real, err := exec.LookPath(name)
		if err != nil {
			continue // it is not called then
		}
		text := note
		if name == "curl" {
			text = noteAll
		}
		if err := writeProgram(folder, name, fmt.Sprintf(text, name, real)); err != nil {
			return err
		}
	}
	// Nobody needs to wait for a retry here.
	if err := writeProgram(folder, "sleep", "#!/bin/sh\n"); err != nil {
		return err
	}
	return writeProgram(folder, "aws", aws)
}

func writeProgram(folder, name, text string) error {
	return os.WriteFile(filepath.Join(folder, name), []byte(text), 0o700)
}
