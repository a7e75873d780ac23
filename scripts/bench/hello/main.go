// Command hello is the least a Lambda function in Go can be: the floor for cold
// starts, built as the function is.
package main

import (
	"context"

	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	lambda.Start(func(context.Context) (string, error) { return "hello", nil })
}
