// Command reader is a Go job for the canary: within the time that it is given it reads the token, calls Logs Routing with it,
// and prints all that it got in every way in which Go prints things.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

func main() {
	limit, err := time.ParseDuration(os.Args[1])
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	store := &iamtoken.SecretsManager{
		URL: os.Getenv("SECRETS_MANAGER_URL"), IAMURL: os.Getenv("IAM_URL"), SecretID: os.Getenv("TOKEN_SECRET"), APIKey: iamtoken.NewSecret(os.Getenv("READER_APIKEY")),
	}
	reader := &iamtoken.Reader{Store: store}
	token, err := reader.Token(ctx)
	show(token, err)
	version, err := store.Read(ctx)
	show(version.Payload, err)
	if request, failure := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv("IAM_URL")+"/v3/targets", nil); failure == nil {
		failure := reader.Authenticate(request)
		err = errors.Join(err, failure)
		request.Header.Del("Authorization")
		response, failure := (&http.Client{Transport: reader.Transport(nil)}).Do(request)
		if failure == nil {
			_ = response.Body.Close()
			fmt.Println(response.Status)
		}
		err = errors.Join(err, failure)
	}
	show(store, err)
	if err != nil {
		os.Exit(1)
	}
}

func show(value any, err error) {
	fmt.Printf("%v %+v %#v %s\n", value, value, value, value)
	encoded, _ := json.Marshal(value)
	fmt.Printf("%s\n", encoded)
	slog.Info("read", "value", value, "error", err)
	for ; err != nil; err = errors.Unwrap(err) {
		fmt.Fprintf(os.Stderr, "%v %+v %#v\n", err, err, err)
	}
}
