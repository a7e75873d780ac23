// Command go-job is a job in Go: it lists the targets of Logs Routing CALLS times. Copy functions/iamtoken with it.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

func main() {
	service, urlErr := url.Parse(os.Getenv("LOGS_ROUTING_URL") + "/v3/targets")
	calls, callsErr := strconv.Atoi(cmp.Or(os.Getenv("CALLS"), "10"))
	reader := &iamtoken.Reader{Store: &iamtoken.SecretsManager{URL: os.Getenv("SECRETS_MANAGER_URL"),
		IAMURL: os.Getenv("IAM_URL"), SecretID: os.Getenv("TOKEN_SECRET"), APIKey: iamtoken.NewSecret(os.Getenv("READER_APIKEY"))}}
	if err := reader.Validate(); err != nil {
		fmt.Fprintln(os.Stderr, "Go job: READER_APIKEY, SECRETS_MANAGER_URL or TOKEN_SECRET is not set or wrong:", err)
		os.Exit(2)
	}
	if urlErr != nil || service.Host == "" || callsErr != nil { // which could repeat a password
		fmt.Fprintln(os.Stderr, "Go job: LOGS_ROUTING_URL is not set to a URL, or CALLS not to a number")
		os.Exit(2)
	}
	reader.Hosts = []string{service.Host}
	client := &http.Client{Transport: reader.Transport(nil), Timeout: 30 * time.Second}
	for ; calls > 0; calls-- {
		response, err := client.Get(service.String())
		if err != nil {
			fmt.Fprintln(os.Stderr, "Go job:", err)
			os.Exit(map[bool]int{true: 3, false: 1}[errors.Is(err, iamtoken.ErrExpired)])
		}
		fmt.Println("Go job: Logs Routing answered", response.StatusCode)
		if _ = response.Body.Close(); response.StatusCode != http.StatusOK {
			os.Exit(1)
		}
		time.Sleep(2 * time.Second)
	}
}
