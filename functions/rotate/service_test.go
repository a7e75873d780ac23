package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

func TestEverySettingReachesTheRotator(t *testing.T) {
	expires := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	service, err := newService(config.Config{
		SecretsManagerURL: "https://127.0.0.1:1", IAMURL: "https://127.0.0.1:1",
		Credential:   config.Credential{Variable: "SECRETS_MANAGER_APIKEY", APIKey: iamtoken.NewSecret("key")},
		Rotations:    []rotation.Rotation{{Name: "a"}, {Name: "b"}},
		MinRemaining: 7 * time.Minute, RotationInterval: 40 * time.Minute, MaxRPS: 0, Concurrency: 5, BootstrapExpiresAt: config.Date{Time: expires},
	}, commandFor)
	if err != nil {
		t.Fatal(err)
	}
	got := service.rotator
	if got.MinRemaining != 7*time.Minute || got.Interval != 40*time.Minute || got.Concurrency != 5 || !service.watch.BootstrapExpiresAt.Equal(expires) || got.Version != version || got.HowToRun == nil {
		t.Errorf("got %+v, want the settings", got)
	}
	if service.watch.Keys == nil || service.watch.IAM == nil || got.Tokens == nil || len(service.config.Rotations) != 2 {
		t.Errorf("got %+v, want adapters and both rotations", service)
	}
}

func TestForceModeAndRunIDReachTheRun(t *testing.T) {
	cloud, origin := newCloud(t)
	f := newFunction("the-function", environ(cloud, origin), io.Discard)
	if _, err := invoke(t, f, `{}`); err != nil {
		t.Fatal(err)
	}
	cloud.SetTokenTTL(15 * time.Minute) // a new token expires sooner than the stored one
	command := func(args string) (string, error) {
		var stdout bytes.Buffer
		command(strings.Fields(args), environ(cloud, origin), nil, &stdout, io.Discard)
		return stdout.String(), nil
	}
	event := func(payload string) (string, error) {
		response, err := invoke(t, f, payload)
		return string(response), err
	}
	for _, test := range []struct {
		host        func(string) (string, error)
		asked, want string
	}{
		{event, `{"run_id":"without-force"}`, `"outcome":"kept"`},
		{event, `{"run_id":"only-checking","mode":"check","force":true}`, `"outcome":"checked"`},
		{event, `{"run_id":"ensure-it","mode":"ensure","force":true}`, `"outcome":"fresh"`},
		{command, "-run-id by-hand-1", "default: kept"},
		{command, "-run-id by-hand-2 -force", "default: rotated"},
		{event, `{"run_id":"with-force","force":true}`, `"outcome":"rotated"`},
	} {
		if got, err := test.host(test.asked); err != nil || !strings.Contains(got, test.want) {
			t.Errorf("%s: got %s, %v; want %s", test.asked, got, err, test.want)
		}
	}
}

// A limit must make a run slower, never starve it: attempts that queue for longer than they may take would be thrown away whole.
func TestPolitenessStarvesNoRun(t *testing.T) {
	for _, test := range []struct{ rotations, maxRPS, concurrency int }{
		{40, 1, 16}, {40, 2, 16}, {40, 3, 16}, {40, 5, 64}, {300, 20, 16}, {300, 20, 300},
	} {
		t.Run(fmt.Sprintf("%d at %d RPS, %d at a time", test.rotations, test.maxRPS, test.concurrency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: test.rotations})
				var rotations []rotation.Rotation
				for _, seeded := range cloud.Rotations() {
					rotations = append(rotations, rotation.Rotation{Name: seeded.Name, APIKey: rotation.KeyRef{ID: seeded.APIKeySecret}, Token: rotation.TokenRef{ID: seeded.TokenSecret}})
				}
				iam := ibmcloud.NewIAM("https://iam.test", cloud.Transport(), nil)
				sm, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
					URL: "https://instance.test", Transport: cloud.Transport(), MaxRPS: test.maxRPS,
					Bootstrap: ibmcloud.BootstrapByKey(iam, ibmcloud.FixedKey(iamtoken.NewSecret(cloud.BootstrapAPIKey()))),
				})
				if err != nil {
					t.Fatal(err)
				}
				rotator := rotation.Rotator{Keys: sm, IAM: iam, Tokens: sm, MinRemaining: 8 * time.Minute, Log: slog.New(slog.DiscardHandler),
					Concurrency: attemptsAtOnce(test.concurrency, test.maxRPS)}
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
				defer cancel()
				ran := rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "politely"}, rotations)
				for _, result := range ran.Results {
					if result.Outcome != report.Rotated || result.Attempts != 1 {
						t.Fatalf("%s: got %s after %d attempts (%v), want rotated at once", result.Rotation, result.Outcome, result.Attempts, result.Error)
					}
				}
			})
		})
	}
}

// TestACrashDumpsNoCore: a core file holds all of the memory, keys and tokens included. GOTRACEBACK=crash asks for one.
func TestACrashDumpsNoCore(t *testing.T) {
	bin, err := builtPrograms()
	if err != nil {
		t.Fatal(err)
	}
	asked, release := make(chan struct{}, 8), make(chan struct{})
	iam := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-release
	}))
	t.Cleanup(iam.Close)
	t.Cleanup(func() { close(release) })
	crashing := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -c unlimited; exec "$@"`, "sh", filepath.Join(bin, "iam-token-rotator"))
	crashing.Dir = t.TempDir()
	crashing.Env = []string{"GOTRACEBACK=crash", "IAM_URL=" + iam.URL, "SECRETS_MANAGER_URL=" + iam.URL, "SECRETS_MANAGER_APIKEY=canary",
		"API_KEY_SECRET=cb1e238c-d449-4fe7-bd68-04f0c5b59eb1", "TOKEN_SECRET=e2dd1896-8c39-4160-b230-92430f439ba9"}
	if err := crashing.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := crashing.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	_ = crashing.Wait()
	status, _ := crashing.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() {
		t.Errorf("got %s, want the end by a signal that GOTRACEBACK=crash asks for", crashing.ProcessState)
	}
	if status.CoreDump() {
		t.Error("a core was dumped")
	}
}

// TestArgumentsAreNotRepeated: somebody will give the key as an argument, and what the command says of it goes into a log.
func TestArgumentsAreNotRepeated(t *testing.T) {
	const key = "canary-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eRdU4oI"
	for _, args := range [][]string{
		{key}, {"-" + key}, {"--" + key + "=1"}, {"-apikey", key}, {"--apikey=" + key}, {"-mode", key}, {"-mode=" + key}, {"-timeout", key},
		{"-timeout=" + key}, {"-json=" + key}, {"-force=" + key}, {"-run-id", key + "!"}, {"---" + key}, {"-=" + key}, {"doctor", "-" + key}, {"doctor", "-timeout", key},
	} {
		var stdout, stderr bytes.Buffer
		if exit := command(args, nil, nil, &stdout, &stderr); exit != exitUsage {
			t.Errorf("%.20q: got exit %d, want %d", args, exit, exitUsage)
		}
		if said := stdout.String() + stderr.String(); strings.Contains(said, key[:12]) {
			t.Errorf("%.20q: the argument is repeated", args)
		}
		if stderr.Len() == 0 {
			t.Errorf("%.20q: got nothing on stderr, want what is wrong", args)
		}
	}
}
