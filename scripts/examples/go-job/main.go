// Command go-job is a job in Go: it lists the targets of Logs Routing CALLS
// times, one a second, through one HTTP client, which gives the token to that host
// alone. It takes no arguments, and its settings from the environment.
package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

func main() {
	if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "go job: it takes no arguments, but SECRETS_MANAGER_URL, IAM_URL, TOKEN_SECRET, READER_APIKEY, LOGS_ROUTING_URL and CALLS from the environment")
		os.Exit(2)
	}
	service, err := url.Parse(os.Getenv("LOGS_ROUTING_URL"))
	if err != nil || service.Host == "" {
		fmt.Fprintln(os.Stderr, "go job: LOGS_ROUTING_URL is not set to a URL")
		os.Exit(2)
	}
	reader := &iamtoken.Reader{
		Store: &iamtoken.SecretsManager{
			URL:      os.Getenv("SECRETS_MANAGER_URL"),
			IAMURL:   os.Getenv("IAM_URL"),
			SecretID: os.Getenv("TOKEN_SECRET"),
			APIKey:   iamtoken.NewSecret(os.Getenv("READER_APIKEY")),
		},
		Hosts: []string{service.Host},
	}
	client := &http.Client{Transport: reader.Transport(nil), Timeout: 30 * time.Second}
	calls, err := strconv.Atoi(os.Getenv("CALLS"))
	if err != nil {
		calls = 10
	}
	for call := range calls {
		if err := listTargets(client, call+1); err != nil {
			fmt.Fprintln(os.Stderr, "go job:", err)
			os.Exit(1)
		}
		time.Sleep(time.Second)
	}
}

func listTargets(client *http.Client, call int) error {
	response, err := client.Get(os.Getenv("LOGS_ROUTING_URL") + "/v3/targets")
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	fmt.Printf("Go job, call %d: Logs Routing answered %s\n", call, response.Status)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the call ended with %s", response.Status)
	}
	return nil
}
