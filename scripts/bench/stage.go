package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/envfile"
)

// stage is a running sandbox behind a proxy for each host, a round trip away.
type stage struct {
	sandbox *exec.Cmd
	proxies []*ibmcloudtest.SlowProxy
	folder  string
	env     []string
}

func (b bencher) newStage(rotations int, roundTrip time.Duration) (*stage, error) {
	folder, err := os.MkdirTemp("", "iam-token-rotator-bench-")
	if err != nil {
		return nil, err
	}
	s := &stage{folder: folder}
	file := filepath.Join(folder, "sandbox.env")
	s.sandbox = exec.Command(filepath.Join(b.bin, "sandbox"), "-addr", "127.0.0.1:0", "-tls-dir", folder, "-env", file, "-rotations", fmt.Sprint(rotations))
	if err := s.sandbox.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the sandbox: %w", err), os.RemoveAll(folder))
	}
	if err := s.furnish(file, roundTrip); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// furnish takes the sandbox's environment, with the hosts behind proxies.
func (s *stage) furnish(file string, roundTrip time.Duration) error {
	env, err := envfile.Await(context.Background(), file, 20*time.Second)
	if err != nil {
		return err
	}
	s.env = []string{"PATH=" + os.Getenv("PATH"), "SSL_CERT_FILE=" + filepath.Join(s.folder, "ca.pem")}
	for name, value := range env {
		if name == "IAM_URL" || name == "SECRETS_MANAGER_URL" {
			if value, err = s.behindProxy(value, roundTrip); err != nil {
				return err
			}
		}
		s.env = append(s.env, name+"="+value)
	}
	return nil
}

func (s *stage) behindProxy(origin string, roundTrip time.Duration) (string, error) {
	target, err := url.Parse(origin)
	if err != nil {
		return "", err
	}
	proxy, err := ibmcloudtest.NewSlowProxy(target.Host, roundTrip)
	if err != nil {
		return "", err
	}
	s.proxies = append(s.proxies, proxy)
	return "https://" + proxy.Addr(), nil
}

func (s *stage) stop() {
	_ = s.sandbox.Process.Signal(syscall.SIGTERM)
	_ = s.sandbox.Wait()
	for _, proxy := range s.proxies {
		_ = proxy.Close()
	}
	_ = os.RemoveAll(s.folder)
}
