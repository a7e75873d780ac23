package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"iam-token-rotator/scripts/awstest"
)

// outcome is the result of one run of the program.
type outcome struct {
	exit           int
	stdout, stderr string
}

func (o outcome) all() string { return o.stdout + o.stderr }

// runWith runs the program in this process, with this environment alone. If something is typed, standard input is a terminal. A
// wait takes no time, but moves the clock.
func runWith(t *testing.T, env map[string]string, cfg aws.Config, typed string, args ...string) outcome {
	t.Helper()
	return runAs(t, func(*program) {}, env, cfg, typed, args...)
}

// runAs is runWith after a change of the program.
func runAs(t *testing.T, change func(*program), env map[string]string, cfg aws.Config, typed string, args ...string) outcome {
	t.Helper()
	stdin := strings.NewReader(typed)
	var stdout, stderr bytes.Buffer
	var waited time.Duration
	p := program{
		getenv: func(name string) string { return env[name] },
		stdin:  stdin, stdout: &stdout, stderr: &stderr,
		now: func() time.Time { return time.Now().Add(waited) },
		sleep: func(ctx context.Context, d time.Duration) error {
			switch d {
			case executionPause:
				return shortly(ctx, d)
			case deniedPause:
				waited += 9 * d
			}
			waited += d
			return ctx.Err()
		},
		isTerminal: func(file any) bool { return typed != "" && file == stdin },
		loadAWS:    func(context.Context) (aws.Config, error) { return cfg, nil },
		build:      linkFunction,
		terraform:  terraform,
	}
	change(&p)
	code := p.run(t.Context(), args)
	return outcome{code, stdout.String(), stderr.String()}
}

// shortly waits a moment: executions in moto take real time.
func shortly(ctx context.Context, _ time.Duration) error {
	time.Sleep(100 * time.Millisecond)
	return ctx.Err()
}

func TestCommandLine(t *testing.T) {
	key := strings.Repeat("k", 44)
	tests := []struct {
		name, args string
		exit       int
		says       string
	}{
		{"version", "--version", 0, "rotatorctl dev"},
		{"help", "-h", 0, "Exit code: 0 done, 1 failed, 2 wrong usage."},
		{"completion", "completion bash", 0, "bash completion"},
		{"unknown command", "nonsense", 2, `"nonsense" is not a command`},
		{"misspelt command", "statsu", 2, `"statsu" is not a command: do you mean status? (rotatorctl -h lists the commands)`},
		{"a key as command", key, 2, "(44 characters, not repeated here)"},
		{"unknown option", "--nonsense=x", 2, `rotatorctl: unknown option: --nonsense (-h lists the options)`},
		{"option without value", "--stack", 2, `option needs an argument: --stack (-h`},
		{"wrong value", "--yes=" + key, 2, "option --yes: (44 characters, not repeated here) is no truth value: use true or false"},
		{"a key as option", "-" + key, 2, "not repeated here"},
		{"a key as long option", "--" + key, 2, "not repeated here"},
		{"output", "-o yaml", 2, `-o "yaml" is not known: use text or json`},
	}
	for _, tt := range tests {
		got := runWith(t, nil, aws.Config{}, "", strings.Fields(tt.args)...)
		if all := got.stdout + got.stderr; got.exit != tt.exit || !strings.Contains(all, tt.says) || strings.Contains(all, key) {
			t.Errorf("%s: got exit %d and %q, want %d and %q without the key", tt.name, got.exit, all, tt.exit, tt.says)
		}
	}
}

func TestForeignTextIsEscaped(t *testing.T) {
	hostile := "a\x1b[31m\r\n\u202e\u0085\xff\x00é✓"
	const want = `a\x1b[31m\r\n\u202e\u0085\xff\x00é✓`
	if got := printable(hostile); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := quote(hostile); strings.ContainsAny(got, "\x1b\r\n\u202e\u0085\x00") || !strings.HasPrefix(got, `"a`) {
		t.Errorf("got %q, want it escaped in quotes", got)
	}
}

// The SDK's error for Ctrl-C does not say that the function continues.
func TestInterruptedCalls(t *testing.T) {
	err := &smithy.OperationError{ServiceID: "Lambda", OperationName: "Invoke", Err: &smithy.CanceledError{Err: context.Canceled}}
	if got := (&program{}).functionError(err).Error(); !strings.HasPrefix(got, "interrupted: the function continues") {
		t.Errorf("a run: got %q", got)
	}
	if got := awsError(err).Error(); got != "interrupted" {
		t.Errorf("any call: got %q, want interrupted", got)
	}
	var cancel func()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Target") != "" { // the log is asked for
			_, _ = io.Copy(io.Discard, r.Body)
			cancel()
			<-r.Context().Done()
		}
		_, _ = io.WriteString(w, "<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>")
	}))
	defer server.Close()
	for follow, want := range map[bool]string{false: "the log of one cannot be read: interrupted", true: "<nil>"} {
		ctx, stop := context.WithCancel(t.Context())
		cancel = stop
		p := program{stack: "one", now: time.Now, loadAWS: func(context.Context) (aws.Config, error) { return configFor(server.URL), nil }}
		if got := fmt.Sprint(p.printLogs(ctx, logOptions{since: time.Hour, follow: follow})); got != want {
			t.Errorf("logs, follow %t: got %s, want %s", follow, got, want)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if got := sleep(ctx, time.Hour); got == nil || got.Error() != "interrupted" {
		t.Errorf("a wait: got %v, want interrupted", got)
	}
}

// A deployment waits for permissions only if every failure, of the function or of a state machine, is a missing permission.
func TestOnlyDenied(t *testing.T) {
	for failure, want := range map[string]bool{
		"RotationError: 2 of 2 rotations failed; a: look: denied: no; b: save: denied: no":    true,
		"RotationError: 2 of 2 rotations failed; a: look: denied: no; b: save: not_found: no": false,
		"RotationError: 1 of 1 rotations failed; a: look: timeout: no":                        false,
		"the execution x is FAILED: States.ItemReaderFailed: S3.AccessDenied":                 true,
		"it gave no reason: Unhandled":                                                        false,
	} {
		if got := onlyDenied(failure); got != want {
			t.Errorf("%s: got %t", failure, got)
		}
	}
}

func TestTheAttemptsOfAWSAreTheUsersOwn(t *testing.T) {
	awstest.Setenv(t, "http://127.0.0.1:1")
	for set, want := range map[string]int{"": 8, "2": 2} {
		t.Setenv("AWS_MAX_ATTEMPTS", set)
		if cfg, err := loadAWS(t.Context()); err != nil || cfg.RetryMaxAttempts != want {
			t.Errorf("AWS_MAX_ATTEMPTS=%s: got %d attempts, %v; want %d", set, cfg.RetryMaxAttempts, err, want)
		}
	}
}
