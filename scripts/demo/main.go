// Command demo shows one rotation from end to end: it starts the sandbox,
// delivers the scheduled event to the real built function as AWS Lambda would,
// then acts as a downstream job that reads the token and calls Logs Routing.
//
// It expects the programs bootstrap, invoke and sandbox in one folder, and ends
// everything it starts.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	bin := flag.String("bin", "build/local", "folder with the built programs bootstrap, invoke and sandbox")
	event := flag.String("event", "functions/rotate/event.json", "the event to deliver")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "demo: it takes flags alone (-h lists them)")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := tell(ctx, os.Stdout, *bin, *event); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// tell runs the story and narrates it to out.
func tell(ctx context.Context, out io.Writer, bin, event string) error {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

	say("1. Starting the sandbox of IBM Cloud: IAM, Secrets Manager and Logs Routing on one port.")
	sandbox, err := startSandbox(ctx, bin)
	if err != nil {
		return err
	}
	defer sandbox.stop()
	say("   It listens on %s. The token secret holds \"no token yet\".", sandbox.env["SECRETS_MANAGER_URL"])

	say("2. Delivering the scheduled event to the built function, as AWS Lambda would.")
	report, err := sandbox.invoke(ctx, bin, event)
	if err != nil {
		return err
	}
	result, err := report.only()
	if err != nil {
		return err
	}
	say("   The function answered: %s, version %s, expires %s.", result.Outcome, result.VersionID, result.ExpiresAt)

	say("3. Acting as a downstream job, which holds no API key of the workload:")
	job := job{ctx: ctx, env: sandbox.env}
	token, err := job.readToken()
	if err != nil {
		return err
	}
	if fingerprint(token) != result.Fingerprint {
		return fmt.Errorf("the secret holds the token %s, but the report says %s", fingerprint(token), result.Fingerprint)
	}
	say("   it read the token secret with its reader identity: fingerprint %s, the report's", fingerprint(token))
	status, err := job.callLogsRouting(token)
	if err != nil {
		return err
	}
	say("   and called Logs Routing, GET /v3/targets, with it: %s.", status)
	return nil
}
