// Command hello is a minimal Lambda function in Go, built as the rotator's function is.
// Its cold start is the shortest that is possible.
package main

import (
	"context"

	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	lambda.Start(func(context.Context) (string, error) { return "hello", nil })
}
