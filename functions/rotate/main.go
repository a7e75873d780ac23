// Command rotate keeps IBM Cloud IAM access tokens in secrets valid.
//
// With AWS_LAMBDA_RUNTIME_API in its environment it is a Lambda custom runtime;
// without it, a command for a run by hand, a Code Engine job or cron.
package main

import (
	"io"
	"log"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
)

// version is set by the linker.
var version = "dev"

func main() {
	// Libraries log through the standard logger, and what they log may be what
	// was sent: net/http repeats an unsolicited response, GODEBUG=http2debug
	// every header. This program logs nothing there.
	log.SetOutput(io.Discard)
	protectMemory()
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") != "" {
		lambda.Start(newFunction(os.Getenv("AWS_LAMBDA_FUNCTION_NAME"), os.Environ(), os.Stdout))
		return
	}
	os.Exit(command(os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}
