// Command awssandbox serves a stand-in for AWS on one loopback port: moto_server, and an AWS Lambda
// that runs what is deployed. With scripts/sandbox, which stands for IBM Cloud, the whole deployment
// can be tried without an account.
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
		return serving.Refuse(stderr, "awssandbox", err)
	}
	return serving.End(stderr, "awssandbox", serve(ctx, o, stdout, stderr))
}
