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
	"strconv"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/serving"
)

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
	origin := serving.Origin(listener.Addr(), certificates != nil)
	cleanUp, err := publish(cloud, origin, o, stdout)
	defer cleanUp()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	fmt.Fprintf(stderr, "sandbox: serving IBM Cloud on %s%s\n", origin, elsewhere(listener.Addr()))
	return serving.Until(ctx, &http.Server{
		Handler:           cloud,
		TLSConfig:         certificates,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(stderr, "sandbox: ", 0),
	}, listener)
}

// elsewhere tells of a listener that others reach too. All that it has is made up, but they can have it.
func elsewhere(addr net.Addr) string {
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return ", and to everybody who reaches this machine, on port " + strconv.Itoa(tcp.Port)
	}
	return ""
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
	return cleanUp, envfile.Publish(o.env, environment(cloud, origin, rotationsFile), stdout)
}
