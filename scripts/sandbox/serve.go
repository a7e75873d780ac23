package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// shutdownTime is how long requests in flight may take to end.
const shutdownTime = 2 * time.Second

// serve listens, publishes the environment, and answers until ctx ends.
func serve(ctx context.Context, o options, stdout, stderr io.Writer) error {
	var certificates *tls.Config
	if o.tlsDir != "" {
		var err error
		if certificates, err = writeCertificates(o.tlsDir); err != nil {
			return err
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.addr)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: o.rotations, TokenTTL: o.tokenTTL})
	server := &http.Server{
		Handler:           cloud,
		TLSConfig:         certificates,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // a delayed answer does not delay the end
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(stderr, "sandbox: ", 0),
	}
	served := start(server, listener)
	origin := originOf(listener.Addr(), certificates != nil)
	cleanUp, err := publish(cloud, origin, o, stdout)
	defer cleanUp()
	if err != nil {
		return errors.Join(err, stop(server, served))
	}
	fmt.Fprintf(stderr, "sandbox: serving IBM Cloud on %s\n", origin)

	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
		return stop(server, served)
	}
}

// start serves in the background, over TLS if the server has certificates. The channel gives the
// one error with which serving ends.
func start(server *http.Server, listener net.Listener) <-chan error {
	served := make(chan error, 1)
	go func() {
		if server.TLSConfig != nil {
			served <- server.ServeTLS(listener, "", "")
		} else {
			served <- server.Serve(listener)
		}
	}()
	return served
}

// stop ends the server, cutting off requests that do not end in time.
func stop(server *http.Server, served <-chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// originOf is the origin that a client on this machine uses. A listener on every address is reached
// on the loopback one.
func originOf(addr net.Addr, secure bool) string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return scheme + "://" + addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// publish writes the environment where the options say. The returned function removes what must
// not outlive the process; it is never nil.
func publish(cloud *ibmcloudtest.Cloud, origin string, o options, stdout io.Writer) (cleanUp func(), err error) {
	cleanUp = func() {}
	if o.env == "" {
		return cleanUp, nil
	}
	rotationsFile := ""
	if o.rotations > 1 {
		if rotationsFile, err = writeRotations(cloud.Rotations(), o.env); err != nil {
			return cleanUp, err
		}
		if o.env == "-" {
			cleanUp = func() { _ = os.Remove(rotationsFile) }
		}
	}
	text := environment(cloud, origin, rotationsFile)
	if o.env == "-" {
		_, err = io.WriteString(stdout, text)
		return cleanUp, err
	}
	return cleanUp, writeFile(o.env, []byte(text), 0o600)
}
