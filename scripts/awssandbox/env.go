package main

import (
	"maps"
	"runtime"
	"slices"

	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/envfile"
)

// unset takes away what would lead the aws CLI elsewhere in spite of the variables, or say more than
// they do. An empty profile would be looked for, too.
const unset = "unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN\n"

// environment is what leads the aws CLI to origin, whatever account its user is used to, and what
// make deploy wants to know of AWS, for sh.
func environment(origin string) string {
	set := awstest.Environment(origin)
	maps.Copy(set, map[string]string{
		"AWS_DEFAULT_REGION": awstest.Region, // for version 1 of the CLI
		"BUCKET":             bucket,
		"ARCH":               runtime.GOARCH, // the function runs on this machine
	})
	var variables [][2]string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		variables = append(variables, [2]string{name, set[name]})
	}
	return unset + envfile.Lines(variables)
}
