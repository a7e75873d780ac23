// Command go-job is a job in Go: it lists the targets of Logs Routing CALLS times. Copy functions/iamtoken with it.
package main

import (
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
	service, err := url.Parse(os.Getenv("LOGS_ROUTING_URL") + "/v3/targets")
	calls, callsErr := strconv.Atoi(os.Getenv("CALLS"))
	if err != nil || service.Host == "" || callsErr != nil {
		fmt.Fprintln(os.Stderr, "Go job: set LOGS_ROUTING_URL to a URL and CALLS to a number")
		os.Exit(2)
	}
	reader := &iamtoken.Reader{Hosts: []string{service.Host}, Store: &iamtoken.SecretsManager{URL: os.Getenv("SECRETS_MANAGER_URL"),
		IAMURL: os.Getenv("IAM_URL"), SecretID: os.Getenv("TOKEN_SECRET"), APIKey: iamtoken.NewSecret(os.Getenv("READER_APIKEY"))}}
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
