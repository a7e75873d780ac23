package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/serving"
)

// bucket is made for the code of whatever is deployed.
const bucket = "iam-token-rotator-code"

// serve starts moto, listens, publishes the environment, and answers until ctx ends or moto does.
func serve(ctx context.Context, o options, stdout, stderr io.Writer) error {
	invoke, err := findInvoke(o.bin)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.addr)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	moto, err := startMoto(ctx)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer moto.Stop()
	origin := serving.Origin(listener.Addr(), false)
	if err := envfile.Publish(o.env, environment(origin), stdout); err != nil {
		return errors.Join(err, listener.Close())
	}
	if o.env != "" && o.env != "-" {
		defer func() { _ = os.Remove(o.env) }()
	}
	fmt.Fprintf(stderr, "awssandbox: serving AWS on %s\n", origin)

	whileMoto, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-moto.Ended()
		cancel()
	}()
	err = serving.Until(whileMoto, &http.Server{
		Handler:           &awstest.Lambda{Moto: moto, Program: invoke},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(stderr, "awssandbox: ", 0),
	}, listener)
	if err == nil && ctx.Err() == nil { // Ctrl-C ends both
		err = errors.New("moto_server has ended by itself")
	}
	return err
}

// findInvoke returns the absolute path of scripts/invoke, which can run what Lambda runs on Linux alone.
func findInvoke(bin string) (string, error) {
	if runtime.GOOS != "linux" {
		return "", fmt.Errorf("%w: the deployed function is a program for Linux, this is %s", serving.ErrFirst, runtime.GOOS)
	}
	path, err := filepath.Abs(filepath.Join(bin, "invoke"))
	if err == nil {
		path, err = exec.LookPath(path)
	}
	if err != nil {
		return "", fmt.Errorf("%w: make build-local first: %w", serving.ErrFirst, err)
	}
	return path, nil
}

// startMoto starts moto with the bucket in it.
func startMoto(ctx context.Context) (*awstest.Moto, error) {
	moto, err := awstest.StartMoto()
	if errors.Is(err, awstest.ErrNotInstalled) {
		return nil, fmt.Errorf("%w: %w", serving.ErrFirst, err)
	}
	if err != nil {
		return nil, err
	}
	if err := moto.MakeBucket(ctx, bucket); err != nil {
		moto.Stop()
		return nil, err
	}
	return moto, nil
}
