// Command sandbox serves a stand-in for IBM Cloud (IAM, Secrets Manager, Logs Routing) on one port.
package main

import (
	"context"
	"io"

	"iam-token-rotator/scripts/serving"
)

func main() { serving.Main(run) }

// run serves until ctx ends and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stdout)
	if err != nil {
		return serving.Refuse(stderr, "sandbox", err)
	}
	return serving.End(stderr, "sandbox", serve(ctx, o, stdout, stderr))
}
