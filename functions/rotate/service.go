package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"

	"iam-token-rotator/functions/internal/awscloud"
	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
)

// service runs events with what the configuration describes. It outlives
// invocations, so a warm process keeps its connections and bootstrap token.
type service struct {
	rotator   rotation.Rotator
	rotations []rotation.Rotation
}

func newService(cfg config.Config) (*service, error) {
	transport := ibmcloud.NewTransport()
	transport.Preconnect(cfg.IAMURL, cfg.SecretsManagerURL)
	iam := ibmcloud.NewIAM(cfg.IAMURL, transport, nil)
	secretsManager, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: cfg.SecretsManagerURL, Bootstrap: newBootstrap(cfg.Bootstrap, iam, transport), Transport: transport, MaxRPS: cfg.MaxRPS,
	})
	if err != nil {
		return nil, err
	}
	return &service{
		rotations: cfg.Rotations,
		rotator: rotation.Rotator{
			Keys:               secretsManager,
			IAM:                iam,
			Tokens:             secretsManager,
			Mirrors:            awscloud.NewMirrors(transport),
			MinRemaining:       cfg.MinRemaining,
			Interval:           cfg.RotationInterval,
			Concurrency:        attemptsAtOnce(cfg.Concurrency, cfg.MaxRPS),
			BootstrapExpiresAt: cfg.BootstrapExpiresAt,
			Version:            version,
		},
	}, nil
}

// attemptsAtOnce is how many attempts may run side by side under the politeness
// limit. An attempt makes three requests in the 10 seconds it may take; with more
// of them than the limit serves in half that time, all would queue until they
// are cut off and none would finish.
func attemptsAtOnce(concurrency, maxRPS int) int {
	if maxRPS == 0 {
		return concurrency
	}
	return min(concurrency, max(1, maxRPS*5/3))
}

// newBootstrap picks the way in that is configured; config sees to it that one is.
func newBootstrap(cfg config.Bootstrap, iam *ibmcloud.IAM, transport http.RoundTripper) *ibmcloud.Bootstrap {
	switch {
	case !cfg.APIKey.IsZero():
		return ibmcloud.BootstrapByKey(iam, ibmcloud.FixedKey(cfg.APIKey))
	case cfg.APIKeyARN != "":
		return ibmcloud.BootstrapByKey(iam, awscloud.BootstrapKey(cfg.APIKeyARN, transport))
	case !cfg.Token.IsZero():
		return ibmcloud.BootstrapByToken(cfg.Token, nil)
	default:
		return ibmcloud.BootstrapByProfile(iam, ibmcloud.Profile{
			Name: cfg.ProfileName, ID: cfg.ProfileID, CRTokenFilename: cfg.CRTokenFilename,
		})
	}
}

// run does what the event asks. The error is about the event; what fails in a
// rotation is in the report.
func (s *service) run(ctx context.Context, e event, log *slog.Logger) (rotation.Report, error) {
	rotations, err := choose(s.rotations, e.rotations)
	if err != nil {
		return rotation.Report{}, err
	}
	rotator := s.rotator
	rotator.Log = log
	return rotator.Run(ctx, rotation.Request{Mode: e.mode, Force: e.force, RunID: e.runID}, rotations), nil
}

func names(rotations []rotation.Rotation) []string {
	list := make([]string, len(rotations))
	for i, r := range rotations {
		list[i] = r.Name
	}
	return list
}

func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

// logResults writes a line for each rotation.
func logResults(log *slog.Logger, report rotation.Report) {
	for _, result := range report.Results {
		level := slog.LevelInfo
		if result.Outcome == rotation.Failed {
			level = slog.LevelError
		}
		log.Log(context.Background(), level, "rotation", "run_id", report.RunID, "mode", report.Mode, "result", result)
	}
}
